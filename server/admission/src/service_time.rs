//! How long a batch takes, learned from those that ran.
//!
//! Called by both ends of the link: an environment, which knows its queue and its tokens, learns and judges; it tells the
//! front end what it learned, so that what it would refuse does not cross.

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
/// After a pause, what was known is worth so many observations, if the first batch takes what was expected, and nothing
/// if it takes [`UNLIKE`] times as long or less than that share of it.
const KEPT_WEIGHT: f64 = 4.0;
/// See [`KEPT_WEIGHT`].
const UNLIKE: f64 = 2.0;
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

/// What was learned by now, small enough to be told to the other end of the link: a batch of a size takes
/// `fixed_s + per_unit_s · min(size, size_max)` in the mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServiceLine {
    /// Seconds that every batch takes.
    pub fixed_s: f64,
    /// Seconds more for each unit of its size.
    pub per_unit_s: f64,
    /// Beyond it nothing is known of how time grows, and nothing more is reckoned with. Infinite where it is known.
    pub size_max: f64,
    /// Mean deviation from that, in seconds.
    pub deviation_s: f64,
    /// When the last batch ended that is in it, on the clock of whoever asks.
    pub observed: Instant,
}

impl ServiceLine {
    /// Whether it can have been learned: what the other end of a link tells may be anything.
    pub fn is_plausible(&self) -> bool {
        let times = [self.fixed_s, self.per_unit_s, self.deviation_s];
        times.iter().all(|time| time.is_finite() && *time >= 0.0) && self.size_max >= 0.0
    }

    /// How long a batch of `size` takes at most, but for one in a hundred. `None` if nothing was observed lately.
    pub fn predict(&self, size: u64, now: Instant) -> Option<Duration> {
        self.told(self.mean(size as f64) + DEVIATIONS * self.deviation_s, now)
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
        let age = now.saturating_duration_since(self.observed);
        age <= STALE || age.as_secs_f64() <= STALE_BATCHES * seconds
    }

    fn mean(&self, size: f64) -> f64 {
        self.fixed_s + self.per_unit_s * size.min(self.size_max)
    }
}

impl ServiceTime {
    /// A batch of `size` that ended at `now` had taken `took`.
    pub fn observe(&mut self, size: u64, took: Duration, now: Instant) {
        let (x, mut y) = (size as f64, took.as_secs_f64());
        if let Some(line) = self.line() {
            let known = line.mean(x);
            if line.is_fresh(known, now) {
                // Of larger ones than were ever seen nobody knows how much longer they take: in proportion, at most.
                let in_proportion = self.seconds / self.size.max(1.0) * x;
                y = y.min(SURPRISE_MAX * known.max(in_proportion));
                self.deviation += DEVIATION_SMOOTHING * ((y - known).abs() - self.deviation);
            } else if y > known / UNLIKE && y < known * UNLIKE {
                self.keep(KEPT_WEIGHT);
                self.deviation = (y - known).abs();
            } else {
                *self = Self::default();
            }
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

    /// What was learned counts as so many observations at most.
    fn keep(&mut self, weight: f64) {
        let share = (weight / self.weight).min(1.0);
        for sum in [&mut self.weight, &mut self.size, &mut self.seconds, &mut self.size_size, &mut self.size_seconds] {
            *sum *= share;
        }
    }

    /// See [`ServiceLine::predict`].
    pub fn predict(&self, size: u64, now: Instant) -> Option<Duration> {
        self.line()?.predict(size, now)
    }

    /// See [`ServiceLine::expect`].
    pub fn expect(&self, size: u64, now: Instant) -> Option<Duration> {
        self.line()?.expect(size, now)
    }

    /// What was learned by now. `None` if nothing was ever observed.
    pub fn line(&self) -> Option<ServiceLine> {
        let observed = self.observed?;
        let (x, y) = (self.size / self.weight, self.seconds / self.weight);
        let (xx, xy) = (self.size_size / self.weight, self.size_seconds / self.weight);
        let variance = xx - x * x;
        let through_origin = if xx > 0.0 { xy / xx } else { 0.0 };
        let (fixed_s, per_unit_s, size_max) = if variance <= ALIKE * xx {
            // Smaller ones in proportion and larger ones alike: both err on the side of trying, which teaches.
            (0.0, through_origin, x)
        } else {
            let per_unit = (xy - x * y) / variance;
            let fixed = y - per_unit * x;
            match (per_unit < 0.0, fixed < 0.0) {
                (true, _) => (y, 0.0, f64::INFINITY),
                (false, true) => (0.0, through_origin, f64::INFINITY),
                (false, false) => (fixed, per_unit, f64::INFINITY),
            }
        };
        Some(ServiceLine { fixed_s, per_unit_s, size_max, deviation_s: self.deviation, observed })
    }
}

/// Of the time until a deadline, so much is for what nobody foretells: the way there and back, a core that is taken. A
/// queue that is admitted up to the last millisecond is answered after it.
const SPARE: u32 = 10;

/// What is to be counted on, of the time that is left until a deadline: nine tenths.
pub fn usable(left: Duration) -> Duration {
    left - left / SPARE
}
