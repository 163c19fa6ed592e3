//! The byte budget: request and response bytes in flight, taken before they are buffered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Debug)]
struct Inner {
    taken: AtomicU64,
    limit: u64,
}

/// A bounded number of bytes (`memory_budget_bytes`). Cheap to clone; all clones count together.
#[derive(Clone, Debug)]
pub struct ByteBudget(Arc<Inner>);

/// Bytes taken out of the budget, given back when dropped.
#[derive(Debug)]
pub struct ByteShare {
    budget: Arc<Inner>,
    bytes: u64,
}

impl ByteBudget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self(Arc::new(Inner { taken: AtomicU64::new(0), limit }))
    }

    /// Takes `bytes` if they fit what is left.
    pub fn try_take(&self, bytes: u64) -> Option<ByteShare> {
        take(&self.0, bytes).then(|| ByteShare { budget: self.0.clone(), bytes })
    }

    /// Bytes taken now.
    pub fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::Relaxed)
    }

    /// The whole budget.
    pub fn limit(&self) -> u64 {
        self.0.limit
    }
}

impl ByteShare {
    /// Takes `more` bytes for the same request; false, and nothing taken, if they do not fit.
    pub fn try_grow(&mut self, more: u64) -> bool {
        let grown = take(&self.budget, more);
        if grown {
            self.bytes += more;
        }
        grown
    }

    /// Holds `other` too: from now on both are given back together. Both must be of the same budget.
    pub fn join(&mut self, mut other: ByteShare) {
        debug_assert!(Arc::ptr_eq(&self.budget, &other.budget), "shares of two budgets cannot be joined");
        self.bytes += std::mem::take(&mut other.bytes);
    }

    /// Bytes held.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for ByteShare {
    fn drop(&mut self) {
        self.budget.taken.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}

fn take(budget: &Inner, bytes: u64) -> bool {
    let fits = |taken: u64| taken.checked_add(bytes).filter(|sum| *sum <= budget.limit);
    budget.taken.fetch_update(Ordering::AcqRel, Ordering::Relaxed, fits).is_ok()
}
