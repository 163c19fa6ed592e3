//! Rooms 1 and 8, OpenAI door: embeddings and the list of models, as the `openai` SDK expects them.
//!
//! Called by the HTTP door, whose bodies, limits and deadlines it shares. A request for embeddings becomes one
//! invocation that the environment may spread over batches, so it is admitted, answered and counted as one. Answers
//! are not compressed: every SDK offers to take gzip, and embeddings hardly shrink.

mod embeddings;
mod models;
mod request;
mod response;

use crate::http::{Door, Failure};
use axum::Router;
use axum::routing::{get, post};
use http::StatusCode;
use serde_json::{Value, json};
use std::sync::Arc;

/// Everything under `/v1`.
pub(crate) fn routes() -> Router<Arc<Door>> {
    Router::new()
        .route("/v1/embeddings", post(embeddings::embeddings))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{model}", get(models::one))
}

/// A failure in OpenAI's shape. `type` and `code` follow OpenAI's names; where it has none, `code` is our reason.
pub(crate) fn error_body(failure: &Failure, status: StatusCode) -> Value {
    let refusal = &failure.refusal;
    let (kind, code) = match status {
        StatusCode::TOO_MANY_REQUESTS => ("rate_limit_error", Some("rate_limit_exceeded")),
        status if status.is_server_error() => ("server_error", refusal.reason_name()),
        _ => ("invalid_request_error", refusal.reason_name()),
    };
    let code = failure.code.or(code);
    json!({ "error": { "message": refusal.message, "type": kind, "param": failure.param, "code": code } })
}
