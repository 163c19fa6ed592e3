//! What is seen from outside: metric declarations, the recorder behind `/metrics`, and logs.
//!
//! Called by dispatch (which owns a [`VersionMetrics`] for each version it serves) and by the composition root (which
//! installs the recorder, serves [`Scrape::render`] and starts the logs). Never opens a port, never reads a clock, and
//! on a request's path never looks up a label, allocates or takes a lock.

mod device;
mod histogram;
mod instance;
mod logs;
pub mod names;
mod outcome;
mod process;
mod recorder;
mod share;
mod triton;
mod version;

pub use device::{device, device_fault, device_granted};
pub use instance::{
    InstanceGpus, cost, instance_event, instance_gpus, instance_sent, instance_started, instances,
    instances_unreplaced, leads,
};
pub use logs::{LogFormat, init_logs};
pub use outcome::{UnroutedMetrics, unrouted};
pub use recorder::{Scrape, TelemetryError, install};
pub use version::{LoadSample, VersionMetrics};

#[cfg(test)]
mod tests;
