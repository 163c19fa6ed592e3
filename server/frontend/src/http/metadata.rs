//! Rooms 1 and 8, HTTP door: health, metadata, configuration and statistics.

use super::{Door, Failure, Target, json_response};
use crate::grpc::EXTENSIONS;
use axum::extract::{RawPathParams, State};
use axum::response::Response;
use http::StatusCode;
use penstock_dispatch::{ServedVersion, StatisticDuration, VersionStatistics};
use penstock_domain::{ErrorCode, Qualifier, Refusal, Signature, TensorSpec};
use serde_json::{Value, json};
use std::sync::Arc;

/// `GET /v2`
pub(crate) async fn server() -> Response {
    let version = env!("CARGO_PKG_VERSION");
    json_response(StatusCode::OK, &json!({ "name": "penstock", "version": version, "extensions": EXTENSIONS }))
}

/// `GET /v2/health/live`
pub(crate) async fn live() -> Response {
    json_response(StatusCode::OK, &json!({ "live": true }))
}

/// `GET /v2/health/ready`: 503 while starting and draining.
pub(crate) async fn ready(State(door): State<Arc<Door>>) -> Response {
    let ready = door.house.is_ready();
    json_response(status_of(ready), &json!({ "ready": ready }))
}

/// `GET /v2/models/{model}[/versions/{version}]/ready`: 503 while it is not, 404 if there is no such thing.
pub(crate) async fn model_ready(State(door): State<Arc<Door>>, params: RawPathParams) -> Result<Response, Failure> {
    let version = resolve(&door, &params)?;
    let state = version.state();
    let ready = state.is_ready();
    let mut body = json!({ "name": version.function.as_str(), "ready": ready });
    if !state.reason().is_empty() {
        body["reason"] = state.reason().into();
    }
    Ok(json_response(status_of(ready), &body))
}

/// `GET /v2/models/{model}[/versions/{version}]`
pub(crate) async fn model(State(door): State<Arc<Door>>, params: RawPathParams) -> Result<Response, Failure> {
    let version = resolve(&door, &params)?;
    let signature = signature(&version)?;
    let versions = match params.iter().any(|(key, _)| key == "version") {
        true => vec![version.number.to_string()],
        false => ready_versions(&door, version.function.as_str()),
    };
    let batches = signature.max_batch_size > 0;
    let tensors = |specs: &[TensorSpec]| specs.iter().map(|spec| tensor(spec, batches)).collect::<Vec<_>>();
    let body = json!({
        "name": version.function.as_str(),
        "versions": versions,
        "platform": signature.platform,
        "inputs": tensors(&signature.inputs),
        "outputs": tensors(&signature.outputs),
    });
    Ok(json_response(StatusCode::OK, &body))
}

/// `GET /v2/models/{model}[/versions/{version}]/config`
pub(crate) async fn config(State(door): State<Arc<Door>>, params: RawPathParams) -> Result<Response, Failure> {
    let version = resolve(&door, &params)?;
    let signature = signature(&version)?;
    let functions = door.house.functions();
    let function = functions.get(version.function.as_str()).ok_or_else(|| {
        Refusal::new(ErrorCode::NotFound, format!("model '{}' was taken away just now", version.function))
    })?;
    let config = penstock_repository::with_signature(function.config_of(version.number), &signature);
    Ok(json_response(StatusCode::OK, &penstock_repository::config_json(&config)))
}

/// `GET /v2/models/{model}[/versions/{version}]/stats`
pub(crate) async fn statistics(State(door): State<Arc<Door>>, params: RawPathParams) -> Result<Response, Failure> {
    let target = Target::of_route(&params)?;
    let resolved = door.house.resolve(target.function.as_str(), &target.qualifier)?;
    let functions = door.house.functions();
    let stats = match (&target.qualifier, functions.get(target.function.as_str())) {
        (Qualifier::Unnamed, Some(function)) => {
            function.versions.values().map(|version| version_statistics(version)).collect()
        }
        _ => vec![version_statistics(&resolved)],
    };
    Ok(json_response(StatusCode::OK, &json!({ "model_stats": stats })))
}

/// `GET /v2/models/stats`
pub(crate) async fn all_statistics(State(door): State<Arc<Door>>) -> Response {
    let functions = door.house.functions();
    let versions = functions.values().flat_map(|function| function.versions.values());
    let stats: Vec<Value> = versions.map(|version| version_statistics(version)).collect();
    json_response(StatusCode::OK, &json!({ "model_stats": stats }))
}

fn status_of(ready: bool) -> StatusCode {
    if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn resolve(door: &Door, params: &RawPathParams) -> Result<Arc<ServedVersion>, Refusal> {
    let target = Target::of_route(params)?;
    door.house.resolve(target.function.as_str(), &target.qualifier)
}

fn signature(version: &ServedVersion) -> Result<Arc<Signature>, Refusal> {
    version.signature().ok_or_else(|| {
        let (state, function) = (version.state(), &version.function);
        let words = format!("model '{function}' version {} is {}: {}", version.number, state.name(), state.reason());
        Refusal::new(ErrorCode::Unavailable, words.trim_end_matches([':', ' ']))
    })
}

fn ready_versions(door: &Door, function: &str) -> Vec<String> {
    let functions = door.house.functions();
    let versions = functions.get(function).into_iter().flat_map(|function| function.versions.values());
    versions.filter(|v| v.state().is_ready()).map(|v| v.number.to_string()).collect()
}

fn tensor(spec: &TensorSpec, batches: bool) -> Value {
    let shape: Vec<i64> = batches.then_some(-1).into_iter().chain(spec.shape.iter().copied()).collect();
    json!({ "name": spec.name, "datatype": spec.datatype.name(), "shape": shape })
}

fn version_statistics(version: &ServedVersion) -> Value {
    print_statistics(version.function.as_str(), &version.number.to_string(), &version.statistics())
}

/// One entry of the statistics extension.
fn print_statistics(name: &str, version: &str, s: &VersionStatistics) -> Value {
    let duration = |d: &StatisticDuration| json!({ "count": d.count, "ns": d.ns });
    let batches: Vec<Value> = s
        .batches
        .iter()
        .map(|(size, batch)| {
            json!({
                "batch_size": size,
                "compute_input": duration(&batch.compute_input),
                "compute_infer": duration(&batch.compute_infer),
                "compute_output": duration(&batch.compute_output),
            })
        })
        .collect();
    let none = StatisticDuration::default();
    json!({
        "name": name,
        "version": version,
        "last_inference": s.last_inference_ms,
        "inference_count": s.inference_count,
        "execution_count": s.execution_count,
        "inference_stats": {
            "success": duration(&s.success),
            "fail": duration(&s.fail),
            "queue": duration(&s.queue),
            "compute_input": duration(&s.compute_input),
            "compute_infer": duration(&s.compute_infer),
            "compute_output": duration(&s.compute_output),
            "cache_hit": duration(&none),
            "cache_miss": duration(&none),
        },
        "response_stats": {},
        "batch_stats": batches,
    })
}
