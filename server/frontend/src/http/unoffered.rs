//! Rooms 1 and 8, HTTP door: routes of Triton that this server knows and does not offer, answered in clear words.
//!
//! Status lists of shared memory are empty rather than refused, and unregistering nothing succeeds: clients ask for
//! both when they clean up.

use super::{Failure, json_response};
use axum::response::Response;
use http::StatusCode;
use penstock_domain::{ErrorCode, Refusal};

fn unsupported(message: &str) -> Failure {
    Refusal::new(ErrorCode::Unsupported, message).into()
}

/// The regions that are registered: none.
pub(crate) async fn no_regions() -> Response {
    json_response(StatusCode::OK, &serde_json::json!([]))
}

/// One region: there is none.
pub(crate) async fn no_region() -> Failure {
    Refusal::new(ErrorCode::NotFound, "no such shared memory region: shared memory is not offered").into()
}

/// Registering.
pub(crate) async fn shared_memory() -> Failure {
    unsupported("shared memory is not offered: send tensors in the request body (the binary extension needs no copy)")
}

/// Unregistering.
pub(crate) async fn nothing_to_unregister() -> Response {
    json_response(StatusCode::OK, &serde_json::json!({}))
}

/// Trace settings.
pub(crate) async fn trace() -> Failure {
    unsupported("trace settings are not offered: every response carries its stage times in `Server-Timing`")
}

/// Log settings.
pub(crate) async fn logging() -> Failure {
    unsupported("log settings cannot be changed over the API: they are part of the server's configuration")
}

/// Text generation.
pub(crate) async fn generate() -> Failure {
    unsupported("generate is not offered yet: there are no language models; use infer")
}
