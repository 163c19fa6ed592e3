//! A CUDA device as a runtime worker uses it: one [`Lane`] a worker, with its own stream; buffers that are allocated once;
//! matrix products by cuBLAS; graphs.
//!
//! Called by `gpu/kernels`, and by runtimes that open the device. Everything that needs `unsafe` of CUDA is here and there, and nowhere else: the driver's interface
//! is C, knows no lifetimes and works while the caller goes on. What makes it sound is said at each place. Without the
//! feature `cuda` the crate is empty.

#![cfg(feature = "cuda")]
#![allow(unsafe_code)]

mod fault;
mod lane;
mod mark;
mod pinned;

pub use cudarc::driver::{CudaSlice as Buffer, CudaView as View, DeviceRepr, PushKernelArg, ValidAsZeroBits};
pub use lane::{Function, Graph, Lane};
pub use mark::Mark;
pub use pinned::Pinned;

use cudarc::cublas::result::CublasError;
use cudarc::cublas::sys::cublasStatus_t;
use cudarc::driver::{CudaContext, CudaModule, CudaStream, DriverError, sys};
use cudarc::nvrtc::Ptx;
use std::sync::Arc;

/// What the device or its libraries said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// A smaller piece of work may pass.
    #[error("{0}")]
    OutOfMemory(String),
    /// Of the driver or of cuBLAS: every later call of this process may fail with it.
    #[error("{0}")]
    Broken(String),
}

impl From<DriverError> for DeviceError {
    fn from(error: DriverError) -> Self {
        match error.0 {
            sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY => DeviceError::OutOfMemory(error.to_string()),
            _ => DeviceError::Broken(error.to_string()),
        }
    }
}

impl From<CublasError> for DeviceError {
    fn from(error: CublasError) -> Self {
        match error.0 {
            cublasStatus_t::CUBLAS_STATUS_ALLOC_FAILED => DeviceError::OutOfMemory(format!("cuBLAS: {error:?}")),
            _ => DeviceError::Broken(format!("cuBLAS: {error:?}")),
        }
    }
}

/// The first device that this process sees. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gpu {
    context: Arc<CudaContext>,
    /// For what is done once, while nothing runs.
    stream: Arc<CudaStream>,
}

impl Gpu {
    /// Takes the device's primary context, which others in this process share.
    pub fn open() -> Result<Gpu, DeviceError> {
        let context = CudaContext::new(0)?;
        // SAFETY: cudarc would record an event at every use of a buffer, in case another stream uses it. Here each buffer
        // belongs to one lane; what lanes share is written before there are any and never again (`upload` waits).
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        Ok(Gpu { context, stream })
    }

    /// Major and minor.
    pub fn compute_capability(&self) -> Result<(i32, i32), DeviceError> {
        Ok(self.context.compute_capability()?)
    }

    /// Bytes of device memory, free and in all.
    pub fn memory(&self) -> Result<(usize, usize), DeviceError> {
        Ok(self.context.mem_get_info()?)
    }

    /// Copies values to the device and waits until they are there.
    pub fn upload<T: DeviceRepr>(&self, values: &[T]) -> Result<Buffer<T>, DeviceError> {
        let buffer = self.stream.clone_htod(values)?;
        self.stream.synchronize()?;
        Ok(buffer)
    }

    /// Loads compiled kernels: a fat binary, a cubin or PTX.
    pub fn load(&self, image: &[u8]) -> Result<Module, DeviceError> {
        Ok(Module(self.context.load_module(Ptx::from_binary(image.to_vec()))?))
    }

    /// A moment: now, if nothing is being uploaded.
    pub fn mark(&self) -> Result<Mark, DeviceError> {
        let mark = Mark::new(&self.context)?;
        mark.set(&self.stream)?;
        Ok(mark)
    }

    /// A stream of its own, and what comes with it.
    pub fn lane(&self) -> Result<Lane, DeviceError> {
        Lane::new(&self.context)
    }
}

/// Loaded kernels.
#[derive(Debug, Clone)]
pub struct Module(Arc<CudaModule>);

impl Module {
    /// A kernel by its name.
    pub fn function(&self, name: &str) -> Result<Function, DeviceError> {
        Ok(self.0.load_function(name)?)
    }
}

/// Memory that is freed to the device's pool stays there for the next allocation, instead of going back at every wait.
/// For libraries that allocate at each operation.
pub fn keep_freed_memory() -> Result<(), DeviceError> {
    let context = CudaContext::new(0)?;
    let mut threshold = u64::MAX;
    // SAFETY: the device is there, its default pool lives as long as it, and the attribute's value is a 64-bit number.
    unsafe {
        let pool = cudarc::driver::result::device::get_default_mem_pool(context.cu_device())?;
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut threshold).cast()).result()?;
    }
    Ok(())
}
