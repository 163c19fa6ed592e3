//! The GPUs of an agent's machine: found when it starts, then looked at for as long as it runs.
//!
//! Called by the agent, which tells the fleet. Asking the driver blocks, so it is done on threads that may; a driver that never
//! answers is seen by that.

use super::BEAT;
use crate::protocol::{Device, DeviceAccess, DeviceBeat, Machine};
use parking_lot::Mutex;
use penstock_domain::DeviceReading;
use penstock_inventory::{Fault, FaultClass, Gpu, InventoryError, Nvidia, Watch};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// Looks that fail one after the other before a GPU counts as lost: drivers are busy at times.
const SILENT_LOOKS: u32 = 3;
/// How long one look may take at all of them before they count as lost.
const LOOK_TIMEOUT: Duration = Duration::from_secs(30);

/// Which devices an agent has, and how it sees them.
#[derive(Clone, Debug, Default)]
pub struct DeviceOptions {
    /// NVIDIA's management library; `None` for the driver's own.
    pub nvml: Option<PathBuf>,
    /// Those that are this instance's, as `CUDA_VISIBLE_DEVICES` takes them; `None` for all that its machine has.
    pub only: Option<Vec<String>>,
    /// Memory of each that no environment gets, in bytes.
    pub kept_bytes: u64,
    /// What environments touch beside them.
    pub access: DeviceAccess,
}

/// The devices, watched until this is dropped.
#[derive(Default)]
pub(super) struct Devices {
    found: Vec<Device>,
    access: DeviceAccess,
    seen: Arc<Mutex<Seen>>,
    _looking: JoinSet<()>,
    _watch: Option<Watch>,
}

/// What was seen last.
#[derive(Default)]
struct Seen {
    devices: BTreeMap<String, State>,
    looked: Option<Instant>,
}

/// Of a device.
#[derive(Default)]
struct State {
    /// The GPU that it is, or is a slice of: faults are told of that.
    gpu: String,
    memory_used_bytes: Option<u64>,
    /// Share of the time in which a kernel ran.
    busy: Option<f64>,
    silent: u32,
    /// What the driver said the last time, if it did not answer.
    silence: String,
    /// It has failed for good.
    xid: Option<u64>,
}

impl Devices {
    /// Looks which there are. None on a machine without any, which is a normal one; what looks broken is a warning.
    pub(super) async fn find(options: DeviceOptions) -> io::Result<Self> {
        let DeviceOptions { nvml, only, kept_bytes, access } = options;
        if only.as_ref().is_some_and(Vec::is_empty) {
            return Ok(Self::default());
        }
        let found = spawn_blocking(move || {
            let nvidia = Nvidia::open(nvml.as_deref())?;
            nvidia.map(|nvidia| Ok::<_, InventoryError>((nvidia.gpus()?, nvidia))).transpose()
        });
        let (gpus, nvidia) = match found.await? {
            Ok(Some(found)) => found,
            Ok(None) => return Ok(Self::default()),
            Err(error) => {
                tracing::warn!(%error, "an instance has no devices");
                return Ok(Self::default());
            }
        };
        let gpus = gpus.into_iter().filter_map(|gpu| gpu.inspect_err(|error| tracing::warn!(%error)).ok());
        let gpus: Vec<Gpu> = gpus.collect();
        let is_own = |uuid: &str| only.as_ref().is_none_or(|only| only.iter().any(|own| own == uuid));
        let places = gpus.iter().flat_map(|gpu| gpu.places().into_iter().map(move |place| (gpu, place)));
        let (mut found, mut seen) = (Vec::new(), Seen::default());
        for (gpu, place) in places.filter(|(_, place)| is_own(&place.uuid)) {
            let slice = gpu.slices.iter().find(|slice| slice.uuid == place.uuid);
            let name = slice.map_or(&gpu.name, |slice| &slice.name).clone();
            seen.devices.insert(place.uuid.clone(), State { gpu: gpu.uuid.clone(), ..State::default() });
            let (memory_mib, kept_mib) = (place.memory_bytes >> 20, kept_bytes.div_ceil(1 << 20));
            found.push(Device { uuid: place.uuid, name, memory_mib, kept_mib });
        }
        Ok(Self::watch(found, access, seen, nvidia))
    }

    fn watch(found: Vec<Device>, access: DeviceAccess, seen: Seen, nvidia: Nvidia) -> Self {
        let seen = Arc::new(Mutex::new(seen));
        let watch = {
            let seen = seen.clone();
            Watch::start(nvidia.clone(), move |fault| seen.lock().on_fault(&fault))
        };
        let watch = watch.inspect_err(|error| tracing::warn!(%error, "faults of the GPUs will not be seen")).ok();
        let mut looking = JoinSet::new();
        looking.spawn(look(nvidia, found.iter().map(|device| device.uuid.clone()).collect(), seen.clone()));
        Self { found, access, seen, _looking: looking, _watch: watch }
    }

    /// What is said of this machine.
    pub(super) fn machine(&self, is_limited: bool) -> Machine {
        Machine { pid: std::process::id(), is_limited, devices: self.found.clone(), access: self.access.clone() }
    }

    /// How they are.
    pub(super) fn beats(&self) -> Vec<DeviceBeat> {
        self.seen.lock().beats(Instant::now())
    }
}

