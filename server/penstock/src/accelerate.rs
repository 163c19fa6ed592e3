//! Whether a version runs on a GPU, and what it is given there.
//!
//! Called by the composition root: once when the program starts, and for each load. Where nothing demands a GPU, what
//! cannot run on one runs on the CPU, with a warning that says why if there is one. Where instances have the GPUs, each version
//! says what it needs of one, and gets it with its instance.

use crate::config::Config;
use crate::gpus::{Busy, Gpus};
use crate::instances;
use crate::runtime::onnxruntime_cuda_library;
use penstock_capacity::Placement;
use penstock_domain::{Architecture, CONTEXT_BYTES, DeviceMemory};
use penstock_environment::Accelerator;
use penstock_instances::DeviceAccess;
use penstock_inventory::Gpu;
use penstock_repository::{Engine, RuntimeSource, VersionSettings, VersionSource, WorkerDevice};
use std::path::{Path, PathBuf};

/// What a graph's work is taken to need at least. A guess: it was not measured.
const ONNX_WORK_BYTES: u64 = 256 << 20;
/// ONNX Runtime's own part for CUDA, beside its library.
const ONNX_PROVIDER: &str = "libonnxruntime_providers_cuda.so";
/// Workers of an environment on a GPU whose configuration names no number: while one's batch is copied, gathered or answered
/// the other's runs.
const WORKERS: u32 = 2;
/// Name of the executable for environments on a GPU, beside this one.
const PROGRAM: &str = "penstock-environment-cuda";
/// What the driver's library reads.
const READABLE: [&str; 8] = [
    "/proc/sys/vm/mmap_min_addr",
    "/proc/driver/nvidia",
    "/proc/devices",
    "/sys/module/nvidia",
    "/sys/bus/pci/devices",
    "/sys/devices",
    "/usr/local/cuda",
    "/usr/local/nvidia",
];

/// What environments on a GPU need.
pub(crate) struct Accelerators {
    /// This machine's devices.
    pub(crate) places: Vec<DeviceMemory>,
    /// Their memory; `None` where it is given out with instances.
    pub(crate) placement: Option<Placement>,
    /// Starts them; why there is none.
    pub(crate) program: Result<PathBuf, String>,
    /// How busy they are.
    pub(crate) busy: Busy,
    access: DeviceAccess,
    /// Whether ONNX Runtime can use a GPU; why it cannot.
    onnx: Result<(), String>,
    /// Capacity providers have instances of their own.
    providers: bool,
}

impl Accelerators {
    /// Of the GPUs that were found, or that instances have, unless the configuration wants none used. `own` is this executable.
    pub(crate) fn new(config: &Config, gpus: Option<&Gpus>, own: &Path) -> Option<Self> {
        if config.text("devices.use") == "none" {
            return None;
        }
        let places: Vec<_> = gpus.into_iter().flat_map(Gpus::found).flat_map(Gpu::places).collect();
        let (instances, providers) = (instances::have_devices(config), config.text("instances.provider") == "ec2");
        if places.is_empty() && !instances && !providers {
            return None;
        }
        let program = config.path("devices.program").unwrap_or_else(|| own.with_file_name(PROGRAM));
        let program = match program.is_file() {
            true => Ok(program),
            false => Err(format!("there is no {} (devices.program), which `make cuda` builds", program.display())),
        };
        let placement = (!instances).then(|| Placement::new(places.clone(), config.integer("devices.kept_bytes")));
        let libraries = config.list("devices.library_path").iter().map(PathBuf::from).collect();
        let busy = Busy::default();
        Some(Self {
            places,
            placement,
            program,
            busy,
            access: access(libraries),
            onnx: onnx_provider(config),
            providers,
        })
    }

    /// What starts environments on a GPU.
    pub(crate) fn program(&self) -> Option<PathBuf> {
        self.program.clone().ok()
    }

    /// Whether a version's environments get their GPU with their instance.
    fn with_instance(&self, version: &VersionSource) -> bool {
        self.placement.is_none() || (self.providers && version.settings.capacity_provider.is_some())
    }

    /// Whether there is something that starts them; why there is not. Instances have their own.
    fn can_start(&self, version: &VersionSource) -> Result<(), String> {
        match &self.program {
            Err(why) if !self.with_instance(version) => Err(why.clone()),
            _ => Ok(()),
        }
    }
}

/// What environments on the GPUs of this machine touch beside them, with folders of libraries.
pub(crate) fn access(library_path: Vec<PathBuf>) -> DeviceAccess {
    let named = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("nvidia");
    let device_files = std::fs::read_dir("/dev").into_iter().flatten().flatten().filter(named);
    DeviceAccess {
        device_files: device_files.map(|entry| entry.path()).collect(),
        readable: READABLE.iter().map(PathBuf::from).collect(),
        library_path,
    }
}

