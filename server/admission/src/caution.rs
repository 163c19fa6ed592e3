//! Caution: how much longer than foretold the wait for a batch may turn out to be.
//!
//! Called by environments, which learn it and tell the front end. A request that is admitted and then turns out to be
//! late was refused as late as can be: its place would have been another's. What makes them late (a busy core, a slow
//! neighbour) is not foretold, but its extent is learned from how often it happens.

use std::time::Duration;

/// What a moment in which some turned out to be late adds to the margin.
const STEP: f64 = 0.1;
/// One such moment is accepted for so many that were in time. In a moment a few requests are late: where as many are
/// refused as served, a few refusals in a thousand are then late ones.
const IN_TIME_PER_LATE: f64 = 5000.0;
/// At most half of what could wait is given up.
const MARGIN_MAX: f64 = 1.0;
/// Those that used less of their time were never in danger.
const USED_MIN: f64 = 0.5;
/// Before anything was learned.
const MARGIN_FIRST: f64 = 0.2;

/// A share that is added to every foretold wait, learned from what came of earlier ones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Caution {
    margin: f64,
}

impl Default for Caution {
    fn default() -> Self {
        Self { margin: MARGIN_FIRST }
    }
}

impl Caution {
    /// What is foretold is taken for what will be.
    pub const NONE: Self = Self { margin: 0.0 };

    /// With a margin that the other end of the link has learned.
    pub fn with_margin(margin: f64) -> Self {
        Self { margin: if margin.is_finite() { margin.clamp(0.0, MARGIN_MAX) } else { MARGIN_FIRST } }
    }

    /// The share that is added.
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// At this moment some that were admitted turned out to be late.
    pub fn late(&mut self) {
        self.margin = (self.margin + STEP).min(MARGIN_MAX);
    }

    /// One that was admitted was answered in time. `used` says how much of its time had passed: only those that had to
    /// wait for most of it tell whether promises can be trusted.
    pub fn in_time(&mut self, used: f64) {
        // The more careful, the less of their time those that are admitted use.
        if used < USED_MIN / (1.0 + self.margin) {
            return;
        }
        self.margin = (self.margin - STEP / IN_TIME_PER_LATE).max(0.0);
    }

    /// With so much more added.
    pub fn plus(self, share: f64) -> Self {
        Self { margin: self.margin + share }
    }

    /// What is to be reckoned with where `wait` is foretold.
    pub fn of(&self, wait: Duration) -> Duration {
        Duration::try_from_secs_f64(wait.as_secs_f64() * (1.0 + self.margin)).unwrap_or(Duration::MAX)
    }

    /// After how long `excess` of a wait that is reckoned with has gone: a wait that passes takes its margin with it.
    pub fn gone_in(&self, excess: Duration) -> Duration {
        Duration::try_from_secs_f64(excess.as_secs_f64() / (1.0 + self.margin)).unwrap_or(excess)
    }
}
