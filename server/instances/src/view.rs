//! Instances as people see them.

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
    /// How many it has of each version.
    pub environments: BTreeMap<String, u32>,
}

impl InstanceView {
    pub(crate) fn of(id: &str, entry: &Entry, now: Instant) -> Self {
        let mut environments = BTreeMap::new();
        for (version, _) in entry.leases.values() {
            *environments.entry(version.clone()).or_default() += 1;
        }
        Self {
            instance_id: entry.name.clone().unwrap_or_else(|| id.to_owned()),
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
            pid: entry.pid,
            vcpu: entry.shape.vcpu,
            memory_mib: entry.shape.memory_mib,
            memory_limited: entry.is_limited,
            memory_free_mib: entry.beat.memory_free_mib,
            load: entry.beat.load,
            environments,
        }
    }
}
