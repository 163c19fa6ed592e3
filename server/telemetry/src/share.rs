//! Two small recorders that the facade lacks: a gauge that several add up on, and a counter fed in a finer unit.
//!
//! Used by a version's metrics.

use metrics::{Counter, Gauge};
use std::sync::atomic::{AtomicU64, Ordering};

/// One revision's part of a gauge that revisions of the same version share.
pub(crate) struct Share {
    gauge: Gauge,
    shown: AtomicU64,
}

impl Share {
    pub(crate) fn new(gauge: Gauge) -> Self {
        gauge.increment(0.0);
        Self { gauge, shown: AtomicU64::new(0) }
    }

    /// Exact while values stay below 2^53, where every whole number is an `f64`.
    pub(crate) fn set(&self, value: u64) {
        let shown = self.shown.swap(value, Ordering::Relaxed);
        if shown != value {
            self.gauge.increment(value as f64 - shown as f64);
        }
    }
}

/// A counter of whole microseconds that is fed nanoseconds and loses none of them to rounding.
pub(crate) struct Microseconds {
    counter: Counter,
    total_ns: AtomicU64,
}

impl Microseconds {
    pub(crate) fn new(counter: Counter) -> Self {
        Self { counter, total_ns: AtomicU64::new(0) }
    }

    pub(crate) fn add(&self, ns: u64) {
        let before = self.total_ns.fetch_add(ns, Ordering::Relaxed);
        self.counter.increment(before.wrapping_add(ns) / 1000 - before / 1000);
    }
}
