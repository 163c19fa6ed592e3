//! Moments on the device's own clock: to measure what it did when.

use crate::DeviceError;
use cudarc::driver::{CudaContext, CudaEvent, CudaStream, sys};
use std::sync::Arc;

/// When all that was given to a lane before it had run.
#[derive(Debug)]
pub struct Mark(CudaEvent);

impl Mark {
    pub(crate) fn new(context: &Arc<CudaContext>) -> Result<Mark, DeviceError> {
        Ok(Mark(context.new_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))?))
    }

    pub(crate) fn set(&self, stream: &CudaStream) -> Result<(), DeviceError> {
        Ok(self.0.record(stream)?)
    }

    /// Milliseconds from `earlier` to this one, to half a microsecond. Waits for both.
    pub fn ms_since(&self, earlier: &Mark) -> Result<f64, DeviceError> {
        Ok(f64::from(earlier.0.elapsed_ms(&self.0)?))
    }
}
