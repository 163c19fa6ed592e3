//! A claim to room on an instance.
//!
//! Made by the fleet for each that seeks room.

use super::Fleet;

/// Room on an instance, or a place among those that wait for it; given back when dropped.
pub(crate) struct Lease<'a> {
    fleet: &'a Fleet,
    pub(crate) number: u64,
}

impl<'a> Lease<'a> {
    pub(super) fn new(fleet: &'a Fleet, number: u64) -> Self {
        Self { fleet, number }
    }

    /// From now on somebody else gives it back.
    pub(crate) fn keep(self) -> u64 {
        let number = self.number;
        std::mem::forget(self);
        number
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.fleet.release(self.number);
    }
}
