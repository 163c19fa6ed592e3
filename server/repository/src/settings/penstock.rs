//! Penstock's own parameters: keys of `parameters` that begin with `penstock.`.
//!
//! Called by `settings`. Pure.

use super::{SettingsError, parameter};
use crate::descriptors::nearest;
use std::collections::BTreeMap;

/// Penstock's own parameters; `None` where the server's default holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PenstockSettings {
    /// What runs the model.
    pub engine: Engine,
    /// Environments of each version, at least.
    pub environments: Option<u32>,
    /// And at most, as its load wants; as many as at least, if nothing is said.
    pub environments_max: Option<u32>,
    /// Most tokens in one batch.
    pub max_batch_tokens: Option<u32>,
    /// Host threads of the environment, shared by its runtime workers.
    pub threads: Option<u32>,
    /// Requests in flight in one environment.
    pub max_concurrency: Option<u32>,
    /// Requests in flight of each of its versions that are kept for it, and the most it may have.
    pub reserved_concurrency: Option<u32>,
    /// Items that may wait in one environment's queue.
    pub max_queue_items: Option<u32>,
    /// Most private memory of the environment's process, in bytes, as `RLIMIT_DATA` counts it.
    pub memory_limit_bytes: Option<u64>,
    /// Host memory that it takes of an instance, in bytes, where that is not its limit.
    pub memory_bytes: Option<u64>,
    /// Device memory of one of its environments on a GPU, in bytes; `None` where it is measured.
    pub device_memory_bytes: Option<u64>,
    /// The device whose time it shares with all functions that name the same; each takes turns, batch by batch.
    pub device: Option<String>,
    /// Its parts of that device's time.
    pub device_weight: Option<u32>,
    /// Deadline of a request that brings none, in milliseconds from its arrival.
    pub timeout_ms: Option<u64>,
    /// Longest that a batch may run, in milliseconds.
    pub batch_timeout_ms: Option<u64>,
}

/// What runs a model that more than one engine can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// The server chooses.
    #[default]
    Auto,
    /// candle.
    Candle,
    /// ONNX Runtime.
    OnnxRuntime,
}

const PREFIX: &str = "penstock.";
const KEYS: [&str; 14] = [
    "penstock.engine",
    "penstock.environments",
    "penstock.environments_max",
    "penstock.max_batch_tokens",
    "penstock.threads",
    "penstock.max_concurrency",
    "penstock.reserved_concurrency",
    "penstock.max_queue_items",
    "penstock.memory_limit_bytes",
    "penstock.device_memory_bytes",
    "penstock.device",
    "penstock.device_weight",
    "penstock.timeout_ms",
    "penstock.batch_timeout_ms",
];
/// Most environments of a version on one machine.
const ENVIRONMENTS_MAX: u32 = 64;
/// A day: longer than anything that is waited for.
const TIME_MS_MAX: u64 = 86_400_000;

impl PenstockSettings {
    /// Reads them; a key with the prefix that is not known is an error, so that a typing mistake is seen.
    pub fn from_parameters(parameters: &BTreeMap<String, String>) -> Result<Self, SettingsError> {
        let unknown = |key: &&String| key.starts_with(PREFIX) && !KEYS.contains(&key.as_str());
        if let Some(key) = parameters.keys().find(unknown) {
            let hint = nearest(key, KEYS.into_iter()).map(|near| format!("; did you mean '{near}'?"));
            let message = format!("expected one of {}{}", KEYS.join(", "), hint.unwrap_or_default());
            return Err(SettingsError::new(format!("parameters[{key:?}]"), message));
        }
        let engine = match parameters.get("penstock.engine").map(String::as_str) {
            None | Some("auto") => Engine::Auto,
            Some("candle") => Engine::Candle,
            Some("onnxruntime") => Engine::OnnxRuntime,
            Some(other) => {
                let message = format!("expected auto, candle or onnxruntime, found '{other}'");
                return Err(SettingsError::new("parameters[\"penstock.engine\"]", message));
            }
        };
        let small = |key, most: u32| {
            let number = parameter(parameters, key, 1, u64::from(most))?;
            Ok::<_, SettingsError>(number.map(|number| number as u32))
        };
        let environments_max = small("penstock.environments_max", ENVIRONMENTS_MAX)?;
        // None is kept where one may be started.
        let least = u64::from(environments_max.is_none());
        let environments = parameter(parameters, "penstock.environments", least, ENVIRONMENTS_MAX.into())?;
        let environments = environments.map(|number| number as u32);
        if let Some((least, most)) = environments.zip(environments_max).filter(|(least, most)| least > most) {
            let message = format!("expected at least penstock.environments, which is {least}, found {most}");
            return Err(SettingsError::new("parameters[\"penstock.environments_max\"]", message));
        }
        Ok(Self {
            engine,
            environments,
            environments_max,
            max_batch_tokens: small("penstock.max_batch_tokens", 1 << 24)?,
            threads: small("penstock.threads", 1024)?,
            max_concurrency: small("penstock.max_concurrency", 1 << 20)?,
            reserved_concurrency: small("penstock.reserved_concurrency", 1 << 20)?,
            max_queue_items: small("penstock.max_queue_items", 1 << 24)?,
            // Less than 64 MiB does not start a process with a runtime library in it.
            memory_limit_bytes: parameter(parameters, "penstock.memory_limit_bytes", 64 << 20, 1 << 50)?,
            memory_bytes: None,
            device_memory_bytes: parameter(parameters, "penstock.device_memory_bytes", 1 << 20, 1 << 50)?,
            device: parameters.get("penstock.device").filter(|name| !name.is_empty()).cloned(),
            device_weight: small("penstock.device_weight", 1000)?,
            timeout_ms: parameter(parameters, "penstock.timeout_ms", 1, TIME_MS_MAX)?,
            batch_timeout_ms: parameter(parameters, "penstock.batch_timeout_ms", 1, TIME_MS_MAX)?,
        })
    }
}
