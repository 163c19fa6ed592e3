//! Room 8, response: what the server, its functions and their numbers look like in the protocol's messages. Pure
//! translations of what the house tells.

use crate::convert::function_and_version;
use penstock_dispatch::{House, ServedFunction, ServedVersion, StatisticDuration as Took};
use penstock_domain::{ErrorCode, Qualifier, Refusal, Signature, TensorSpec};
use penstock_proto::inference::model_metadata_response::TensorMetadata;
use penstock_proto::inference::{
    InferBatchStatistics, InferStatistics, ModelConfigResponse, ModelMetadataResponse, ModelReadyResponse,
    ModelStatistics, ModelStatisticsResponse, ServerMetadataResponse, StatisticDuration,
};
use std::sync::Arc;

/// Name of the server in its metadata.
const SERVER_NAME: &str = "penstock";

/// The protocol extensions that work here, by Triton's names; nothing else is claimed.
pub(crate) const EXTENSIONS: [&str; 6] =
    ["classification", "model_repository", "model_configuration", "binary_tensor_data", "parameters", "statistics"];

/// Who this server is.
pub(super) fn server() -> ServerMetadataResponse {
    ServerMetadataResponse {
        name: SERVER_NAME.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        extensions: EXTENSIONS.map(str::to_owned).to_vec(),
    }
}

/// The version a name and a version text mean.
fn resolve(house: &House, name: &str, version: &str) -> Result<Arc<ServedVersion>, Refusal> {
    let (function, qualifier) = function_and_version(name, version)?;
    house.resolve(function.as_str(), &qualifier)
}

/// Whether it can be asked. What nobody knows is not ready, which is an answer, not an error.
pub(super) fn ready(house: &House, name: &str, version: &str) -> Result<ModelReadyResponse, Refusal> {
    match resolve(house, name, version) {
        Ok(version) => Ok(ModelReadyResponse { ready: version.state().is_ready() }),
        Err(refusal) if refusal.code == ErrorCode::NotFound => Ok(ModelReadyResponse { ready: false }),
        Err(refusal) => Err(refusal),
    }
}

/// The version's signature; UNAVAILABLE with the state and its reason while it is not loaded.
fn signature(version: &ServedVersion) -> Result<Arc<Signature>, Refusal> {
    let state = version.state();
    match version.signature() {
        Some(signature) if state.is_ready() => Ok(signature),
        _ => {
            let mut words =
                format!("model '{}' version {} is not ready: {}", version.function, version.number, state.name());
            if !state.reason().is_empty() {
                words = format!("{words}, {}", state.reason());
            }
            Err(Refusal::new(ErrorCode::Unavailable, words))
        }
    }
}

/// The tensors of a function.
pub(super) fn model(house: &House, name: &str, version: &str) -> Result<ModelMetadataResponse, Refusal> {
    let served = resolve(house, name, version)?;
    let signature = signature(&served)?;
    let functions = house.functions();
    let ready = functions.get(served.function.as_str()).map(|function| ready_versions(function)).unwrap_or_default();
    let tensors = |specs: &[TensorSpec]| specs.iter().map(|spec| tensor(spec, signature.max_batch_size > 0)).collect();
    Ok(ModelMetadataResponse {
        name: served.function.as_str().to_owned(),
        versions: if version.is_empty() { ready } else { vec![served.number.to_string()] },
        platform: signature.platform.clone(),
        inputs: tensors(&signature.inputs),
        outputs: tensors(&signature.outputs),
    })
}

/// Numbers of the versions that can be asked.
fn ready_versions(function: &ServedFunction) -> Vec<String> {
    let ready = function.versions.values().filter(|version| version.state().is_ready());
    ready.map(|version| version.number.to_string()).collect()
}

/// One tensor; the batch dimension of a function that batches is shown first, as -1.
fn tensor(spec: &TensorSpec, batches: bool) -> TensorMetadata {
    let batch = batches.then_some(-1);
    TensorMetadata {
        name: spec.name.clone(),
        datatype: spec.datatype.name().to_owned(),
        shape: batch.into_iter().chain(spec.shape.iter().copied()).collect(),
    }
}

/// The configuration in force, with what the loaded model told filled in.
pub(super) fn config(house: &House, name: &str, version: &str) -> Result<ModelConfigResponse, Refusal> {
    let served = resolve(house, name, version)?;
    let signature = signature(&served)?;
    let functions = house.functions();
    let function = functions.get(served.function.as_str()).ok_or_else(|| {
        Refusal::new(ErrorCode::NotFound, format!("model '{}' was unloaded just now", served.function))
    })?;
    Ok(ModelConfigResponse {
        config: Some(penstock_repository::with_signature(function.config_of(served.number), &signature)),
    })
}

/// The numbers of one version, of all versions of a function, or of everything.
pub(super) fn statistics(house: &House, name: &str, version: &str) -> Result<ModelStatisticsResponse, Refusal> {
    let functions = house.functions();
    let model_stats = if name.is_empty() {
        functions.values().flat_map(|function| function.versions.values()).map(|version| numbers(version)).collect()
    } else {
        let (function, qualifier) = function_and_version(name, version)?;
        let served = house.resolve(function.as_str(), &qualifier)?;
        match (qualifier, functions.get(function.as_str())) {
            (Qualifier::Unnamed, Some(function)) => {
                function.versions.values().map(|version| numbers(version)).collect()
            }
            _ => vec![numbers(&served)],
        }
    };
    Ok(ModelStatisticsResponse { model_stats })
}

/// The numbers of one version.
fn numbers(version: &ServedVersion) -> ModelStatistics {
    let s = version.statistics();
    let took = |took: Took| Some(StatisticDuration { count: took.count, ns: took.ns });
    let batch_stats = s.batches.iter().map(|(size, batch)| InferBatchStatistics {
        batch_size: u64::from(*size),
        compute_input: took(batch.compute_input),
        compute_infer: took(batch.compute_infer),
        compute_output: took(batch.compute_output),
    });
    ModelStatistics {
        name: version.function.as_str().to_owned(),
        version: version.number.to_string(),
        last_inference: s.last_inference_ms,
        inference_count: s.inference_count,
        execution_count: s.execution_count,
        inference_stats: Some(InferStatistics {
            success: took(s.success),
            fail: took(s.fail),
            queue: took(s.queue),
            compute_input: took(s.compute_input),
            compute_infer: took(s.compute_infer),
            compute_output: took(s.compute_output),
            cache_hit: took(Took::default()),
            cache_miss: took(Took::default()),
        }),
        batch_stats: batch_stats.collect(),
        memory_usage: Vec::new(),
        response_stats: Default::default(),
    }
}
