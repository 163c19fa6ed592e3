//! What an environment is told when it starts, and what it reports when it is ready. Crosses the link as JSON once.

use crate::queue::LEVELS_MAX;
use penstock_domain::{Architecture, Datatype, Signature, TensorSpec, Variables};
use penstock_executor::{BatchCost, Model};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Everything an environment needs to serve one version.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Specification {
    /// The function's name, for logs.
    pub function: String,
    /// The version's number, for logs.
    pub version: u64,
    /// What to load: understood by the composition root, which knows the runtimes.
    pub runtime: serde_json::Value,
    /// How batches are formed.
    pub batching: BatchingPolicy,
    /// What may wait.
    pub queue: QueueLimits,
    /// Runtime workers, each running one batch at a time.
    pub workers: usize,
    /// Preparation threads (tokenization).
    pub preparation_threads: usize,
    /// What it may touch.
    pub isolation: IsolationPolicy,
    /// The capacity provider on whose instances it runs, where it has one of its own.
    #[serde(default)]
    pub provider: Option<String>,
    /// What its instance is to be.
    #[serde(default)]
    pub architecture: Architecture,
    /// Of an instance: cores that it takes, and host memory, in bytes.
    #[serde(default)]
    pub cores: u32,
    /// See `cores`.
    #[serde(default)]
    pub memory_bytes: u64,
    /// The device it shares with others; `None` where it has what it runs on for itself.
    #[serde(default)]
    pub device: Option<DeviceShare>,
    /// What it needs of a GPU; `None` where it runs on the CPU.
    #[serde(default)]
    pub accelerator: Option<Accelerator>,
    /// Most bytes of one request's or answer's tensors.
    pub body_bytes_max: u64,
}

/// A part of a GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accelerator {
    /// Indices of the GPUs that it may run on; empty for any.
    pub gpus: Vec<u32>,
    /// It gets its device with its instance; else from whoever has it started.
    #[serde(default)]
    pub with_instance: bool,
    /// The device that it was placed on, as `CUDA_VISIBLE_DEVICES` takes it.
    #[serde(default)]
    pub device: Option<String>,
    /// Device memory, in bytes.
    pub memory_bytes: u64,
    /// It runs there or not at all; else on the CPU where it cannot be loaded there.
    pub required: bool,
    /// Runtime workers there.
    pub workers: u32,
    /// Parts of the device's time, against the parts of others that run there.
    pub weight: u32,
    /// Device files that it reads and writes there.
    pub device_files: Vec<PathBuf>,
    /// What else it reads there.
    pub readable: Vec<PathBuf>,
    /// Folders of the device's libraries, where the system's loader does not find them; they are read, too.
    pub library_path: Vec<PathBuf>,
}

/// How an environment's process is told its device, and sees no other.
const VISIBLE_DEVICES: &str = "CUDA_VISIBLE_DEVICES";
/// Batches under way on a GPU at once: while one computes, another's inputs are copied there, and the device does not wait
/// for the link between the two. More would only wait on the device, where nobody is weighed.
const GPU_DEPTH: u32 = 2;
/// Where the system's loader looks first.
const LIBRARY_PATH: &str = "LD_LIBRARY_PATH";

impl Specification {
    /// The device that it was placed on, as `CUDA_VISIBLE_DEVICES` takes it; `None` where that has not been, or it runs on the
    /// CPU.
    pub fn placed_on(&self) -> Option<&str> {
        self.accelerator.as_ref()?.device.as_deref()
    }

    /// It runs on this device, may touch what it needs there, and shares the device's time with all others that run on it.
    /// Nothing changes for what runs on the CPU.
    pub fn place_on(&mut self, uuid: &str) {
        let Some(Accelerator { weight, workers, device_files, readable, library_path, device, .. }) =
            &mut self.accelerator
        else {
            return;
        };
        *device = Some(uuid.to_owned());
        self.workers = (*workers).max(1) as usize;
        // Models compute elsewhere: the cores are for preparation, all of them and not half.
        self.preparation_threads *= 2;
        let IsolationPolicy { readable: may_read, devices, variables, .. } = &mut self.isolation;
        devices.extend(device_files.iter().cloned());
        may_read.extend(readable.iter().chain(library_path.iter()).cloned());
        variables.insert(VISIBLE_DEVICES.to_owned(), uuid.to_owned());
        if !library_path.is_empty() {
            let folders: Vec<_> = library_path.iter().map(|folder| folder.to_string_lossy()).collect();
            variables.insert(LIBRARY_PATH.to_owned(), folders.join(":"));
        }
        self.device = Some(DeviceShare { name: uuid.to_owned(), weight: *weight, depth: GPU_DEPTH });
    }
}

/// A share of a device's time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceShare {
    /// The same for all that share it.
    pub name: String,
    /// Parts of its time, against the parts of the others, while all ask for it.
    pub weight: u32,
    /// Batches that run there at once, of all that share it together. All of them should say the same: the first to come
    /// decides.
    #[serde(default = "one")]
    pub depth: u32,
}

fn one() -> u32 {
    1
}

/// How batches are formed; the model says what a batch may hold at most.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BatchingPolicy {
    /// Whether requests may be put together at all. Without it each request is a batch of its own.
    pub dynamic: bool,
    /// Sizes in items that are formed at once when reached; ascending. Empty: whatever waits.
    pub preferred_sizes: Vec<u32>,
    /// Longest that the oldest request waits for a preferred size (or a full batch), in microseconds. 0 is
    /// work-conserving: an idle worker takes what there is.
    pub max_delay_us: u64,
    /// Most tokens in a batch. Only for models that count tokens.
    pub max_tokens: u64,
    /// Longest that a batch may run before the model counts as hanging and its process is ended, in microseconds; 0 for
    /// ever.
    pub run_timeout_us: u64,
    /// Levels of priority, 1 the highest; 0 if all are alike.
    pub priority_levels: u32,
    /// The level of a request that names none, or one that there is not.
    pub default_priority: u32,
}

