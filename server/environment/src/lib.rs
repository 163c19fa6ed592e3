//! Execution environments: one version, loaded, in a process of its own, with its queue, batcher and runtime workers.
//!
//! Two halves of one room. The dispatch room holds an [`EnvironmentHandle`] for each environment; the environment's
//! process runs [`run`]. Between them is the link: multiplexed frames over a socket pair (or, in tests, an in-memory
//! pipe; same code).
//!
//! A request's way through, one file each: `handle` → `frame` → (process boundary) → `room` → `prepare` → `queue` →
//! `batcher` → `worker` → `call` → and back. `isolation` and `lifecycle` are about the process itself.

mod batcher;
mod call;
mod demand;
mod device;
mod entry;
mod forecast;
mod frame;
mod handle;
mod isolation;
mod lifecycle;
mod message;
mod prepare;
mod queue;
mod rehearsal;
mod room;
mod specification;
mod worker;

pub use device::Device;
pub use entry::{Load, run, serve};
pub use handle::{CallAnswer, CallEnd, EnvironmentHandle, LoadReport, OnBatch, StartError};
pub use isolation::enter as enter_isolation;
pub use lifecycle::{Ending, Launch, LaunchError, Launched, Launcher, Life, Started};
pub use message::reason::OUT_OF_HOST_MEMORY;
pub use rehearsal::{Act, Play, Scene, rehearse};
pub use room::RoomError;
pub use specification::{
    Accelerator, BatchingPolicy, DeviceShare, IsolationPolicy, Measure, QueueLimits, QueueTimeout, ReadyReport,
    Specification, TimeoutAction,
};

#[cfg(test)]
mod tests;
