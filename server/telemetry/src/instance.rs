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

/// What a function's part of a provider's instances costs now, in US dollars an hour; of what no environment has, under no name.
pub fn cost(provider: &str, function: &str, usd_per_hour: f64) {
    gauge!(names::COST.name, "provider" => provider.to_owned(), "function" => function.to_owned()).set(usd_per_hour);
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
