//! A stream with what one worker does on it.

use crate::{Buffer, DeviceError, Mark, Pinned};
use cudarc::cublas::{CudaBlas, result as cublas, sys as blas};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaGraph, CudaStream, DevicePtr, DevicePtrMut, DeviceRepr, LaunchArgs, LaunchConfig,
    ValidAsZeroBits, result, sys,
};
use half::f16;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

/// A kernel.
pub type Function = CudaFunction;

/// What cuBLAS may use: what NVIDIA recommends for Hopper. Its own, so that it never allocates, least of all while a graph
/// is captured.
const WORKSPACE_BYTES: usize = 32 << 20;

/// Work of one lane runs in the order it was given, beside that of other lanes.
pub struct Lane {
    blas: CudaBlas,
    workspace: Buffer<u8>,
    stream: Arc<CudaStream>,
}

/// Work that was captured, to be given again with one call.
pub struct Graph(CudaGraph);

impl Lane {
    pub(crate) fn new(context: &Arc<CudaContext>) -> Result<Self, DeviceError> {
        let stream = context.new_stream()?;
        let blas = CudaBlas::new(stream.clone())?;
        let mut workspace = stream.alloc_zeros::<u8>(WORKSPACE_BYTES)?;
        {
            let (at, _guard) = workspace.device_ptr_mut(&stream);
            // SAFETY: the workspace belongs to this lane, as the handle does, and is dropped after it.
            unsafe { blas::cublasSetWorkspace_v2(*blas.handle(), at as *mut _, WORKSPACE_BYTES).result()? };
        }
        Ok(Lane { blas, workspace, stream })
    }

    /// Bytes of device memory that a lane takes, buffers aside.
    pub fn device_bytes(&self) -> usize {
        self.workspace.len()
    }

    /// `len` zeros on the device.
    pub fn buffer<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<Buffer<T>, DeviceError> {
        Ok(self.stream.alloc_zeros(len)?)
    }

    /// `len` zeros in page-locked memory.
    pub fn pinned<T: DeviceRepr + ValidAsZeroBits>(&self, len: usize) -> Result<Pinned<T>, DeviceError> {
        Pinned::new(self.stream.context(), len)
    }

