//! One stream, many requests: bounded, told apart, drained at the end, cancelled when dropped.

use super::*;
use futures_util::{FutureExt, StreamExt, stream};
use penstock_admission::ByteBudget;
use penstock_domain::ShedReason;
use penstock_proto::inference::ModelInferRequest;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

fn options(stream_requests_max: usize) -> Arc<FrontendOptions> {
    Arc::new(FrontendOptions { stream_requests_max, ..FrontendOptions::new(ByteBudget::new(0)) })
}

fn request(id: u64) -> Result<Weighed, Status> {
    Ok(Weighed { request: ModelInferRequest { id: id.to_string(), ..Default::default() }, share: None })
}

/// Counts futures that live.
struct Alive(Arc<AtomicUsize>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose request `n` takes `n` milliseconds, and how many are in flight.
fn streaming<R: Stream<Item = Result<Weighed, Status>> + Unpin>(
    incoming: R,
    stream_requests_max: usize,
    deadline: Option<std::time::Instant>,
) -> (InferStream<R>, Arc<AtomicUsize>) {
    let alive = Arc::new(AtomicUsize::new(0));
    let counted = alive.clone();
    let start = Box::new(move |Weighed { request, .. }: Weighed| {
        counted.fetch_add(1, Ordering::Relaxed);
        let guard = Alive(counted.clone());
        Box::pin(async move {
            let _guard = guard;
            tokio::time::sleep(Duration::from_millis(request.id.parse().unwrap())).await;
            let response = ModelInferResponse { id: request.id, ..Default::default() };
            (ModelStreamInferResponse { error_message: String::new(), infer_response: Some(response) }, None)
        }) as Pin<Box<dyn Future<Output = _> + Send>>
    });
    (InferStream::with(options(stream_requests_max), deadline, incoming, start), alive)
}

fn id(response: &ModelStreamInferResponse) -> &str {
    &response.infer_response.as_ref().unwrap().id
}

#[tokio::test(start_paused = true)]
async fn responses_leave_as_they_are_ready_and_the_end_drains() {
    let (stream, _) = streaming(stream::iter([30, 10, 20].map(request)), 8, None);
    let responses: Vec<_> = stream.map(Result::unwrap).collect().await;
    assert_eq!(responses.iter().map(id).collect::<Vec<_>>(), ["10", "20", "30"]);
}

#[tokio::test(start_paused = true)]
async fn no_more_are_in_flight_than_allowed() {
    let (mut stream, alive) = streaming(stream::iter((1..=100).map(request)), 4, None);
    let mut most = 0;
    let mut answered = 0;
    while let Some(response) = stream.next().await {
        response.unwrap();
        answered += 1;
        most = most.max(alive.load(Ordering::Relaxed));
    }
    assert_eq!(answered, 100);
    assert!(most <= 4, "{most}");
}

#[tokio::test(start_paused = true)]
async fn a_broken_stream_answers_what_it_took_and_then_says_why() {
    let incoming = stream::iter([request(5), Err(Status::resource_exhausted("too large")), request(1)]);
    let (stream, _) = streaming(incoming, 8, None);
    let responses: Vec<_> = stream.collect().await;
    assert_eq!(responses.len(), 2);
    assert_eq!(id(responses[0].as_ref().unwrap()), "5");
    assert_eq!(responses[1].as_ref().unwrap_err().code(), tonic::Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn dropping_the_stream_cancels_all() {
    let (mut stream, alive) = streaming(stream::iter((50..60).map(request)), 16, None);
    assert!(stream.next().now_or_never().is_none());
    assert_eq!(alive.load(Ordering::Relaxed), 10);
    drop(stream);
    tokio::task::yield_now().await;
    assert_eq!(alive.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn requests_end_even_if_nobody_reads_their_answers() {
    let (mut stream, alive) = streaming(stream::iter((50..60).map(request)).chain(stream::pending()), 16, None);
    assert!(stream.next().now_or_never().is_none());
    tokio::time::sleep(Duration::from_millis(70)).await;
    assert_eq!(alive.load(Ordering::Relaxed), 0);
    assert_eq!(stream.by_ref().take(10).map(Result::unwrap).collect::<Vec<_>>().await.len(), 10);
}

#[tokio::test(start_paused = true)]
async fn the_streams_deadline_ends_it() {
    let deadline = Instant::now().into_std() + Duration::from_millis(15);
    let incoming = stream::iter([request(10), request(1000)]).chain(stream::pending());
    let (stream, alive) = streaming(incoming, 8, Some(deadline));
    let responses: Vec<_> = stream.collect().await;
    assert_eq!(id(responses[0].as_ref().unwrap()), "10");
    assert_eq!(responses[1].as_ref().unwrap_err().code(), tonic::Code::DeadlineExceeded);
    tokio::task::yield_now().await;
    assert_eq!((responses.len(), alive.load(Ordering::Relaxed)), (2, 0));
}

#[test]
fn an_error_names_its_request_and_its_reason() {
    let refusal = Refusal::shed(ShedReason::QueueRequests, "full", Some(Duration::from_millis(20)));
    let message = error_message("7".into(), refusal, &options(1));
    assert_eq!((message.error_message.as_str(), id(&message)), ("full", "7"));
    let parameters = message.infer_response.unwrap().parameters;
    let text = |value: &str| parameter(ParameterChoice::StringParam(value.into()));
    assert_eq!(parameters["x-penstock-shed-reason"], text("queue_requests"));
    assert_eq!(parameters["grpc-status"], parameter(ParameterChoice::Int64Param(8)));
    assert_eq!(parameters["grpc-retry-pushback-ms"], parameter(ParameterChoice::Int64Param(20)));
    assert_eq!(parameters["triton_final_response"], parameter(ParameterChoice::BoolParam(true)));
}
