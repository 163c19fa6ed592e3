//! Accounting: every request is received once and ends once, whatever happens to it.
//!
//! Called by the house. The one place where an [`Outcome`] is recorded: dropping an [`Account`] that was not closed
//! means that the caller left.

use crate::function::ServedVersion;
use penstock_domain::{Outcome, StageTimes};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use tokio::time::Instant;

/// Requests between their first and their last moment in the house.
#[derive(Default)]
pub(crate) struct InFlight(AtomicU64);

impl InFlight {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// The books of one version: how many requests came, and how each ended.
pub(crate) struct Books {
    received: AtomicU64,
    ended: [AtomicU64; Outcome::COUNT],
}

impl Default for Books {
    fn default() -> Self {
        Self { received: AtomicU64::new(0), ended: [const { AtomicU64::new(0) }; Outcome::COUNT] }
    }
}

/// What the books say at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Balance {
    /// Requests that came.
    pub received: u64,
    /// Those that have ended, by outcome; none that is 0.
    pub ended: Vec<(Outcome, u64)>,
}

impl Books {
    pub(crate) fn balance(&self) -> Balance {
        let count = |outcome: Outcome| (outcome, self.ended[outcome.index()].load(Ordering::Relaxed));
        let ended = Outcome::all().map(count).filter(|(_, count)| *count > 0).collect();
        Balance { received: self.received.load(Ordering::Relaxed), ended }
    }
}

/// One request's entry in the books.
pub(crate) struct Account<'a> {
    in_flight: &'a InFlight,
    version: Option<Arc<ServedVersion>>,
    received: Instant,
    items: u64,
    closed: bool,
}

impl<'a> Account<'a> {
    /// Opens an entry; `version` is `None` if the request named nothing that is served.
    pub(crate) fn open(
        in_flight: &'a InFlight,
        version: Option<Arc<ServedVersion>>,
        received: Instant,
        items: u64,
    ) -> Self {
        in_flight.0.fetch_add(1, Ordering::Relaxed);
        if let Some(version) = &version {
            version.books.received.fetch_add(1, Ordering::Relaxed);
            version.metrics.received();
        }
        Self { in_flight, version, received, items, closed: false }
    }

    /// Closes it; `timing.total_ns` is filled in.
    pub(crate) fn close(mut self, outcome: Outcome, mut timing: StageTimes) -> StageTimes {
        timing.total_ns = u64::try_from(self.received.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.record(outcome, &timing);
        timing
    }

    fn record(&mut self, outcome: Outcome, timing: &StageTimes) {
        self.closed = true;
        self.in_flight.0.fetch_sub(1, Ordering::Relaxed);
        match &self.version {
            Some(version) => {
                version.books.ended[outcome.index()].fetch_add(1, Ordering::Relaxed);
                version.metrics.ended(outcome, self.items, timing);
                version.statistics.request(outcome, self.items, timing, epoch_ms());
            }
            None => penstock_telemetry::unrouted(outcome),
        }
    }
}

impl Drop for Account<'_> {
    fn drop(&mut self) {
        if !self.closed {
            let total_ns = u64::try_from(self.received.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.record(Outcome::Cancelled, &StageTimes { total_ns, ..StageTimes::default() });
        }
    }
}

/// Wall clock for `last_inference`, which the statistics API defines as milliseconds since the epoch.
#[allow(clippy::disallowed_methods)]
pub(crate) fn epoch_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
