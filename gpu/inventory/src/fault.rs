//! Faults that the driver reports (Xid events), as they happen.
//!
//! Called by the composition root, which logs and counts them. What a fault means is NVIDIA's Xid catalogue
//! (<https://docs.nvidia.com/deploy/xid-errors/>), as far as it matters here: whose fault it is, and what helps.

use crate::nvml::told;
use crate::{InventoryError, Nvidia};
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long one wait for an event takes at most, and with it the end of a [`Watch`].
const WAIT_MS: u32 = 500;
/// After an error that is no time-out. (A thread of its own that only waits may sleep.)
const PAUSE: Duration = Duration::from_millis(500);

/// A fault of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The GPU.
    pub uuid: String,
    /// NVIDIA's number; 0 where it is not known.
    pub xid: u64,
}

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultClass {
    /// A program's: its process ends, the device is sound.
    Program,
    /// The device's memory: contained so far; it wants a reset when it is idle.
    Memory,
    /// The device's: nothing runs on it until it is reset or replaced.
    Device,
}

impl FaultClass {
    /// For a person and for metrics.
    pub fn name(self) -> &'static str {
        match self {
            FaultClass::Program => "program",
            FaultClass::Memory => "memory",
            FaultClass::Device => "device",
        }
    }
}

impl Fault {
    /// By the catalogue. A number that it does not know is taken for the device's: it asks for a look.
    pub fn class(&self) -> FaultClass {
        match self.xid {
            // Engine exceptions, page faults, reset or preempted channels, a process that was ended.
            8 | 13 | 31 | 32 | 43 | 45 | 68 | 69 => FaultClass::Program,
            // Uncorrectable errors that are contained, retired pages, remapped rows.
            48 | 63 | 64 | 92 | 94 => FaultClass::Memory,
            _ => FaultClass::Device,
        }
    }
}

/// A thread that waits for faults until this is dropped.
pub struct Watch {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Watch {
    /// Tells `on_fault` of each fault of any device. Errors: the driver cannot tell of any, or there is no thread.
    pub fn start(nvidia: Nvidia, on_fault: impl Fn(Fault) + Send + 'static) -> Result<Self, InventoryError> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        // Here and not on the thread, so that a driver that has no events is an answer.
        drop(register(&nvidia)?);
        let thread = std::thread::Builder::new()
            .name("gpu-faults".into())
            .spawn(move || {
                if let Ok(events) = register(&nvidia) {
                    wait(&events, &stopped, &on_fault);
                }
            })
            .map_err(|error| InventoryError::Driver(format!("no thread for its events: {error}")))?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // It has caught no panic that anybody would want.
            let _ = thread.join();
        }
    }
}

fn register(nvidia: &Nvidia) -> Result<nvml_wrapper::event::EventSet<'_>, InventoryError> {
    let nvml = nvidia.nvml();
    let of_driver = |error: NvmlError| InventoryError::Driver(format!("its events cannot be had: {}", told(error)));
    let mut events = nvml.create_event_set().map_err(of_driver)?;
    for index in 0..nvml.device_count().map_err(of_driver)? {
        // One that is lost, or knows no such events, has nothing to tell, and must not be asked: a refusal ends the set.
        let tells = |device: &nvml_wrapper::Device<'_>| {
            device.supported_event_types().is_ok_and(|types| types.contains(EventTypes::CRITICAL_XID_ERROR))
        };
        if let Some(device) = nvml.device_by_index(index).ok().filter(tells) {
            let registered = device.register_events(EventTypes::CRITICAL_XID_ERROR, events);
            events = registered.map_err(|error| of_driver(error.error))?;
        }
    }
    Ok(events)
}

#[allow(clippy::disallowed_methods)] // a thread of its own that only waits may sleep
fn wait(events: &nvml_wrapper::event::EventSet<'_>, stopped: &AtomicBool, on_fault: &impl Fn(Fault)) {
    while !stopped.load(Ordering::Relaxed) {
        match events.wait(WAIT_MS) {
            Ok(event) => {
                let xid = match event.event_data {
                    Some(XidError::Value(xid)) => xid,
                    Some(XidError::Unknown) => 0,
                    None => continue,
                };
                let uuid = event.device.uuid().unwrap_or_else(|_| "unknown".into());
                on_fault(Fault { uuid, xid });
            }
            Err(NvmlError::Timeout) => {}
            // A lost device says so again and again.
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_says_whose_it_is() {
        let class = |xid| Fault { uuid: String::new(), xid }.class().name();
        assert_eq!(
            [13, 31, 43, 48, 94, 79, 95, 119, 0, 9999].map(class),
            ["program", "program", "program", "memory", "memory", "device", "device", "device", "device", "device"]
        );
    }
}
