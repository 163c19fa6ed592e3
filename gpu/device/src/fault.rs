//! A fault on purpose, for tests of what a broken device context does to its process and to no other.

use crate::{DeviceError, Gpu, Lane};

/// Stops with an error at its first instruction. PTX, so that any generation takes it.
const KERNEL: &[u8] = b".version 7.0\n.target sm_80\n.address_size 64\n.visible .entry fault() { trap; }\n\0";

impl Gpu {
    /// Breaks this process's context for good, as a kernel does that touches what it must not: what the driver then says.
    pub fn break_context(&self) -> DeviceError {
        let broken = || -> Result<(), DeviceError> {
            let function = self.load(KERNEL)?.function("fault")?;
            let lane = self.lane()?;
            // SAFETY: it takes nothing and touches nothing.
            unsafe { Lane::launch(lane.arguments(&function), [1, 1], 1)? };
            lane.wait()
        };
        broken().err().unwrap_or_else(|| DeviceError::Broken("the kernel that must fail did not".into()))
    }
}
