//! A configuration as checked, plain values: what the scheduler, the queue and the runtimes act on.
//!
//! Called by `repository`, once per function. Reads label files and looks whether warm-up files exist; nothing else
//! of the disk. Every error names the field, what was found and what would be right.

use crate::text_format::Document;
use crate::unsupported;
use crate::warmup::{self, WarmupRequest};
use penstock_domain::{Architecture, ErrorCode, TensorSpec, Variables};
use penstock_proto::inference::model_config::SchedulingChoice;
use penstock_proto::inference::{ModelConfig, ModelQueuePolicy};
use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};

mod instances;
mod notes;
mod penstock;
mod tensors;

pub use instances::WorkerDevice;
pub use penstock::{Engine, PenstockSettings};
pub(crate) use tensors::datatype;

/// What is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct SettingsError {
    /// Path of the field, such as `input[0].dims[1]`.
    pub field: String,
    /// What was found and what would be right.
    pub message: String,
}

impl SettingsError {
    pub(crate) fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self { field: field.into(), message: message.into() }
    }

    /// Always the writer's mistake.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

/// How a version is run.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct VersionSettings {
    /// Most items in one batch; 0 means no batch dimension, `None` that the loaded model decides.
    pub max_batch_size: Option<u32>,
    /// Whether requests may share a batch.
    pub dynamic_batching: bool,
    /// Sizes, in items, sent off at once when reached; ascending. Empty prefers the largest possible.
    pub preferred_batch_sizes: Vec<u32>,
    /// How long a batch may wait to fill up, in microseconds.
    pub max_queue_delay_us: u64,
    /// Whether answers leave in the order the requests came.
    pub preserve_ordering: bool,
    /// Number of priorities, 1 being the highest; 0 means none.
    pub priority_levels: u64,
    /// Priority of a request that names none; 0 if there are none.
    pub default_priority_level: u64,
    /// The queue's limits.
    pub queue_policy: QueuePolicy,
    /// The queue's limits for single priorities.
    pub priority_queue_policies: BTreeMap<u64, QueuePolicy>,
    /// Runtime workers, over all instance groups and their GPUs; `None` lets the server choose.
    pub worker_count: Option<u32>,
    /// Where they run.
    pub worker_device: WorkerDevice,
    /// Indices of the GPUs named; empty means any.
    pub gpus: Vec<u32>,
    /// Inputs, if declared; without the batch dimension when `max_batch_size` is above 0.
    pub inputs: Option<Vec<TensorSpec>>,
    /// Outputs, if declared, with their labels.
    pub outputs: Option<Vec<TensorSpec>>,
    /// Free parameters, as written.
    pub parameters: BTreeMap<String, String>,
    /// Those of them that are Penstock's own, read.
    pub penstock: PenstockSettings,
    /// The capacity provider, for functions that have one of their own.
    pub capacity_provider: Option<String>,
    /// What instances of that provider it is to run on; `None`: such as this program runs on.
    pub architecture: Option<Architecture>,
    /// Its record says that it has been up: that it is not is no reason to think that it cannot be.
    pub has_served: bool,
    /// The execution role, for functions that have one.
    pub role: Option<String>,
    /// Variables of its environments, beside those that are the platform's.
    pub variables: Variables,
    /// To run before the version counts as ready.
    pub warmup: Vec<WarmupRequest>,
    /// What is written and not followed: each names the field and says what happens instead. For the log, once a load.
    pub notes: Vec<String>,
}

/// How long and how many requests may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueuePolicy {
    /// Requests that may wait; `None` leaves it to the server's limit.
    pub max_queue_requests: Option<u32>,
    /// Longest wait in microseconds; `None` sets no limit.
    pub default_timeout_us: Option<u64>,
    /// Whether a request's `timeout` parameter may shorten the wait.
    pub allow_timeout_override: bool,
    /// What happens to one that waited too long.
    pub timeout_action: TimeoutAction,
}

/// What happens to a request that waited too long.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TimeoutAction {
    /// It is refused.
    #[default]
    Reject,
    /// It waits on, behind all that are in time.
    Delay,
}

impl VersionSettings {
    /// Checks a configuration. `directory` is the function's: label and warm-up files lie there.
    pub fn from_document(document: &Document, directory: &Path) -> Result<Self, SettingsError> {
        let config = &document.config;
        unsupported::check(config)?;
        let max_batch_size = max_batch_size(document)?;
        let parameters: BTreeMap<String, String> =
            config.parameters.iter().map(|(key, value)| (key.clone(), value.string_value.clone())).collect();
        let penstock = PenstockSettings::from_parameters(&parameters)?;
        let (worker_count, worker_device, gpus) = instances::read(&config.instance_group)?;
        let mut settings = Self {
            max_batch_size,
            worker_count,
            worker_device,
            gpus,
            inputs: tensors::inputs(config)?,
            outputs: tensors::outputs(config, directory)?,
            parameters,
            penstock,
            warmup: warmup::read(config, directory)?,
            ..Self::default()
        };
        settings.read_batching(config)?;
        settings.notes = notes::of(config, &settings);
        Ok(settings)
    }

