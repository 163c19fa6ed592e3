//! Rooms 1 and 8, Lambda door: changes, on their way to the server that makes them.
//!
//! Stands before Lambda's routes. Where several servers share a state, one leads: a change that comes to another is sent on to
//! it as it came, signature and all, and its answer given back. Once: what was sent on and finds no leader is refused. Never
//! judges or reads a body, and never touches what only asks, or is for this server's own environments.

use super::failure::LambdaError;
use crate::http::{Door, RequestId};
use crate::request_id::REQUEST_ID;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, Version, header};
use hyper_rustls::{FixedServerNameResolver, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use penstock_control::{ControlError, ErrorKind, Leadership};
use penstock_trust::{Identity, SERVER};
use rustls::pki_types::ServerName;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tower::BoxError;
use tower::timeout::Timeout;
use tower::util::BoxCloneSyncService;

/// Says that a server has sent a request on; who has it does not do so again.
const FORWARDED: HeaderName = HeaderName::from_static("x-penstock-forwarded");
/// How long a connection to the leader may take, its handshake included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Of a connection, not of what goes over it.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// The way to other servers: TLS, on which each shows that it is one.
pub(crate) struct Forward {
    /// Who signs for servers; `None` where there are no others.
    authority: Option<Arc<penstock_trust::Authority>>,
    /// With what this one shows.
    client: Mutex<Option<(Arc<Identity>, ToServers)>>,
}

/// Connects, with a deadline for all of it.
type Connector = BoxCloneSyncService<Uri, MaybeHttpsStream<TokioIo<TcpStream>>, BoxError>;
type ToServers = Client<Connector, Body>;

impl Forward {
    pub(super) fn new(authority: Option<Arc<penstock_trust::Authority>>) -> Self {
        Self { authority, client: Mutex::new(None) }
    }

    /// Connections are made anew when what this server shows is.
    fn client(&self) -> Result<ToServers, String> {
        let authority = self.authority.as_ref().ok_or("this server has no certificate")?;
        let own = authority.own();
        let mut client = self.client.lock();
        match &*client {
            Some((shown, client)) if Arc::ptr_eq(shown, &own) => Ok(client.clone()),
            _ => {
                let made = client_of(&own).map_err(|error| error.to_string())?;
                *client = Some((own, made.clone()));
                Ok(made)
            }
        }
    }
}

fn client_of(own: &Identity) -> io::Result<ToServers> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.enforce_http(false);
    let name = ServerName::try_from(SERVER).map_err(io::Error::other)?;
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(own.client()?)
        .https_only()
        .with_server_name_resolver(FixedServerNameResolver::new(name))
        .enable_http1()
        .wrap_connector(connector);
    let connector = BoxCloneSyncService::new(Timeout::new(connector, CONNECT_TIMEOUT));
    Ok(Client::builder(TokioExecutor::new()).build(connector))
}

/// Carries a change out where it is made.
pub(super) async fn to_the_leader(State(door): State<Arc<Door>>, request: Request, next: Next) -> Response {
    let Some(lambda) = door.lambda.as_ref().filter(|_| is_change(&request)) else { return next.run(request).await };
    let leader = match lambda.control.leadership() {
        Leadership::Held { .. } => return next.run(request).await,
        Leadership::Elsewhere { leader } => leader.filter(|_| !request.headers().contains_key(FORWARDED)),
    };
    let Some(leader) = leader else {
        return refused("No server leads at the moment, so nothing can be changed; what is served goes on. Ask again.");
    };
    tokio::select! {
        sent = lambda.forward.send(&leader, request) => match sent {
            Ok(response) => response,
            Err(why) => {
                tracing::warn!(leader, why, "a change could not be sent on to the server that leads");
                refused(&format!("Changes are made by {leader}, which does not answer ({why}). Ask again."))
            }
        },
        // It may hang.
        () = lambda.control.leader_changed(&leader) => {
            refused(&format!("{leader}, which was to make the change, leads no more; it may have been made. Ask again."))
        }
    }
}

fn refused(text: &str) -> Response {
    LambdaError::from(ControlError::new(ErrorKind::Unavailable, text)).into_response()
}

/// Whether it changes what all servers share. An invocation does if it is to be kept.
fn is_change(request: &Request) -> bool {
    match (request.method(), request.uri().path().split('/').collect::<Vec<_>>().as_slice()) {
        (&Method::GET | &Method::HEAD | &Method::OPTIONS, _) => false,
        (_, ["", _date, "functions", _name, "response-streaming-invocations"]) => false,
        (_, ["", _date, "functions", _name, "invocations"]) => {
            request.headers().get(super::invoke::INVOCATION_TYPE).is_some_and(|kind| kind == "Event")
        }
        // Instances are each server's own.
        (_, ["", _date, "instances", ..]) => false,
        _ => true,
    }
}

impl Forward {
    async fn send(&self, leader: &str, request: Request) -> Result<Response, String> {
        let (mut head, body) = request.into_parts();
        let path = head.uri.path_and_query().cloned().ok_or("the request has no path")?;
        let authority: Authority =
            leader.trim_start_matches("https://").trim_end_matches('/').parse().map_err(|_| "its address is none")?;
        if !head.headers.contains_key(header::HOST) {
            // What HTTP/2 calls otherwise, and signatures are made over.
            let own = head.uri.authority().map_or(leader, Authority::as_str);
            head.headers.insert(header::HOST, HeaderValue::from_str(own).map_err(|_| "the host is none")?);
        }
        if let Some(RequestId(id)) = head.extensions.remove::<RequestId>() {
            head.headers.entry(REQUEST_ID).or_insert(id);
        }
        strip(&mut head.headers);
        head.headers.insert(FORWARDED, HeaderValue::from_static("1"));
        let uri = Uri::builder().scheme(Scheme::HTTPS).authority(authority).path_and_query(path);
        head.uri = uri.build().map_err(|error| error.to_string())?;
        head.version = Version::HTTP_11;
        head.extensions.clear();
        let response = self.client()?.request(Request::from_parts(head, body)).await.map_err(|error| words(&error))?;
        let (mut head, body) = response.into_parts();
        strip(&mut head.headers);
        head.version = Version::HTTP_11;
        head.extensions.clear();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Err("it wants to speak otherwise".into());
        }
        Ok(Response::from_parts(head, Body::new(body)))
    }
}

fn strip(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// An error and its reasons: the last one says most.
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(deeper) = source {
        text = format!("{text}: {deeper}");
        source = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_changed_is_sent_on_and_what_is_asked_is_not() {
        let is = |method: Method, path: &str, kind: Option<&str>| {
            let mut request = Request::builder().method(method).uri(path);
            if let Some(kind) = kind {
                request = request.header("x-amz-invocation-type", kind);
            }
            is_change(&request.body(Body::empty()).unwrap())
        };
        let functions = "/2015-03-31/functions";
        assert!(is(Method::POST, functions, None) && is(Method::POST, "/2015-03-31/functions/f/versions", None));
        assert!(is(Method::DELETE, "/2017-03-31/tags/invocations", None) && !is(Method::GET, functions, None));
        assert!(is(Method::PUT, "/2026-11-26/packages/a/contents/b", None));
        let invocations = "/2015-03-31/functions/f/invocations";
        assert!(is(Method::POST, invocations, Some("Event")));
        assert!(!is(Method::POST, invocations, Some("RequestResponse")) && !is(Method::POST, invocations, None));
        assert!(!is(Method::POST, "/2021-11-15/functions/f/response-streaming-invocations", Some("Event")));
        assert!(!is(Method::POST, "/2026-11-26/instances/replacement", None));
    }
}