impl BatchingPolicy {
    /// The level of a request's priority, from 0, the highest.
    pub fn level(&self, priority: u32) -> u8 {
        let known = (1..=self.priority_levels).contains(&priority);
        let level = if known { priority } else { self.default_priority };
        if self.priority_levels == 0 { 0 } else { level.saturating_sub(1).min(u32::from(LEVELS_MAX)) as u8 }
    }
}

/// What may wait in the environment, and for how long. A request that would exceed one is refused whole.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueLimits {
    /// Requests, waiting and running; the front end's slots keep to the same number.
    pub requests: u32,
    /// Requests waiting, 1 or more; `None` leaves it to `requests`.
    pub waiting: Option<u32>,
    /// Items waiting.
    pub items: u64,
    /// Tokens waiting.
    pub tokens: u64,
    /// How long a request may wait for its first part to begin; `None` leaves it to its deadline.
    pub timeout: Option<QueueTimeout>,
    /// A queue in which everybody waits longer than this, in microseconds, lowers the number of requests that the front
    /// end sends at once; 0 leaves it at `requests`.
    pub standing_wait_us: u64,
}

/// The longest wait in the queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueTimeout {
    /// In microseconds, from when the environment has read the request.
    pub after_us: u64,
    /// What happens then.
    pub action: TimeoutAction,
}

/// What happens to a request that has waited too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeoutAction {
    /// It is refused: its deadline has passed.
    Refuse,
    /// It waits on, behind all that have not waited too long, those that come later included.
    SendBehind,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { requests: 1024, waiting: None, items: 8192, tokens: 1 << 20, timeout: None, standing_wait_us: 0 }
    }
}

/// What an environment may touch beside the link.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct IsolationPolicy {
    /// Readable files and folders: the model, libraries.
    pub readable: Vec<PathBuf>,
    /// Device files, and folders of them, that are read and written.
    #[serde(default)]
    pub devices: Vec<PathBuf>,
    /// Most private memory, in bytes, as `RLIMIT_DATA` counts it; 0 for no limit.
    pub memory_limit_bytes: u64,
    /// Keep the machine's network. Off by default: an environment speaks over its link alone.
    pub network: bool,
    /// Niceness added, so that the front end outranks the environments.
    pub nice: i32,
    /// The only variables of its environment: for libraries that can be told things in no other way.
    pub variables: Variables,
    /// There are secrets among them: others must not see them.
    #[serde(default)]
    pub secrets: bool,
}

/// What an environment reports once it is loaded and warm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ReadyReport {
    /// Its process id.
    pub pid: u32,
    /// What the version takes and gives.
    signature: SignatureReport,
    /// Tokens of one item, at most, where its batches cost what their tokens do and not their items.
    pub item_tokens_max: Option<u32>,
    /// Device memory that it was seen to take while it warmed up, in bytes; `None` if it does not know.
    #[serde(default)]
    pub device_memory_bytes: Option<u64>,
    /// Milliseconds to load.
    pub load_ms: u64,
    /// Milliseconds to warm up.
    pub warmup_ms: u64,
    /// Isolation measures in force, by name, and those that are not, with the reason.
    pub isolation: Vec<Measure>,
}

/// One isolation measure.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Measure {
    /// Its name.
    pub name: String,
    /// In force?
    pub in_force: bool,
    /// What it does here, or why it does not.
    pub detail: String,
}

impl ReadyReport {
    pub(crate) fn new(model: &dyn Model, isolation: Vec<Measure>) -> Self {
        Self {
            pid: std::process::id(),
            signature: model.signature().into(),
            item_tokens_max: match model.batch_cost() {
                BatchCost::Items => None,
                BatchCost::Tokens { longest } => Some(longest),
            },
            device_memory_bytes: model.device_memory_bytes(),
            load_ms: 0,
            warmup_ms: 0,
            isolation,
        }
    }

    /// What the version takes and gives.
    pub fn signature(&self) -> Signature {
        Signature {
            platform: self.signature.platform.clone(),
            inputs: self.signature.inputs.iter().map(TensorReport::to_spec).collect(),
            outputs: self.signature.outputs.iter().map(TensorReport::to_spec).collect(),
            max_batch_size: self.signature.max_batch_size,
            any_tensors: self.signature.any_tensors,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct SignatureReport {
    platform: String,
    inputs: Vec<TensorReport>,
    outputs: Vec<TensorReport>,
    max_batch_size: u32,
    any_tensors: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct TensorReport {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    optional: bool,
    labels: Vec<String>,
}

impl From<&Signature> for SignatureReport {
    fn from(signature: &Signature) -> Self {
        let report = |spec: &TensorSpec| TensorReport {
            name: spec.name.clone(),
            datatype: spec.datatype.name().into(),
            shape: spec.shape.clone(),
            optional: spec.optional,
            labels: spec.labels.clone(),
        };
        Self {
            platform: signature.platform.clone(),
            inputs: signature.inputs.iter().map(report).collect(),
            outputs: signature.outputs.iter().map(report).collect(),
            max_batch_size: signature.max_batch_size,
            any_tensors: signature.any_tensors,
        }
    }
}

impl TensorReport {
    fn to_spec(&self) -> TensorSpec {
        TensorSpec {
            name: self.name.clone(),
            datatype: Datatype::parse(&self.datatype).unwrap_or(Datatype::Bytes),
            shape: self.shape.clone(),
            optional: self.optional,
            labels: self.labels.clone(),
        }
    }
}
