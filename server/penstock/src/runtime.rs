//! The runtimes this program knows: how a version's source becomes a specification, and a specification a model.
//!
//! The first half runs in the front end's process, the second in the environment's.

use crate::config::Config;
use penstock_bert::{BertModel, BertOptions};
use penstock_domain::{Datatype, TensorSpec};
use penstock_environment::{
    BatchingPolicy, DeviceShare, IsolationPolicy, QueueLimits, QueueTimeout, Specification, TimeoutAction,
};
use penstock_executor::{LoadError, Model};
use penstock_identity::{DelayKind, Identity, IdentityOptions};
use penstock_onnx::{OnnxModel, OnnxOptions};
use penstock_registry::{Engine, FunctionSource, RuntimeSource, VersionSource};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// Most rows in a batch of an encoder whose configuration names no other: the token budget usually binds first.
const ENCODER_BATCH_SIZE: u32 = 64;

/// A tensor as the configuration declares it.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Declared {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    optional: bool,
    labels: Vec<String>,
}

/// What an environment loads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
enum Runtime {
    Identity {
        options: IdentityOptions,
        inputs: Vec<Declared>,
        outputs: Vec<Declared>,
    },
    Onnx {
        library: PathBuf,
        file: PathBuf,
        threads: usize,
        max_batch_size: Option<u32>,
        inputs: Option<Vec<Declared>>,
        outputs: Option<Vec<Declared>>,
    },
    Bert {
        library: PathBuf,
        folder: PathBuf,
        engine: String,
        threads: usize,
        max_batch_size: u32,
    },
}

/// ONNX Runtime's library, from the configuration or the cache.
pub(crate) fn onnxruntime_library(config: &Config) -> PathBuf {
    config
        .path("onnxruntime.library")
        .unwrap_or_else(|| PathBuf::from(config.text("cache_dir")).join("lib/libonnxruntime.so"))
}

/// Describes an environment of a version, once for each load. `cores` is what the machine has; the environments of a
/// version are busy together and share them, versions are busy at different times and each may use them all.
pub(crate) fn specify(
    config: &Config,
    cores: usize,
    function: &FunctionSource,
    version: &VersionSource,
) -> Specification {
    let settings = &version.settings;
    if !settings.notes.is_empty() {
        let (number, notes) = (version.number.0, settings.notes.join("; "));
        tracing::warn!(function = %function.name, version = number, notes, "a part of the configuration is not followed");
    }
    // Of those that share a device one batch runs at a time.
    let workers = match &settings.penstock.device {
        Some(_) => 1,
        None => settings.worker_count.unwrap_or(1).max(1) as usize,
    };
    let (configured, environments) =
        (config.integer("environments.threads"), config.integer("environments.per_version"));
    let threads = thread_share(settings.penstock.threads, configured, cores, environments);
    let per_worker = (threads / workers).max(1);
    let library = onnxruntime_library(config);
    let mut readable = vec![version.directory.clone()];
    readable.extend(version.linked_paths.iter().cloned());
    let runtime = match &version.runtime {
        RuntimeSource::Identity { delays } => Runtime::Identity {
            options: IdentityOptions {
                execute_delay_us: delays.execute_delay_us,
                execute_delay_us_per_item: delays.execute_delay_us_per_item,
                delay_kind: match delays.kind {
                    penstock_registry::DelayKind::Sleep => DelayKind::Sleep,
                    penstock_registry::DelayKind::Spin => DelayKind::Spin,
                },
                max_batch_size: settings.max_batch_size.unwrap_or_default(),
                crash_on_first_byte: delays.crash_on_first_byte,
            },
            inputs: declare(settings.inputs.as_deref().unwrap_or_default()),
            outputs: declare(settings.outputs.as_deref().unwrap_or_default()),
        },
        RuntimeSource::Onnx { model } => Runtime::Onnx {
            library: library.clone(),
            file: model.clone(),
            threads: per_worker,
            max_batch_size: settings.max_batch_size,
            inputs: settings.inputs.as_deref().map(declare),
            outputs: settings.outputs.as_deref().map(declare),
        },
        RuntimeSource::Bert { folder } => Runtime::Bert {
            library: library.clone(),
            folder: folder.clone(),
            engine: match settings.penstock.engine {
                Engine::Auto => "auto",
                Engine::Candle => "candle",
                Engine::OnnxRuntime => "onnxruntime",
            }
            .into(),
            threads: per_worker,
            max_batch_size: settings.max_batch_size.unwrap_or(ENCODER_BATCH_SIZE).max(1),
        },
    };
    if !matches!(runtime, Runtime::Identity { .. }) {
        // The library and those it loads beside itself.
        let real = library.canonicalize().unwrap_or(library);
        readable.extend(real.parent().map(PathBuf::from));
    }
    let mut variables = match (&version.runtime, settings.penstock.engine) {
        (RuntimeSource::Bert { .. }, Engine::Candle) => penstock_bert::candle_variables(threads),
        _ => BTreeMap::new(),
    };
    if settings.penstock.memory_limit_bytes.is_some() {
        // Else the allocator takes a gibibyte at once, which counts whether it is used or not.
        variables.insert("MIMALLOC_ARENA_EAGER_COMMIT".into(), "0".into());
    }
    // A Hugging Face folder without a configuration batches as its model allows; Triton's rules hold for the rest.
    let text = matches!(runtime, Runtime::Bert { .. });
    let queue = &settings.queue_policy;
    let default_items = config.integer("environments.queue_items");
    Specification {
        function: function.name.as_str().into(),
        version: version.number.0,
        runtime: serde_json::to_value(&runtime).unwrap_or_default(),
        batching: BatchingPolicy {
            dynamic: settings.dynamic_batching || text,
            preferred_sizes: settings.preferred_batch_sizes.clone(),
            max_delay_us: settings.max_queue_delay_us,
            max_tokens: settings
                .penstock
                .max_batch_tokens
                .map_or(config.integer("environments.batch_tokens"), u64::from),
            priority_levels: u32::try_from(settings.priority_levels).unwrap_or(u32::MAX),
            default_priority: u32::try_from(settings.default_priority_level).unwrap_or(u32::MAX),
            run_timeout_us: 1000
                * settings.penstock.batch_timeout_ms.unwrap_or(1000 * config.integer("environments.batch_timeout_s")),
        },
        queue: QueueLimits {
            requests: settings.penstock.max_concurrency.unwrap_or(config.integer_u32("environments.concurrency")),
            waiting: queue.max_queue_requests,
            items: settings.penstock.max_queue_items.map_or(default_items, u64::from),
            tokens: config.integer("environments.queue_tokens"),
            standing_wait_us: 1000 * config.integer("environments.standing_wait_ms"),
            timeout: queue.default_timeout_us.map(|after_us| QueueTimeout {
                after_us,
                action: match queue.timeout_action {
                    penstock_registry::TimeoutAction::Reject => TimeoutAction::Refuse,
                    penstock_registry::TimeoutAction::Delay => TimeoutAction::SendBehind,
                },
            }),
        },
        workers,
        // Tokenization is far cheaper than what follows it: half as many threads keep the workers fed.
        preparation_threads: (threads / 2).max(1),
        isolation: IsolationPolicy {
            readable,
            memory_limit_bytes: settings.penstock.memory_limit_bytes.unwrap_or_default(),
            network: false,
            nice: config.integer("environments.nice") as i32,
            variables,
        },
        device: settings
            .penstock
            .device
            .clone()
            .map(|name| DeviceShare { name, weight: settings.penstock.device_weight.unwrap_or(1) }),
        body_bytes_max: config.integer("limits.message_bytes"),
    }
}

