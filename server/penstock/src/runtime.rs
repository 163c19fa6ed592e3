//! How a version's source becomes a specification: what its environments are told. Called at each load.

use crate::accelerate::{Accelerators, accelerator};
use crate::config::Config;
use crate::roles::Roles;
use penstock_domain::{Architecture, TensorSpec, Variables};
use penstock_environment::{
    BatchingPolicy, DeviceShare, IsolationPolicy, QueueLimits, QueueTimeout, Specification, TimeoutAction,
};
use penstock_identity::{DelayKind, IdentityOptions};
use penstock_repository::{Engine, FunctionSource, RuntimeSource, VersionSettings, VersionSource};
use penstock_runtimes::{Declared, Runtime};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// ONNX Runtime's library, from the configuration or the cache.
pub(crate) fn onnxruntime_library(config: &Config) -> PathBuf {
    config
        .path("onnxruntime.library")
        .unwrap_or_else(|| PathBuf::from(config.text("cache_dir")).join("lib/libonnxruntime.so"))
}

/// The one for environments on instances of this architecture, other than the server's. Errors: it is not there.
fn onnxruntime_library_for(config: &Config, architecture: Architecture) -> Result<PathBuf, String> {
    let name = architecture.name();
    let fetched = || PathBuf::from(config.text("cache_dir")).join(format!("lib-{name}/libonnxruntime.so"));
    let library = config.path("onnxruntime.other_library").unwrap_or_else(fetched);
    match library.is_file() {
        true => Ok(library),
        false => Err(format!(
            "Architectures: it is to run on {name}, and there is no {} (onnxruntime.other_library); \
             `models/catalog/fetch.py --only onnxruntime-{name}` fetches one",
            library.display()
        )),
    }
}

/// The one for environments on a GPU.
pub(crate) fn onnxruntime_cuda_library(config: &Config) -> PathBuf {
    let fetched = || PathBuf::from(config.text("cache_dir")).join("lib/cuda/libonnxruntime.so");
    let named = config.path("onnxruntime.cuda_library").or_else(|| config.path("onnxruntime.library"));
    named.or_else(|| Some(fetched()).filter(|library| library.is_file())).unwrap_or_else(|| onnxruntime_library(config))
}

/// What a version's instances are to be. Where none are bought, all is of this program's architecture, whatever is said.
pub(crate) fn architecture(config: &Config, settings: &VersionSettings) -> Architecture {
    let bought = config.text("instances.provider") == "ec2";
    settings.architecture.filter(|_| bought).unwrap_or(Architecture::OWN)
}

