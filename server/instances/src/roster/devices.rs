//! Devices of instances: what is left of each, and who has the rest.
//!
//! An environment has its part of one device, of which the agent has said how much there is. A device that has failed is left
//! to those that are on it. These are books: nothing here keeps an environment from taking more than its part.

use super::{Entry, Roster, Seat};
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

    /// Which versions have environments on which device, by its instance and its number there.
    fn versions_on(&self) -> BTreeSet<(String, usize, String)> {
        let mut versions = BTreeSet::new();
        for (id, entry) in &self.instances {
            for leased in entry.leases.values() {
                let number = entry.devices().iter().position(|device| Some(&device.uuid) == leased.device.as_ref());
                versions.extend(number.map(|number| (id.clone(), number, leased.version.clone())));
            }
        }
        versions
    }

    /// Gives those that have a place on an instance which has joined a device there, those that need most first: one where no
    /// other environment of its version is, if there is one, since two of them on the same device get no more of it than one.
    /// Who finds none has no place. What is left then of each instance's devices.
    pub(super) fn settle(&mut self) -> BTreeMap<String, Vec<u64>> {
        let joined = self.instances.iter().filter_map(|(id, entry)| Some((id.clone(), entry.devices_left()?)));
        let mut left: BTreeMap<String, Vec<u64>> = joined.collect();
        let mut versions = self.versions_on();
        let mut unsettled = Vec::new();
        for seeker in self.seekers.values_mut().filter(|seeker| seeker.needs.device_memory_mib > 0) {
            let Some(Seat { id, device }) = &seeker.place else { continue };
            let Some(left) = left.get_mut(id) else { continue };
            match device.and_then(|device| left.get_mut(device)) {
                Some(left) => {
                    *left = left.saturating_sub(seeker.needs.device_memory_mib);
                    versions.extend(device.map(|device| (id.clone(), device, seeker.version.clone())));
                }
                None => unsettled.push(seeker),
            }
        }
        unsettled.sort_by_key(|seeker| std::cmp::Reverse(seeker.needs.device_memory_mib));
        for seeker in unsettled {
            let Some(seat) = &mut seeker.place else { continue };
            let Some(left) = left.get_mut(&seat.id) else { continue };
            let has_one = |device: &usize| versions.contains(&(seat.id.clone(), *device, seeker.version.clone()));
            let without: Vec<u64> =
                left.iter().enumerate().map(|(device, left)| if has_one(&device) { 0 } else { *left }).collect();
            let wanted = seeker.needs.device_memory_mib;
            seat.device = fullest_device(&without, wanted).or_else(|| fullest_device(left, wanted));
            match seat.device {
                Some(device) => {
                    left[device] -= wanted;
                    versions.insert((seat.id.clone(), device, seeker.version.clone()));
                }
                None => seeker.place = None,
            }
        }
        left
    }
}
