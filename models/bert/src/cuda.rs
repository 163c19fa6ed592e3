//! Our kernels' engine: the forward pass of `gpu/kernels` in 16 bit, on a GPU. Called by the model when it loads, and by the
//! executor, on its thread.

use crate::executor::{Encoder, RunSize};
use crate::folder::Folder;
use crate::half;
use bytes::Bytes;
use penstock_device::{DeviceError, Gpu};
use penstock_domain::CONTEXT_BYTES;
use penstock_executor::{ExecError, LoadError};
use penstock_kernels::{Encoder as Forward, Weights};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// First generation with the matrix instructions that the kernels use: Ampere.
const CAPABILITY_MIN: (i32, i32) = (8, 0);
/// Tokens of a run: the matrix products of a small encoder fill an H200 from some ten thousand on.
const RUN_TOKENS: usize = 16384;

/// Why a folder is not on the device.
pub(crate) enum OpenError {
    /// Our kernels cannot run it, or not on this GPU; candle may.
    Unfit(String),
    /// It cannot be loaded.
    Load(LoadError),
}

impl From<DeviceError> for OpenError {
    fn from(error: DeviceError) -> Self {
        OpenError::Load(LoadError::Failed(format!("the GPU cannot be used: {error}")))
    }
}

/// An encoder on the GPU that this process sees.
pub(crate) struct Placed {
    weights: Arc<Weights>,
    /// Device memory of one worker, and how many there are.
    worker_bytes: AtomicU64,
    workers: AtomicU64,
}

impl Placed {
    /// Reads the folder's weights, and puts them on the device.
    pub(crate) fn open(folder: &Folder) -> Result<Placed, OpenError> {
        let gpu = Gpu::open()?;
        let capability = gpu.compute_capability()?;
        if capability < CAPABILITY_MIN {
            let (major, minor) = capability;
            return Err(OpenError::Unfit(format!("the GPU's compute capability is {major}.{minor}, below 8.0")));
        }
        if let Some(reason) = half::architecture(folder).unsupported(folder.config.intermediate) {
            return Err(OpenError::Unfit(reason));
        }
        let weights = half::read(folder).map_err(|error| match error {
            LoadError::Invalid(reason) => OpenError::Unfit(reason),
            error => OpenError::Load(error),
        })?;
        let weights = Arc::new(Weights::new(&gpu, &weights)?);
        Ok(Placed { weights, worker_bytes: AtomicU64::new(0), workers: AtomicU64::new(0) })
    }

    /// The encoder of one worker, for batches of up to `rows` rows, each of up to `row_tokens` tokens.
    pub(crate) fn encoder(&self, worker: usize, rows: usize, row_tokens: usize) -> Result<CudaEncoder, LoadError> {
        // So many rows have at least so many tokens.
        let rows = rows.min(RUN_TOKENS);
        // A run is full when it has so many tokens, and its last row may be a long one.
        let tokens = (RUN_TOKENS + row_tokens).min(rows.saturating_mul(row_tokens));
        let forward = Forward::new(self.weights.clone(), tokens, rows);
        let forward = forward.map_err(|error| LoadError::Failed(error.to_string()))?;
        self.worker_bytes.store(forward.device_bytes() as u64, Ordering::Relaxed);
        self.workers.fetch_max(worker as u64 + 1, Ordering::Relaxed);
        Ok(CudaEncoder { forward, rows })
    }

    /// Bytes of device memory, of all workers together.
    pub(crate) fn device_bytes(&self) -> u64 {
        let working = self.worker_bytes.load(Ordering::Relaxed) * self.workers.load(Ordering::Relaxed);
        CONTEXT_BYTES + self.weights.device_bytes() as u64 + working
    }
}

/// One worker's.
pub(crate) struct CudaEncoder {
    forward: Forward,
    rows: usize,
}

impl Encoder for CudaEncoder {
    fn run_size(&self) -> RunSize {
        // Nothing is padded, so no run is ended for the lengths of its rows.
        RunSize { full: RUN_TOKENS, worth: RUN_TOKENS, rows: self.rows }
    }

    fn gather(&mut self, rows: &[&[u32]]) -> Result<(), ExecError> {
        self.forward.gather(rows).map_err(exec_error)
    }

    fn encode(&mut self) -> Result<Bytes, ExecError> {
        let values = self.forward.run().map_err(exec_error)?;
        if !values.iter().all(|value| value.is_finite()) {
            let text = "a value went beyond what 16 bit hold (65504); penstock.engine candle computes in 32";
            return Err(ExecError::Failed(text.into()));
        }
        // The device is as little-endian as the processors that it comes with.
        Ok(Bytes::copy_from_slice(bytemuck::cast_slice(values)))
    }
}

fn exec_error(error: DeviceError) -> ExecError {
    match error {
        DeviceError::OutOfMemory(text) => ExecError::OutOfMemory(text),
        DeviceError::Broken(text) => ExecError::Broken(text),
    }
}
