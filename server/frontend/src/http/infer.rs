//! Rooms 1 and 8, HTTP door: infer, from the head of the request to the answer's body.

use super::finish::Received;
use super::infer_request::{InferRequest, WantedOutput, read_request};
use super::infer_response::{Printed, print_answer};
use super::inflate::{Coding, deflate};
use super::raw_request::read_raw;
use super::{Door, Failure, HeldBody, Share, Target, Upload, deadline_of};
use crate::classification::classify;
use crate::convert::read_parameters;
use crate::options::caller_of;
use crate::timing::{SERVER_TIMING, timing_value};
use axum::body::Body;
use axum::extract::{Extension, RawPathParams, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use penstock_dispatch::Reply;
use penstock_domain::{Answer, ErrorCode, FunctionName, Invocation, ParameterValue, Qualifier, Refusal};
use std::sync::Arc;
use tokio::time::Instant;

/// Bytes of JSON before binary tensors; 0 means there is no JSON.
pub(crate) const HEADER_LENGTH: HeaderName = HeaderName::from_static("inference-header-content-length");
/// Above this many bytes, reading or printing JSON or compressing takes milliseconds and leaves the reactor's thread.
pub(crate) const INLINE_BYTES_MAX: usize = 512 << 10;
/// Bytes of JSON for a byte of a tensor: an FP32 of four bytes is printed in ten to twelve.
pub(crate) const PRINTED_BYTES_PER_BYTE: u64 = 3;

/// `POST /v2/models/{model}[/versions/{version}]/infer`
pub(crate) async fn infer(
    State(door): State<Arc<Door>>,
    Extension(Received(received)): Extension<Received>,
    params: RawPathParams,
    request: Request,
) -> Result<Response, Failure> {
    let (head, body) = request.into_parts();
    // What never enters the house is counted here; everything else is counted there.
    let (invocation, wishes, mut share) = read(&door, &head.headers, body, &params, received)
        .await
        .inspect_err(|failure| penstock_telemetry::unrouted(failure.refusal.outcome()))?;
    let (function, id) = (invocation.function.clone(), wishes.id.clone());
    let Reply { mut answer, share: answer_share } = door.house.invoke(invocation, received).await?;
    share.hold(answer_share);

    put_classes(&door, &function, &mut answer, &wishes)?;
    let printed_bytes = wishes.printed_bytes(&answer.outputs);
    share.take(printed_bytes as u64 * PRINTED_BYTES_PER_BYTE)?;
    let function_printed = function.clone();
    let outputs = std::mem::take(&mut answer.outputs);
    let (answered, parameters) = (answer.version, std::mem::take(&mut answer.parameters));
    let printed = off_thread(printed_bytes, move || {
        print_answer(id.as_deref(), &function_printed, answered, &parameters, outputs, |name| wishes.binary(name))
    })
    .await??;
    answer.timing.total_ns = u64::try_from(received.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let mut response = respond(&door, &head.headers, printed, share).await?;
    response.headers_mut().insert(SERVER_TIMING, timing_value(&answer.timing));
    Ok(response)
}

/// From the body to what the house takes; the share of memory stays with the request until it is answered.
async fn read(
    door: &Door,
    headers: &HeaderMap,
    body: Body,
    params: &RawPathParams,
    received: Instant,
) -> Result<(Invocation, Wishes, Share), Failure> {
    let upload = Upload::new(headers, body);
    let target = Target::of_route(params)?;
    let version = door.house.resolve(target.function.as_str(), &target.qualifier)?;
    let header_length = header_length(headers)?;
    let deadline = deadline_of(headers, received)?;
    let mut share = Share::new(&door.options.budget);
    let body = upload.read(headers, door.options.body_limits(), &mut share).await?;

    let bytes_max = door.options.tensor_bytes_max;
    let (request, share) = match header_length {
        Some(0) => {
            let unavailable = || {
                let words = format!("model '{}' is not ready: {}", target.function, version.state().name());
                Refusal::new(ErrorCode::Unavailable, words)
            };
            (read_raw(body, &*version.signature().ok_or_else(unavailable)?)?, share)
        }
        length => {
            let json_bytes = length.unwrap_or(body.len());
            off_thread(json_bytes, move || {
                let request = read_request(&body, length, bytes_max, &mut share)?;
                Ok::<_, Refusal>((request, share))
            })
            .await??
        }
    };
    let (mut invocation, wishes) = invocation(request, target, received, deadline)?;
    invocation.caller = caller_of(headers, door.options.caller_header.as_ref());
    Ok((invocation, wishes, share))
}

/// What the printing of the answer needs to know of the request.
struct Wishes {
    id: Option<String>,
    outputs: Vec<WantedOutput>,
    binary: bool,
}

impl Wishes {
    /// Whether an output goes in binary: its own wish, else the request's.
    fn binary(&self, name: &str) -> bool {
        let own = self.outputs.iter().find(|wanted| wanted.output.name == name);
        own.and_then(|wanted| wanted.binary).unwrap_or(self.binary)
    }

    /// Bytes of tensors that go as JSON.
    fn printed_bytes(&self, outputs: &[penstock_domain::Tensor]) -> usize {
        outputs.iter().filter(|output| !self.binary(&output.name)).map(|output| output.data.len()).sum()
    }
}

fn invocation(
    request: InferRequest,
    target: Target,
    received: Instant,
    deadline: Option<Instant>,
) -> Result<(Invocation, Wishes), Refusal> {
    let InferRequest { id, parameters, inputs, outputs, binary_data_output } = request;
    let parameters = parameters.into_iter().map(|(key, value): (String, ParameterValue)| (key, Some(value)));
    let options = read_parameters(parameters, received.into_std(), deadline.map(Instant::into_std))?;
    let invocation = Invocation {
        function: target.function,
        qualifier: target.qualifier,
        id: id.clone().unwrap_or_default(),
        parameters: options.parameters,
        inputs,
        outputs: outputs.iter().map(|wanted| wanted.output.clone()).collect(),
        deadline: options.deadline,
        priority: options.priority,
        caller: None,
        splittable: false,
    };
    Ok((invocation, Wishes { id, outputs, binary: binary_data_output }))
}

/// Puts classes in the place of the scores they were asked of, with the labels of the version that ran.
fn put_classes(door: &Door, function: &FunctionName, answer: &mut Answer, wishes: &Wishes) -> Result<(), Refusal> {
    let mut wanted = wishes.outputs.iter().map(|wanted| &wanted.output).filter(|output| output.classification > 0);
    let Some(first) = wanted.next() else { return Ok(()) };
    let signature = door.house.resolve(function.as_str(), &Qualifier::Version(answer.version))?.signature();
    let batched = signature.as_ref().is_some_and(|signature| signature.max_batch_size > 0);
    for output in std::iter::once(first).chain(wanted) {
        let spec = signature.as_ref().and_then(|s| s.outputs.iter().find(|spec| spec.name == output.name));
        let labels = spec.map_or(&[][..], |spec| &spec.labels);
        for tensor in answer.outputs.iter_mut().filter(|tensor| tensor.name == output.name) {
            *tensor = classify(tensor, output.classification, labels, batched)?;
        }
    }
    Ok(())
}

fn header_length(headers: &HeaderMap) -> Result<Option<usize>, Refusal> {
    let Some(value) = headers.get(&HEADER_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| {
        let found = String::from_utf8_lossy(value.as_bytes()).into_owned();
        Refusal::invalid(format!("header Inference-Header-Content-Length: expected a number of bytes, found {found:?}"))
    })
}

/// Head and body of an answer, compressed if the client accepts it and there is enough to win.
async fn respond(door: &Door, headers: &HeaderMap, printed: Printed, share: Share) -> Result<Response, Failure> {
    let Printed { json, binary } = printed;
    let (json_bytes, has_binary) = (json.len(), !binary.is_empty());
    let total = json_bytes + binary.iter().map(Bytes::len).sum::<usize>();
    let pieces = std::iter::once(Bytes::from(json)).chain(binary);
    let coding = Coding::of_answer(headers).filter(|_| total >= door.options.compress_bytes_min);
    let body = match coding {
        None => HeldBody::new(pieces, share),
        Some(coding) => {
            let pieces: Vec<Bytes> = pieces.collect();
            HeldBody::new([off_thread(total, move || deflate(&pieces.concat(), coding)).await?], share)
        }
    };
    let mut response = Response::new(Body::new(body));
    let headers = response.headers_mut();
    let content_type = if has_binary { "application/octet-stream" } else { "application/json" };
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    if has_binary {
        headers.insert(HEADER_LENGTH, HeaderValue::from(json_bytes));
    }
    if let Some(coding) = coding {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(coding.name()));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    }
    Ok(response)
}

/// Runs `work` over `bytes` bytes here, or on a thread for such things if it would hold up other requests.
pub(crate) async fn off_thread<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refusal> {
    if bytes <= INLINE_BYTES_MAX {
        return Ok(work());
    }
    let failed = |error| Refusal::new(ErrorCode::Internal, format!("the request could not be worked on: {error}"));
    tokio::task::spawn_blocking(work).await.map_err(failed)
}
