//! Functions and versions that come from a Triton model repository: reading it, judging it, and saying what changed.
//!
//! Called by the composition root at start and on every poll, and by the front end's load API. Reads files and nothing
//! else: no network, no threads, no clock. One bad function never hurts another: what cannot be served is reported
//! with its reason, and everything else goes on.
//!
//! - [`text_format`] reads `config.pbtxt`; [`json`] reads and prints the same configuration as JSON.
//! - [`repository`] walks directories into [`FunctionSource`]s.
//! - [`control`] says what to load, unload or replace between two readings.
//!
//! # What `config.pbtxt` can say beyond Triton
//!
//! Keys of `parameters` (each a `string_value`), for any function:
//!
//! | key | meaning |
//! |---|---|
//! | `penstock.engine` | what runs the model: `auto` (default), `candle`, `onnxruntime` |
//! | `penstock.environments`, `penstock.environments_max` | environments of each of its versions, at least and at most: between them they follow the load. With 0 at least, none is kept while nobody asks |
//! | `penstock.max_batch_tokens` | most tokens in one batch, for models that count tokens |
//! | `penstock.threads` | host threads of the environment, shared by its runtime workers; half as many tokenize |
//! | `penstock.max_concurrency` | requests in flight in one environment |
//! | `penstock.reserved_concurrency` | requests in flight that are kept for each of its versions, and the most they may have |
//! | `penstock.device`, `penstock.device_weight` | a device that functions share by this name, in turns, and its parts of the time; of what runs on a GPU it is that GPU, whatever the name |
//! | `penstock.device_memory_bytes` | memory of a GPU that each of its environments is given; without it as much as is guessed from the weights, unless its runtime says, once warm, what it takes |
//! | `penstock.max_queue_items` | items (rows) that may wait in one environment's queue |
//! | `penstock.timeout_ms` | deadline of a request that brings none, from its arrival |
//! | `penstock.batch_timeout_ms` | longest that a batch may run before its process is ended |
//! | `penstock.memory_limit_bytes` | most private memory of the environment's process (`RLIMIT_DATA`); what is shared or mapped from files is not in it |
//!
//! For `backend: "identity"`:
//!
//! | key | meaning |
//! |---|---|
//! | `execute_delay_us` | what a batch costs, in microseconds |
//! | `execute_delay_us_per_item` | what each item adds to that, in microseconds |
//! | `delay_kind` | `sleep` (the core is free, default) or `spin` (the core is taken) |
//! | `device_memory_bytes` | for tests of placement: the device memory that it says it takes; it takes none |
//! | `crash_on_first_byte` | for tests of faults: a batch in which a tensor's first byte has this value (0 to 255) ends the process |
//! | `device_fault_on_first_byte` | for tests of faults: it breaks the process's device context |

pub mod control;
mod descriptors;
mod encoder;
mod function;
mod identity;
pub mod json;
mod normalise;
pub mod repository;
mod revision;
mod runtime;
mod settings;
pub mod text_format;
mod text_lexer;
mod unsupported;
mod warmup;

pub use control::{Change, ControlMode, plan, settle};
pub use encoder::ENCODER_MODEL_TYPES;
pub use function::{FunctionSource, Origin, RuntimeSource, UnavailableVersion, VersionSource};
pub use identity::{DelayKind, IdentityDelays};
pub use json::config_json;
pub use normalise::with_signature;
pub use repository::{
    Rejected, RepositoryError, Scan, find_function, read_package, scan, scan_function, with_config_json,
};
pub use revision::ContentRevision;
pub use settings::{
    Engine, PenstockSettings, QueuePolicy, SettingsError, TimeoutAction, VersionSettings, WorkerDevice,
};
pub use warmup::{WarmupContent, WarmupInput, WarmupRequest};

/// A model configuration as Triton's clients know it.
pub use penstock_proto::inference::ModelConfig;

#[cfg(test)]
mod tests;
