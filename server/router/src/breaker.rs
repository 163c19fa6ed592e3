//! The circuit breaker: an environment that fails again and again is passed over while others do not.
//!
//! One for each environment, asked and told by the dispatch room. Failing is often quick, and what is quick looks idle: without
//! it the router would send most requests to the environment that breaks them. Refusals are no failures.

use parking_lot::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// So many failures in a row open it: one or two may be the requests' own fault.
const FAILURES_MAX: u32 = 5;
/// First pause before another request may try, doubled each time up to [`PAUSE_MAX`].
const PAUSE_FIRST: Duration = Duration::from_millis(500);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Closed, open, or open and due for a try.
#[derive(Debug, Default)]
pub struct Breaker {
    /// In a row.
    failures: AtomicU32,
    /// When it is open: the next try, and the pause before the one after it.
    next: Mutex<Option<(Instant, Duration)>>,
}

impl Breaker {
    /// Whether a request may be sent there.
    pub fn lets_through(&self, now: Instant) -> bool {
        self.failures.load(Ordering::Relaxed) < FAILURES_MAX || self.next.lock().is_none_or(|(at, _)| at <= now)
    }

    /// A request is sent there. If it is a try, the next one is a pause away.
    pub fn sent(&self, now: Instant) {
        if self.failures.load(Ordering::Relaxed) >= FAILURES_MAX {
            let mut next = self.next.lock();
            // Before that it was sent for want of another: no try.
            if let Some((at, pause)) = *next
                && at <= now
            {
                *next = Some((now + pause, (pause * 2).min(PAUSE_MAX)));
            }
        }
    }

    /// It did what it was asked.
    pub fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
            *self.next.lock() = None;
        }
    }

    /// It failed.
    pub fn failed(&self, now: Instant) {
        if self.failures.fetch_add(1, Ordering::Relaxed) + 1 == FAILURES_MAX {
            *self.next.lock() = Some((now + PAUSE_FIRST, PAUSE_FIRST * 2));
        }
    }
}
