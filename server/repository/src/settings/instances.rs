//! Instance groups: how many runtime workers, and where.
//!
//! Called by `settings`. Pure.

use super::SettingsError;
use penstock_proto::inference::ModelInstanceGroup;
use penstock_proto::inference::model_instance_group::Kind;

/// Where runtime workers run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WorkerDevice {
    /// On a GPU if there is one and the runtime can use it, else on the CPU.
    #[default]
    Auto,
    /// On the CPU.
    Cpu,
    /// On a GPU, or not at all.
    Gpu,
}

/// Most workers of one version: each holds the model's scratch memory, often the model itself.
const WORKERS_MAX: u32 = 256;

/// Workers altogether (`None` lets the server choose), where they run, and the GPUs named.
pub(super) fn read(groups: &[ModelInstanceGroup]) -> Result<(Option<u32>, WorkerDevice, Vec<u32>), SettingsError> {
    let mut total: u32 = 0;
    let mut chosen = true;
    let mut devices = Vec::new();
    let mut gpus = Vec::new();
    for (index, group) in groups.iter().enumerate() {
        let error =
            |name: &str, message: String| SettingsError::new(format!("instance_group[{index}].{name}"), message);
        let device = match group.kind() {
            Kind::Cpu => WorkerDevice::Cpu,
            Kind::Gpu => WorkerDevice::Gpu,
            Kind::Auto | Kind::Model => WorkerDevice::Auto,
        };
        if device == WorkerDevice::Cpu && !group.gpus.is_empty() {
            return Err(error("gpus", "a KIND_CPU group cannot name GPUs".to_owned()));
        }
        for &gpu in &group.gpus {
            let gpu = u32::try_from(gpu).map_err(|_| error("gpus", format!("expected 0 or more, found {gpu}")))?;
            gpus.push(gpu);
        }
        if group.passive {
            continue;
        }
        let Ok(count) = u32::try_from(group.count) else {
            return Err(error("count", format!("expected 0 (the server chooses) or more, found {}", group.count)));
        };
        chosen &= count > 0;
        total = total.saturating_add(count.max(1).saturating_mul(group.gpus.len().max(1) as u32));
        if total > WORKERS_MAX {
            return Err(error("count", format!("more than {WORKERS_MAX} workers altogether")));
        }
        devices.push(device);
    }
    gpus.sort_unstable();
    gpus.dedup();
    let device = match devices.split_first() {
        Some((first, others)) if others.iter().all(|other| other == first) => *first,
        _ => WorkerDevice::Auto,
    };
    Ok((Some(total).filter(|total| chosen && *total > 0), device, gpus))
}
