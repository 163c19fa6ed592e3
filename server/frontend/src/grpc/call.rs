//! Rooms 1 and 8: what every gRPC call passes on its way in and out, around whichever service answers it.
//!
//! In: only gRPC is let through; request id, deadline and message limits are set. Out: trailers. Never parses a
//! message.

use super::answer::AnswerBody;
use super::context::CallContext;
use super::deadline::grpc_timeout;
use super::trailers::{TimedBody, add_trailers};
use crate::guard::{Guard, grpc_scope, refusal};
use crate::limits::{LimitedBody, MessageLimits};
use crate::options::caller_of;
use crate::request_id::RequestIds;
use crate::status::refusal_to_status;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::time::Instant;
use tower::Service;

/// The body that services behind the door read.
pub type CallBody<B> = LimitedBody<B, Arc<CallContext>>;

/// A gRPC service with ids, deadlines, limits and trailers around it.
#[derive(Clone)]
pub struct CallService<S> {
    inner: S,
    limits: MessageLimits,
    ids: Arc<RequestIds>,
    caller_header: Option<HeaderName>,
    guard: Option<Guard>,
}

impl<S> CallService<S> {
    /// Puts the door's duties around `inner`.
    pub fn new(
        inner: S,
        limits: MessageLimits,
        request_id_seed: u32,
        caller_header: Option<HeaderName>,
        guard: Option<Guard>,
    ) -> Self {
        Self { inner, limits, ids: Arc::new(RequestIds::new(request_id_seed)), caller_header, guard }
    }
}

impl<S, B> Service<Request<B>> for CallService<S>
where
    S: Service<Request<CallBody<B>>, Response = Response<AnswerBody>, Error = Infallible>,
    S::Future: Unpin,
{
    type Response = Response<TimedBody<AnswerBody>>;
    type Error = Infallible;
    type Future = CallFuture<S::Future>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        if let Some(refused) = not_grpc(&request) {
            return CallFuture::Refused(Some(refused));
        }
        let received = Instant::now();
        let (mut parts, body) = request.into_parts();
        let request_id = self.ids.of(&parts.headers);
        let timeout = grpc_timeout(&parts.headers);
        let deadline = timeout.as_ref().ok().copied().flatten().and_then(|t| received.into_std().checked_add(t));
        let caller = caller_of(&parts.headers, self.caller_header.as_ref());
        let context = Arc::new(CallContext::new(received, deadline, caller, request_id));
        let may = match (&self.guard, grpc_scope(parts.uri.path())) {
            (Some(guard), Some(scope)) => {
                guard.bearer(&parts.headers, scope).map(drop).map_err(|denied| refusal(&denied))
            }
            _ => Ok(()),
        };
        if let Err(refusal) = may.and(timeout.map(drop)) {
            let status = refusal_to_status(&refusal, self.limits.overload_codes);
            return CallFuture::Refused(Some(finish(
                status.into_http::<tonic::body::Body>().map(AnswerBody::from),
                context,
            )));
        }
        answer_as_asked(&mut parts.headers);
        parts.extensions.insert(context.clone());
        let body = LimitedBody::new(body, self.limits.clone(), context.clone(), !streams(parts.uri.path()));
        CallFuture::Running { future: self.inner.call(Request::from_parts(parts, body)), context: Some(context) }
    }
}

/// Calls whose client may stay silent.
fn streams(path: &str) -> bool {
    path.ends_with("/ModelStreamInfer") || path.ends_with("/ServerReflectionInfo")
}

/// Compression is answered only with what the request itself used. Most gRPC clients say in every call that they could
/// read gzip; taken at their word, every answer would be compressed at the server's expense.
fn answer_as_asked(headers: &mut HeaderMap) {
    let compressed = headers.get("grpc-encoding").is_some_and(|encoding| encoding != "identity");
    if !compressed {
        headers.remove("grpc-accept-encoding");
    }
}

/// What a browser, a probe or a lost HTTP client is told. gRPC is always POST with its own content type.
fn not_grpc<B>(request: &Request<B>) -> Option<Response<TimedBody<AnswerBody>>> {
    let grpc = |value: &HeaderValue| value.as_bytes().starts_with(b"application/grpc");
    let status = if !request.headers().get(header::CONTENT_TYPE).is_some_and(grpc) {
        StatusCode::UNSUPPORTED_MEDIA_TYPE
    } else if request.method() != http::Method::POST {
        StatusCode::METHOD_NOT_ALLOWED
    } else {
        return None;
    };
    const WORDS: &str = "this port speaks gRPC: POST with content-type application/grpc; REST is on the HTTP port\n";
    let body = tonic::body::Body::new(Full::new(Bytes::from_static(WORDS.as_bytes())));
    let mut response = Response::new(TimedBody::plain(body.into()));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    Some(response)
}

/// Sends the stage times along: in the trailers, or in the head of an answer that is nothing but trailers.
fn finish(response: Response<AnswerBody>, context: Arc<CallContext>) -> Response<TimedBody<AnswerBody>> {
    let (mut parts, body) = response.into_parts();
    tracing::debug!(request_id = ?context.request_id, elapsed_us = context.elapsed_us(), "call answered");
    if parts.headers.contains_key("grpc-status") {
        add_trailers(&mut parts.headers, &context);
        return Response::from_parts(parts, TimedBody::plain(body));
    }
    Response::from_parts(parts, TimedBody::new(body, context))
}

/// A call under way; dropping it cancels it.
pub enum CallFuture<F> {
    /// A service answers.
    Running {
        /// Its answer.
        future: F,
        /// Handed to the response.
        context: Option<Arc<CallContext>>,
    },
    /// Answered at the door.
    Refused(Option<Response<TimedBody<AnswerBody>>>),
}

impl<F> Future for CallFuture<F>
where
    F: Future<Output = Result<Response<AnswerBody>, Infallible>> + Unpin,
{
    type Output = Result<Response<TimedBody<AnswerBody>>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.get_mut() {
            Self::Running { future, context } => Pin::new(future).poll(cx).map_ok(|response| {
                finish(response, context.take().expect("a future is not polled after it was ready"))
            }),
            Self::Refused(response) => {
                Poll::Ready(Ok(response.take().expect("a future is not polled after it was ready")))
            }
        }
    }
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
