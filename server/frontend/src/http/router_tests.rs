//! The routes, over a house that has started nothing: what is there, what is not, and each API's own words for it.

use super::*;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use penstock_dispatch::{ControlMode, HouseOptions};
use penstock_domain::{Refusal, ShedReason};
use penstock_environment::Launcher;
use serde_json::{Value, json};
use tower::ServiceExt;

fn router() -> Router {
    let house = House::new(HouseOptions {
        function_timeout: None,
        repositories: Vec::new(),
        control: ControlMode::None,
        load_at_start: Vec::new(),
        launcher: Arc::new(Launcher { program: "never-started".into(), accelerated: None, arguments: Vec::new() }),
        specify: Box::new(|_, _| panic!("an empty house starts nothing")),
        placement: None,
        device_busy: Box::new(|_| None),
        concurrency: 1 << 20,
        function_concurrency: 1,
        caller_concurrency: 0,
        environments: 1,
        waiting: 1024,
        instance_timeout: Duration::ZERO,
        load_timeout: Duration::from_secs(1),
        drain_timeout: Duration::from_secs(1),
        budget: ByteBudget::new(1 << 20),
        seed: 1,
    });
    let budget = ByteBudget::new(1 << 20);
    let options = HttpOptions { body_bytes_max: 1000, ..HttpOptions::new(budget, Arc::new(RequestIds::new(7)), 1) };
    http_router(house, options, None)
}

async fn call(method: &str, uri: &str, body: impl Into<Body>) -> (StatusCode, HeaderMap, Value) {
    let request = Request::builder().method(method).uri(uri).body(body.into()).unwrap();
    let response = router().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (head.status, head.headers, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

#[tokio::test]
async fn every_route_answers_in_its_own_shape() {
    let infer = "/v2/models/m/infer";
    let table = [
        ("GET", "/v2", "", 200, json!("penstock"), "/name"),
        ("GET", "/v2/health/live", "", 200, json!(true), "/live"),
        ("GET", "/v2/health/ready", "", 503, json!(false), "/ready"),
        ("GET", "/v2/models/stats", "", 200, json!([]), "/model_stats"),
        ("POST", "/v2/repository/index", "", 200, json!([]), ""),
        ("POST", "/v2/repository/main/index", "{\"ready\":true}", 200, json!([]), ""),
        ("POST", "/v2/repository/index", "{\"ready\":1}", 400, json!(null), "/nothing"),
        ("GET", "/v2/systemsharedmemory/status", "", 200, json!([]), ""),
        ("POST", "/v2/cudasharedmemory/region/r/register", "{}", 501, json!(null), "/nothing"),
        ("GET", "/v2/logging", "", 501, json!(null), "/nothing"),
        ("GET", "/v2/trace/setting", "", 501, json!(null), "/nothing"),
        ("GET", "/v2/models/m", "", 404, json!("Request for unknown model: 'm' is not found"), "/error"),
        ("GET", "/v2/models/m/versions/x/ready", "", 400, json!(null), "/nothing"),
        ("GET", "/v2/models/m:2/config", "", 404, json!(null), "/nothing"),
        ("POST", infer, "{}", 404, json!("Request for unknown model: 'm' is not found"), "/error"),
        ("GET", infer, "", 405, json!("/v2/models/m/infer does not take the method GET"), "/error"),
        ("GET", "/nowhere", "", 404, json!("there is no route GET /nowhere"), "/error"),
        ("GET", "/v1", "", 404, json!("there is no route GET /v1"), "/error/message"),
        ("GET", "/v1/models", "", 200, json!([]), "/data"),
        ("GET", "/v1/models/m", "", 404, json!("model_not_found"), "/error/code"),
        ("GET", "/v1/embeddings", "", 405, json!("invalid_request_error"), "/error/type"),
        ("POST", "/v1/embeddings", "{", 400, json!("invalid_request_error"), "/error/type"),
        ("POST", "/v1/embeddings", "{\"model\":\"m\",\"input\":[]}", 400, json!("input"), "/error/param"),
        ("POST", "/v1/embeddings", "{\"model\":\"a/b\",\"input\":\"x\"}", 404, json!("model_not_found"), "/error/code"),
    ];
    for (method, uri, body, status, value, place) in table {
        let (found, headers, answer) = call(method, uri, body).await;
        assert_eq!(found.as_u16(), status, "{method} {uri}: {answer}");
        assert_eq!(answer.pointer(place).unwrap_or(&Value::Null), &value, "{method} {uri}: {answer}");
        assert_eq!(headers["content-type"], "application/json", "{method} {uri}");
        assert!(headers["server-timing"].to_str().unwrap().starts_with("total;dur="), "{method} {uri}");
        assert!(headers.contains_key("x-request-id"), "{method} {uri}");
        assert_eq!(headers.contains_key("allow"), status == 405, "{method} {uri}");
    }
}

#[tokio::test]
async fn a_body_over_the_limit_is_413_in_each_shape() {
    let (status, _, answer) = call("POST", "/v1/embeddings", vec![b' '; 1001]).await;
    assert_eq!(status, 413);
    assert_eq!(answer["error"]["message"], "request body has 1001 bytes and more, the limit is 1000");
    let (status, _, answer) = call("POST", "/v2/repository/index", vec![b' '; 1001]).await;
    assert_eq!((status.as_u16(), answer["error"].is_string()), (413, true));
}

#[test]
fn a_shed_tells_every_client_when_to_come_back() {
    let wait = Some(Duration::from_millis(1200));
    let failure = Failure::from(Refusal::shed(ShedReason::QueueRequests, "the queue is full", wait));
    let openai = failure.render(Api::OpenAi, OverloadCodes::Lambda);
    assert_eq!((openai.status().as_u16(), &openai.headers()["retry-after"]), (429, &"2".parse().unwrap()));
    assert_eq!(openai.headers()["retry-after-ms"], "1200");
    assert_eq!(
        crate::openai::error_body(&failure, openai.status()),
        json!({"error": {"message": "the queue is full", "type": "rate_limit_error", "param": null, "code": "rate_limit_exceeded"}})
    );
    let triton = failure.render(Api::OpenInference, OverloadCodes::Triton);
    assert_eq!(
        (triton.status().as_u16(), &triton.headers()["x-penstock-shed-reason"]),
        (503, &"queue_requests".parse().unwrap())
    );
    assert!(!triton.headers().contains_key("retry-after-ms"));
}
