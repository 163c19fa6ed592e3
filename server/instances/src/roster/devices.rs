//! Devices of instances: what is left of each, and who has the rest.
//!
//! An environment has its part of one device, of which the agent has said how much there is. A device that has failed is left
//! to those that are on it. These are books: nothing here keeps an environment from taking more than its part.

use super::{Entry, Roster, Seat, Seeker};
use crate::protocol::Device;
use penstock_scaler::{Needs, fullest_device};
use penstock_telemetry::InstanceGpus;
use std::collections::{BTreeMap, BTreeSet};

impl Entry {
    /// Its devices, as far as they are known.
    pub(crate) fn devices(&self) -> &[Device] {
        self.machine.as_ref().map_or(&[], |machine| &machine.devices)
    }

    /// Memory of a device that environments have, in MiB.
    pub(crate) fn given_mib(&self, uuid: &str) -> u64 {
        let there = self.leases.values().filter(|leased| leased.device.as_deref() == Some(uuid));
        there.map(|leased| leased.needs.device_memory_mib).sum()
    }

    /// Memory of each device that is left, in MiB; `None` before it has joined.
    pub(super) fn devices_left(&self) -> Option<Vec<u64>> {
        let machine = self.machine.as_ref()?;
        Some(machine.devices.iter().map(|device| self.left(device)).collect())
    }

    fn has_failed(&self, device: &Device) -> bool {
        self.beat.devices.iter().any(|told| told.uuid == device.uuid && told.fault.is_some())
    }

    fn left(&self, device: &Device) -> u64 {
        match self.has_failed(device) {
            true => 0,
            false => device.for_environments_mib().saturating_sub(self.given_mib(&device.uuid)),
        }
    }
}

impl Roster {
    /// The devices of all instances.
    pub(crate) fn gpus(&self) -> InstanceGpus {
        let mut gpus = InstanceGpus::default();
        for entry in self.instances().values() {
            for device in entry.devices() {
                match entry.has_failed(device) {
                    true => gpus.faulty += 1,
                    false => gpus.well += 1,
                }
                gpus.memory_total += device.memory_mib << 20;
                gpus.memory_given += entry.given_mib(&device.uuid) << 20;
            }
            let used = entry.beat.devices.iter().filter_map(|told| told.memory_used_mib);
            gpus.memory_used += used.sum::<u64>() << 20;
        }
        gpus
    }

    /// Share of the time that a device runs kernels, if one of the instances has it and it tells.
    pub(crate) fn device_busy(&self, uuid: &str) -> Option<f64> {
        let told = self.instances().values().flat_map(|entry| &entry.beat.devices).find(|told| told.uuid == uuid)?;
        told.busy_percent.map(|percent| f64::from(percent) / 100.0)
    }

    /// Whether an instance that may be bought would have room for one that needs this.
    pub(crate) fn may_hold(&self, needs: &Needs) -> bool {
        self.types.iter().any(|one| self.rules.may_buy(&one.name) && one.shape.holds(needs) > 0)
    }

    /// The same, and with no more cores than all instances together may have.
    pub(crate) fn may_ever_hold(&self, needs: &Needs) -> bool {
        let may = |one: &penstock_scaler::InstanceType| {
            self.rules.may_buy(&one.name) && one.shape.vcpu <= self.rules.vcpu_max
        };
        self.types.iter().any(|one| may(one) && one.shape.holds(needs) > 0)
    }

    /// An environment turned out to take another amount of its device. Errors: there is not so much left, and it keeps what it
    /// had.
    pub(crate) fn resize(&mut self, lease: u64, device_memory_mib: u64) -> Result<(), String> {
        let Some(entry) = self.instances.values_mut().find(|entry| entry.leases.contains_key(&lease)) else {
            return Ok(());
        };
        let has = entry.leases.get(&lease).and_then(|leased| Some((leased.device.clone()?, leased.needs)));
        // On the CPU it takes none, whatever it says.
        let Some((uuid, Needs { device_memory_mib: had, .. })) = has else { return Ok(()) };
        let device = entry.devices().iter().find(|device| device.uuid == uuid);
        let left = device.map_or(0, |device| entry.left(device));
        if device_memory_mib > had.saturating_add(left) {
            let name = device.map_or("device", |device| &device.name);
            return Err(format!(
                "it takes {device_memory_mib} MiB of {name} {uuid}, and has {had} MiB, with {left} MiB left there"
            ));
        }
        if let Some(leased) = entry.leases.get_mut(&lease) {
            leased.needs.device_memory_mib = device_memory_mib;
        }
        Ok(())
    }