/// What a version needs of a GPU; `None` where it runs on the CPU. Errors: its configuration demands a GPU, and why it
/// cannot have one.
pub(crate) fn accelerator(
    accelerators: Option<&Accelerators>,
    version: &VersionSource,
    architecture: Architecture,
) -> Result<Option<Accelerator>, String> {
    let VersionSettings { worker_device, worker_count, gpus, penstock, .. } = &*version.settings;
    let workers = worker_count.unwrap_or(match &version.runtime {
        RuntimeSource::Identity { .. } => 1,
        // candle has one stream: a second worker would only wait for the first.
        RuntimeSource::Bert { .. } if penstock.engine == Engine::Candle => 1,
        _ => WORKERS,
    });
    let accelerators = accelerators.filter(|all| all.with_instance(version) || !all.places.is_empty());
    let demanded = *worker_device == WorkerDevice::Gpu || !gpus.is_empty();
    let able = match &version.runtime {
        // Echoes can be placed like a model, and take no time of a device.
        RuntimeSource::Identity { .. } if !demanded => return Ok(None),
        _ if *worker_device == WorkerDevice::Cpu => return Ok(None),
        RuntimeSource::Identity { .. } => Ok(CONTEXT_BYTES),
        RuntimeSource::Bert { folder } if penstock.engine != Engine::OnnxRuntime => {
            // The weights, as much again for the work of a batch, and what a context takes.
            Ok(2 * weights_bytes(folder) + CONTEXT_BYTES)
        }
        RuntimeSource::Bert { .. } => {
            Err("penstock.engine is onnxruntime, which runs encoders on the CPU; auto and candle run there".to_owned())
        }
        RuntimeSource::Onnx { .. } if architecture != Architecture::OWN => Err(format!(
            "graphs run on the GPUs of {} instances alone: there is no ONNX Runtime with CUDA for others",
            Architecture::OWN.name()
        )),
        RuntimeSource::Onnx { model } => match accelerators {
            // Each worker has a session: the graph, as much again for the work of a batch; and what a context takes.
            Some(accelerators) => accelerators.onnx.clone().map(|()| {
                let graph = file_bytes(model);
                u64::from(workers) * (graph + graph.max(ONNX_WORK_BYTES)) + CONTEXT_BYTES
            }),
            None => Ok(0),
        },
    };
    let able = able.and_then(|bytes| match accelerators {
        None => Err("this machine has no GPU that answers, or devices.use is none".to_owned()),
        Some(accelerators) => accelerators.can_start(version).map(|()| (bytes, accelerators)),
    });
    match able {
        Ok((_, accelerators)) if accelerators.with_instance(version) && !gpus.is_empty() => {
            Err("instance_group.gpus: they are counted on one machine, and it is to run on any instance that has room: leave \
                 them out"
                .to_owned())
        }
        Ok((bytes, accelerators)) => Ok(Some(Accelerator {
            gpus: gpus.clone(),
            with_instance: accelerators.with_instance(version),
            device: None,
            memory_bytes: penstock.device_memory_bytes.unwrap_or(bytes),
            required: demanded,
            workers,
            weight: penstock.device_weight.unwrap_or(1),
            device_files: accelerators.access.device_files.clone(),
            readable: accelerators.access.readable.clone(),
            library_path: accelerators.access.library_path.clone(),
        })),
        Err(reason) if demanded => Err(format!("instance_group: it is to run on a GPU and cannot: {reason}")),
        Err(reason) => {
            if accelerators.is_some() {
                tracing::warn!(directory = %version.directory.display(), reason, "a version runs on the CPU");
            }
            Ok(None)
        }
    }
}

fn onnx_provider(config: &Config) -> Result<(), String> {
    let library = onnxruntime_cuda_library(config);
    let library = library.canonicalize().unwrap_or(library);
    match library.with_file_name(ONNX_PROVIDER).is_file() {
        true => Ok(()),
        false => Err(format!(
            "there is no {ONNX_PROVIDER} beside {} (onnxruntime.cuda_library); `models/catalog/fetch.py --only \
             onnxruntime-cuda` fetches one",
            library.display()
        )),
    }
}

/// Bytes of a folder's weights.
fn weights_bytes(folder: &Path) -> u64 {
    file_bytes(&folder.join("model.safetensors"))
}

fn file_bytes(file: &Path) -> u64 {
    std::fs::metadata(file).map_or(0, |file| file.len())
}
