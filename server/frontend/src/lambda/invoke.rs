//! Rooms 1 and 8, Lambda door: Invoke.
//!
//! The function's payload is read as `payload` says, the house runs it, and how it ended is told as Lambda does: an answer, a
//! function's error under 200, or an error of the call.

use super::failure::LambdaError;
use super::function_error::function_error;
use super::operations::{control, empty, function};
use super::payload::{self, Payload, PayloadError};
use crate::convert::read_parameters;
use crate::http::{Door, PRINTED_BYTES_PER_BYTE, Received, RequestId, Share, Upload, deadline_of, off_thread};
use crate::options::caller_of;
use crate::timing::{SERVER_TIMING, timing_value};
use axum::body::Body;
use axum::extract::{Extension, RawPathParams, Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use penstock_control::names::FunctionRef;
use penstock_control::{ControlError, ErrorKind, EventEnd};
use penstock_dispatch::Reply;
use penstock_domain::{
    CallerId, FunctionName, Invocation, ParameterValue, Qualifier, Refusal, StageTimes, VersionNumber,
};
use std::sync::Arc;
use tokio::time::Instant;

pub(super) const INVOCATION_TYPE: HeaderName = HeaderName::from_static("x-amz-invocation-type");
pub(super) const LOG_TYPE: HeaderName = HeaderName::from_static("x-amz-log-type");
const FUNCTION_ERROR: HeaderName = HeaderName::from_static("x-amz-function-error");
const LOG_RESULT: HeaderName = HeaderName::from_static("x-amz-log-result");
pub(super) const EXECUTED_VERSION: HeaderName = HeaderName::from_static("x-amz-executed-version");
/// The same for all attempts of a client's call.
const INVOCATION_ID: HeaderName = HeaderName::from_static("amz-sdk-invocation-id");

/// An invocation over this door, ready to be run.
pub(super) struct Asked {
    pub(super) invocation: Invocation,
    pub(super) short: bool,
    pub(super) share: Share,
}

/// How an invocation ended.
pub(crate) enum Done {
    /// The payload, or a function's error, with the version that ran; bytes that they hold of the memory budget.
    Answered {
        payload: Bytes,
        failed: bool,
        version: Option<VersionNumber>,
        timing: Option<StageTimes>,
        _share: Option<Share>,
    },
    /// The call failed.
    Refused(Refusal),
}

impl Done {
    /// Whether it is the end of the next attempt of the same call, too: what was refused may be tried.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Done::Answered { .. })
    }
}

/// What Invoke is to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    RequestResponse,
    Event,
    DryRun,
}

impl Kind {
    pub(super) fn of(headers: &HeaderMap) -> Result<Self, ControlError> {
        match headers.get(INVOCATION_TYPE).map(HeaderValue::as_bytes) {
            None | Some(b"" | b"RequestResponse") => Ok(Kind::RequestResponse),
            Some(b"Event") => Ok(Kind::Event),
            Some(b"DryRun") => Ok(Kind::DryRun),
            Some(other) => {
                let constraint = "Member must satisfy enum value set: [Event, RequestResponse, DryRun]";
                Err(ControlError::validation(String::from_utf8_lossy(other), "invocationType", constraint))
            }
        }
    }
}

/// A call of one of the two routes, before its body is read.
pub(super) struct Call {
    pub(super) head: Parts,
    pub(super) upload: Upload,
    pub(super) named: FunctionRef,
    pub(super) kind: Kind,
}

impl Call {
    pub(super) fn of(door: &Door, request: Request, params: &RawPathParams) -> Result<Self, ControlError> {
        let (head, body) = request.into_parts();
        let upload = Upload::new(&head.headers, body);
        let (named, kind) = (function(door, params, &head.uri)?, Kind::of(&head.headers)?);
        Ok(Self { head, upload, named, kind })
    }
}

/// Says whether it could be invoked, and nothing else.
pub(super) async fn dry_run(door: &Door, named: &FunctionRef) -> Result<Response, LambdaError> {
    control(door)?.invocable(named).await?;
    Ok(empty(StatusCode::NO_CONTENT))
}

/// `POST /2015-03-31/functions/{name}/invocations`
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
        Kind::Event => return enqueue(&door, &head.headers, upload, &named, &id).await,
    }
    let id = id.to_str().unwrap_or_default().to_owned();
    let asked = match read(&door, &head.headers, upload, &named, received).await? {
        Ok(asked) => asked,
        Err(refusal) => {
            return answer(&head.headers, &id, &failed(&refusal, &id, received, version_of(&named)), received);
        }
    };
    let work = run(door.clone(), asked, id.clone(), received);
    let done = match (&door.lambda, call_of(&head.headers, &named)) {
        (Some(lambda), Some(key)) => lambda.attempts.run(key, work).await,
        _ => Some(Arc::new(work.await)),
    };
    let gone = || LambdaError::from(ControlError::service("the invocation was ended before its answer was ready"));
    answer(&head.headers, &id, &*done.ok_or_else(gone)?, received)
}