    /// What instances of a type have is what is seen of them, if that is less than is said of the type: else others would be
    /// launched for what does not fit on them either.
    pub(super) fn learn(&mut self, instance_type: &str, devices: &[Device]) {
        let Some(least) = devices.iter().map(Device::for_environments_mib).min() else { return };
        for one in self.types.iter_mut().filter(|one| one.name == instance_type) {
            one.shape.device_memory_mib = one.shape.device_memory_mib.min(least);
        }
    }

    /// What there is of devices on each instance that has joined, and whose environments are on them.
    fn boards(&self) -> BTreeMap<String, Board> {
        let board = |(id, entry): (&String, &Entry)| {
            let number = |uuid: &String| entry.devices().iter().position(|device| device.uuid == *uuid);
            let there = entry.leases.values();
            let versions = there.filter_map(|leased| Some((number(leased.device.as_ref()?)?, leased.version.clone())));
            Some((id.clone(), Board { left: entry.devices_left()?, versions: versions.collect() }))
        };
        self.instances.iter().filter_map(board).collect()
    }

    /// Gives those that have a place on an instance which has joined a device there, those that need most first: one where no
    /// other environment of its version is, if all find one so, since two of them on the same device get little more of it than
    /// one; else the fullest, as was planned. Who finds none has no place. What is left then of each instance's devices.
    pub(super) fn settle(&mut self) -> BTreeMap<String, Vec<u64>> {
        let mut boards = self.boards();
        let mut unsettled: BTreeMap<String, Vec<&mut Seeker>> = BTreeMap::new();
        for seeker in self.seekers.values_mut().filter(|seeker| seeker.needs.device_memory_mib > 0) {
            let Some(Seat { id, device }) = &seeker.place else { continue };
            let Some(board) = boards.get_mut(id) else { continue };
            match device.filter(|device| *device < board.left.len()) {
                Some(device) => board.give(device, seeker),
                None => unsettled.entry(id.clone()).or_default().push(seeker),
            }
        }
        for (id, mut seekers) in unsettled {
            let Some(board) = boards.get_mut(&id) else { continue };
            seekers.sort_by_key(|seeker| std::cmp::Reverse(seeker.needs.device_memory_mib));
            let (mut apart, mut packed) = (board.clone(), board.clone());
            let mut devices: Vec<Option<usize>> = seekers.iter().map(|seeker| apart.take(seeker, true)).collect();
            *board = apart;
            if devices.iter().any(Option::is_none) {
                devices = seekers.iter().map(|seeker| packed.take(seeker, false)).collect();
                *board = packed;
            }
            for (seeker, device) in seekers.into_iter().zip(devices) {
                seeker.place = device.map(|device| Seat { id: id.clone(), device: Some(device) });
            }
        }
        boards.into_iter().map(|(id, board)| (id, board.left)).collect()
    }
}

/// The devices of one instance.
#[derive(Clone)]
struct Board {
    /// What is left of each, in MiB.
    left: Vec<u64>,
    /// Versions that have environments on one, by its number.
    versions: BTreeSet<(usize, String)>,
}

impl Board {
    /// Takes its part of a device, one that is chosen by who else is there, or the fullest.
    fn take(&mut self, seeker: &Seeker, apart: bool) -> Option<usize> {
        let wanted = seeker.needs.device_memory_mib;
        let is_free = |device: usize| !self.versions.contains(&(device, seeker.version.clone()));
        let free = self.left.iter().enumerate().map(|(device, left)| if is_free(device) { *left } else { 0 });
        let free: Vec<u64> = if apart { free.collect() } else { Vec::new() };
        let device = fullest_device(&free, wanted).or_else(|| fullest_device(&self.left, wanted))?;
        self.give(device, seeker);
        Some(device)
    }

    fn give(&mut self, device: usize, seeker: &Seeker) {
        self.left[device] = self.left[device].saturating_sub(seeker.needs.device_memory_mib);
        self.versions.insert((device, seeker.version.clone()));
    }
}
