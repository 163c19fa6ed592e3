//! When a request that comes now would be done: what stands before it, and the batch it would be in.
//!
//! Called by both ends of the link, so that they judge alike: the environment by its queue, the front end by what it has
//! sent and what the environment told.

use crate::Caution;
use std::time::Duration;

/// The largest batch that may be formed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FullBatch {
    /// Places in it: items, or 1 where each request is a batch of its own.
    pub places: u64,
    /// Its size, in the unit its cost grows with: items or tokens.
    pub size: u64,
}

impl FullBatch {
    /// Of what nobody shares: each request is a batch of its own, whatever its size.
    pub const ALONE: Self = Self { places: 1, size: u64::MAX };
}

/// What waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Queued {
    /// Places that it takes.
    pub places: u64,
    /// Its size, in the unit a batch's cost grows with.
    pub size: u64,
}

impl Queued {
    /// How many batches it makes, parts of one counted, and the size of each: all are full but the last.
    pub fn batches(&self, full: FullBatch) -> (f64, f64) {
        let by_places = self.places as f64 / full.places.max(1) as f64;
        let by_size = self.size as f64 / full.size.max(1) as f64;
        let batches = by_places.max(by_size);
        (batches, self.size as f64 / batches.max(1.0))
    }

    /// The size of the batch that a request of `size` would be in, which comes after all this: it joins the last, as far
    /// as there is room.
    pub fn joined_by(&self, size: u64, full: FullBatch) -> u64 {
        if full.places <= 1 {
            return size;
        }
        let (batches, batch_size) = self.batches(full);
        let company = if batches >= 1.0 { batch_size * batches.fract() } else { batch_size };
        (company as u64).saturating_add(size).min(full.size.max(size))
    }
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
    /// What waits, where `workers` share the work and one of them is free in so long.
    pub fn new(queued: Queued, full: FullBatch, workers: u32, free_in: Duration) -> Self {
        let (batches, batch_size) = queued.batches(full);
        Self { batches, batch_size: batch_size as u64, workers, free_in }
    }

    /// From now until the batch after these begins, where a batch of a size takes `time`. `None` if that is not known.
    pub fn begins_in(&self, time: impl Fn(u64) -> Option<Duration>) -> Option<Duration> {
        let rounds = (self.batches / f64::from(self.workers.max(1))).floor();
        let before = match rounds > 0.0 {
            true => time(self.batch_size)?.checked_mul(rounds as u32).unwrap_or(Duration::MAX),
            false => Duration::ZERO,
        };
        Some(self.free_in.saturating_add(before))
    }

    /// When a request would be done that is in the batch after these, of `own_batch_size` with it, where as much
    /// longer is reckoned with before that batch as `caution` says. `None` if that is not known.
    pub fn done_in(
        &self,
        own_batch_size: u64,
        time: impl Fn(u64) -> Option<Duration>,
        caution: Caution,
    ) -> Option<Foretold> {
        let begins_in = self.begins_in(&time)?;
        let wait = caution.of(begins_in);
        Some(Foretold { done_in: wait.saturating_add(time(own_batch_size)?), wait, caution })
    }
}

/// When a request would be done.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Foretold {
    /// From now.
    pub done_in: Duration,
    /// Until its batch begins, of that; `caution` is in it.
    wait: Duration,
    caution: Caution,
}

impl Foretold {
    /// How long to wait until one like it would be done within `left`, from then. Zero if this one would. Where no wait is
    /// enough, because its own batch takes longer, what it lacks.
    pub fn in_time_in(&self, left: Duration) -> Duration {
        let excess = self.done_in.saturating_sub(left);
        self.caution.gone_in(excess.min(self.wait)).saturating_add(excess.saturating_sub(self.wait))
    }
}
