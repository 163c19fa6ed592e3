//! What the scaler remembers of each version: how much was wanted, and when it last changed anything.
//!
//! Kept by the caller between two decisions, written by `decide` alone. Bounded: a few entries a version.

use crate::demand::{Busy, Signals};
use penstock_domain::{FunctionName, VersionNumber};
use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// What is averaged: long enough for requests to even out, short enough for a doubled load to be seen within two seconds.
const AVERAGED: Duration = Duration::from_secs(2);
/// What growth is measured over, in quarters: the mean of each against that of the one before.
const GROWTH: Duration = Duration::from_secs(16);
const QUARTER: Duration = Duration::from_secs(4);
/// Growth from quarter to quarter from which it is believed, if it is so much three times: a step, which ends, makes it twice at
/// most.
const GROWTH_BELIEVED: f64 = 1.1;
/// How far ahead growth is carried on at most, as a factor.
const PREDICTED_MAX: f64 = 2.0;
/// How busy environments are is told in lumps, ten times a second while they are: looks that follow each other faster count as one,
/// in seconds; and for how long it must have been seen.
const BUSY_LEAST_S: f64 = 0.05;
const BUSY_KNOWN_S: f64 = 0.5;
/// Entries that are kept.
const SAMPLES_MAX: usize = 128;

/// What was seen before, of all versions.
#[derive(Clone, Debug, Default)]
pub struct Scaler {
    pub(crate) versions: BTreeMap<(FunctionName, VersionNumber), History>,
}

/// What was seen before of one version.
#[derive(Clone, Debug)]
pub(crate) struct History {
    /// The last look.
    pub(crate) last: Signals,
    pub(crate) looked: Instant,
    /// Slots wanted at each look, and when; of the last [`GROWTH`].
    wanted: VecDeque<(Instant, f64)>,
    /// How busy it was between two looks, and when that was; of the last [`AVERAGED`].
    busy: VecDeque<(Instant, Busy)>,
    /// Environments wanted at each look, only those that nothing later exceeds: the first is the most.
    peaks: VecDeque<(Instant, u32)>,
    /// Mean time of a batch, when some were last run.
    pub(crate) batch_time: Option<Duration>,
    /// When anybody last wanted anything.
    pub(crate) asked: Instant,
    /// When it last had fewer than before.
    pub(crate) went_down: Option<Instant>,
}

impl History {
    /// Of a version that is seen for the first time.
    pub(crate) fn new(signals: &Signals, now: Instant) -> Self {
        Self {
            last: *signals,
            looked: now,
            wanted: VecDeque::new(),
            busy: VecDeque::new(),
            peaks: VecDeque::new(),
            batch_time: None,
            asked: now,
            went_down: None,
        }
    }

    /// Notes what is wanted now.
    pub(crate) fn note_wanted(&mut self, now: Instant, slots: f64) {
        match self.wanted.back_mut().filter(|(at, _)| *at == now) {
            // Looked at twice: what was counted since is nothing.
            Some((_, before)) => *before = before.max(slots),
            None => self.wanted.push_back((now, slots)),
        }
        while self.wanted.len() > SAMPLES_MAX || self.wanted.front().is_some_and(|(at, _)| now - *at > GROWTH) {
            self.wanted.pop_front();
        }
    }

    /// Notes how busy it was.
    pub(crate) fn note_busy(&mut self, now: Instant, busy: Busy) {
        match self.busy.back_mut().filter(|(_, last)| last.seconds < BUSY_LEAST_S) {
            Some(last) => *last = (now, last.1.and(busy)),
            None if busy.seconds > 0.0 => self.busy.push_back((now, busy)),
            None => {}
        }
        while self.busy.len() > SAMPLES_MAX || self.busy.front().is_some_and(|(at, _)| now - *at > AVERAGED) {
            self.busy.pop_front();
        }
    }

    /// How busy it was, on average over the last two seconds; not at all while too little is known.
    pub(crate) fn busy(&self) -> Busy {
        let all = self.busy.iter().fold(Busy::default(), |all, (_, busy)| all.and(*busy));
        if all.seconds < BUSY_KNOWN_S { Busy::default() } else { all }
    }

    /// Mean over the last two seconds.
    pub(crate) fn average(&self, now: Instant) -> f64 {
        self.mean(|at| now.saturating_duration_since(at) <= AVERAGED).unwrap_or(0.0)
    }

    /// By how much more is wanted in `ahead`, as a factor, if it grows on as it did: at least 1.
    pub(crate) fn growth(&self, now: Instant, ahead: Duration) -> f64 {
        // The youngest first; the oldest has its end, too.
        let part = |number: u32| {
            let mean = self.mean(|at| {
                let age = now.saturating_duration_since(at);
                age >= QUARTER * number && (age < QUARTER * (number + 1) || number == 3)
            });
            mean.filter(|slots| *slots > 0.0)
        };
        let [Some(last), Some(third), Some(second), Some(first)] = [0, 1, 2, 3].map(part) else { return 1.0 };
        let factor = (last / third).min(third / second).min(second / first);
        if factor < GROWTH_BELIEVED {
            return 1.0;
        }
        // So much in a quarter; from the last one's middle to now it has grown on already.
        let spans = ahead.as_secs_f64() / QUARTER.as_secs_f64();
        factor.powf(spans).clamp(1.0, PREDICTED_MAX)
    }

    fn mean(&self, among: impl Fn(Instant) -> bool) -> Option<f64> {
        let (mut sum, mut count) = (0.0, 0u32);
        for (_, slots) in self.wanted.iter().filter(|(at, _)| among(*at)) {
            (sum, count) = (sum + slots, count + 1);
        }
        (count > 0).then(|| sum / f64::from(count))
    }

    /// Notes how many environments are wanted now; the most of the last `span`, this one included.
    pub(crate) fn peak(&mut self, now: Instant, environments: u32, span: Duration) -> u32 {
        while self.peaks.back().is_some_and(|(_, before)| *before <= environments) {
            self.peaks.pop_back();
        }
        self.peaks.push_back((now, environments));
        while self.peaks.len() > 1 && self.peaks.front().is_some_and(|(at, _)| now - *at > span) {
            self.peaks.pop_front();
        }
        self.peaks.front().map_or(environments, |(_, most)| *most)
    }
}
