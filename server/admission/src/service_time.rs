//! How long a batch takes, learned from those that ran; and when a request that comes now would be done.
//!
//! Called by both ends of the link: the front end refuses what cannot be in time before it crosses, an environment, which
//! knows its queue and its tokens, refuses the rest.

use crate::Caution;
use std::time::{Duration, Instant};

/// Weight that is left of an observation after the next: about the last thirty batches count.
const FORGET: f64 = 0.97;
/// Weight of a new residual in the mean deviation.
const DEVIATION_SMOOTHING: f64 = 0.1;
/// A promise allows for so many mean deviations: of normally distributed times 99 in 100 are shorter.
const DEVIATIONS: f64 = 3.0;
/// Nothing is foretold from observations older than this, nor older than [`STALE_BATCHES`] batches: else one slow batch
/// could refuse all others for ever, and nothing would be learned any more.
const STALE: Duration = Duration::from_secs(1);
/// See [`STALE`].
const STALE_BATCHES: f64 = 4.0;
/// Below this share of the mean square the sizes seen are all alike, and tell nothing of how time grows with size.
const ALIKE: f64 = 1e-3;
/// A batch counts as at most so many times what it would have taken: one that met a hiccup says little of the next, and
/// several that are truly slower are believed after two or three.
const SURPRISE_MAX: f64 = 4.0;

/// Time of a batch by its size (in items or in tokens, whichever its cost grows with): least squares of
/// `fixed + per_unit · size`, both at least 0, over observations that are forgotten exponentially.
#[derive(Clone, Debug, Default)]
pub struct ServiceTime {
    weight: f64,
    size: f64,
    seconds: f64,
    size_size: f64,
    size_seconds: f64,
    deviation: f64,
    observed: Option<Instant>,
}

impl ServiceTime {
    /// A batch of `size` that ended at `now` had taken `took`.
    pub fn observe(&mut self, size: u64, took: Duration, now: Instant) {
        let (x, mut y) = (size as f64, took.as_secs_f64());
        if !self.is_fresh(self.mean(x), now) {
            *self = Self::default();
        }
        if self.weight > 0.0 {
            // Of larger ones than were ever seen nobody knows how much longer they take: in proportion, at most.
            let in_proportion = self.seconds / self.size.max(1.0) * x;
            y = y.min(SURPRISE_MAX * self.mean(x).max(in_proportion));
            let residual = (y - self.mean(x)).abs();
            self.deviation += DEVIATION_SMOOTHING * (residual - self.deviation);
        }
        for (sum, term) in [
            (&mut self.weight, 1.0),
            (&mut self.size, x),
            (&mut self.seconds, y),
            (&mut self.size_size, x * x),
            (&mut self.size_seconds, x * y),
        ] {
            *sum = *sum * FORGET + term;
        }
        self.observed = Some(now);
    }

    /// How long a batch of `size` takes at most, but for one in a hundred. `None` if nothing was observed lately.
    pub fn predict(&self, size: u64, now: Instant) -> Option<Duration> {
        self.told(self.mean(size as f64) + DEVIATIONS * self.deviation, now)
    }

    /// How long a batch of `size` takes in the mean. `None` if nothing was observed lately.
    pub fn expect(&self, size: u64, now: Instant) -> Option<Duration> {
        self.told(self.mean(size as f64), now)
    }

    fn told(&self, seconds: f64, now: Instant) -> Option<Duration> {
        if self.is_fresh(seconds, now) { Duration::try_from_secs_f64(seconds).ok() } else { None }
    }

    /// Whether what was observed still says something, where a batch takes so many seconds.
    fn is_fresh(&self, seconds: f64, now: Instant) -> bool {
        let Some(observed) = self.observed else { return false };
        let age = now.saturating_duration_since(observed);
        age <= STALE || age.as_secs_f64() <= STALE_BATCHES * seconds
    }

    fn mean(&self, size: f64) -> f64 {
        let (x, y) = (self.size / self.weight, self.seconds / self.weight);
        let (xx, xy) = (self.size_size / self.weight, self.size_seconds / self.weight);
        let variance = xx - x * x;
        let through_origin = if xx > 0.0 { xy / xx } else { 0.0 };
        if variance <= ALIKE * xx {
            // Smaller ones in proportion and larger ones alike: both err on the side of trying, which teaches.
            return through_origin * size.min(x);
        }
        let per_unit = (xy - x * y) / variance;
        let fixed = y - per_unit * x;
        match (per_unit < 0.0, fixed < 0.0) {
            (true, _) => y,
            (false, true) => through_origin * size,
            (false, false) => fixed + per_unit * size,
        }
    }
}

/// Of the time until a deadline, so much is for what nobody foretells: the way there and back, a core that is taken. A
/// queue that is admitted up to the last millisecond is answered after it.
const SPARE: u32 = 10;

/// What is to be counted on, of the time that is left until a deadline: nine tenths.
pub fn usable(left: Duration) -> Duration {
    left - left / SPARE
}

/// What stands before a request that comes now.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Backlog {
    /// Batches that run before its own, all workers together; parts of one count.
    pub batches: f64,
    /// Size of each.
    pub batch_size: u64,
    /// Runtime workers that share the work.
    pub workers: u32,
    /// Until one of them is free.
    pub free_in: Duration,
}

impl Backlog {
    /// From now until the batch after these begins, where a batch of a size takes `time`. `None` if that is not known.
    pub fn begins_in(&self, time: impl Fn(u64) -> Option<Duration>) -> Option<Duration> {
        let rounds = (self.batches / f64::from(self.workers.max(1))).floor();
        let before = match rounds > 0.0 {
            true => time(self.batch_size)?.checked_mul(rounds as u32).unwrap_or(Duration::MAX),
            false => Duration::ZERO,
        };
        Some(self.free_in.saturating_add(before))
    }

    /// From now until a request would be done that is in the batch after these, of `own_batch_size` with it, where as much
    /// longer is reckoned with before that batch as `caution` says. `None` if that is not known.
    pub fn done_in(
        &self,
        own_batch_size: u64,
        time: impl Fn(u64) -> Option<Duration>,
        caution: Caution,
    ) -> Option<Duration> {
        let begins_in = self.begins_in(&time)?;
        Some(caution.of(begins_in).saturating_add(time(own_batch_size)?))
    }
}
