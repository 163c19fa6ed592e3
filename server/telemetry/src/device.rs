//! The metrics of one device, registered once when it is first seen.
//!
//! Owned by whoever reads the devices. What a device does not tell is not set.

use crate::names::{self, Metric};
use metrics::{Counter, Gauge, counter, gauge};

/// How a device is at a moment. `None` is what it does not tell.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct DeviceSample {
    /// Bytes in all.
    pub memory_total_bytes: u64,
    /// Bytes in use.
    pub memory_used_bytes: u64,
    /// Share of the time, 0 to 1.
    pub busy: Option<f64>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<f64>,
    /// Watts.
    pub power_watts: Option<f64>,
    /// Watts.
    pub power_limit_watts: Option<f64>,
    /// Joules since the driver was loaded.
    pub energy_joules: Option<f64>,
    /// Since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// Since the driver was loaded.
    pub ecc_uncorrected: Option<u64>,
}

/// Handles to every metric of one device.
pub struct DeviceMetrics {
    uuid: String,
    memory_total: Gauge,
    memory_used: Gauge,
    answers: Gauge,
}

impl DeviceMetrics {
    /// Registers them with the recorder of this moment; without one, they count nothing.
    pub fn new(uuid: &str) -> Self {
        let of = |metric: Metric| gauge!(metric.name, "gpu_uuid" => uuid.to_owned());
        Self {
            memory_total: of(names::NV_GPU_MEMORY_TOTAL),
            memory_used: of(names::NV_GPU_MEMORY_USED),
            answers: of(names::GPU_ANSWERS),
            uuid: uuid.to_owned(),
        }
    }

    /// What it says now; `None` if it does not answer.
    pub fn sample(&self, sample: Option<&DeviceSample>) {
        self.answers.set(if sample.is_some() { 1.0 } else { 0.0 });
        let Some(sample) = sample else { return };
        self.memory_total.set(sample.memory_total_bytes as f64);
        self.memory_used.set(sample.memory_used_bytes as f64);
        for (metric, value) in [
            (names::NV_GPU_UTILIZATION, sample.busy),
            (names::NV_GPU_POWER, sample.power_watts),
            (names::NV_GPU_POWER_LIMIT, sample.power_limit_watts),
            (names::GPU_TEMPERATURE, sample.temperature_celsius),
        ] {
            if let Some(value) = value {
                gauge!(metric.name, "gpu_uuid" => self.uuid.clone()).set(value);
            }
        }
        if let Some(joules) = sample.energy_joules {
            // Whole joules: the exporter counts in integers.
            counter!(names::NV_ENERGY.name, "gpu_uuid" => self.uuid.clone()).absolute(joules as u64);
        }
        for (kind, count) in [("corrected", sample.ecc_corrected), ("uncorrected", sample.ecc_uncorrected)] {
            if let Some(count) = count {
                self.of_kind(names::GPU_ECC_ERRORS, kind).absolute(count);
            }
        }
    }

    fn of_kind(&self, metric: Metric, kind: &'static str) -> Counter {
        counter!(metric.name, "gpu_uuid" => self.uuid.clone(), "kind" => kind)
    }
}

/// The driver reported a fault of a device.
pub fn device_fault(uuid: &str, xid: u64, class: &'static str) {
    let labels = [("gpu_uuid", uuid.to_owned()), ("xid", xid.to_string()), ("class", class.to_owned())];
    counter!(names::GPU_FAULTS.name, &labels).increment(1);
}
