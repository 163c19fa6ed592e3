//! The drain rate: how fast work leaves, measured, and the wait that follows from it.

use std::time::{Duration, Instant};

/// Weight of a new observation window in the moving average: 0.3 forgets a window after about three.
const SMOOTHING: f64 = 0.3;
/// Length of an observation window: long enough for a few slow batches, short against a client's patience.
const WINDOW: Duration = Duration::from_millis(200);
/// Longest wait ever advised; past it a client should ask again rather than trust an old measurement.
const WAIT_MAX: Duration = Duration::from_secs(30);
/// Advised when nothing has been measured yet.
const WAIT_UNKNOWN: Duration = Duration::from_secs(1);

/// Finished requests per second, an exponentially weighted average over windows. A window goes from one end to another,
/// with work in flight throughout: what passed while nothing was there to finish says nothing about how fast work leaves.
#[derive(Debug)]
pub struct DrainRate {
    window_started: Instant,
    /// A window is open. Not so while nothing is in flight, and since then until something has ended.
    open: bool,
    finished: u64,
    per_second: Option<f64>,
}

impl DrainRate {
    /// Nothing is measured yet.
    pub fn new(now: Instant) -> Self {
        Self { window_started: now, open: false, finished: 0, per_second: None }
    }

    /// Counts one finished request; a shed is none. `busy` says whether others are still in flight.
    pub fn finished(&mut self, now: Instant, busy: bool) {
        let elapsed = now.saturating_duration_since(self.window_started);
        if self.open {
            self.finished += 1;
            if elapsed >= WINDOW {
                let rate = self.finished as f64 / elapsed.as_secs_f64();
                self.per_second = Some(self.per_second.map_or(rate, |old| old + SMOOTHING * (rate - old)));
            }
        }
        if !self.open || !busy || elapsed >= WINDOW {
            (self.window_started, self.open, self.finished) = (now, busy, 0);
        }
    }

    /// How long until a request behind `ahead` others can be taken.
    pub fn wait(&self, ahead: u64) -> Duration {
        match self.per_second {
            Some(rate) if rate > 0.0 => {
                Duration::try_from_secs_f64(ahead as f64 / rate).unwrap_or(WAIT_MAX).min(WAIT_MAX)
            }
            _ => WAIT_UNKNOWN,
        }
    }
}
