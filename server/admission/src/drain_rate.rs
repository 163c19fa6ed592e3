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

/// Finished requests per second, an exponentially weighted average over windows in which something finished.
#[derive(Debug)]
pub struct DrainRate {
    window_started: Instant,
    finished: u64,
    per_second: Option<f64>,
}

impl DrainRate {
    /// Starts measuring at `now`.
    pub fn new(now: Instant) -> Self {
        Self { window_started: now, finished: 0, per_second: None }
    }

    /// Counts one finished request. `busy` says whether others were in flight: an idle server's rate is its clients'.
    pub fn finished(&mut self, now: Instant, busy: bool) {
        self.finished += 1;
        let elapsed = now.saturating_duration_since(self.window_started);
        if elapsed < WINDOW {
            return;
        }
        if busy {
            let rate = self.finished as f64 / elapsed.as_secs_f64();
            self.per_second = Some(self.per_second.map_or(rate, |old| old + SMOOTHING * (rate - old)));
        }
        self.window_started = now;
        self.finished = 0;
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
