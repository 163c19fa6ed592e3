//! The one clock of this crate. A runtime worker runs on a thread of its own, outside tokio, and its only use of time is
//! to report how long the three stages of a batch took: nothing here decides by it, so a test needs no other clock.

use std::time::Instant;

#[allow(clippy::disallowed_methods)] // see above: reported, never decided by
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Nanoseconds between two readings.
pub(crate) fn nanoseconds(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_nanos()).unwrap_or(u64::MAX)
}
