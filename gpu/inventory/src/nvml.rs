//! Asking NVML. Every look opens handles anew, which is cheap: a device that fell off the bus between two is one error.

use crate::{Driver, Gpu, InventoryError, Slice};
use nvml_wrapper::enum_wrappers::device::{EccCounter, MemoryError, TemperatureSensor};
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml, cuda_driver_version_major, cuda_driver_version_minor};
use penstock_domain::DeviceReading;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

/// The driver's own name for its library.
const LIBRARY: &str = "libnvidia-ml.so.1";
/// What the loader says of a library that is nowhere (ld.so's message for ENOENT).
const NOT_FOUND: &str = "cannot open shared object file: No such file";
/// NVML_DEVICE_MIG_ENABLE.
const MIG_ENABLED: u32 = 1;

/// NVIDIA's driver, answering.
#[derive(Clone, Debug)]
pub struct Nvidia {
    nvml: Arc<Nvml>,
}

impl Nvidia {
    /// Loads NVML: the driver's own, or `library`. `None` if this machine has none. Errors: it is there and does not work.
    pub fn open(library: Option<&Path>) -> Result<Option<Self>, InventoryError> {
        let name = library.map_or(OsStr::new(LIBRARY), Path::as_os_str);
        match Nvml::builder().lib_path(name).init() {
            Ok(nvml) => Ok(Some(Self { nvml: Arc::new(nvml) })),
            Err(NvmlError::LibloadingError(error)) if library.is_none() && is_absent(&error) => Ok(None),
            Err(error) => Err(InventoryError::Driver(told(error))),
        }
    }

    /// The driver.
    pub fn driver(&self) -> Result<Driver, InventoryError> {
        let of_driver = |error| InventoryError::Driver(told(error));
        let version = self.nvml.sys_driver_version().map_err(of_driver)?;
        let cuda = self.nvml.sys_cuda_driver_version().map_err(of_driver)?;
        let number = |part: i32| u32::try_from(part).unwrap_or_default();
        let cuda = (number(cuda_driver_version_major(cuda)), number(cuda_driver_version_minor(cuda)));
        Ok(Driver { version, cuda })
    }

    /// Every GPU, each by itself: one that does not answer hides no other.
    pub fn gpus(&self) -> Result<Vec<Result<Gpu, InventoryError>>, InventoryError> {
        let count = self.nvml.device_count().map_err(|error| InventoryError::Driver(told(error)))?;
        Ok((0..count)
            .map(|index| {
                let found = self.nvml.device_by_index(index).and_then(|device| gpu(index, &device));
                found.map_err(|error| InventoryError::Device { device: index.to_string(), message: told(error) })
            })
            .collect())
    }

    /// How a GPU is now.
    pub fn read(&self, uuid: &str) -> Result<DeviceReading, InventoryError> {
        let of_device = |error| InventoryError::Device { device: uuid.to_owned(), message: told(error) };
        let device = self.nvml.device_by_uuid(uuid).map_err(of_device)?;
        // Of one that is cut into slices not everybody may know.
        let memory = match device.memory_info() {
            Ok(memory) => Some(memory),
            Err(NvmlError::NoPermission) => None,
            Err(error) => return Err(of_device(error)),
        };
        let memory = memory.as_ref();
        let ecc = |kind| device.total_ecc_errors(kind, EccCounter::Volatile).ok();
        let watts = |milliwatts: u32| f64::from(milliwatts) / 1e3;
        Ok(DeviceReading {
            memory_total_bytes: memory.map(|memory| memory.total),
            memory_used_bytes: memory.map(|memory| memory.used),
            memory_free_bytes: memory.map(|memory| memory.free),
            busy: device.utilization_rates().ok().map(|rates| f64::from(rates.gpu) / 100.0),
            temperature_celsius: device.temperature(TemperatureSensor::Gpu).ok(),
            power_watts: device.power_usage().ok().map(watts),
            power_limit_watts: device.enforced_power_limit().ok().map(watts),
            energy_joules: device.total_energy_consumption().ok().map(|millijoules| millijoules as f64 / 1e3),
            ecc_corrected: ecc(MemoryError::Corrected),
            ecc_uncorrected: ecc(MemoryError::Uncorrected),
        })
    }

    pub(crate) fn nvml(&self) -> &Nvml {
        &self.nvml
    }
}

fn is_absent(error: &impl std::fmt::Display) -> bool {
    error.to_string().contains(NOT_FOUND)
}

/// NVML's text, without the wrapper's.
pub(crate) fn told(error: NvmlError) -> String {
    match error {
        NvmlError::DriverNotLoaded => "the kernel's module is not loaded".into(),
        NvmlError::LibRmVersionMismatch => "the library and the kernel's module have different versions".into(),
        NvmlError::NoPermission => "no permission to talk to it".into(),
        NvmlError::NotFound => "there is no such device".into(),
        NvmlError::GpuLost => "the GPU has fallen off the bus".into(),
        other => other.to_string(),
    }
}

fn gpu(index: u32, device: &Device<'_>) -> Result<Gpu, NvmlError> {
    let capability = device.cuda_compute_capability().ok();
    let number = |part: i32| u32::try_from(part).unwrap_or_default();
    let sliced = device.mig_mode().is_ok_and(|mode| mode.current == MIG_ENABLED);
    let slices = if sliced { slices(device)? } else { Vec::new() };
    let memory_bytes = match device.memory_info() {
        Ok(memory) => memory.total,
        Err(NvmlError::NoPermission) if sliced => slices.iter().map(|slice| slice.memory_bytes).sum(),
        Err(error) => return Err(error),
    };
    Ok(Gpu {
        index,
        uuid: device.uuid()?,
        name: device.name()?,
        compute_capability: capability.map(|c| (number(c.major), number(c.minor))),
        memory_bytes,
        sliced,
        slices,
    })
}

fn slices(device: &Device<'_>) -> Result<Vec<Slice>, NvmlError> {
    let mut found = Vec::new();
    for index in 0..device.mig_device_count()? {
        let slice = match device.mig_device_by_index(index) {
            Ok(slice) => slice,
            // As many as could be are counted; not all places are taken.
            Err(NvmlError::NotFound) => continue,
            Err(error) => return Err(error),
        };
        let memory_bytes = slice.memory_info()?.total;
        found.push(Slice { uuid: slice.uuid()?, name: slice.name()?, memory_bytes });
    }
    Ok(found)
}
