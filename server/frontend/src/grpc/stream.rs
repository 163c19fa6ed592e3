//! Rooms 1 and 8: `ModelStreamInfer`. Many requests in flight on one stream, bounded; responses leave as they are
//! ready, so they may overtake one another and are told apart by `id`. An error of one request is its message, not
//! the end of the stream.
//!
//! Each request is a task of its own, so that it ends, and gives back its slots, whether or not the client reads; the
//! answer then waits in the stream's bounded set. Dropping the stream (client gone, deadline) cancels them all. When
//! the client has sent its last request, what is in flight is still answered.

use super::codec::Weighed;
use super::context::CallContext;
use super::infer::infer;
use crate::options::FrontendOptions;
use crate::status::{SHED_REASON_TRAILER, grpc_code, refusal_to_status, retry_after_ms};
use crate::timing::{GRPC_TIMING, timing_text};
use futures_util::Stream;
use penstock_admission::ByteShare;
use penstock_dispatch::House;
use penstock_domain::{ErrorCode, Refusal};
use penstock_proto::inference::infer_parameter::ParameterChoice;
use penstock_proto::inference::{InferParameter, ModelInferResponse, ModelStreamInferResponse};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, Sleep};
use tonic::{Status, Streaming};

/// A message of the stream, and what it holds of the memory budget.
type Answered = (ModelStreamInferResponse, Option<ByteShare>);
type Start = Box<dyn Fn(Weighed) -> Pin<Box<dyn Future<Output = Answered> + Send>> + Send>;

/// The responses of one stream.
pub(crate) struct InferStream<R = Streaming<Weighed>> {
    /// `None` once the client has sent its last request.
    incoming: Option<R>,
    in_flight: JoinSet<Answered>,
    /// Share of the answer handed out last: asked for another, it has been taken by the connection.
    handed: Option<ByteShare>,
    /// Why the stream ends, after what is in flight is answered.
    failed: Option<Status>,
    /// The stream's own deadline.
    expires: Option<Pin<Box<Sleep>>>,
    start: Start,
    options: Arc<FrontendOptions>,
}

impl<R> InferStream<R> {
    /// Answers what comes from `incoming` by asking the house.
    pub(super) fn new(
        house: Arc<House>,
        options: Arc<FrontendOptions>,
        context: Arc<CallContext>,
        incoming: R,
    ) -> Self {
        let deadline = context.deadline;
        let answer_options = options.clone();
        let start = move |weighed: Weighed| {
            let (house, options, context) = (house.clone(), answer_options.clone(), context.clone());
            let (request, shares) = (weighed.request, (context.take_share(), weighed.share));
            let received = Instant::now();
            Box::pin(async move {
                let id = request.id.clone();
                let answered = infer(&house, request, received, &context, options.message_limit()).await;
                drop(shares);
                match answered {
                    Ok((response, times, share)) => {
                        let timing = ParameterChoice::StringParam(timing_text(&times));
                        let mut response = last_response(response);
                        response.parameters.insert(GRPC_TIMING.as_str().to_owned(), parameter(timing));
                        let error_message = String::new();
                        (ModelStreamInferResponse { error_message, infer_response: Some(response) }, share)
                    }
                    Err(refusal) => (error_message(id, refusal, &options), None),
                }
            }) as Pin<Box<dyn Future<Output = Answered> + Send>>
        };
        Self::with(options, deadline, incoming, Box::new(start))
    }

    fn with(options: Arc<FrontendOptions>, deadline: Option<std::time::Instant>, incoming: R, start: Start) -> Self {
        let expires = deadline.map(|deadline| Box::pin(tokio::time::sleep_until(deadline.into())));
        Self {
            incoming: Some(incoming),
            in_flight: JoinSet::new(),
            handed: None,
            failed: None,
            expires,
            start,
            options,
        }
    }
}

impl<R: Stream<Item = Result<Weighed, Status>> + Unpin> Stream for InferStream<R> {
    type Item = Result<ModelStreamInferResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        this.handed = None;
        if this.expires.as_mut().is_some_and(|expires| expires.as_mut().poll(cx).is_ready()) {
            (this.expires, this.incoming, this.failed) = (None, None, None);
            this.in_flight = JoinSet::new();
            let refusal = Refusal::new(ErrorCode::DeadlineExceeded, "the stream's deadline has passed");
            return Poll::Ready(Some(Err(refusal_to_status(&refusal, this.options.overload_codes))));
        }
        while this.in_flight.len() < this.options.stream_requests_max {
            let Some(incoming) = &mut this.incoming else { break };
            match Pin::new(incoming).poll_next(cx) {
                Poll::Ready(Some(Ok(request))) => {
                    this.in_flight.spawn((this.start)(request));
                }
                Poll::Ready(Some(Err(status))) => (this.incoming, this.failed) = (None, Some(status)),
                Poll::Ready(None) => this.incoming = None,
                Poll::Pending => break,
            }
        }
        match this.in_flight.poll_join_next(cx) {
            Poll::Ready(Some(Ok((response, share)))) => {
                this.handed = share;
                Poll::Ready(Some(Ok(response)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(lost(&error)))),
            Poll::Ready(None) if this.incoming.is_none() => Poll::Ready(this.failed.take().map(Err)),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// A request's task that did not answer: a defect here, which ends the stream because nobody knows whose it was.
fn lost(error: &JoinError) -> Status {
    Status::internal(format!("a request of the stream was lost: {error}"))
}

/// Every response here is its request's last, and says so, as Triton's do.
fn last_response(mut response: ModelInferResponse) -> ModelInferResponse {
    response.parameters.insert("triton_final_response".to_owned(), parameter(ParameterChoice::BoolParam(true)));
    response
}

/// An error as a message of the stream: words for people; `id`, code, reason and wait for programs.
fn error_message(id: String, refusal: Refusal, options: &FrontendOptions) -> ModelStreamInferResponse {
    let mut response = last_response(ModelInferResponse { id, ..ModelInferResponse::default() });
    let mut tell = |name: &str, choice| response.parameters.insert(name.to_owned(), parameter(choice));
    let code = grpc_code(refusal.code, options.overload_codes);
    tell("grpc-status", ParameterChoice::Int64Param(i64::from(code as i32)));
    if let Some(reason) = refusal.reason_name() {
        tell(SHED_REASON_TRAILER, ParameterChoice::StringParam(reason.to_owned()));
    }
    if let Some(wait_ms) = retry_after_ms(&refusal) {
        let wait_ms = i64::try_from(wait_ms).unwrap_or(i64::MAX);
        tell("grpc-retry-pushback-ms", ParameterChoice::Int64Param(wait_ms));
    }
    ModelStreamInferResponse { error_message: refusal.message, infer_response: Some(response) }
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