/// What tells the calls of AWS's clients apart: who sent it, to what, and its id.
fn call_of(headers: &HeaderMap, named: &FunctionRef) -> Option<String> {
    let id = headers.get(INVOCATION_ID)?.to_str().ok().filter(|id| !id.is_empty() && id.len() <= 128)?;
    let credential = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    // Only who: the signature is another at each attempt.
    let who = credential.split_once("Credential=").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
    Some(format!("{who}/{}:{}/{id}", named.name, named.qualifier.as_deref().unwrap_or_default()))
}

/// Reads what is to be run. `Err` inside: what the function cannot take, which is its own error.
pub(super) async fn read(
    door: &Door,
    headers: &HeaderMap,
    upload: Upload,
    named: &FunctionRef,
    received: Instant,
) -> Result<Result<Asked, Refusal>, LambdaError> {
    let (function, qualifier) = control(door)?.invocable(named).await?;
    let mut share = Share::new(&door.options.budget);
    let deadline = deadline_of(headers, received)?;
    let body = upload.read(headers, door.options.body_limits(), &mut share).await?;
    let caller = caller_of(headers, door.options.caller_header.as_ref());
    made(door, (function, qualifier), (body, share), (received, deadline), caller).await
}

/// An invocation of a body that is here.
async fn made(
    door: &Door,
    (function, qualifier): (FunctionName, Qualifier),
    (body, mut share): (Bytes, Share),
    (received, deadline): (Instant, Option<Instant>),
    caller: Option<CallerId>,
) -> Result<Result<Asked, Refusal>, LambdaError> {
    let signature = door.house.resolve(function.as_str(), &qualifier)?.signature();
    let bytes_max = door.options.tensor_bytes_max;
    let reading = off_thread(body.len(), move || {
        let payload = payload::read(&body, signature.as_deref(), bytes_max, &mut share);
        (payload, share)
    });
    let (payload, share) = reading.await?;
    let made = match payload {
        Ok(Payload { request, short }) => invocation(request, function, qualifier, received, deadline)
            .map(|invocation| Asked { invocation, short, share }),
        Err(PayloadError::Content(error)) => return Err(error.into()),
        Err(PayloadError::Refused(refusal)) => Err(refusal),
    };
    Ok(match made {
        Ok(mut asked) => {
            asked.invocation.caller = caller;
            Ok(asked)
        }
        Err(refusal) => {
            penstock_telemetry::unrouted(refusal.outcome());
            Err(refusal)
        }
    })
}

/// Keeps an event, and answers that it is kept.
async fn enqueue(
    door: &Door,
    headers: &HeaderMap,
    upload: Upload,
    named: &FunctionRef,
    id: &HeaderValue,
) -> Result<Response, LambdaError> {
    let mut share = Share::new(&door.options.budget);
    let body = upload.read(headers, door.options.body_limits(), &mut share).await?;
    if let Err(error) = serde_json::from_slice::<serde::de::IgnoredAny>(if body.is_empty() { b"{}" } else { &body }) {
        let words = format!("Could not parse request body into json: Could not parse payload into json: {error}");
        return Err(ControlError::new(ErrorKind::InvalidRequestContent, words).into());
    }
    let (id, call) = (id.to_str().unwrap_or_default(), call_of(headers, named));
    control(door)?.enqueue(named, &body, id, call.as_deref()).await?;
    Ok(empty(StatusCode::ACCEPTED))
}

/// Runs one event, as its queue asks.
pub(crate) async fn event(door: Arc<Door>, named: FunctionRef, payload: Vec<u8>, id: String) -> EventEnd {
    let received = Instant::now();
    let asked = async {
        let target = control(&door)?.invocable(&named).await?;
        let mut share = Share::new(&door.options.budget);
        share.take(payload.len() as u64)?;
        made(&door, target, (payload.into(), share), (received, None), None).await
    };
    let done = match asked.await {
        Ok(Ok(asked)) => run(door.clone(), asked, id.clone(), received).await,
        Ok(Err(refusal)) => failed(&refusal, &id, received, None),
        Err(error) if error.is_not_found() => return EventEnd::Gone { message: error.message().to_owned() },
        Err(error) => return EventEnd::Throttled { message: error.message().to_owned() },
    };
    let text = |payload: &Bytes| String::from_utf8_lossy(payload).into_owned();
    match done {
        Done::Answered { payload, failed: false, version, .. } => {
            let version = version.map_or_else(String::new, |version| version.to_string());
            EventEnd::Done { payload: text(&payload), version }
        }
        Done::Answered { payload, .. } => EventEnd::Failed { payload: text(&payload) },
        Done::Refused(refusal) => EventEnd::Throttled { message: refusal.message },
    }
}

