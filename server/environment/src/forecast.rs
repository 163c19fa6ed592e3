//! What the front end foretells of an environment: from how much is in flight there and how long its batches took, when a
//! request that is sent now would be done. Pure: `now` is an argument.
//!
//! Called by the handle, and through it by dispatch for requests with a deadline. It sees neither tokens nor the queue: it
//! is there so that the hopeless do not cross the link, errs on the side of sending, and the environment judges the rest.

use parking_lot::Mutex;
use penstock_admission::{Backlog, Caution, ServiceTime};
use std::collections::VecDeque;
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
    /// When the batches that run began, in order.
    began: VecDeque<Instant>,
    /// Their items, as far as their callers have not left.
    running: u64,
}

impl Forecast {
    pub(crate) fn new(workers: u32, batch_items_max: Option<u32>) -> Self {
        let learned = Learned { service: ServiceTime::default(), began: VecDeque::new(), running: 0 };
        Self { workers: workers.max(1), batch_items_max, items: AtomicU64::new(0), learned: Mutex::new(learned) }
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
    pub(crate) fn sent(&self, items: u64) {
        self.items.fetch_add(items, Ordering::Relaxed);
    }

    /// A request has ended.
    pub(crate) fn left(&self, items: u64) {
        self.items.fetch_sub(items, Ordering::Relaxed);
    }

    /// A batch begins, with requests of so many items that had not begun before.
    pub(crate) fn begun(&self, items: u64, now: Instant) {
        let mut learned = self.learned.lock();
        learned.began.push_back(now);
        learned.running += items;
    }

    /// One of so many items that had begun has been answered, or its caller has left.
    pub(crate) fn ended(&self, items: u64) {
        let mut learned = self.learned.lock();
        learned.running = learned.running.saturating_sub(items);
    }

    /// A batch has run.
    pub(crate) fn ran(&self, items: u32, took: Duration, now: Instant) {
        let mut learned = self.learned.lock();
        let size = self.batch_items_max.map_or(1, |_| u64::from(items));
        learned.service.observe(size, took, now);
        // Which of them it was is not told; that it began first is likely, and errs little.
        learned.began.pop_front();
    }

    /// How long until a request of so many items would be done, in the mean, with as much longer before its own batch as
    /// `caution` says. `None` if nothing ran lately.
    pub(crate) fn done_in(&self, items: u64, now: Instant, caution: Caution) -> Option<Duration> {
        let learned = self.learned.lock();
        let batch = u64::from(self.batch_items_max.unwrap_or(1)).max(1);
        let waiting = self.items.load(Ordering::Relaxed).saturating_sub(learned.running);
        let own_batch_size = (waiting % batch).saturating_add(items).min(batch.max(items));
        let free_in = if learned.began.len() < self.workers as usize {
            Duration::ZERO
        } else {
            self.first_ends_in(&learned, now)?
        };
        let backlog =
            Backlog { batches: waiting as f64 / batch as f64, batch_size: batch, workers: self.workers, free_in };
        backlog.done_in(own_batch_size, |size| learned.service.expect(size, now), caution)
    }

    /// How long until a batch ends, in the mean. `None` if none runs or nothing ran lately.
    pub(crate) fn ends_in(&self, now: Instant) -> Option<Duration> {
        self.first_ends_in(&self.learned.lock(), now)
    }

    fn first_ends_in(&self, learned: &Learned, now: Instant) -> Option<Duration> {
        let began = learned.began.front()?;
        let each = learned.running / learned.began.len() as u64;
        // A request that is split over several batches counts whole from its first.
        let size = each.min(self.batch_items_max.unwrap_or(1).into());
        Some(learned.service.expect(size, now)?.saturating_sub(now.saturating_duration_since(*began)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    #[allow(clippy::disallowed_methods)] // a test needs some instant to start from
    fn what_is_in_flight_is_done_first() {
        let start = Instant::now();
        let forecast = Forecast::new(1, Some(8));
        assert_eq!(forecast.done_in(1, start, Caution::NONE), None, "nothing ran yet");
        for n in 0..40u32 {
            forecast.ran(1 + n % 8, 10 * MS, start);
        }
        let told = |now, caution| (forecast.done_in(1, now, caution).unwrap().as_secs_f64() * 1e3).round();
        let done_in = |now| told(now, Caution::NONE);
        assert_eq!(done_in(start), 10.0, "nothing is in flight");
        forecast.sent(1);
        forecast.begun(1, start);
        assert_eq!(done_in(start), 20.0);
        assert_eq!(done_in(start + 4 * MS), 16.0, "the batch that runs has come on");
        forecast.sent(20);
        assert_eq!(done_in(start), 40.0, "it is in the third batch after this, however few run in it");
        assert_eq!(told(start, Caution::default()), 46.0, "a fifth more for what comes before");
        forecast.ran(1, 10 * MS, start);
        forecast.ended(1);
        forecast.left(21);
        assert_eq!(done_in(start), 10.0);
        assert_eq!(forecast.done_in(1, start + 2000 * MS, Caution::NONE), None, "that is too long ago");
    }

    #[test]
    fn rows_count_as_far_as_a_batch_may_have_them() {
        let (together, alone) = (Forecast::new(1, Some(8)), Forecast::new(3, None));
        assert_eq!([0, 5, u64::MAX].map(|rows| together.counted(rows, false)), [1, 5, 8]);
        assert_eq!((together.counted(u64::MAX, true), alone.counted(u64::MAX, false)), (1 << 20, 1));
    }

    #[test]
    #[allow(clippy::disallowed_methods)] // a test needs some instant to start from
    fn workers_share_the_work() {
        let start = Instant::now();
        let forecast = Forecast::new(2, None);
        (0..10).for_each(|_| forecast.ran(1, 10 * MS, start));
        let done_in = || forecast.done_in(1, start, Caution::NONE);
        forecast.sent(6);
        forecast.begun(1, start);
        assert_eq!(done_in(), Some(30 * MS), "one of them is free: two rounds and its own");
        forecast.begun(1, start + 6 * MS);
        assert_eq!(forecast.ends_in(start + 8 * MS), Some(2 * MS), "the one that began first");
        assert_eq!(done_in(), Some(40 * MS), "two rounds after the one that runs");
        forecast.ran(1, 10 * MS, start);
        assert_eq!(forecast.ends_in(start + 8 * MS), Some(8 * MS));
        forecast.ran(1, 10 * MS, start);
        assert_eq!(forecast.ends_in(start), None, "none runs");
    }
}
