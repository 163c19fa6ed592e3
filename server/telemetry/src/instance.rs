//! The metrics of instances.
//!
//! Called by the fleet, a few times a second at most, so names are looked up each time.

use crate::names;
use metrics::{counter, gauge};
use std::time::Duration;

/// How many instances of a capacity provider stand where (`launching`, `ready`, `draining`), and the virtual cores of all together.
pub fn instances(provider: &str, stages: &[(&'static str, usize)], vcpu: u32) {
    for (stage, count) in stages {
        gauge!(names::INSTANCES.name, "provider" => provider.to_owned(), "state" => *stage).set(*count as f64);
    }
    gauge!(names::INSTANCES_VCPU.name, "provider" => provider.to_owned()).set(f64::from(vcpu));
}

/// GPUs of a capacity provider's instances, and their memory in bytes, all together.
#[derive(Clone, Copy, Debug, Default)]
pub struct InstanceGpus {
    /// Those that take environments.
    pub well: u32,
    /// Those that take no other ones.
    pub faulty: u32,
    /// What they have.
    pub memory_total: u64,
    /// Of that, what environments were given.
    pub memory_given: u64,
    /// Of that, what is in use, as far as it is told.
    pub memory_used: u64,
}

/// GPUs of a capacity provider's instances.
pub fn instance_gpus(provider: &str, gpus: InstanceGpus) {
    for (state, count) in [("well", gpus.well), ("faulty", gpus.faulty)] {
        gauge!(names::INSTANCES_GPUS.name, "provider" => provider.to_owned(), "state" => state).set(f64::from(count));
    }
    let kinds = [("total", gpus.memory_total), ("given", gpus.memory_given), ("used", gpus.memory_used)];
    for (kind, bytes) in kinds {
        gauge!(names::INSTANCES_GPU_MEMORY.name, "provider" => provider.to_owned(), "kind" => kind).set(bytes as f64);
    }
}

/// Whether this server leads.
pub fn leads(leads: bool) {
    gauge!(names::LEADS.name).set(f64::from(u8::from(leads)));
}

/// What a function's part of a provider's instances costs now, in US dollars an hour, and what it has come to since that was last
/// told, in millionths of US dollars; of what no environment has, under no name.
pub fn cost(provider: &str, function: &str, usd_per_hour: f64, microusd: u64) {
    let labels = [("provider", provider.to_owned()), ("function", function.to_owned())];
    gauge!(names::COST.name, &labels).set(usd_per_hour);
    counter!(names::COST_TOTAL.name, &labels).increment(microusd);
}

/// So many instances of a provider are to be replaced and cannot be.
pub fn instances_unreplaced(provider: &str, count: usize) {
    gauge!(names::INSTANCES_KEPT_OLD.name, "provider" => provider.to_owned()).set(count as f64);
}

/// Something happened to an instance.
pub fn instance_event(event: &'static str) {
    counter!(names::INSTANCE_EVENTS.name, "event" => event).increment(1);
}

/// From asking for an instance to its being ready.
pub fn instance_started(provider: &str, after: Duration) {
    gauge!(names::INSTANCE_START.name, "provider" => provider.to_owned()).set(after.as_secs_f64());
}

/// Bytes that an instance was sent of what environments read.
pub fn instance_sent(bytes: u64) {
    counter!(names::INSTANCE_SENT.name).increment(bytes);
}