    /// Copies the first `len` values to the device.
    pub fn copy_in<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        from: &Pinned<T>,
        to: &mut Buffer<T>,
        len: usize,
    ) -> Result<(), DeviceError> {
        assert!(len <= from.len() && len <= to.len(), "a copy of {len} values");
        self.owns(to);
        // Its one event tells of all copies if each comes after those before it, on whichever lane.
        self.stream.wait(&from.copied)?;
        let (to, _guard) = to.device_ptr_mut(&self.stream);
        // SAFETY: both are at least `len` long. The source is not seen or freed before the event below has passed.
        let from_values = unsafe { std::slice::from_raw_parts(from.at(), len) };
        unsafe { result::memcpy_htod_async(to, from_values, self.stream.cu_stream())? };
        Ok(from.copied.record(&self.stream)?)
    }

    /// Copies the first `len` values from the device; they are there when [`Pinned::values`] returns.
    pub fn copy_out<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        from: &Buffer<T>,
        to: &mut Pinned<T>,
        len: usize,
    ) -> Result<(), DeviceError> {
        assert!(len <= from.len() && len <= to.len(), "a copy of {len} values");
        self.stream.wait(&to.copied)?;
        let (from, _guard) = from.device_ptr(&self.stream);
        // SAFETY: as in `copy_in`; the borrow of `to` is the only one.
        let to_values = unsafe { std::slice::from_raw_parts_mut(to.at(), len) };
        unsafe { result::memcpy_dtoh_async(to_values, from, self.stream.cu_stream())? };
        Ok(to.copied.record(&self.stream)?)
    }

    /// A moment on this lane: nothing before it until it is set.
    pub fn mark(&self) -> Result<Mark, DeviceError> {
        Mark::new(self.stream.context())
    }

    /// Sets a moment anew: after all that was given so far.
    pub fn set(&self, mark: &Mark) -> Result<(), DeviceError> {
        mark.set(&self.stream)
    }

    /// What a lane writes is its own: nothing else orders the lanes.
    fn owns<T>(&self, buffer: &Buffer<T>) {
        assert!(Arc::ptr_eq(buffer.stream(), &self.stream), "a buffer of another lane");
    }

    /// Waits until all that was given has run.
    pub fn wait(&self) -> Result<(), DeviceError> {
        Ok(self.stream.synchronize()?)
    }

    /// A linear layer without its bias: `out[m, n] = input[m, k] * weight[n, k]^T`, all row by row; products of half are summed
    /// in float.
    pub fn linear(
        &self,
        input: &Buffer<f16>,
        weight: &Buffer<f16>,
        out: &mut Buffer<f16>,
        [m, n, k]: [usize; 3],
    ) -> Result<(), DeviceError> {
        assert!(m * k <= input.len() && n * k == weight.len() && m * n <= out.len(), "a product of {m} x {n} x {k}");
        self.owns(out);
        let (one, zero) = (1.0f32, 0.0f32);
        let half = blas::cudaDataType_t::CUDA_R_16F;
        let ((input, _a), (weight, _b)) = (input.device_ptr(&self.stream), weight.device_ptr(&self.stream));
        let (out, _c) = out.device_ptr_mut(&self.stream);
        // SAFETY: the handle is this lane's; sizes were checked above; numbers are read before the call returns. cuBLAS counts
        // column by column, so what it is asked for is the transposed product.
        unsafe {
            cublas::gemm_ex(
                *self.blas.handle(),
                blas::cublasOperation_t::CUBLAS_OP_T,
                blas::cublasOperation_t::CUBLAS_OP_N,
                n as i32,
                m as i32,
                k as i32,
                (&raw const one).cast(),
                weight as *const _,
                half,
                k as i32,
                input as *const _,
                half,
                k as i32,
                (&raw const zero).cast(),
                out as *mut _,
                half,
                n as i32,
                blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
                blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
            )?;
        }
        Ok(())
    }

    /// A kernel's arguments, to be filled in the order of its parameters.
    pub fn arguments<'a>(&'a self, function: &'a Function) -> LaunchArgs<'a> {
        self.stream.launch_builder(function)
    }

    /// Launches a kernel of `grid` blocks of `threads` threads.
    ///
    /// # Safety
    ///
    /// The arguments are what the kernel takes, in number, order and type; their buffers belong to this lane or are never
    /// written; and with this grid it stays inside them.
    pub unsafe fn launch(mut arguments: LaunchArgs, grid: [u32; 2], threads: u32) -> Result<(), DeviceError> {
        let [x, y] = grid;
        // SAFETY: the caller's promise.
        unsafe {
            arguments.launch(LaunchConfig { grid_dim: (x, y, 1), block_dim: (threads, 1, 1), shared_mem_bytes: 0 })?;
        }
        Ok(())
    }

    /// Captures what `work` gives to this lane, instead of running it.
    pub fn capture(&self, work: impl FnOnce() -> Result<(), DeviceError>) -> Result<Graph, DeviceError> {
        self.stream.begin_capture(sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        // It is ended in any case: a stream left capturing runs nothing any more.
        let worked = catch_unwind(AssertUnwindSafe(work));
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        worked.unwrap_or_else(|panic| resume_unwind(panic))?;
        let graph = graph?.ok_or_else(|| DeviceError::Broken("nothing was captured".into()))?;
        graph.upload()?;
        Ok(Graph(graph))
    }

    /// Gives captured work to this lane again.
    ///
    /// # Safety
    ///
    /// Every buffer that was in the captured work is still there, and belongs to this lane or is never written.
    pub unsafe fn replay(&self, graph: &Graph) -> Result<(), DeviceError> {
        Ok(graph.0.launch()?)
    }
}
