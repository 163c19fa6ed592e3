//! Room 1, front end: connections. Accepts them, bounds them, speaks HTTP/1 and HTTP/2 on them, ends them in order.
//!
//! Called by the composition root, once for each port, with whichever router answers there. Knows no protocol above
//! HTTP. hyper is used directly, so that every limit below is ours to set.

mod connection;
mod guarded;
mod limits;
mod sending;

pub use limits::HostLimits;

use bytes::Bytes;
use connection::Connection;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use penstock_trust::{Authority, SERVER, is_named};
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::Service;

/// First and longest pause after the system refused a connection, for instance because all descriptors are taken.
const ACCEPT_PAUSE: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// Serves `router` on `listener` until `shutdown`: then nothing more is accepted, every connection is told to go
/// (GOAWAY, `Connection: close`), and the future is ready once all are closed, at most `shutdown_grace` later.
///
/// While the house drains, this goes on: new requests have to be told that it drains. Cancel `shutdown` afterwards.
pub async fn serve<S, B>(listener: TcpListener, router: S, limits: HostLimits, shutdown: CancellationToken)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    accept(listener, limits, shutdown, |stream, connection| connection.run(stream, router.clone())).await;
}

/// The same for other servers of this state alone: TLS, on which each shows a certificate of `authority` with the name
/// [`SERVER`].
pub async fn serve_servers<S, B>(
    listener: TcpListener,
    router: S,
    limits: HostLimits,
    shutdown: CancellationToken,
    authority: Arc<Authority>,
) where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let patience = limits.head_timeout;
    let served = |stream, connection: Connection| {
        let (router, authority) = (router.clone(), authority.clone());
        async move {
            match timeout(patience, known(&authority, stream)).await {
                Ok(Ok(stream)) => connection.run(stream, router).await,
                Ok(Err(error)) => tracing::debug!(%error, "a connection is not another server's"),
                Err(_) => tracing::debug!("a connection did not say in time whose it is"),
            }
        }
    };
    accept(listener, limits, shutdown, served).await;
}

/// The stream of another server. Errors: it is somebody else's.
async fn known(authority: &Authority, stream: TcpStream) -> io::Result<TlsStream<TcpStream>> {
    let stream = authority.own().acceptor(false)?.accept(stream).await?;
    match is_named(stream.get_ref().1.peer_certificates(), SERVER) {
        true => Ok(stream),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "its certificate is not a server's")),
    }
}

async fn accept<F: Future<Output = ()> + Send + 'static>(
    listener: TcpListener,
    limits: HostLimits,
    shutdown: CancellationToken,
    serve: impl Fn(TcpStream, Connection) -> F,
) {
    let connections = TaskTracker::new();
    let room = Arc::new(Semaphore::new(limits.connections_max));
    let limits = Arc::new(limits);
    let mut pause = ACCEPT_PAUSE.0;
    loop {
        let accepted = tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                pause = ACCEPT_PAUSE.0;
                let Ok(place) = room.clone().try_acquire_owned() else {
                    // Closed at once, so that the client goes elsewhere instead of waiting for nothing.
                    tracing::debug!(connections_max = limits.connections_max, "connection refused: all are taken");
                    continue;
                };
                ready_stream(&stream);
                let connection = Connection { limits: limits.clone(), shutdown: shutdown.clone() };
                let served = serve(stream, connection);
                connections.spawn(async move {
                    served.await;
                    drop(place);
                });
            }
            Err(error) if is_the_clients(&error) => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis() as u64, "accepting connections failed");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(ACCEPT_PAUSE.1);
            }
        }
    }
    drop(listener);
    connections.close();
    connections.wait().await;
}

/// Answers are written whole: waiting for more to send (Nagle) only adds latency.
fn ready_stream(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
}

/// The client gave up between its connect and our accept; the next accept is as good as any.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

#[cfg(test)]
mod tests;
