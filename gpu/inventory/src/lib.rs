//! The inventory of devices: which GPUs this machine has, how full, busy and healthy they are.
//!
//! Called by the composition root: for placement, for `penstock devices`, for metrics. It asks NVIDIA's management library
//! (NVML), which comes with the driver and is loaded at run time, so a machine without one is a normal machine. It never
//! makes a CUDA context: a process that only looks holds no device memory.

mod fault;
mod nvml;

pub use fault::{Fault, FaultClass, Watch};
pub use nvml::Nvidia;
use penstock_domain::DeviceMemory;

/// Why the devices cannot be seen although there seem to be some.
#[derive(Debug, thiserror::Error)]
pub enum InventoryError {
    /// The library is there and cannot be used: another version than the kernel's module, no permission.
    #[error("NVIDIA's driver is there and does not work: {0}")]
    Driver(String),
    /// A device is gone or does not answer.
    #[error("device {device}: {message}")]
    Device {
        /// Its UUID, or its index where even that is not known.
        device: String,
        /// What NVML says.
        message: String,
    },
}

/// The driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// Such as `580.95.05`.
    pub version: String,
    /// The newest CUDA it runs: major, minor.
    pub cuda: (u32, u32),
}

/// A GPU.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gpu {
    /// In NVML's order, which is that of the PCI bus.
    pub index: u32,
    /// `GPU-…`: stable over restarts, and what `CUDA_VISIBLE_DEVICES` takes.
    pub uuid: String,
    /// As sold.
    pub name: String,
    /// Major, minor.
    pub compute_capability: Option<(u32, u32)>,
    /// Device memory in all; of the slices together, where that is all that may be known.
    pub memory_bytes: u64,
    /// Whether it is cut into slices (MIG). Then nothing can run on the whole.
    pub sliced: bool,
    /// Its MIG slices.
    pub slices: Vec<Slice>,
}

/// A slice of a GPU (MIG): memory and processors of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slice {
    /// `MIG-…`: what `CUDA_VISIBLE_DEVICES` takes.
    pub uuid: String,
    /// Such as `NVIDIA H200 MIG 1g.18gb`.
    pub name: String,
    /// Device memory in all.
    pub memory_bytes: u64,
}

impl Gpu {
    /// What an environment can be placed on: itself, or its slices.
    pub fn places(&self) -> Vec<DeviceMemory> {
        let index = self.index;
        let place = |uuid: &String, memory_bytes| DeviceMemory { uuid: uuid.clone(), index, memory_bytes };
        match self.sliced {
            false => vec![place(&self.uuid, self.memory_bytes)],
            true => self.slices.iter().map(|slice| place(&slice.uuid, slice.memory_bytes)).collect(),
        }
    }
}
