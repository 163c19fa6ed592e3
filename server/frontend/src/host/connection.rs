//! Room 1, front end: one connection from its accept to its end, of age, at shutdown, or when the client goes.

use super::guarded::GuardedStream;
use super::limits::HostLimits;
use super::sending::{Patience, SentBody, StreamExecutor};
use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tower::{Service, ServiceExt};

/// What one connection needs to know.
pub(super) struct Connection {
    pub(super) limits: Arc<HostLimits>,
    pub(super) shutdown: CancellationToken,
}

impl Connection {
    /// Serves `stream` until it ends. Requests in flight are cancelled by being dropped when it is cut.
    pub(super) async fn run<T, S, B>(self, stream: T, router: S)
    where
        T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send + 'static,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let limits = &self.limits;
        let stream = GuardedStream::new(stream, limits.head_timeout, limits.write_stall_timeout);
        let patience = Patience {
            stall_timeout: limits.write_stall_timeout,
            bytes_per_second_min: limits.answer_bytes_per_second_min,
        };
        let streams = StreamExecutor::new(patience);
        let builder = builder(limits, streams.clone());
        let router = router.map_response(|response: Response<B>| response.map(SentBody::new));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router)));
        tokio::select! {
            ended = gathered(connection.as_mut(), &streams) => return log_end(ended),
            () = self.shutdown.cancelled() => {}
            () = age(limits.connection_age_max) => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = gathered(connection.as_mut(), &streams) => return log_end(ended),
                    () = self.shutdown.cancelled() => {}
                    () = tokio::time::sleep(limits.connection_age_grace) => {
                        tracing::debug!("connection cut: it did not go when its age was up");
                        return;
                    }
                }
            }
        }
        connection.as_mut().graceful_shutdown();
        match tokio::time::timeout(limits.shutdown_grace, connection).await {
            Ok(ended) => log_end(ended),
            Err(_) => tracing::debug!("connection cut: it did not go at shutdown"),
        }
    }
}

/// Drives a connection, and lets answers that are ready at the same moment leave in one write: whenever it is woken while
/// several streams are open, the tasks that are about to send go first. (The runtime would run it right after the first
/// of them, and write for each answer alone.)
async fn gathered<C: Future>(mut connection: Pin<&mut C>, streams: &StreamExecutor) -> C::Output {
    loop {
        let mut polled = false;
        let ended = poll_fn(|cx| match std::mem::replace(&mut polled, true) {
            true => Poll::Ready(None),
            false => connection.as_mut().poll(cx).map(Some),
        });
        if let Some(ended) = ended.await {
            return ended;
        }
        if streams.open() > 1 {
            tokio::task::yield_now().await;
        }
    }
}

/// Ready when the connection is old enough.
async fn age(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}

/// Clients come and go as they like: only worth a look when debugging.
fn log_end(ended: Result<(), Box<dyn std::error::Error + Send + Sync>>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended with an error");
    }
}

/// hyper, with every limit set on purpose.
fn builder(limits: &HostLimits, streams: StreamExecutor) -> Builder<StreamExecutor> {
    let mut builder = Builder::new(streams);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(limits.http1_buffer_bytes_max)
        .half_close(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.concurrent_streams_max)
        .max_pending_accept_reset_streams(limits.pending_accept_reset_streams_max)
        .max_local_error_reset_streams(limits.local_error_reset_streams_max)
        .adaptive_window(false)
        .initial_stream_window_size(limits.stream_window_bytes)
        .initial_connection_window_size(limits.connection_window_bytes)
        .max_frame_size(limits.frame_bytes_max)
        .max_header_list_size(limits.header_list_bytes_max)
        .max_send_buf_size(limits.send_buffer_bytes_max)
        .keep_alive_interval(limits.keep_alive_interval)
        .keep_alive_timeout(limits.keep_alive_timeout);
    builder
}
