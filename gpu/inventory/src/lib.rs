//! The inventory of devices: which GPUs this machine has, how full, busy and healthy they are.
//!
//! Called by the composition root: for placement, for `penstock devices`, for metrics. It asks NVIDIA's management library
//! (NVML), which comes with the driver and is loaded at run time, so a machine without one is a normal machine. It never
//! makes a CUDA context: a process that only looks holds no device memory.

mod fault;
mod nvml;

pub use fault::{Fault, FaultClass, Watch};
pub use nvml::Nvidia;

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
    /// Device memory in all.
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

/// What an environment can be placed on: a whole GPU or a slice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// What `CUDA_VISIBLE_DEVICES` takes.
    pub uuid: String,
    /// Of the GPU.
    pub index: u32,
    /// As sold, or of the slice.
    pub name: String,
    /// Device memory in all.
    pub memory_bytes: u64,
}

impl Gpu {
    /// Itself, or its slices.
    pub fn places(&self) -> Vec<Place> {
        let place = |uuid: &str, name: &str, memory_bytes| Place {
            uuid: uuid.to_owned(),
            index: self.index,
            name: name.to_owned(),
            memory_bytes,
        };
        match self.sliced {
            false => vec![place(&self.uuid, &self.name, self.memory_bytes)],
            true => self.slices.iter().map(|slice| place(&slice.uuid, &slice.name, slice.memory_bytes)).collect(),
        }
    }
}

/// How a device is now. What it does not tell is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Reading {
    /// Bytes in use, by whomever.
    pub memory_used_bytes: u64,
    /// Bytes free.
    pub memory_free_bytes: u64,
    /// Share of the last sample period in which a kernel ran, 0 to 1. Not told of a GPU that is cut into slices.
    pub busy: Option<f64>,
    /// Degrees Celsius.
    pub temperature_celsius: Option<u32>,
    /// Watts.
    pub power_watts: Option<f64>,
    /// Watts, at most.
    pub power_limit_watts: Option<f64>,
    /// Joules since the driver was loaded.
    pub energy_joules: Option<f64>,
    /// Memory errors that were corrected since the driver was loaded.
    pub ecc_corrected: Option<u64>,
    /// Memory errors that were not.
    pub ecc_uncorrected: Option<u64>,
}
