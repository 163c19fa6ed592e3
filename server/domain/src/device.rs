//! Devices: what one has, and how it is at a moment.

/// What a CUDA context takes of a device with cuBLAS and our kernels in it, and their graphs. Measured on an H200 with driver
/// 580: 680 MiB of 1036 that the driver counted for an environment whose buffers were 356.
pub const CONTEXT_BYTES: u64 = 768 << 20;

/// A device's memory: of a GPU, or of a slice of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceMemory {
    /// What `CUDA_VISIBLE_DEVICES` takes.
    pub uuid: String,
    /// Of the GPU, as configurations name it.
    pub index: u32,
    /// Bytes in all.
    pub memory_bytes: u64,
}

/// How a device is at a moment. What it does not tell is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DeviceReading {
    /// Bytes in all.
    pub memory_total_bytes: Option<u64>,
    /// Bytes in use, by whomever.
    pub memory_used_bytes: Option<u64>,
    /// Bytes free.
    pub memory_free_bytes: Option<u64>,
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
