//! Page-locked memory: copied by the device itself, while the caller goes on.

use crate::DeviceError;
use cudarc::driver::{CudaContext, CudaEvent, DeviceRepr, ValidAsZeroBits, result, sys};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a copy is awaited spinning; after that the thread sleeps until the device wakes it, which takes some fifty
/// microseconds: nothing beside such a wait, and a quarter of a small run.
const SPINNING: Duration = Duration::from_millis(2);

/// Values of `T` that a lane copies to and from. Nobody sees them while a copy is under way.
pub struct Pinned<T> {
    at: *mut T,
    len: usize,
    /// The last copy's end.
    pub(crate) copied: CudaEvent,
    spinning: Duration,
}

impl<T: DeviceRepr + ValidAsZeroBits> Pinned<T> {
    pub(crate) fn new(context: &Arc<CudaContext>, len: usize) -> Result<Self, DeviceError> {
        context.bind_to_thread()?;
        let copied = context.new_event(Some(sys::CUevent_flags::CU_EVENT_BLOCKING_SYNC))?;
        let bytes = len.max(1) * size_of::<T>();
        // SAFETY: the context is current; the memory is `bytes` long, page-aligned, and zeroed before anyone sees it, which
        // `T` allows.
        let at = unsafe {
            let at = result::malloc_host(bytes, 0)?.cast::<T>();
            std::ptr::write_bytes(at.cast::<u8>(), 0, bytes);
            at
        };
        Ok(Self { at, len, copied, spinning: SPINNING })
    }

    /// Waits for the last copy.
    pub fn values(&self) -> Result<&[T], DeviceError> {
        self.wait()?;
        // SAFETY: `len` values that were written; no copy is under way, and one that begins needs `self`.
        Ok(unsafe { std::slice::from_raw_parts(self.at, self.len) })
    }

    /// Waits for the last copy.
    pub fn values_mut(&mut self) -> Result<&mut [T], DeviceError> {
        self.wait()?;
        // SAFETY: as above, and the borrow is the only one.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.at, self.len) })
    }
}

impl<T> Pinned<T> {
    /// Spins for so long from now on, before it sleeps.
    pub fn spin_for(&mut self, spinning: Duration) {
        self.spinning = spinning;
    }

    #[allow(clippy::disallowed_methods)] // how long it has spun is no matter of policy
    fn wait(&self) -> Result<(), DeviceError> {
        let began = Instant::now();
        while began.elapsed() < self.spinning {
            if self.copied.try_is_complete()? {
                return Ok(());
            }
            // Giving way to other threads instead cost a third of the throughput where these want every core.
            std::hint::spin_loop();
        }
        Ok(self.copied.synchronize()?)
    }

    /// How many values.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn at(&self) -> *mut T {
        self.at
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        let context = self.copied.context();
        context.record_err(self.copied.synchronize());
        context.record_err(context.bind_to_thread());
        // SAFETY: it came from `malloc_host`, no copy is under way, and nobody has it after this.
        context.record_err(unsafe { result::free_host(self.at.cast()) });
    }
}
