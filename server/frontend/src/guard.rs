//! Room 1, front end: one authoriser before every door. Asked once for each request, before anything of it is done.
//!
//! Called by the doors, where the composition root has keys. Lambda's routes need a signature (SigV4), all others a bearer
//! token; probes of health need nothing. Never judges a key itself: `penstock_authority` does.

use crate::http::{BodyLimits, Door, Failure, Share, Upload};
use crate::lambda::{is_lambda, sent_content};
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, Method, StatusCode};
use http_body_util::Full;
use penstock_authority::{Authoriser, Denied, DeniedCode, Principal, Scope};
use penstock_control::content_digest;
use penstock_domain::{ErrorCode, Refusal};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Largest body of a signed request, in bytes: it is hashed before anything is done with it.
const SIGNED_BYTES_MAX: usize = 70_167_211;

/// The authoriser of a server that has keys.
#[derive(Clone, Debug)]
pub struct Guard {
    authoriser: Arc<Authoriser>,
    /// The wall clock, in seconds since the epoch.
    now: fn() -> i64,
}

impl Guard {
    /// `now` tells the time that signatures are held against.
    pub fn new(authoriser: Authoriser, now: fn() -> i64) -> Self {
        Self { authoriser: Arc::new(authoriser), now }
    }

    /// Whether the bearer of these headers may do what needs `scope`.
    pub(crate) fn bearer(&self, headers: &HeaderMap, scope: Scope) -> Result<Principal, Denied> {
        let principal = self.authoriser.bearer(headers)?;
        principal.require(scope)?;
        Ok(principal)
    }
}

/// What a gRPC call needs; `None` for probes of health.
pub(crate) fn grpc_scope(path: &str) -> Option<Scope> {
    let (service, method) = path.trim_start_matches('/').split_once('/').unwrap_or_default();
    match method {
        _ if service == "grpc.health.v1.Health" => None,
        "RepositoryModelLoad" | "RepositoryModelUnload" | "ModelConfig" | "TraceSetting" | "LogSettings" => {
            Some(Scope::Operate)
        }
        "ServerLive" | "ServerReady" => None,
        _ => Some(Scope::Invoke),
    }
}

/// What an HTTP request needs, of all but Lambda's; `None` for probes of health.
pub(crate) fn http_scope(path: &str) -> Option<Scope> {
    let operates = path.ends_with("/load") || path.ends_with("/unload") || path.ends_with("/config");
    match path {
        "/v2/health/live" | "/v2/health/ready" => None,
        _ if operates || path.starts_with("/v2/logging") || path.ends_with("/trace/setting") || path == "/metrics" => {
            Some(Scope::Operate)
        }
        _ => Some(Scope::Invoke),
    }
}

/// What one of Lambda's needs.
fn lambda_scope(method: &Method, path: &str) -> Scope {
    // The whole shape, not the end alone: a tag may be called as a route ends.
    let invokes = match path.split('/').collect::<Vec<_>>()[..] {
        ["", _date, "functions", _name, last] => matches!(last, "invocations" | "response-streaming-invocations"),
        _ => false,
    };
    if invokes && method == Method::POST { Scope::Invoke } else { Scope::Operate }
}

/// The refusal of a bearer that may not pass, for the table of codes; it is counted here, as it never enters the house.
pub(crate) fn refusal(denied: &Denied) -> Refusal {
    let code = match denied.code {
        DeniedCode::Unauthenticated => ErrorCode::Unauthenticated,
        _ => ErrorCode::Forbidden,
    };
    let refusal = Refusal::new(code, denied.message.clone());
    penstock_telemetry::unrouted(refusal.outcome());
    refusal
}

/// Puts the guard before every route of the HTTP port, where there is one.
pub(crate) fn before(routes: Router<Arc<Door>>, door: &Arc<Door>) -> Router<Arc<Door>> {
    match &door.options.guard {
        None => routes,
        Some(guard) => routes.layer(axum::middleware::from_fn_with_state((door.clone(), guard.clone()), http)),
    }
}

/// Stands before every route of the HTTP port.
async fn http(State((door, guard)): State<(Arc<Door>, Guard)>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    if is_lambda(path) {
        return match signed(&door, &guard, request).await {
            Ok(request) => next.run(request).await,
            Err(response) => response,
        };
    }
    let judged = http_scope(path).map_or(Ok(()), |scope| guard.bearer(request.headers(), scope).map(drop));
    match judged {
        Ok(()) => next.run(request).await,
        Err(denied) => Failure::from(refusal(&denied)).into_response(),
    }
}

