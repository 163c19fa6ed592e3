//! Placement: on which device an environment runs, by memory.
//!
//! Each device's memory is given out once. An environment gets what it asks for on the device that has the most left, so
//! that load spreads; what is asked for and cannot be had is refused with the arithmetic. A GPU that has failed gets no more.
//! These are books: nothing here keeps an environment from taking more than its grant.

use parking_lot::Mutex;
use penstock_domain::DeviceMemory;
use std::fmt::Write;
use std::sync::Arc;

/// What an environment asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Bytes.
    pub memory_bytes: u64,
    /// Indices of the GPUs that it may run on; empty for any.
    pub gpus: Vec<u32>,
}

/// Why there is no device: says what was asked for, what each has, and who has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct NoRoom {
    text: String,
    never: bool,
}

impl NoRoom {
    /// There would be none if nobody else had any.
    pub fn is_final(&self) -> bool {
        self.never
    }
}

struct Device {
    memory: DeviceMemory,
    /// Who has how much, in the order in which they came.
    granted: Vec<(u64, String, u64)>,
    /// Why nobody else is placed there.
    withdrawn: Option<String>,
}

impl Device {
    fn used(&self) -> u64 {
        self.granted.iter().map(|(_, _, bytes)| bytes).sum()
    }

    fn left(&self, kept: u64) -> u64 {
        self.memory.memory_bytes.saturating_sub(self.used()).saturating_sub(kept)
    }
}

struct State {
    devices: Vec<Device>,
    next: u64,
}

/// The devices of an instance. Clones are the same.
#[derive(Clone)]
pub struct Placement {
    /// Of each device, so much is given to nobody: the driver's own, and what contexts take beside their memory.
    kept_bytes: u64,
    state: Arc<Mutex<State>>,
}

/// A part of a device's memory, given back when dropped.
pub struct Grant {
    placement: Placement,
    number: u64,
    uuid: String,
}

impl Placement {
    /// Of these devices, of each of which `kept_bytes` are given to nobody.
    pub fn new(devices: Vec<DeviceMemory>, kept_bytes: u64) -> Self {
        let devices =
            devices.into_iter().map(|memory| Device { memory, granted: Vec::new(), withdrawn: None }).collect();
        Self { kept_bytes, state: Arc::new(Mutex::new(State { devices, next: 0 })) }
    }

    /// Gives `who` what it wants, on the device that has the most left of those it may run on; of equals the first.
    pub fn place(&self, who: &str, wanted: &Wanted) -> Result<Grant, NoRoom> {
        let mut state = self.state.lock();
        let number = state.next;
        let allowed = |device: &&mut Device| wanted.gpus.is_empty() || wanted.gpus.contains(&device.memory.index);
        let fits = |device: &&mut Device| device.left(self.kept_bytes) >= wanted.memory_bytes;
        let good = |device: &&mut Device| device.withdrawn.is_none();
        let devices = state.devices.iter_mut().filter(allowed).filter(good).filter(fits);
        // `max_by_key` takes the last of equals.
        let Some(device) = devices.rev().max_by_key(|device| device.left(self.kept_bytes)) else {
            return Err(self.no_room(&state, who, wanted));
        };
        device.granted.push((number, who.to_owned(), wanted.memory_bytes));
        let uuid = device.memory.uuid.clone();
        state.next += 1;
        Ok(Grant { placement: self.clone(), number, uuid })
    }

    /// Nobody else is placed on GPU `index` or a slice of it, for this reason, until it is restored.
    pub fn withdraw(&self, index: u32, reason: &str) {
        self.set(index, Some(reason));
    }

    /// GPU `index` is used again.
    pub fn restore(&self, index: u32) {
        self.set(index, None);
    }

    fn set(&self, index: u32, reason: Option<&str>) {
        for device in self.state.lock().devices.iter_mut().filter(|device| device.memory.index == index) {
            device.withdrawn = reason.map(str::to_owned);
        }
    }

    /// Bytes given out of each device, by its identifier.
    pub fn granted(&self) -> Vec<(String, u64)> {
        self.state.lock().devices.iter().map(|device| (device.memory.uuid.clone(), device.used())).collect()
    }