/// A specification that loads nothing, to see which isolation measures hold on this machine.
pub(crate) fn probe(config: &Config) -> Specification {
    let options = IdentityOptions { max_batch_size: 1, ..IdentityOptions::default() };
    let runtime = Runtime::Identity { options, inputs: Vec::new(), outputs: Vec::new() };
    Specification {
        function: "probe".into(),
        version: 1,
        runtime: serde_json::to_value(&runtime).unwrap_or_default(),
        batching: BatchingPolicy::default(),
        queue: QueueLimits::default(),
        workers: 1,
        preparation_threads: 1,
        isolation: IsolationPolicy { nice: config.integer("environments.nice") as i32, ..IsolationPolicy::default() },
        device: None,
        body_bytes_max: 1 << 20,
    }
}

/// Loads what a specification names. Runs in the environment's process.
pub(crate) fn load(specification: &Specification) -> Result<Arc<dyn Model>, LoadError> {
    let runtime = Runtime::deserialize(&specification.runtime)
        .map_err(|error| LoadError::Invalid(format!("the runtime's description cannot be read: {error}")))?;
    Ok(match runtime {
        Runtime::Identity { options, inputs, outputs } => {
            Arc::new(Identity::new(options, specs(inputs), specs(outputs)))
        }
        Runtime::Onnx { library, file, threads, max_batch_size, inputs, outputs } => {
            Arc::new(OnnxModel::load(OnnxOptions {
                library,
                file,
                threads_per_worker: threads,
                max_batch_size,
                inputs: inputs.map(specs),
                outputs: outputs.map(specs),
            })?)
        }
        Runtime::Bert { library, folder, engine, threads, max_batch_size } => {
            let engine = match engine.as_str() {
                "candle" => penstock_bert::Engine::Candle,
                "onnxruntime" => penstock_bert::Engine::OnnxRuntime,
                _ => penstock_bert::Engine::Auto,
            };
            Arc::new(BertModel::load(BertOptions { folder, engine, library, threads, max_batch_size })?)
        }
    })
}

fn declare(specs: &[TensorSpec]) -> Vec<Declared> {
    let declared = |spec: &TensorSpec| Declared {
        name: spec.name.clone(),
        datatype: spec.datatype.name().into(),
        shape: spec.shape.clone(),
        optional: spec.optional,
        labels: spec.labels.clone(),
    };
    specs.iter().map(declared).collect()
}

fn specs(declared: Vec<Declared>) -> Vec<TensorSpec> {
    let spec = |declared: Declared| TensorSpec {
        name: declared.name,
        datatype: Datatype::parse(&declared.datatype).unwrap_or(Datatype::Bytes),
        shape: declared.shape,
        optional: declared.optional,
        labels: declared.labels,
    };
    declared.into_iter().map(spec).collect()
}

/// Host threads of one of `environments` environments: a version's `own` number, else the `configured` one, else, where
/// that is 0, its share of the cores.
fn thread_share(own: Option<u32>, configured: u64, cores: usize, environments: u64) -> usize {
    match (own, configured) {
        (Some(threads), _) => threads as usize,
        (None, 0) => (cores / environments.max(1) as usize).max(1),
        (None, threads) => threads as usize,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_the_environments_share_of_the_cores() {
        assert_eq!([1, 3, 64].map(|environments| thread_share(None, 0, 8, environments)), [8, 2, 1]);
        assert_eq!(thread_share(None, 5, 8, 3), 5);
        assert_eq!(thread_share(Some(1), 5, 8, 3), 1);
    }
}
