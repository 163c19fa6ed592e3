//! Rooms 1 and 8: one inference request, from its message to its message. Used by the unary call and by the stream.

use super::context::CallContext;
use crate::classification::classify;
use crate::convert::{invocation_from_request, response_from_answer};
use crate::limits::too_large;
use penstock_admission::ByteShare;
use penstock_dispatch::{House, Reply};
use penstock_domain::{Answer, FunctionName, Qualifier, Refusal, RequestedOutput, StageTimes};
use penstock_proto::inference::{ModelInferRequest, ModelInferResponse};
use tokio::time::Instant;

/// The response, where the time went, and what a large answer holds of the memory budget. Dropping the future cancels
/// the request.
pub(super) async fn infer(
    house: &House,
    request: ModelInferRequest,
    received: Instant,
    context: &CallContext,
    response_bytes_max: usize,
) -> Result<(ModelInferResponse, StageTimes, Option<ByteShare>), Refusal> {
    // What never enters the house is counted here; everything else is counted there.
    let mut invocation = invocation_from_request(request, received.into_std(), context.deadline)
        .inspect_err(|refusal| penstock_telemetry::unrouted(refusal.outcome()))?;
    invocation.caller = context.caller;
    let (id, function) = (invocation.id.clone(), invocation.function.clone());
    let wanted = classes_wanted(&invocation.outputs);
    let Reply { mut answer, share } = house.invoke(invocation, received).await?;
    if let Some(wanted) = wanted {
        put_classes(house, &function, &mut answer, &wanted)?;
    }
    let bytes: usize = answer.outputs.iter().map(|tensor| tensor.data.len()).sum();
    if bytes > response_bytes_max {
        return Err(too_large("response", bytes as u64, response_bytes_max as u64));
    }
    let times = answer.timing;
    Ok((response_from_answer(&function, id, answer), times, share))
}

/// The outputs wanted as classes; `None`, which costs nothing, if there are none.
fn classes_wanted(outputs: &[RequestedOutput]) -> Option<Vec<RequestedOutput>> {
    outputs.iter().any(|output| output.classification > 0).then(|| outputs.to_vec())
}

/// Puts classes in the place of the scores they were asked of, with the labels of the version that ran.
fn put_classes(
    house: &House,
    function: &FunctionName,
    answer: &mut Answer,
    wanted: &[RequestedOutput],
) -> Result<(), Refusal> {
    let signature = house.resolve(function.as_str(), &Qualifier::Version(answer.version))?.signature();
    let batched = signature.as_ref().is_some_and(|signature| signature.max_batch_size > 0);
    for output in wanted.iter().filter(|output| output.classification > 0) {
        let spec = signature.as_ref().and_then(|s| s.outputs.iter().find(|spec| spec.name == output.name));
        let labels = spec.map_or(&[][..], |spec| &spec.labels);
        for tensor in answer.outputs.iter_mut().filter(|tensor| tensor.name == output.name) {
            *tensor = classify(tensor, output.classification, labels, batched)?;
        }
    }
    Ok(())
}