    fn read_batching(&mut self, config: &ModelConfig) -> Result<(), SettingsError> {
        let Some(SchedulingChoice::DynamicBatching(batching)) = &config.scheduling_choice else { return Ok(()) };
        let field = |name: &str| format!("dynamic_batching.{name}");
        self.dynamic_batching = self.max_batch_size != Some(0);
        for (index, &size) in batching.preferred_batch_size.iter().enumerate() {
            let most = self.max_batch_size.filter(|most| *most > 0).unwrap_or(i32::MAX as u32);
            let Some(size) = u32::try_from(size).ok().filter(|size| (1..=most).contains(size)) else {
                let right = match most {
                    most if most == i32::MAX as u32 => "1 or more".to_owned(),
                    most => format!("from 1 to max_batch_size {most}"),
                };
                let name = field(&format!("preferred_batch_size[{index}]"));
                return Err(SettingsError::new(name, format!("expected {right}, found {size}")));
            };
            self.preferred_batch_sizes.push(size);
        }
        self.preferred_batch_sizes.sort_unstable();
        self.preferred_batch_sizes.dedup();
        self.max_queue_delay_us = batching.max_queue_delay_microseconds;
        self.preserve_ordering = batching.preserve_ordering;
        self.priority_levels = batching.priority_levels;
        self.default_priority_level = batching.default_priority_level;
        let levels = batching.priority_levels;
        if levels > 0 && !(1..=levels).contains(&batching.default_priority_level) {
            let message = format!("expected 1 to priority_levels {levels}, found {}", batching.default_priority_level);
            return Err(SettingsError::new(field("default_priority_level"), message));
        }
        self.queue_policy = QueuePolicy::read(batching.default_queue_policy.unwrap_or_default());
        for (&level, policy) in &batching.priority_queue_policy {
            if !(1..=levels).contains(&level) {
                let message = format!("expected keys from 1 to priority_levels {levels}, found {level}");
                return Err(SettingsError::new(field("priority_queue_policy"), message));
            }
            self.priority_queue_policies.insert(level, QueuePolicy::read(*policy));
        }
        Ok(())
    }
}

impl QueuePolicy {
    fn read(policy: ModelQueuePolicy) -> Self {
        Self {
            max_queue_requests: Some(policy.max_queue_size).filter(|size| *size > 0),
            default_timeout_us: Some(policy.default_timeout_microseconds).filter(|timeout| *timeout > 0),
            allow_timeout_override: policy.allow_timeout_override,
            // An open enum: an unknown number reads as the default, refusing.
            timeout_action: if policy.timeout_action == 1 { TimeoutAction::Delay } else { TimeoutAction::Reject },
        }
    }
}

/// Neither written nor implied by declared tensors: left to the loaded model.
fn max_batch_size(document: &Document) -> Result<Option<u32>, SettingsError> {
    let config = &document.config;
    let size = u32::try_from(config.max_batch_size).map_err(|_| {
        let message = format!("expected 0 (no batch dimension) or more, found {}", config.max_batch_size);
        SettingsError::new("max_batch_size", message)
    })?;
    let open = config.input.is_empty() && config.output.is_empty() && !document.written.contains("max_batch_size");
    Ok(Some(size).filter(|_| !open))
}

/// A whole number in `parameters`, at most `most`; `None` if absent.
pub(crate) fn parameter(
    parameters: &BTreeMap<String, String>,
    key: &str,
    least: u64,
    most: u64,
) -> Result<Option<u64>, SettingsError> {
    let Some(text) = parameters.get(key) else { return Ok(None) };
    let number = text.trim().parse().ok().filter(|number| (least..=most).contains(number));
    number.map(Some).ok_or_else(|| {
        let message = format!("expected a whole number from {least} to {most}, found '{text}'");
        SettingsError::new(format!("parameters[{key:?}]"), message)
    })
}

/// A file that a configuration names, which must exist within `directory` (links are followed).
pub(crate) fn file_within(directory: &Path, file: &str, field: &str) -> Result<PathBuf, SettingsError> {
    let relative = Path::new(file);
    if file.is_empty() || !relative.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir)) {
        return Err(SettingsError::new(
            field,
            format!("expected a file name within {}, found '{file}'", directory.display()),
        ));
    }
    let path = directory.join(relative);
    if !path.is_file() {
        return Err(SettingsError::new(field, format!("there is no file {}", path.display())));
    }
    Ok(path)
}