    fn no_room(&self, state: &State, who: &str, wanted: &Wanted) -> NoRoom {
        let mut text = format!("{who} asks for {} of device memory", gib(wanted.memory_bytes));
        let allowed = |device: &&Device| wanted.gpus.is_empty() || wanted.gpus.contains(&device.memory.index);
        let mut devices = state.devices.iter().filter(allowed).peekable();
        if devices.peek().is_none() {
            // Slices of one GPU follow each other.
            let mut known: Vec<String> = state.devices.iter().map(|device| device.memory.index.to_string()).collect();
            known.dedup();
            let known = if known.is_empty() { "none".into() } else { known.join(", ") };
            let _ = write!(text, " on one of GPUs {:?}, and there is none of these (GPUs here: {known})", wanted.gpus);
            return NoRoom { text, never: true };
        }
        let mut never = true;
        for device in devices {
            if let Some(reason) = &device.withdrawn {
                let _ = write!(text, "; GPU {} is not used: {reason}", device.memory.index);
                continue;
            }
            never &= device.memory.memory_bytes.saturating_sub(self.kept_bytes) < wanted.memory_bytes;
            let _ = write!(
                text,
                "; GPU {} has {}, less {} kept free",
                device.memory.index,
                gib(device.memory.memory_bytes),
                gib(self.kept_bytes)
            );
            for (_, other, bytes) in &device.granted {
                let _ = write!(text, ", less {} of {other}", gib(*bytes));
            }
            let _ = write!(text, ": {} left", gib(device.left(self.kept_bytes)));
        }
        NoRoom { text, never }
    }
}

impl Grant {
    /// The device, as `CUDA_VISIBLE_DEVICES` takes it.
    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    /// Whether its device may still be used.
    pub fn is_good(&self) -> bool {
        let state = self.placement.state.lock();
        state.devices.iter().any(|device| device.memory.uuid == self.uuid && device.withdrawn.is_none())
    }

    /// Its environment turned out to need another amount. Where there is not so much it keeps what it had.
    pub fn resize(&self, memory_bytes: u64) -> Result<(), NoRoom> {
        let mut state = self.placement.state.lock();
        let Some(at) = state.devices.iter().position(|device| device.memory.uuid == self.uuid) else {
            return Ok(());
        };
        let left = state.devices[at].left(self.placement.kept_bytes);
        let Some((_, who, had)) = state.devices[at].granted.iter().find(|(number, ..)| *number == self.number).cloned()
        else {
            return Ok(());
        };
        if memory_bytes > had.saturating_add(left) {
            let wanted = Wanted { memory_bytes: memory_bytes - had, gpus: vec![state.devices[at].memory.index] };
            return Err(self.placement.no_room(&state, &format!("{who}, which has {},", gib(had)), &wanted));
        }
        state.devices[at]
            .granted
            .iter_mut()
            .filter(|(number, ..)| *number == self.number)
            .for_each(|g| g.2 = memory_bytes);
        Ok(())
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        for device in &mut self.placement.state.lock().devices {
            device.granted.retain(|(number, ..)| *number != self.number);
        }
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.2} GiB", bytes as f64 / f64::from(1 << 30))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GIB: u64 = 1 << 30;

    fn devices(gib: &[u64]) -> Placement {
        let device = |(index, gib): (usize, &u64)| DeviceMemory {
            uuid: format!("GPU-{index}"),
            index: index as u32,
            memory_bytes: gib * GIB,
        };
        Placement::new(gib.iter().enumerate().map(device).collect(), GIB)
    }

    fn any(gib: u64) -> Wanted {
        Wanted { memory_bytes: gib * GIB, gpus: Vec::new() }
    }

    #[test]
    fn load_spreads_and_what_is_given_back_is_there_again() {
        let placement = devices(&[80, 80]);
        let place = |gib| placement.place("f", &any(gib));
        let grants = [place(10).unwrap(), place(30).unwrap(), place(10).unwrap(), place(40).unwrap()];
        assert_eq!(grants.each_ref().map(Grant::uuid), ["GPU-0", "GPU-1", "GPU-0", "GPU-0"]);
        assert!(place(50).is_err());
        drop(grants);
        assert_eq!(place(79).unwrap().uuid(), "GPU-0");
    }

