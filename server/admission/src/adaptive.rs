//! The adaptive limit: how many requests an environment should have in flight.
//!
//! Called by the front end's end of the link. It reads how long requests waited in the queue and never how long they
//! ran: larger batches run longer, and are what full workers are for.

use std::time::{Duration, Instant};

/// What is kept of a limit when waiting has bought nothing.
const DECREASE: f64 = 0.9;
/// The limit is looked at this often: several batches of most models, and a fraction of a person's patience.
const WINDOW: Duration = Duration::from_millis(100);
/// So many ends at least tell something of a window; with fewer it lasts longer.
const ENDS_MIN: u32 = 4;

/// Additive increase, multiplicative decrease over windows, on the least wait of each: if even the luckiest request of a
/// window waited longer than the target there is a standing queue, which adds to every answer and nothing to the work
/// done (Nichols and Jacobson, "Controlling Queue Delay", 2012). A burst is no standing queue.
#[derive(Clone, Debug)]
pub struct AdaptiveLimit {
    floor: f64,
    max: f64,
    limit: f64,
    target: Duration,
    started: Instant,
    ends: u32,
    least_wait: Duration,
    refused: bool,
}

impl AdaptiveLimit {
    /// Begins at `max`, and never leaves `floor` to `max`. `floor` keeps all workers busy: workers × batch size, and one
    /// batch more that forms meanwhile. A `target` of zero keeps `max`.
    pub fn new(floor: u32, max: u32, target: Duration, now: Instant) -> Self {
        let max = f64::from(max);
        Self {
            floor: f64::from(floor).min(max),
            max,
            limit: max,
            target,
            started: now,
            ends: 0,
            least_wait: Duration::MAX,
            refused: false,
        }
    }

    /// A request ended that had waited so long in the queue. The limit, if it is another from now on.
    pub fn ended(&mut self, waited: Duration, now: Instant) -> Option<u32> {
        self.ends += 1;
        self.least_wait = self.least_wait.min(waited);
        if now.saturating_duration_since(self.started) < WINDOW || self.ends < ENDS_MIN || self.target.is_zero() {
            return None;
        }
        let before = self.limit();
        if self.least_wait > self.target {
            self.limit = (self.limit * DECREASE).max(self.floor);
        } else if self.refused {
            self.limit = (self.limit + (self.floor / 4.0).max(1.0)).min(self.max);
        }
        (self.started, self.ends, self.least_wait, self.refused) = (now, 0, Duration::MAX, false);
        (self.limit() != before).then(|| self.limit())
    }

    /// A request found all slots taken.
    pub fn refused(&mut self) {
        self.refused = true;
    }

    /// Requests that may be in flight.
    pub fn limit(&self) -> u32 {
        self.limit as u32
    }
}
