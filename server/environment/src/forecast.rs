//! What the front end foretells of an environment: from how much is in flight there and how long its batches took, when a
//! request that is sent now would be done. Pure: `now` is an argument.
//!
//! Called by the handle, and through it by dispatch for requests with a deadline. It sees neither tokens nor the queue: it
//! is there so that the hopeless do not cross the link, errs on the side of sending, and the environment judges the rest.

use parking_lot::Mutex;
use penstock_admission::{Backlog, Caution, ServiceTime};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Most rows of a request that may be split, as far as they count here.
const SPLITTABLE_ROWS_MAX: u64 = 1 << 20;

pub(crate) struct Forecast {
    workers: u32,
    /// Most items in a batch; `None` where each request is a batch of its own, and counts as one item.
    batch_items_max: Option<u32>,
    /// In flight: waiting and running.
    items: AtomicU64,
    learned: Mutex<Learned>,
}

struct Learned {
    service: ServiceTime,
    /// When the batch that runs now began, as far as it can be told: when the last one ended, or work came after none.
    began: Instant,
}

impl Forecast {
    pub(crate) fn new(workers: u32, batch_items_max: Option<u32>, now: Instant) -> Self {
        let learned = Mutex::new(Learned { service: ServiceTime::default(), began: now });
        Self { workers: workers.max(1), batch_items_max, items: AtomicU64::new(0), learned }
    }

    /// What a request of so many rows counts as. Nobody has checked the rows yet.
    pub(crate) fn counted(&self, rows: u64, splittable: bool) -> u64 {
        match self.batch_items_max {
            None => 1,
            Some(_) if splittable => rows.clamp(1, SPLITTABLE_ROWS_MAX),
            Some(most) => rows.clamp(1, u64::from(most)),
        }
    }

    /// A request was sent; [`Forecast::left`] when it has ended.
    pub(crate) fn sent(&self, items: u64, now: Instant) {
        if self.items.fetch_add(items, Ordering::Relaxed) == 0 {
            self.learned.lock().began = now;
        }
    }

    /// A request has ended.
    pub(crate) fn left(&self, items: u64) {
        self.items.fetch_sub(items, Ordering::Relaxed);
    }

    /// A batch has run.
    pub(crate) fn ran(&self, items: u32, took: Duration, now: Instant) {
        let mut learned = self.learned.lock();
        let size = self.batch_items_max.map_or(1, |_| u64::from(items));
        learned.service.observe(size, took, now);
        learned.began = now;
    }

    /// How long until a request of so many items would be done, in the mean. `None` if nothing ran lately.
    pub(crate) fn done_in(&self, items: u64, now: Instant) -> Option<Duration> {
        let learned = self.learned.lock();
        let time = |size| learned.service.expect(size, now);
        let work = self.work();
        let (batch, waiting) = (work.batch, work.waiting);
        let free_in = self.free_in_after(&work, &learned, now)?;
        let own_batch_size = (waiting % batch).saturating_add(items).min(batch.max(items));
        let batches = waiting as f64 / batch as f64;
        let backlog = Backlog { batches, batch_size: batch, workers: self.workers, free_in };
        backlog.done_in(own_batch_size, time, Caution::NONE)
    }

    /// How long until a batch ends, in the mean; zero where a worker is idle. `None` if nothing ran lately.
    pub(crate) fn free_in(&self, now: Instant) -> Option<Duration> {
        self.free_in_after(&self.work(), &self.learned.lock(), now)
    }

    /// What is in flight, as it would lie in batches.
    fn work(&self) -> Work {
        let in_flight = self.items.load(Ordering::Relaxed);
        let batch = u64::from(self.batch_items_max.unwrap_or(1)).max(1);
        let running = in_flight.min(batch * u64::from(self.workers));
        Work { batch, running, waiting: in_flight - running }
    }

    fn free_in_after(&self, work: &Work, learned: &Learned, now: Instant) -> Option<Duration> {
        let workers = u64::from(self.workers);
        if work.running.div_ceil(work.batch) < workers {
            return Some(Duration::ZERO);
        }
        let takes = learned.service.expect(work.running / workers, now)?;
        Some(takes.saturating_sub(now.saturating_duration_since(learned.began)))
    }
}

/// In items.
struct Work {
    /// Most in a batch.
    batch: u64,
    running: u64,
    waiting: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    #[allow(clippy::disallowed_methods)] // a test needs some instant to start from
    fn what_is_in_flight_is_done_first() {
        let start = Instant::now();
        let forecast = Forecast::new(1, Some(8), start);
        assert_eq!(forecast.done_in(1, start), None, "nothing ran yet");
        for n in 0..40u32 {
            forecast.ran(1 + n % 8, 10 * MS, start);
        }
        let done_in = |now| (forecast.done_in(1, now).unwrap().as_secs_f64() * 1e3).round();
        assert_eq!(done_in(start), 10.0, "nothing is in flight");
        forecast.sent(8, start);
        assert_eq!(done_in(start), 20.0);
        assert_eq!(done_in(start + 4 * MS), 16.0, "the batch that runs has come on");
        forecast.sent(20, start);
        assert_eq!(done_in(start), 40.0, "it is in the third batch after this");
        forecast.left(28);
        assert_eq!(done_in(start), 10.0);
        assert_eq!(forecast.done_in(1, start + 2000 * MS), None, "that is too long ago");
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // a test needs some instant to start from
    fn rows_count_as_far_as_a_batch_may_have_them() {
        let start = Instant::now();
        let (together, alone) = (Forecast::new(1, Some(8), start), Forecast::new(3, None, start));
        assert_eq!([0, 5, u64::MAX].map(|rows| together.counted(rows, false)), [1, 5, 8]);
        assert_eq!((together.counted(u64::MAX, true), alone.counted(u64::MAX, false)), (1 << 20, 1));
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // a test needs some instant to start from
    fn workers_share_the_work() {
        let start = Instant::now();
        let forecast = Forecast::new(2, None, start);
        (0..10).for_each(|_| forecast.ran(1, 10 * MS, start));
        forecast.sent(1, start);
        assert_eq!(forecast.done_in(1, start), Some(10 * MS), "one of them is free");
        forecast.sent(1, start);
        forecast.sent(4, start);
        assert_eq!(forecast.done_in(1, start), Some(40 * MS), "two rounds after the one that runs");
    }
}