/// Looks at them again and again.
async fn look(nvidia: Nvidia, uuids: Vec<String>, seen: Arc<Mutex<Seen>>) {
    let mut looks = interval(BEAT);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        looks.tick().await;
        let (nvidia, uuids) = (nvidia.clone(), uuids.clone());
        let readings = spawn_blocking(move || {
            let read = |uuid: String| {
                let reading = nvidia.read(&uuid).map_err(|error| error.to_string());
                (uuid, reading)
            };
            uuids.into_iter().map(read).collect::<Vec<_>>()
        });
        // One that does not come back is seen by the time that has passed.
        let Ok(readings) = readings.await else { return };
        let mut seen = seen.lock();
        readings.into_iter().for_each(|(uuid, reading)| seen.on_reading(&uuid, reading));
        seen.looked = Some(Instant::now());
    }
}

impl Seen {
    fn on_fault(&mut self, fault: &Fault) {
        let (gpu, xid, class) = (&fault.uuid, fault.xid, fault.class());
        tracing::warn!(gpu, xid, class = class.name(), "a GPU has a fault");
        if class == FaultClass::Device {
            let there = self.devices.values_mut().filter(|state| state.gpu == *gpu);
            there.for_each(|state| state.xid = Some(xid));
        }
    }

    fn on_reading(&mut self, uuid: &str, reading: Result<DeviceReading, String>) {
        let Some(state) = self.devices.get_mut(uuid) else { return };
        match reading {
            Ok(reading) => {
                (state.silent, state.memory_used_bytes, state.busy) = (0, reading.memory_used_bytes, reading.busy);
            }
            Err(error) => (state.silent, state.silence, state.busy) = (state.silent + 1, error, None),
        }
    }

    fn beats(&self, now: Instant) -> Vec<DeviceBeat> {
        let is_stuck = self.looked.is_some_and(|at| now.saturating_duration_since(at) > LOOK_TIMEOUT);
        let beat = |(uuid, state): (&String, &State)| DeviceBeat {
            uuid: uuid.clone(),
            memory_used_mib: state.memory_used_bytes.map(|bytes| bytes >> 20),
            busy_percent: state.busy.map(|busy| (busy * 100.0).round() as u32),
            fault: match state.xid {
                // However well it answers: it wants a reset.
                Some(xid) => Some(format!("its GPU {} has failed (Xid {xid})", state.gpu)),
                None if is_stuck => Some(format!("its GPU {} does not answer: nor does the driver", state.gpu)),
                None if state.silent >= SILENT_LOOKS => {
                    Some(format!("its GPU {} does not answer: {}", state.gpu, state.silence))
                }
                None => None,
            },
        };
        self.devices.iter().map(beat).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        let state = |gpu: &str| State { gpu: gpu.into(), ..State::default() };
        let devices = [("GPU-1", "GPU-1"), ("MIG-1", "GPU-2"), ("MIG-2", "GPU-2")];
        Seen { devices: devices.map(|(uuid, gpu)| (uuid.to_owned(), state(gpu))).into(), looked: None }
    }

    fn faults(seen: &Seen, now: Instant) -> Vec<Option<String>> {
        seen.beats(now).into_iter().map(|beat| beat.fault).collect()
    }

    #[test]
    fn a_fault_of_the_device_stays_and_is_that_of_all_its_slices() {
        let (mut seen, now) = (seen(), Instant::now());
        let fault = |gpu: &str, xid| Fault { uuid: gpu.into(), xid };
        // A program's, and contained errors of the memory.
        [31, 48].into_iter().for_each(|xid| seen.on_fault(&fault("GPU-2", xid)));
        assert_eq!(faults(&seen, now), [None, None, None]);
        seen.on_fault(&fault("GPU-2", 79));
        seen.on_reading("MIG-1", Ok(DeviceReading { memory_used_bytes: Some(5 << 20), ..Default::default() }));
        let words = Some("its GPU GPU-2 has failed (Xid 79)".to_owned());
        assert_eq!(faults(&seen, now), [None, words.clone(), words]);
        assert_eq!(seen.beats(now)[1].memory_used_mib, Some(5));
    }

    #[test]
    fn one_that_is_silent_for_long_counts_as_lost_until_it_answers() {
        let (mut seen, now) = (seen(), Instant::now());
        for look in 1..=SILENT_LOOKS {
            assert_eq!(faults(&seen, now)[0], None, "at look {look}");
            seen.on_reading("GPU-1", Err("it has fallen off the bus".into()));
        }
        let words = "its GPU GPU-1 does not answer: it has fallen off the bus".to_owned();
        assert_eq!(faults(&seen, now), [Some(words), None, None]);
        seen.on_reading("GPU-1", Ok(DeviceReading::default()));
        assert_eq!(faults(&seen, now), [None, None, None]);
        seen.looked = Some(now);
        assert_eq!(faults(&seen, now + LOOK_TIMEOUT), [None, None, None]);
        let stuck = faults(&seen, now + LOOK_TIMEOUT + BEAT);
        assert!(stuck.iter().all(|fault| fault.as_ref().is_some_and(|words| words.contains("nor does the driver"))));
    }
}
