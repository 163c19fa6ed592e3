//! The metrics of devices.
//!
//! Called every few seconds by whoever reads the devices, so names are looked up each time. What a device does not tell is
//! not set.

use crate::names;
use metrics::{counter, gauge};
use penstock_domain::DeviceReading;

/// What a device says now; `None` if it does not answer.
pub fn device(uuid: &str, reading: Option<&DeviceReading>) {
    let set = |metric: names::Metric, value: Option<f64>| {
        if let Some(value) = value {
            gauge!(metric.name, "gpu_uuid" => uuid.to_owned()).set(value);
        }
    };
    set(names::GPU_ANSWERS, Some(if reading.is_some() { 1.0 } else { 0.0 }));
    let Some(reading) = reading else { return };
    set(names::NV_GPU_MEMORY_TOTAL, reading.memory_total_bytes.map(|bytes| bytes as f64));
    set(names::NV_GPU_MEMORY_USED, reading.memory_used_bytes.map(|bytes| bytes as f64));
    set(names::NV_GPU_UTILIZATION, reading.busy);
    set(names::NV_GPU_POWER, reading.power_watts);
    set(names::NV_GPU_POWER_LIMIT, reading.power_limit_watts);
    set(names::GPU_TEMPERATURE, reading.temperature_celsius.map(f64::from));
    if let Some(joules) = reading.energy_joules {
        // Whole joules: the exporter counts in integers.
        counter!(names::NV_ENERGY.name, "gpu_uuid" => uuid.to_owned()).absolute(joules as u64);
    }
    for (kind, count) in [("corrected", reading.ecc_corrected), ("uncorrected", reading.ecc_uncorrected)] {
        if let Some(count) = count {
            counter!(names::GPU_ECC_ERRORS.name, "gpu_uuid" => uuid.to_owned(), "kind" => kind).absolute(count);
        }
    }
}

/// Bytes of a device's memory, or of a slice's, that environments have been given.
pub fn device_granted(uuid: &str, bytes: u64) {
    gauge!(names::GPU_MEMORY_GRANTED.name, "gpu_uuid" => uuid.to_owned()).set(bytes as f64);
}

/// The driver reported a fault of a device.
pub fn device_fault(uuid: &str, xid: u64, class: &'static str) {
    let labels = [("gpu_uuid", uuid.to_owned()), ("xid", xid.to_string()), ("class", class.to_owned())];
    counter!(names::GPU_FAULTS.name, &labels).increment(1);
}