/// Reads the whole body of a signed request, judges it, and gives the request back as it was.
async fn signed(door: &Door, guard: &Guard, request: Request) -> Result<Request, Response> {
    let (head, body) = request.into_parts();
    let upload = Upload::new(&head.headers, body);
    let told = |denied: &Denied| crate::lambda::denied(denied.code.name(), denied.code.http_status(), &denied.message);
    let scope = lambda_scope(&head.method, head.uri.path());
    if head.headers.contains_key(http::header::CONTENT_ENCODING) {
        // What was signed is what is on the wire; here it would be hashed inflated.
        let name = "UnsupportedMediaTypeException";
        return Err(crate::lambda::denied(name, StatusCode::UNSUPPORTED_MEDIA_TYPE, "send a signed body uncompressed"));
    }
    let signed = guard.authoriser.signed_head(&head.method, &head.uri, &head.headers, (guard.now)());
    let signed = signed.map_err(|denied| told(&denied))?;
    if let Some(sha256) = sent_content(head.uri.path()) {
        // A content is not held until it is hashed: its path says what it must hash to, and who takes it sees to that.
        let judged = content_digest(sha256).ok_or_else(not_a_hash).and_then(|sha256| signed.verify(sha256));
        judged.and_then(|principal| principal.require(scope)).map_err(|denied| told(&denied))?;
        return Ok(Request::from_parts(head, upload.into_body()));
    }
    let limits = BodyLimits { bytes_max: SIGNED_BYTES_MAX, ..door.options.body_limits() };
    let mut share = Share::new(&door.options.budget);
    let body = upload.read(&head.headers, limits, &mut share).await.map_err(IntoResponse::into_response)?;
    let hashed = body.clone();
    let digest = crate::http::off_thread(body.len(), move || <[u8; 32]>::from(Sha256::digest(&hashed)));
    let digest = digest.await.map_err(|refusal| Failure::from(refusal).into_response())?;
    let judged = signed.verify(digest).and_then(|principal| principal.require(scope));
    judged.map_err(|denied| told(&denied))?;
    // The handler reads it again, and takes its own share for as long as it needs one.
    drop(share);
    Ok(Request::from_parts(head, Body::new(Full::new(body))))
}

fn not_a_hash() -> Denied {
    let text = "the path must end with the content's SHA-256 in 64 digits of 0-9 and a-f";
    Denied { code: DeniedCode::InvalidSignature, message: text.to_owned() }
}

/// Stands before the metrics port.
pub(crate) async fn metrics(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    match guard.bearer(request.headers(), Scope::Operate) {
        Ok(_) => next.run(request).await,
        Err(denied) => {
            let mut response = Response::new(Body::from(denied.message));
            *response.status_mut() = denied.code.http_status();
            if denied.code == DeniedCode::Unauthenticated {
                response.headers_mut().insert(http::header::WWW_AUTHENTICATE, http::HeaderValue::from_static("Bearer"));
            }
            response
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_route_needs_its_scope() {
        let table = [
            ("/v2/health/live", None),
            ("/v2/models/m/infer", Some(Scope::Invoke)),
            ("/v1/embeddings", Some(Scope::Invoke)),
            ("/v2/repository/index", Some(Scope::Invoke)),
            ("/v2/repository/models/m/load", Some(Scope::Operate)),
            ("/v2/models/m/versions/1/config", Some(Scope::Operate)),
            ("/v2/logging", Some(Scope::Operate)),
            ("/nowhere", Some(Scope::Invoke)),
        ];
        for (path, scope) in table {
            assert_eq!(http_scope(path), scope, "{path}");
        }
        let table = [
            ("/grpc.health.v1.Health/Check", None),
            ("/inference.GRPCInferenceService/ServerLive", None),
            ("/inference.GRPCInferenceService/ModelInfer", Some(Scope::Invoke)),
            ("/inference.GRPCInferenceService/RepositoryModelUnload", Some(Scope::Operate)),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Some(Scope::Invoke)),
            ("nonsense", Some(Scope::Invoke)),
        ];
        for (path, scope) in table {
            assert_eq!(grpc_scope(path), scope, "{path}");
        }
        let invocations = "/2015-03-31/functions/f/invocations";
        assert_eq!(lambda_scope(&Method::POST, invocations), Scope::Invoke);
        assert_eq!(lambda_scope(&Method::POST, "/2017-03-31/tags/invocations"), Scope::Operate);
        assert_eq!(lambda_scope(&Method::GET, "/2015-03-31/functions"), Scope::Operate);
        assert_eq!(lambda_scope(&Method::DELETE, "/2015-03-31/functions/invocations"), Scope::Operate);
    }
}