/// Describes an environment of a version, once for each load. `cores` is what the machine has; the environments of a
/// version are busy together and share them, versions are busy at different times and each may use them all. Errors: why
/// it cannot run on this machine.
pub(crate) fn specify(
    config: &Config,
    cores: usize,
    accelerators: Option<&Accelerators>,
    roles: &Roles,
    function: &FunctionSource,
    version: &VersionSource,
) -> Result<Specification, String> {
    let settings = &version.settings;
    let accelerator = accelerator(accelerators, version, architecture(config, settings))?;
    if !settings.notes.is_empty() {
        let (number, notes) = (version.number.0, settings.notes.join("; "));
        tracing::warn!(function = %function.name, version = number, notes, "a part of the configuration is not followed");
    }
    // Of those that share a device one batch runs at a time. On a GPU there are others.
    let workers = match &settings.penstock.device {
        Some(_) => 1,
        None => settings.worker_count.unwrap_or(1).max(1) as usize,
    };
    let (configured, environments) =
        (config.integer("environments.threads"), config.integer("environments.per_version"));
    let threads = thread_share(settings.penstock.threads, configured, cores, environments);
    let per_worker = (threads / workers).max(1);
    let architecture = architecture(config, settings);
    let by_onnxruntime = match &version.runtime {
        RuntimeSource::Identity { .. } => false,
        RuntimeSource::Bert { .. } => match settings.penstock.engine {
            Engine::Candle => false,
            // Which it is on a GPU.
            Engine::Auto => !accelerator.as_ref().is_some_and(|accelerator| accelerator.required),
            Engine::OnnxRuntime => true,
        },
        RuntimeSource::Onnx { .. } => true,
    };
    let (library, cuda_library) = match architecture {
        other if by_onnxruntime && other != Architecture::OWN => {
            let library = onnxruntime_library_for(config, other)?;
            (library.clone(), library)
        }
        _ => (onnxruntime_library(config), onnxruntime_cuda_library(config)),
    };
    let mut readable = vec![version.directory.clone()];
    readable.extend(version.linked_paths.iter().cloned());
    let runtime = match &version.runtime {
        RuntimeSource::Identity { delays } => Runtime::Identity {
            options: IdentityOptions {
                execute_delay_us: delays.execute_delay_us,
                execute_delay_us_per_item: delays.execute_delay_us_per_item,
                delay_kind: match delays.kind {
                    penstock_repository::DelayKind::Sleep => DelayKind::Sleep,
                    penstock_repository::DelayKind::Spin => DelayKind::Spin,
                },
                max_batch_size: settings.max_batch_size.unwrap_or_default(),
                crash_on_first_byte: delays.crash_on_first_byte,
                device_fault_on_first_byte: delays.device_fault_on_first_byte,
                device_memory_bytes: delays.device_memory_bytes,
            },
            inputs: declared(settings.inputs.as_deref().unwrap_or_default()),
            outputs: declared(settings.outputs.as_deref().unwrap_or_default()),
        },
        RuntimeSource::Onnx { model } => Runtime::Onnx {
            library: library.clone(),
            cuda_library: cuda_library.clone(),
            file: model.clone(),
            threads: per_worker,
            max_batch_size: settings.max_batch_size,
            inputs: settings.inputs.as_deref().map(declared),
            outputs: settings.outputs.as_deref().map(declared),
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
            max_batch_size: settings.max_batch_size.map(|most| most.max(1)),
        },
    };
    if by_onnxruntime {
        // The library and those it loads beside itself.
        let mut libraries = vec![library];
        libraries.extend(accelerator.is_some().then_some(cuda_library));
        for library in libraries {
            let real = library.canonicalize().unwrap_or(library);
            readable.extend(real.parent().map(PathBuf::from));
        }
    }
    let mut variables = match (&version.runtime, settings.penstock.engine) {
        (RuntimeSource::Bert { .. }, Engine::Candle) => penstock_bert::candle_variables(threads),
        _ => BTreeMap::new(),
    };
    let mut secrets = false;
    if let Some(role) = &settings.role {
        variables.extend(settings.variables.0.clone());
        variables.extend(lambda_variables(config, function, version));
        let credentials = roles.variables(role);
        secrets = !credentials.is_empty();
        variables.extend(credentials);
    }
    if settings.penstock.memory_limit_bytes.is_some() {
        // Else the allocator takes a gibibyte at once, which counts whether it is used or not.
        variables.insert("MIMALLOC_ARENA_EAGER_COMMIT".into(), "0".into());
    }
    // A Hugging Face folder without a configuration batches as its model allows; Triton's rules hold for the rest.
    let text = matches!(runtime, Runtime::Bert { .. });
    let queue = &settings.queue_policy;
    let default_items = config.integer("environments.queue_items");
    Ok(Specification {
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
                    penstock_repository::TimeoutAction::Reject => TimeoutAction::Refuse,
                    penstock_repository::TimeoutAction::Delay => TimeoutAction::SendBehind,
                },
            }),
        },
        workers,
        // Tokenization is far cheaper than what follows it: half as many threads keep the workers fed.
        preparation_threads: (threads / 2).max(1),
        isolation: IsolationPolicy {
            readable,
            devices: Vec::new(),
            memory_limit_bytes: settings.penstock.memory_limit_bytes.unwrap_or_default(),
            network: false,
            nice: config.integer("environments.nice") as i32,
            variables: Variables(variables),
            secrets,
        },
        provider: settings.capacity_provider.clone(),
        architecture,
        cores: u32::try_from(threads).unwrap_or(u32::MAX),
        memory_bytes: settings
            .penstock
            .memory_limit_bytes
            .or(settings.penstock.memory_bytes)
            .unwrap_or_else(|| config.integer("instances.environment_memory_bytes")),
        device: settings.penstock.device.clone().map(|name| DeviceShare {
            name,
            weight: settings.penstock.device_weight.unwrap_or(1),
            depth: 1,
        }),
        accelerator,
        body_bytes_max: config.integer("limits.message_bytes"),
    })
}

/// What Lambda tells every function's environment.
fn lambda_variables(config: &Config, function: &FunctionSource, version: &VersionSource) -> BTreeMap<String, String> {
    let region = config.text("lambda.region");
    let told = [
        ("AWS_REGION", region.to_owned()),
        ("AWS_DEFAULT_REGION", region.to_owned()),
        ("AWS_LAMBDA_FUNCTION_NAME", function.name.to_string()),
        ("AWS_LAMBDA_FUNCTION_VERSION", version.number.to_string()),
    ];
    told.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
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
        provider: None,
        architecture: Architecture::OWN,
        cores: 1,
        memory_bytes: 0,
        device: None,
        accelerator: None,
        body_bytes_max: 1 << 20,
    }
}

fn declared(specs: &[TensorSpec]) -> Vec<Declared> {
    specs.iter().map(Declared::from).collect()
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