    #[test]
    fn what_cannot_be_had_is_refused_with_the_arithmetic() {
        let placement = devices(&[80]);
        let _first = placement.place("a:1", &any(30)).unwrap();
        let _second = placement.place("b:2", &any(20)).unwrap();
        let text = placement.place("c:1", &any(40)).err().unwrap().to_string();
        assert_eq!(
            text,
            "c:1 asks for 40.00 GiB of device memory; GPU 0 has 80.00 GiB, less 1.00 GiB kept free, less 30.00 GiB of a:1, \
             less 20.00 GiB of b:2: 29.00 GiB left"
        );
        let elsewhere = Wanted { gpus: vec![3], ..any(1) };
        let text = placement.place("c:1", &elsewhere).err().unwrap().to_string();
        assert!(text.ends_with("on one of GPUs [3], and there is none of these (GPUs here: 0)"), "{text}");
        assert!(devices(&[]).place("c:1", &any(1)).err().unwrap().is_final());
        let never = |gib| placement.place("c:1", &any(gib)).err().unwrap().is_final();
        assert_eq!((never(79), never(80)), (false, true), "others may leave, and that is not enough for the latter");
    }

    #[test]
    fn a_grant_grows_as_far_as_there_is_room() {
        let placement = devices(&[80, 8]);
        let (first, _second) = (placement.place("a", &any(10)).unwrap(), placement.place("b", &any(60)).unwrap());
        assert!(first.resize(19 * GIB).is_ok());
        let text = first.resize(20 * GIB).unwrap_err().to_string();
        assert!(text.starts_with("a, which has 19.00 GiB, asks for 1.00 GiB"), "{text}");
        assert!(text.ends_with("0.00 GiB left"), "{text}");
        assert!(first.resize(2 * GIB).is_ok());
        assert_eq!(placement.place("c", &any(17)).unwrap().uuid(), "GPU-0");
    }

    #[test]
    fn a_gpu_that_failed_gets_nobody_until_it_is_restored() {
        let placement = devices(&[80, 40]);
        let first = placement.place("a", &any(10)).unwrap();
        assert_eq!((first.uuid(), first.is_good()), ("GPU-0", true));
        placement.withdraw(0, "it has failed (Xid 79)");
        assert!(!first.is_good());
        assert_eq!(placement.place("b", &any(30)).unwrap().uuid(), "GPU-1");
        let no_room = placement.place("c", &any(50)).err().unwrap();
        let text = "c asks for 50.00 GiB of device memory; GPU 0 is not used: it has failed (Xid 79); GPU 1 has 40.00 GiB, less \
                    1.00 GiB kept free: 39.00 GiB left";
        assert_eq!((no_room.to_string().as_str(), no_room.is_final()), (text, true));
        placement.restore(0);
        assert!(first.is_good());
        assert_eq!(placement.place("c", &any(50)).unwrap().uuid(), "GPU-0");
        assert_eq!(placement.granted(), [("GPU-0".to_owned(), 10 * GIB), ("GPU-1".to_owned(), 0)]);
    }

    proptest! {
        /// Whatever comes, goes and grows: no device has given out more than it has, and at the end all is free.
        #[test]
        fn no_memory_is_given_twice(
            sizes in prop::collection::vec(1..100u64, 1..4),
            steps in prop::collection::vec((0..3u8, 0..60u64, 0..8usize), 1..60),
        ) {
            let placement = devices(&sizes);
            let mut grants: Vec<Grant> = Vec::new();
            for (what, gib, which) in steps {
                match what {
                    0 => grants.extend(placement.place("f", &any(gib))),
                    1 if which < grants.len() => drop(grants.swap_remove(which)),
                    _ => { grants.get(which).map(|grant| grant.resize(gib * GIB)); }
                }
                for device in &placement.state.lock().devices {
                    prop_assert!(device.used() == 0 || device.used() + GIB <= device.memory.memory_bytes);
                }
            }
            grants.clear();
            prop_assert!(placement.state.lock().devices.iter().all(|device| device.granted.is_empty()));
        }
    }
}
