//! Instances as people see them.

use crate::protocol::Device;
use crate::provider::Market;
use crate::roster::Entry;
use penstock_scaler::Stage;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// One instance, as it stands.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct InstanceView {
    /// Its name.
    pub instance_id: String,
    /// Whose it is.
    pub capacity_provider_name: String,
    /// Its type.
    pub instance_type: String,
    /// Where it is.
    pub zone: String,
    /// `OnDemand` or `Spot`.
    pub market: &'static str,
    /// `Launching`, `Ready` or `Draining`.
    pub state: &'static str,
    /// Since its launch.
    pub age_seconds: f64,
    /// The process of its agent, on that machine.
    pub pid: Option<u32>,
    /// Virtual cores.
    #[serde(rename = "VCpu")]
    pub vcpu: u32,
    /// Host memory.
    #[serde(rename = "MemoryMiB")]
    pub memory_mib: u64,
    /// All that it has together has no more than that: it is in a control group of its own.
    pub memory_limited: bool,
    /// Of its machine, as it told last.
    #[serde(rename = "MemoryFreeMiB")]
    pub memory_free_mib: u64,
    /// Of its machine: runnable processes on average over a minute.
    pub load: f64,
    /// Why it says that it should not be used any more.
    pub unhealthy: Option<String>,
    /// Its devices, once it has joined.
    pub devices: Vec<DeviceView>,
    /// How many it has of each version.
    pub environments: BTreeMap<String, u32>,
}

/// A device of an instance.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct DeviceView {
    /// As `CUDA_VISIBLE_DEVICES` takes it.
    pub device_id: String,
    /// As sold.
    pub name: String,
    /// In all.
    #[serde(rename = "MemoryMiB")]
    pub memory_mib: u64,
    /// Of that, what environments have been given.
    #[serde(rename = "MemoryGivenMiB")]
    pub memory_given_mib: u64,
    /// Of that, what is in use, by whomever, as its instance told last; `None` if it does not tell.
    #[serde(rename = "MemoryUsedMiB")]
    pub memory_used_mib: Option<u64>,
    /// Why nobody else is to run there.
    pub fault: Option<String>,
}

impl DeviceView {
    fn of(device: &Device, entry: &Entry) -> Self {
        let told = entry.beat.devices.iter().find(|told| told.uuid == device.uuid);
        Self {
            device_id: device.uuid.clone(),
            name: device.name.clone(),
            memory_mib: device.memory_mib,
            memory_given_mib: entry.given_mib(&device.uuid),
            memory_used_mib: told.and_then(|told| told.memory_used_mib),
            fault: told.and_then(|told| told.fault.clone()),
        }
    }
}

impl InstanceView {
    pub(crate) fn of(provider: &str, id: &str, entry: &Entry, now: Instant) -> Self {
        let mut environments = BTreeMap::new();
        for leased in entry.leases.values() {
            *environments.entry(leased.version.clone()).or_default() += 1;
        }
        Self {
            instance_id: entry.name.clone().unwrap_or_else(|| id.to_owned()),
            capacity_provider_name: provider.to_owned(),
            instance_type: entry.instance_type.clone(),
            zone: entry.zone.clone(),
            market: match entry.market {
                Market::OnDemand => "OnDemand",
                Market::Spot => "Spot",
            },
            state: match entry.stage {
                Stage::Launching => "Launching",
                Stage::Ready => "Ready",
                Stage::Draining => "Draining",
            },
            age_seconds: now.saturating_duration_since(entry.launched).as_secs_f64(),
            pid: entry.machine.as_ref().map(|machine| machine.pid),
            vcpu: entry.shape.vcpu,
            memory_mib: entry.shape.memory_mib,
            memory_limited: entry.machine.as_ref().is_some_and(|machine| machine.is_limited),
            memory_free_mib: entry.beat.memory_free_mib,
            load: entry.beat.load,
            unhealthy: entry.beat.unhealthy.clone(),
            devices: entry.devices().iter().map(|device| DeviceView::of(device, entry)).collect(),
            environments,
        }
    }
}