fn invocation(
    request: crate::http::InferRequest,
    function: FunctionName,
    qualifier: Qualifier,
    received: Instant,
    deadline: Option<Instant>,
) -> Result<Invocation, Refusal> {
    let parameters = request.parameters.into_iter().map(|(key, value): (String, ParameterValue)| (key, Some(value)));
    let options = read_parameters(parameters, received.into_std(), deadline.map(Instant::into_std))?;
    Ok(Invocation {
        function,
        qualifier,
        id: request.id.unwrap_or_default(),
        parameters: options.parameters,
        inputs: request.inputs,
        outputs: request.outputs.into_iter().map(|wanted| wanted.output).collect(),
        deadline: options.deadline,
        priority: options.priority,
        caller: None,
        splittable: false,
    })
}

/// Runs it; dropping the future cancels it.
pub(super) async fn run(door: Arc<Door>, asked: Asked, id: String, received: Instant) -> Done {
    let Asked { invocation, short, mut share } = asked;
    let (function, own_id) = (invocation.function.clone(), invocation.id.clone());
    let named = match invocation.qualifier {
        Qualifier::Version(version) => Some(version),
        _ => None,
    };
    let done = async {
        let Reply { answer, share: answer_share } = door.house.invoke(invocation, received).await?;
        share.hold(answer_share);
        let printed_bytes: usize = answer.outputs.iter().map(|output| output.data.len()).sum();
        share.take(printed_bytes as u64 * PRINTED_BYTES_PER_BYTE)?;
        let (version, mut timing) = (answer.version, answer.timing);
        let own_id = Some(own_id).filter(|id| !id.is_empty());
        let printing = move || payload::print(short, own_id.as_deref(), &function, answer);
        let payload = off_thread(printed_bytes, printing).await??;
        timing.total_ns = u64::try_from(received.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Ok::<_, Refusal>(Done::Answered {
            payload: payload.into(),
            failed: false,
            version: Some(version),
            timing: Some(timing),
            _share: Some(share),
        })
    };
    done.await.unwrap_or_else(|refusal| failed(&refusal, &id, received, named))
}

/// A function's own error, or the call's.
fn failed(refusal: &Refusal, id: &str, received: Instant, version: Option<VersionNumber>) -> Done {
    match function_error(refusal, id, received.elapsed()) {
        Some(body) => {
            Done::Answered { payload: body.to_string().into(), failed: true, version, timing: None, _share: None }
        }
        None => Done::Refused(refusal.clone()),
    }
}

/// The version that a reference names by itself.
fn version_of(named: &FunctionRef) -> Option<VersionNumber> {
    named.qualifier.as_deref().map_or(Some(VersionNumber::LATEST_PUBLISHED), VersionNumber::parse)
}

/// The response of an invocation that has ended.
fn answer(headers: &HeaderMap, id: &str, done: &Done, received: Instant) -> Result<Response, LambdaError> {
    let (payload, failed, version, timing) = match done {
        Done::Refused(refusal) => return Err(refusal.clone().into()),
        Done::Answered { payload, failed, version, timing, .. } => (payload, *failed, *version, timing),
    };
    let mut response = Response::new(Body::from(payload.clone()));
    let out = response.headers_mut();
    out.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if failed {
        out.insert(FUNCTION_ERROR, HeaderValue::from_static("Unhandled"));
    }
    if let Some(version) = version {
        let text = version.to_string();
        out.insert(EXECUTED_VERSION, HeaderValue::try_from(text).expect("digits, or letters, a dollar and a dot"));
    }
    if let Some(timing) = timing {
        out.insert(SERVER_TIMING, timing_value(timing));
    }
    if headers.get(LOG_TYPE).is_some_and(|kind| kind.as_bytes() == b"Tail") {
        let log = STANDARD.encode(log_tail(id, version, timing.as_ref(), received));
        out.insert(LOG_RESULT, HeaderValue::try_from(log).expect("base64 is a header value"));
    }
    Ok(response)
}

/// The lines that Lambda writes around an invocation.
pub(super) fn log_tail(
    id: &str,
    version: Option<VersionNumber>,
    timing: Option<&StageTimes>,
    received: Instant,
) -> String {
    let version = version.map_or_else(|| "-".to_owned(), |version| version.to_string());
    let took_ms = received.elapsed().as_secs_f64() * 1e3;
    let stages = timing.map(crate::timing::timing_text).unwrap_or_default();
    format!(
        "START RequestId: {id} Version: {version}\nEND RequestId: {id}\nREPORT RequestId: {id}\tDuration: {took_ms:.2} ms\tBilled \
         Duration: {:.0} ms\tStages: {stages}\n",
        took_ms.ceil()
    )
}
