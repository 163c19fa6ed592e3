//! Rooms 1 and 8, OpenAI door: `POST /v1/embeddings`.

use super::models::model_not_found;
use super::request::{EmbeddingsRequest, Inputs, read_embeddings};
use super::response::{print_embeddings, prompt_tokens};
use crate::http::{
    Door, Failure, HeldBody, PRINTED_BYTES_PER_BYTE, Received, Share, Target, Upload, deadline_of, off_thread,
};
use crate::options::caller_of;
use crate::timing::{SERVER_TIMING, timing_value};
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, header};
use penstock_domain::{ErrorCode, Invocation, ParameterValue, Refusal, RequestedOutput, Signature};
use std::sync::Arc;
use tokio::time::Instant;

/// The output that is an embedding: FP32 [N, D].
const OUTPUT: &str = "embedding";

/// Reads, invokes once (the rows may be spread over batches), prints.
pub(crate) async fn embeddings(
    State(door): State<Arc<Door>>,
    Extension(Received(received)): Extension<Received>,
    request: Request,
) -> Result<Response, Failure> {
    // What never enters the house is counted here; everything else is counted there.
    let Asked { invocation, mut share, model, base64, rows, given_tokens } = read(&door, request, received)
        .await
        .inspect_err(|failure| penstock_telemetry::unrouted(failure.refusal.outcome()))?;
    let reply = door.house.invoke(invocation, received).await.map_err(|refusal| match refusal.code {
        // What the model found wrong can only be the inputs: the rest is checked above.
        ErrorCode::InvalidArgument => Failure::from(refusal).with_param("input"),
        _ => refusal.into(),
    })?;
    let mut answer = reply.answer;
    share.hold(reply.share);

    let missing = || Refusal::new(ErrorCode::Internal, format!("the model gave no output `{OUTPUT}`"));
    let embedding = answer.outputs.into_iter().find(|output| output.name == OUTPUT).ok_or_else(missing)?;
    let tokens = prompt_tokens(&answer.parameters).unwrap_or(given_tokens);
    share.take(embedding.data.len() as u64 * PRINTED_BYTES_PER_BYTE)?;
    let printing = move || print_embeddings(&embedding, rows, base64, &model, tokens);
    let json = off_thread(rows * 4096, printing).await??;
    let mut response = Response::new(Body::new(HeldBody::new([Bytes::from(json)], share)));
    answer.timing.total_ns = u64::try_from(received.elapsed().as_nanos()).unwrap_or(u64::MAX);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(SERVER_TIMING, timing_value(&answer.timing));
    Ok(response)
}

/// A request, read and checked as far as that goes without running it.
struct Asked {
    invocation: Invocation,
    /// Stays with the request until it is answered.
    share: Share,
    model: String,
    base64: bool,
    rows: usize,
    /// Token ids in the request; 0 for texts.
    given_tokens: u64,
}

async fn read(door: &Door, request: Request, received: Instant) -> Result<Asked, Failure> {
    let (head, body) = request.into_parts();
    let upload = Upload::new(&head.headers, body);
    let deadline = deadline_of(&head.headers, received)?;
    let mut share = Share::new(&door.options.budget);
    let body = upload.read(&head.headers, door.options.body_limits(), &mut share).await?;
    let request = off_thread(body.len(), move || read_embeddings(&body)).await??;

    let target = Target::parse(&request.model, "").map_err(|_| model_not_found(&request.model))?;
    let version = door.house.resolve(target.function.as_str(), &target.qualifier).map_err(|refusal| {
        if refusal.code == ErrorCode::NotFound { model_not_found(&request.model) } else { refusal.into() }
    })?;
    if let Some(signature) = version.signature() {
        check_offer(&signature, &request)?;
    }
    let (rows, given_tokens) = match &request.inputs {
        Inputs::Texts { count, .. } => (*count, 0),
        Inputs::Tokens { ids, ends } => (ends.len(), ids.len() as u64),
    };
    let EmbeddingsRequest { model, inputs, base64, truncate, .. } = request;
    let invocation = Invocation {
        function: target.function,
        qualifier: target.qualifier,
        id: String::new(),
        parameters: truncate
            .map(|truncate| ("truncate".to_owned(), ParameterValue::Bool(truncate)))
            .into_iter()
            .collect(),
        inputs: inputs
            .into_tensors(door.options.tensor_bytes_max, &mut share)
            .map_err(|refusal| Failure::from(refusal).with_param("input"))?,
        outputs: vec![RequestedOutput { name: OUTPUT.to_owned(), classification: 0 }],
        deadline: deadline.map(Instant::into_std),
        priority: 0,
        caller: caller_of(&head.headers, door.options.caller_header.as_ref()),
        splittable: true,
    };
    Ok(Asked { invocation, share, model, base64, rows, given_tokens })
}

/// Whether the function gives embeddings of such inputs, of the size asked for.
fn check_offer(signature: &Signature, request: &EmbeddingsRequest) -> Result<(), Failure> {
    let input = match &request.inputs {
        Inputs::Texts { .. } => "text",
        Inputs::Tokens { .. } => "input_ids",
    };
    let model = &request.model;
    let output = signature.outputs.iter().find(|output| output.name == OUTPUT);
    let Some(output) = output.filter(|_| signature.inputs.iter().any(|spec| spec.name == "text")) else {
        let words = format!("model `{model}` does not offer embeddings: it has no input `text` and output `{OUTPUT}`");
        return Err(Failure::from(Refusal::invalid(words)).with_param("model"));
    };
    if signature.inputs.iter().all(|spec| spec.name != input) {
        let words = format!("model `{model}` takes text, not token ids");
        return Err(Failure::from(Refusal::invalid(words)).with_param("input"));
    }
    let own = output.shape.last().and_then(|size| u64::try_from(*size).ok());
    match (request.dimensions, own) {
        (Some(asked), Some(own)) if asked != own => {
            let words = format!("model `{model}` gives embeddings of {own} dimensions; {asked} are not offered");
            Err(Failure::from(Refusal::invalid(words)).with_param("dimensions"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_domain::{Datatype, TensorSpec};

    fn signature() -> Signature {
        Signature {
            inputs: vec![TensorSpec::new("text", Datatype::Bytes, [1])],
            outputs: vec![TensorSpec::new("embedding", Datatype::Fp32, [384])],
            max_batch_size: 32,
            ..Signature::default()
        }
    }

    fn checked(signature: &Signature, body: &str) -> Result<(), (Option<&'static str>, String)> {
        let request = read_embeddings(body.as_bytes()).unwrap();
        check_offer(signature, &request).map_err(|failure| (failure.param, failure.refusal.message))
    }

    #[test]
    fn only_what_the_model_offers() {
        assert_eq!(checked(&signature(), r#"{"model":"m","input":"a"}"#), Ok(()));
        assert_eq!(checked(&signature(), r#"{"model":"m","input":"a","dimensions":384}"#), Ok(()));
        let (param, words) = checked(&signature(), r#"{"model":"m","input":"a","dimensions":8}"#).unwrap_err();
        assert_eq!(param, Some("dimensions"));
        assert_eq!(words, "model `m` gives embeddings of 384 dimensions; 8 are not offered");
        let (param, _) = checked(&signature(), r#"{"model":"m","input":[1]}"#).unwrap_err();
        assert_eq!(param, Some("input"));
        let (param, words) = checked(&Signature::default(), r#"{"model":"m","input":"a"}"#).unwrap_err();
        assert_eq!(param, Some("model"));
        assert!(words.contains("does not offer embeddings"));
    }
}
