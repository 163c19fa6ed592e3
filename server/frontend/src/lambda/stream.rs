//! Rooms 1 and 8, Lambda door: InvokeWithResponseStream. The answer of a model comes as one piece, then the end; while it is
//! waited for, events that clients pass over keep their connection from being given up.

use super::failure::LambdaError;
use super::function_error::function_error;
use super::invoke::{Call, Done, EXECUTED_VERSION, Kind, LOG_TYPE, dry_run, log_tail, read, run};
use super::{REQUEST_ID, event_stream};
use crate::http::{Door, Received, RequestId};
use crate::status::{lambda_kind, lambda_row};
use axum::body::Body;
use axum::extract::{Extension, RawPathParams, Request, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{HeaderValue, header};
use penstock_control::{ControlError, ErrorKind};
use serde_json::json;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

const STREAM: &str = "application/vnd.amazon.eventstream";
/// Until an answer is that late, its end decides the status. Clients give up after 60 s without a byte.
const QUIET: Duration = Duration::from_secs(20);

type Running = Pin<Box<dyn Future<Output = Done> + Send>>;

/// `POST /2021-11-15/functions/{name}/response-streaming-invocations`
pub(super) async fn invoke(
    State(door): State<Arc<Door>>,
    Extension(Received(received)): Extension<Received>,
    Extension(RequestId(id)): Extension<RequestId>,
    params: RawPathParams,
    request: Request,
) -> Result<Response, LambdaError> {
    let Call { head, upload, named, kind } = Call::of(&door, request, &params)?;
    match kind {
        Kind::RequestResponse => {}
        Kind::DryRun => return dry_run(&door, &named).await,
        Kind::Event => {
            let text = "An invocation whose answer is streamed is of type RequestResponse or DryRun.";
            return Err(ControlError::new(ErrorKind::InvalidParameterValue, text).into());
        }
    }
    let text = id.to_str().unwrap_or_default().to_owned();
    let tail = head.headers.get(LOG_TYPE).is_some_and(|kind| kind.as_bytes() == b"Tail");
    let asked = match read(&door, &head.headers, upload, &named, received).await? {
        Ok(asked) => asked,
        Err(refusal) => {
            let body = function_error(&refusal, &text, received.elapsed()).ok_or_else(|| LambdaError::from(refusal))?;
            let frames = [error_frame(&body)];
            return Ok(respond(Body::from(frames.concat()), None, &id));
        }
    };
    let mut running: Running = Box::pin(run(door, asked, text.clone(), received));
    match timeout(QUIET, &mut running).await {
        Ok(Done::Refused(refusal)) => Err(refusal.into()),
        Ok(done) => {
            let version = match &done {
                Done::Answered { version, .. } => version.map(|version| version.to_string()),
                Done::Refused(_) => None,
            };
            let frames: Vec<Bytes> = frames(&done, &text, tail, received);
            Ok(respond(Body::from_stream(stream::iter(frames.into_iter().map(Ok::<_, Infallible>))), version, &id))
        }
        Err(_) => {
            let waiting = stream::unfold(Some(running), move |running| {
                let text = text.clone();
                async move {
                    let mut running = running?;
                    match timeout(QUIET, &mut running).await {
                        Err(_) => {
                            Some((vec![event_stream::event("KeepAlive", "application/json", b"{}")], Some(running)))
                        }
                        Ok(done) => Some((frames(&done, &text, tail, received), None)),
                    }
                }
            });
            let frames = waiting.flat_map(|frames| stream::iter(frames.into_iter().map(Ok::<_, Infallible>)));
            Ok(respond(Body::from_stream(frames), None, &id))
        }
    }
}

/// The frames of an invocation that has ended.
fn frames(done: &Done, id: &str, tail: bool, received: Instant) -> Vec<Bytes> {
    let (payload, version, timing) = match done {
        Done::Refused(refusal) => {
            // Its status is sent already: what it would have been is told as it can be.
            let (name, _) = lambda_row(lambda_kind(refusal));
            let body = json!({ "errorType": name, "errorMessage": refusal.message });
            return vec![error_frame(&body)];
        }
        Done::Answered { payload, failed: true, .. } => {
            let body = serde_json::from_slice(payload).unwrap_or_default();
            return vec![error_frame(&body)];
        }
        Done::Answered { payload, version, timing, .. } => (payload, *version, timing),
    };
    let mut end = json!({});
    if tail {
        use base64::Engine;
        let log = log_tail(id, version, timing.as_ref(), received);
        end["LogResult"] = base64::engine::general_purpose::STANDARD.encode(log).into();
    }
    vec![event_stream::chunk(payload), event_stream::complete(&end)]
}

/// The end of one that failed.
fn error_frame(body: &serde_json::Value) -> Bytes {
    let code = body["errorType"].as_str().unwrap_or("Unhandled");
    event_stream::complete(&json!({ "ErrorCode": code, "ErrorDetails": body.to_string() }))
}

fn respond(body: Body, version: Option<String>, id: &HeaderValue) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(STREAM));
    headers.insert(REQUEST_ID, id.clone());
    if let Some(version) = version.and_then(|text| HeaderValue::try_from(text).ok()) {
        headers.insert(EXECUTED_VERSION, version);
    }
    response
}
