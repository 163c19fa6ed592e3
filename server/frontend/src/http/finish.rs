//! Room 8, response: the outermost layer of the HTTP door. Every response gets its request id and stage times here,
//! and every failure its shape.

use super::{Api, Door, Failure};
use crate::request_id::REQUEST_ID;
use crate::timing::{SERVER_TIMING, total_value};
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use std::sync::Arc;
use tokio::time::Instant;

/// When the head of a request was read: deadlines and stage times count from here.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Received(pub(crate) Instant);

/// The id that the answer will carry.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) http::HeaderValue);

/// Wraps every handler, the fallbacks included.
pub(crate) async fn finish(State(door): State<Arc<Door>>, mut request: Request, next: Next) -> Response {
    let received = Instant::now();
    let id = door.options.request_ids.of(request.headers());
    let api = Api::of(request.uri().path());
    request.extensions_mut().insert(Received(received));
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    if let Some(failure) = response.extensions_mut().remove::<Failure>() {
        tracing::debug!(
            request_id = id.to_str().unwrap_or_default(),
            code = ?failure.refusal.code,
            reason = failure.refusal.reason_name(),
            "{}",
            failure.refusal.message
        );
        let allow = response.headers_mut().remove(http::header::ALLOW);
        response = failure.render(api, door.options.overload);
        if let Some(allow) = allow {
            response.headers_mut().insert(http::header::ALLOW, allow);
        }
    }
    let headers = response.headers_mut();
    if api == Api::Lambda {
        headers.insert(crate::lambda::REQUEST_ID, id.clone());
    }
    headers.insert(REQUEST_ID, id);
    headers.entry(SERVER_TIMING).or_insert_with(|| total_value(received.elapsed()));
    response
}
