//! The GPUs of this machine, seen: what `penstock devices` prints, and the readings and faults behind metrics and log.
//!
//! Called by the composition root. Asking the driver blocks, so it is done on threads that may.

use crate::config::Config;
use parking_lot::Mutex;
use penstock_capacity::Placement;
use penstock_domain::DeviceReading;
use penstock_inventory::{Driver, Fault, FaultClass, Gpu, InventoryError, Nvidia, Watch};
use penstock_telemetry::{device, device_fault, device_granted};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How busy each of them was at the last reading, by identifier.
pub(crate) type Busy = Arc<Mutex<BTreeMap<String, f64>>>;

/// The GPUs that were there at start.
pub(crate) struct Gpus {
    nvidia: Nvidia,
    driver: Driver,
    /// In the driver's order; those that do not answer are left out.
    found: Vec<Gpu>,
}

impl Gpus {
    /// Looks. `None` on a machine without any, which is a normal one; what looks broken is a warning.
    pub(crate) fn look(config: &Config, warn: impl Fn(&InventoryError)) -> Option<Self> {
        let looked = Nvidia::open(config.path("devices.nvml").as_deref());
        let nvidia = looked.inspect_err(&warn).ok().flatten()?;
        let (driver, each) = (nvidia.driver().inspect_err(&warn).ok()?, nvidia.gpus().inspect_err(&warn).ok()?);
        let found: Vec<Gpu> = each.into_iter().filter_map(|gpu| gpu.inspect_err(&warn).ok()).collect();
        Some(Self { nvidia, driver, found })
    }

    /// Those that answered.
    pub(crate) fn found(&self) -> &[Gpu] {
        &self.found
    }

    /// A line for each, and for each slice, and one for the driver.
    pub(crate) fn lines(&self) -> Vec<String> {
        let (major, minor) = self.driver.cuda;
        let mut lines = vec![format!("driver  {} (CUDA {major}.{minor})", self.driver.version)];
        for gpu in &self.found {
            let reading = self.nvidia.read(&gpu.uuid);
            let state = reading.map_or_else(|error| error.to_string(), |reading| told(&reading));
            let capability = gpu.compute_capability.map_or_else(String::new, |(a, b)| format!(", compute {a}.{b}"));
            let Gpu { index, name, uuid, .. } = gpu;
            lines.push(format!("device  gpu {index}: {name}{capability}, {}, {state}, {uuid}", gib(gpu.memory_bytes)));
            for slice in &gpu.slices {
                lines.push(format!("  slice {}, {}, {}", slice.name, gib(slice.memory_bytes), slice.uuid));
            }
            if gpu.sliced && gpu.slices.is_empty() {
                lines.push("  it is to be cut into slices (MIG) and has none: nothing can run on it".into());
            }
        }
        lines
    }

    /// Says what there is, then reads for as long as the program runs. Faults are told as they happen; a GPU that has failed
    /// or does not answer is withdrawn from `placement`.
    pub(crate) fn follow(self, interval: Duration, placement: Option<Placement>, busy: Busy) {
        for line in self.lines() {
            tracing::info!("{line}");
        }
        let failed: Arc<Mutex<BTreeSet<String>>> = Arc::default();
        let watch = {
            let (placement, failed) = (placement.clone(), failed.clone());
            let index: BTreeMap<String, u32> = self.found.iter().map(|gpu| (gpu.uuid.clone(), gpu.index)).collect();
            Watch::start(self.nvidia.clone(), move |fault| {
                on_fault(&fault);
                if fault.class() != FaultClass::Device {
                    return;
                }
                // Held until it is withdrawn, so that nobody restores it in between.
                let mut failed = failed.lock();
                failed.insert(fault.uuid.clone());
                if let Some((placement, index)) = placement.as_ref().zip(index.get(&fault.uuid)) {
                    placement.withdraw(*index, &format!("it has failed (Xid {})", fault.xid));
                }
            })
        };
        if let Err(error) = &watch {
            tracing::warn!(%error, "faults of the GPUs will not be seen");
        }
        let reading = std::thread::Builder::new().name("gpu-readings".into()).spawn(move || {
            let _watch = watch;
            let mut silent: BTreeMap<&str, u32> = BTreeMap::new();
            loop {
                for Gpu { uuid, index, .. } in &self.found {
                    let reading = self.nvidia.read(uuid);
                    device(uuid, reading.as_ref().ok());
                    match reading.as_ref().ok().and_then(|reading| reading.busy) {
                        Some(share) => drop(busy.lock().insert(uuid.clone(), share)),
                        None => drop(busy.lock().remove(uuid)),
                    }
                    let count = silent.entry(uuid).or_default();
                    *count = if reading.is_ok() { 0 } else { *count + 1 };
                    // One that has failed stays away however well it answers: it wants a reset.
                    let failed = failed.lock();
                    let Some(placement) = placement.as_ref().filter(|_| !failed.contains(uuid)) else { continue };
                    match reading {
                        Ok(_) => placement.restore(*index),
                        Err(error) if *count == SILENT_READINGS => {
                            tracing::error!(gpu = uuid, %error, "a GPU does not answer: nothing more runs there");
                            placement.withdraw(*index, &error.to_string());
                        }
                        Err(_) => {}
                    }
                }
                for (uuid, bytes) in placement.iter().flat_map(Placement::granted) {
                    device_granted(&uuid, bytes);
                }
                pause(interval);
            }
        });
        if let Err(error) = reading {
            tracing::warn!(%error, "the GPUs will not be read");
        }
    }
}

#[allow(clippy::disallowed_methods)] // a thread of its own that only waits may sleep
fn pause(interval: Duration) {
    std::thread::sleep(interval);
}

/// Readings that fail one after the other before a GPU counts as lost: drivers are busy at times.
const SILENT_READINGS: u32 = 3;

fn on_fault(fault: &Fault) {
    let (uuid, xid, class) = (&fault.uuid, fault.xid, fault.class());
    device_fault(uuid, xid, class.name());
    match class {
        FaultClass::Program => tracing::warn!(gpu = uuid, xid, "a program failed on a GPU"),
        FaultClass::Memory => {
            tracing::warn!(gpu = uuid, xid, "a GPU's memory has errors: it wants a reset when it is idle")
        }
        FaultClass::Device => tracing::error!(gpu = uuid, xid, "a GPU has failed: it wants a reset or a replacement"),
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn told(reading: &DeviceReading) -> String {
    let mut words = Vec::new();
    words.extend(reading.memory_free_bytes.map(|bytes| format!("{} free", gib(bytes))));
    words.extend(reading.busy.map(|busy| format!("{:.0} % busy", busy * 100.0)));
    words.extend(reading.temperature_celsius.map(|celsius| format!("{celsius} °C")));
    words.extend(reading.power_watts.map(|watts| format!("{watts:.0} W")));
    let errors = reading.ecc_uncorrected.filter(|count| *count > 0);
    words.extend(errors.map(|count| format!("{count} uncorrected memory errors")));
    words.join(", ")
}
