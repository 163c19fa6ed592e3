//! Rooms 1 and 8, HTTP door: the Open Inference Protocol's REST API with Triton's extensions, and the OpenAI API.
//!
//! Called by the composition root, which serves the [`http_router`] on its listener. A handler reads a body within its
//! limits (`body`), turns it into an [`Invocation`](penstock_domain::Invocation) (`infer_request`), lets the house run
//! it, and prints the answer (`infer_response`). Never admits, routes or runs anything itself.
//!
//! Not ready is 503 (Triton says 400): balancers take 503 for "elsewhere", and clients look only at the status class.

mod answer;
mod body;
mod deadline;
mod failure;
mod finish;
mod infer;
mod infer_request;
mod infer_response;
mod inflate;
mod json;
mod json_number;
mod json_tensor;
mod metadata;
mod parameters;
mod raw_request;
mod repository;
mod target;
mod unoffered;

pub(crate) use answer::{HeldBody, json_response};
pub(crate) use body::{BodyLimits, Share, Upload, within};
pub(crate) use deadline::deadline_of;
pub(crate) use failure::{Api, Failure};
pub(crate) use finish::{Received, RequestId};
pub(crate) use infer::{PRINTED_BYTES_PER_BYTE, off_thread};
pub(crate) use infer_request::{InferRequest, read_request};
pub(crate) use infer_response::print_answer;
pub(crate) use json::{Cursor, JsonError, ReadError, utf8};
pub(crate) use json_tensor::{float, number, write_elements};
pub(crate) use target::Target;

use crate::guard::Guard;
use crate::lambda::Lambda;
use crate::request_id::RequestIds;
use crate::status::OverloadCodes;
use axum::Router;
use axum::routing::{any, get, post};
use http::HeaderName;
use penstock_admission::ByteBudget;
use penstock_dispatch::House;
use std::sync::Arc;
use std::time::Duration;

/// What the composition root decides about the HTTP door.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// How "everything is busy" is told.
    pub overload: OverloadCodes,
    /// `memory_budget_bytes`, shared with every other door.
    pub budget: ByteBudget,
    /// Makes the ids of requests that bring none, shared with every other door.
    pub request_ids: Arc<RequestIds>,
    /// Most bytes of a request body, also after inflating.
    pub body_bytes_max: usize,
    /// Most bytes of one tensor read from JSON.
    pub tensor_bytes_max: usize,
    /// Longest wait for the next piece of a body.
    pub body_stall_max: Duration,
    /// Slowest average of a body, in bytes per second, once `body_stall_max` has passed.
    pub body_bytes_per_second_min: u64,
    /// The header that tells callers apart; `None` where nobody is.
    pub caller_header: Option<HeaderName>,
    /// Answers of at least this many bytes are compressed for clients that accept it.
    pub compress_bytes_min: usize,
    /// Asked before every request; `None` where there are no keys.
    pub guard: Option<Guard>,
    /// When the server started, in seconds since the epoch: OpenAI's `created`.
    pub started_unix_s: u64,
}

impl HttpOptions {
    /// 64 MiB of tensors and 1 MiB of JSON around them, 30 s for the next piece, 16 KiB per second on average.
    pub fn new(budget: ByteBudget, request_ids: Arc<RequestIds>, started_unix_s: u64) -> Self {
        Self {
            overload: OverloadCodes::default(),
            budget,
            request_ids,
            body_bytes_max: 65 << 20,
            tensor_bytes_max: 64 << 20,
            body_stall_max: Duration::from_secs(30),
            body_bytes_per_second_min: 16 << 10,
            caller_header: None,
            compress_bytes_min: 1 << 10,
            guard: None,
            started_unix_s,
        }
    }

    pub(crate) fn body_limits(&self) -> BodyLimits {
        BodyLimits {
            bytes_max: self.body_bytes_max,
            stall_max: self.body_stall_max,
            bytes_per_second_min: self.body_bytes_per_second_min,
        }
    }
}

/// What every handler knows.
pub(crate) struct Door {
    pub(crate) house: Arc<House>,
    pub(crate) options: HttpOptions,
    pub(crate) lambda: Option<Lambda>,
}

/// Everything served over HTTP/1.1 and HTTP/2 on the HTTP port; without `lambda` no control plane.
pub fn http_router(house: Arc<House>, options: HttpOptions, lambda: Option<Lambda>) -> Router {
    let door = Arc::new(Door { house, options, lambda });
    crate::lambda::run_events(&door);
    let routes = Router::new()
        .route("/v2", get(metadata::server))
        .route("/v2/health/live", get(metadata::live))
        .route("/v2/health/ready", get(metadata::ready))
        .route("/v2/models/stats", get(metadata::all_statistics))
        .merge(model_routes("/v2/models/{model}"))
        .merge(model_routes("/v2/models/{model}/versions/{version}"))
        .route("/v2/repository/index", post(repository::index))
        .route("/v2/repository/{repository}/index", post(repository::index))
        .route("/v2/repository/models/{model}/load", post(repository::load))
        .route("/v2/repository/models/{model}/unload", post(repository::unload))
        .route("/v2/repository/{repository}/models/{model}/load", post(repository::load))
        .route("/v2/repository/{repository}/models/{model}/unload", post(repository::unload))
        .merge(shared_memory_routes("/v2/systemsharedmemory"))
        .merge(shared_memory_routes("/v2/cudasharedmemory"))
        .route("/v2/trace/setting", any(unoffered::trace))
        .route("/v2/models/{model}/trace/setting", any(unoffered::trace))
        .route("/v2/logging", any(unoffered::logging))
        .merge(crate::openai::routes())
        .merge(crate::lambda::routes(&door))
        .fallback(failure::unknown_route)
        .method_not_allowed_fallback(failure::wrong_method);
    crate::guard::before(routes, &door)
        .layer(axum::middleware::from_fn_with_state(door.clone(), finish::finish))
        .with_state(door)
}

fn model_routes(model: &str) -> Router<Arc<Door>> {
    Router::new()
        .route(model, get(metadata::model))
        .route(&format!("{model}/ready"), get(metadata::model_ready))
        .route(&format!("{model}/config"), get(metadata::config))
        .route(&format!("{model}/stats"), get(metadata::statistics))
        .route(&format!("{model}/infer"), post(infer::infer))
        .route(&format!("{model}/generate"), post(unoffered::generate))
        .route(&format!("{model}/generate_stream"), post(unoffered::generate))
}

fn shared_memory_routes(kind: &str) -> Router<Arc<Door>> {
    Router::new()
        .route(&format!("{kind}/status"), get(unoffered::no_regions))
        .route(&format!("{kind}/region/{{region}}/status"), get(unoffered::no_region))
        .route(&format!("{kind}/region/{{region}}/register"), post(unoffered::shared_memory))
        .route(&format!("{kind}/region/{{region}}/unregister"), post(unoffered::nothing_to_unregister))
        .route(&format!("{kind}/unregister"), post(unoffered::nothing_to_unregister))
}

#[cfg(test)]
#[path = "router_tests.rs"]
mod tests;
