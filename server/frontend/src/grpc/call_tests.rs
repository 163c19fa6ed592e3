//! What every call gets on its way in and out, without a network and without a house.

use super::*;
use crate::status::OverloadCodes;
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use penstock_admission::ByteBudget;
use penstock_domain::StageTimes;
use std::time::Duration;
use tonic::Status;
use tower::util::{BoxService, ServiceExt};

type Body = CallBody<Full<Bytes>>;
type Answered = Response<tonic::body::Body>;

fn limits() -> MessageLimits {
    MessageLimits {
        message_bytes_max: 1 << 20,
        byte_budget: ByteBudget::new(1 << 20),
        stall_timeout: Duration::from_secs(1),
        bytes_per_second_min: 1,
        overload_codes: OverloadCodes::Lambda,
    }
}

/// A door around a handler that gets the whole body read and answers.
fn door<F>(
    limits: MessageLimits,
    handler: F,
) -> CallService<BoxService<Request<Body>, Response<AnswerBody>, Infallible>>
where
    F: Fn(&CallContext) -> Answered + Send + Clone + 'static,
{
    let inner = tower::service_fn(move |request: Request<Body>| {
        let handler = handler.clone();
        async move {
            let context = request.extensions().get::<Arc<CallContext>>().expect("the door puts it there").clone();
            let answered: Answered = match request.into_body().collect().await {
                Ok(_) => handler(&context),
                Err(status) => status.into_http(),
            };
            Ok(answered.map(AnswerBody::from))
        }
    });
    CallService::new(BoxService::new(inner), limits, 1, None, None)
}

fn call(headers: &[(&str, &str)]) -> Request<Full<Bytes>> {
    let mut request = Request::post("/inference.GRPCInferenceService/ModelInfer");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.header("content-type", "application/grpc").body(Full::new(Bytes::from_static(&[0, 0, 0, 0, 1, 7]))).unwrap()
}

/// One message of `length` bytes and trailers.
fn answered(length: usize) -> Answered {
    let trailers = HeaderMap::from_iter([("grpc-status".parse().unwrap(), "0".parse().unwrap())]);
    let frames = [Frame::data(Bytes::from(vec![0; length])), Frame::trailers(trailers)];
    Response::new(tonic::body::Body::new(StreamBody::new(futures_util::stream::iter(frames.map(Ok::<_, Status>)))))
}

#[tokio::test]
async fn a_success_ends_with_times_and_id_in_its_trailers() {
    let door = door(limits(), |context| {
        context.set_times(StageTimes { compute_ns: 2_000_000, batch_items: 4, ..StageTimes::default() });
        answered(10)
    });
    let response = door.oneshot(call(&[("x-request-id", "mine")])).await.unwrap();
    assert!(!response.headers().contains_key("penstock-timing"));
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().unwrap();
    assert!(trailers["penstock-timing"].to_str().unwrap().contains("compute;dur=2.000"));
    assert!(trailers["penstock-timing"].to_str().unwrap().ends_with("batch;desc=\"4\""));
    assert_eq!(
        (&trailers["x-request-id"], &trailers["grpc-status"]),
        (&"mine".parse().unwrap(), &"0".parse().unwrap())
    );
}

#[tokio::test]
async fn an_error_without_a_body_has_them_in_its_head() {
    let door = door(limits(), |_| Status::not_found("no").into_http());
    let response = door.oneshot(call(&[])).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "5");
    assert!(response.headers()["penstock-timing"].to_str().unwrap().starts_with("total;dur="));
    assert_eq!(response.headers()["x-request-id"], "00000001-000000000001");
}

#[tokio::test]
async fn the_deadline_is_read_and_a_broken_one_is_refused() {
    let door = |headers: &[(&str, &str)]| {
        let handler = |context: &CallContext| {
            let left = context.deadline.map(|deadline| deadline - context.received.into_std());
            let mut response = answered(0);
            response.headers_mut().insert("left", format!("{left:?}").parse().unwrap());
            response
        };
        door(limits(), handler).oneshot(call(headers))
    };
    assert_eq!(door(&[("grpc-timeout", "250m")]).await.unwrap().headers()["left"], "Some(250ms)");
    assert_eq!(door(&[]).await.unwrap().headers()["left"], "None");
    let refused = door(&[("grpc-timeout", "soon")]).await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "3");
    assert!(refused.headers().contains_key("x-request-id"));
}

#[tokio::test]
async fn what_is_not_grpc_is_told_so() {
    let get = Request::get("/v2/health/live").body(Full::new(Bytes::new())).unwrap();
    let response = door(limits(), |_| answered(0)).oneshot(get).await.unwrap();
    assert_eq!(response.status(), 415);
    let text = response.into_body().collect().await.unwrap().to_bytes();
    assert!(text.starts_with(b"this port speaks gRPC"));
}

#[tokio::test]
async fn the_share_comes_back_when_the_last_byte_is_gone() {
    for length in [1, 100_000] {
        let limits = limits();
        let budget = limits.byte_budget.clone();
        let response = door(limits, move |_| answered(length)).oneshot(call(&[])).await.unwrap();
        assert_eq!(budget.taken(), 1, "held while the body is not sent");
        let mut body = response.into_body();
        let bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(bytes.len(), length);
        drop(body);
        assert_eq!(budget.taken(), u64::from(length == 100_000), "large answers hold it until they are written");
        drop(bytes);
        assert_eq!(budget.taken(), 0);
    }
}

#[tokio::test]
async fn over_the_limit_is_resource_exhausted() {
    let small = MessageLimits { message_bytes_max: 0, ..limits() };
    let response = door(small, |_| answered(0)).oneshot(call(&[])).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "8");
    assert!(response.headers()["grpc-message"].to_str().unwrap().contains("limit"));
}

#[test]
fn answers_are_only_compressed_for_those_who_compress() {
    let asked = |encoding: Option<&str>| {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-accept-encoding", "identity, deflate, gzip".parse().unwrap());
        encoding.map(|encoding| headers.insert("grpc-encoding", encoding.parse().unwrap()));
        answer_as_asked(&mut headers);
        headers.contains_key("grpc-accept-encoding")
    };
    assert_eq!([asked(None), asked(Some("identity")), asked(Some("gzip"))], [false, false, true]);
}
