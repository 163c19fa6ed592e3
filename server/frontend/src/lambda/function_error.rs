//! Room 8, Lambda door: which ends of an invocation are the function's own errors. Pure.
//!
//! Called by `invoke` and `stream`. A function's error is an answer (200, `X-Amz-Function-Error`), so that clients do not send
//! again what would fail again; what was refused for load, or never reached the function, is an error of the call.

use penstock_domain::{ErrorCode, Refusal};
use serde_json::{Value, json};
use std::time::Duration;

/// The payload of a function's error; `None` if the call itself failed. `took` is how long the function had.
pub(crate) fn function_error(refusal: &Refusal, request_id: &str, took: Duration) -> Option<Value> {
    if refusal.shed.is_some() {
        return None;
    }
    let (kind, message) = match (refusal.code, refusal.reason) {
        (ErrorCode::DeadlineExceeded, _) => {
            let text = format!("RequestId: {request_id} Error: Task timed out after {:.2} seconds", took.as_secs_f64());
            ("Sandbox.Timedout", text)
        }
        (_, Some("execution_crashed")) => {
            let text = format!("RequestId: {request_id} Error: Runtime exited without providing a reason");
            ("Runtime.ExitError", text)
        }
        (_, Some("out_of_memory" | "out_of_host_memory")) => {
            ("Runtime.OutOfMemory", format!("RequestId: {request_id} Error: {}", refusal.message))
        }
        (ErrorCode::InvalidArgument, _) => ("InvalidInput", refusal.message.clone()),
        (ErrorCode::Internal, Some(_)) => ("ModelError", refusal.message.clone()),
        (ErrorCode::TooLarge, _) => ("Function.ResponseSizeTooLarge", refusal.message.clone()),
        _ => return None,
    };
    Some(json!({ "errorType": kind, "errorMessage": message, "requestId": request_id }))
}

#[cfg(test)]
mod tests {
    use super::function_error;
    use penstock_domain::{ErrorCode, Refusal, ShedReason};
    use std::time::Duration;

    #[test]
    fn a_function_fails_by_itself_or_the_call_does() {
        let of = |refusal: &Refusal| {
            function_error(refusal, "id", Duration::from_secs(1)).map(|body| body["errorType"].clone())
        };
        let plain = |code| Refusal::new(code, "words");
        let cases = [
            (plain(ErrorCode::DeadlineExceeded), Some("Sandbox.Timedout")),
            (plain(ErrorCode::Internal).with_reason("execution_crashed"), Some("Runtime.ExitError")),
            (plain(ErrorCode::Exhausted).with_reason("out_of_memory"), Some("Runtime.OutOfMemory")),
            (plain(ErrorCode::InvalidArgument), Some("InvalidInput")),
            (plain(ErrorCode::Internal).with_reason("execution_failed"), Some("ModelError")),
            (plain(ErrorCode::Internal), None),
            (plain(ErrorCode::NotFound), None),
            (Refusal::shed(ShedReason::QueueRequests, "full", None), None),
            (Refusal::shed(ShedReason::DeadlineUnmeetable, "late", None), None),
        ];
        for (refusal, kind) in cases {
            assert_eq!(of(&refusal), kind.map(Into::into), "{refusal:?}");
        }
        let text = function_error(&plain(ErrorCode::DeadlineExceeded), "id", Duration::from_secs(1)).unwrap();
        assert_eq!(text["errorMessage"], "RequestId: id Error: Task timed out after 1.00 seconds");
    }
}
