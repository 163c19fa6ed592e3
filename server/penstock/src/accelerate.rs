//! Whether a version runs on a GPU, and what it is given there.
//!
//! Called by the composition root: once when the program starts, and for each load. Where nothing demands a GPU, what
//! cannot run on one runs on the CPU, with a warning that says why if there is one.

use crate::config::Config;
use crate::gpus::Gpus;
use crate::runtime::onnxruntime_cuda_library;
use penstock_capacity::Placement;
use penstock_domain::CONTEXT_BYTES;
use penstock_environment::Accelerator;
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
    /// The devices' memory.
    pub(crate) placement: Placement,
    /// Starts them; why there is none.
    program: Result<PathBuf, String>,
    device_files: Vec<PathBuf>,
    libraries: Vec<PathBuf>,
    /// Whether ONNX Runtime can use a GPU; why it cannot.
    onnx: Result<(), String>,
}

impl Accelerators {
    /// Of the GPUs that were found, unless the configuration wants none used. `own` is this executable.
    pub(crate) fn new(config: &Config, gpus: &Gpus, own: &Path) -> Option<Self> {
        if config.text("devices.use") == "none" {
            return None;
        }
        let places: Vec<_> = gpus.found().iter().flat_map(Gpu::places).collect();
        if places.is_empty() {
            return None;
        }
        let program = config.path("devices.program").unwrap_or_else(|| own.with_file_name(PROGRAM));
        let program = match program.is_file() {
            true => Ok(program),
            false => Err(format!("there is no {} (devices.program), which `make cuda` builds", program.display())),
        };
        let named = |entry: &std::fs::DirEntry| entry.file_name().to_string_lossy().starts_with("nvidia");
        let device_files = std::fs::read_dir("/dev").into_iter().flatten().flatten().filter(named);
        Some(Self {
            placement: Placement::new(places, config.integer("devices.kept_bytes")),
            program,
            libraries: config.list("devices.library_path").iter().map(PathBuf::from).collect(),
            onnx: onnx_provider(config),
            device_files: device_files.map(|entry| entry.path()).collect(),
        })
    }

    /// What starts environments on a GPU.
    pub(crate) fn program(&self) -> Option<PathBuf> {
        self.program.clone().ok()
    }
}

/// What a version needs of a GPU; `None` where it runs on the CPU. Errors: its configuration demands a GPU, and why it
/// cannot have one.
pub(crate) fn accelerator(
    accelerators: Option<&Accelerators>,
    version: &VersionSource,
) -> Result<Option<Accelerator>, String> {
    let VersionSettings { worker_device, worker_count, gpus, penstock, .. } = &*version.settings;
    let workers = worker_count.unwrap_or(match &version.runtime {
        RuntimeSource::Identity { .. } => 1,
        // candle has one stream: a second worker would only wait for the first.
        RuntimeSource::Bert { .. } if penstock.engine == Engine::Candle => 1,
        _ => WORKERS,
    });
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
        Some(accelerators) => accelerators.program.clone().map(|_| (bytes, accelerators)),
    });
    match able {
        Ok((bytes, accelerators)) => Ok(Some(Accelerator {
            gpus: gpus.clone(),
            memory_bytes: penstock.device_memory_bytes.unwrap_or(bytes),
            required: demanded,
            workers,
            weight: penstock.device_weight.unwrap_or(1),
            device_files: accelerators.device_files.clone(),
            readable: READABLE.iter().map(PathBuf::from).collect(),
            library_path: accelerators.libraries.clone(),
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
