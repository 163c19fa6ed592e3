//! Slots: how many requests may be in flight at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

#[derive(Debug)]
struct Inner {
    taken: AtomicU32,
    limit: AtomicU32,
}

/// A bounded number of slots. Cheap to clone; all clones count together. Taking never waits.
#[derive(Clone, Debug)]
pub struct Slots(Arc<Inner>);

/// One slot taken, given back when dropped.
#[derive(Debug)]
pub struct Slot(Arc<Inner>);

impl Slots {
    /// `limit` requests at once; 0 refuses everything.
    pub fn new(limit: u32) -> Self {
        Self(Arc::new(Inner { taken: AtomicU32::new(0), limit: AtomicU32::new(limit) }))
    }

    /// Takes a slot if one is free.
    pub fn try_take(&self) -> Option<Slot> {
        let limit = self.0.limit.load(Ordering::Relaxed);
        self.0
            .taken
            .fetch_update(Ordering::AcqRel, Ordering::Relaxed, |taken| (taken < limit).then_some(taken + 1))
            .ok()
            .map(|_| Slot(self.0.clone()))
    }

    /// Slots taken now.
    pub fn taken(&self) -> u32 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// Slots in all.
    pub fn limit(&self) -> u32 {
        self.0.limit.load(Ordering::Relaxed)
    }

    /// Changes the limit; what is taken beyond a lower one stays until it is given back.
    pub fn set_limit(&self, limit: u32) {
        self.0.limit.store(limit, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
    }
}
