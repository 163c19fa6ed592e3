//! What the front end foretells of an environment: from how much is in flight there and what the environment reckons with,
//! when a request that is sent now would be done. Pure: `now` is an argument.
//!
//! Called by the handle, and through it by dispatch for requests with a deadline. It judges as the environment would, so
//! that what is refused there anyway does not cross the link: an environment that is busy says no late.

use crate::demand::{Counting, Demand, Shape};
use parking_lot::Mutex;
use penstock_admission::{Backlog, Caution, Foretold, Queued, ServiceLine};
use penstock_domain::Invocation;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What a refusal as late by the environment adds to every wait foretold, once between two of its batches.
const EDGE_STEP: f64 = 0.005;
/// Of such moments one is accepted for so many items that run.
const ITEMS_PER_REFUSED: f64 = 2000.0;
/// Both ends reckon alike, so they differ by little.
const EDGE_MAX: f64 = 0.1;

/// What an environment reckons with when it judges whether a request will be in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outlook {
    pub(crate) line: ServiceLine,
    pub(crate) caution: Caution,
}

/// Sums of [`Demand`]s.
#[derive(Debug, Default)]
struct InFlight {
    places: AtomicU64,
    size: AtomicU64,
}

pub(crate) struct Forecast {
    shape: Shape,
    /// Waiting and running.
    in_flight: InFlight,
    counting: Counting,
    learned: Mutex<Learned>,
}

#[derive(Default)]
struct Learned {
    outlook: Option<Outlook>,
    /// When the batches that run could have been formed, in the order in which they began.
    began: VecDeque<Instant>,
    /// What is in them, as far as its callers have not left.
    running: Queued,
    /// Where the queue is just as long as may be, each request is at the edge, and the two ends would differ by a hair
    /// on half of them. So much more, as a share, the front end reckons with.
    edge: f64,
    /// It has grown since the environment last told what it reckons with.
    edge_grown: bool,
}

impl Forecast {
    pub(crate) fn new(shape: Shape) -> Self {
        let shape = Shape { workers: shape.workers.max(1), ..shape };
        Self { shape, in_flight: InFlight::default(), counting: Counting::new(shape), learned: Mutex::default() }
    }

    /// What a request counts as. Nobody has checked its tensors yet.
    pub(crate) fn demand(&self, invocation: &Invocation) -> Demand {
        self.counting.demand(invocation)
    }

    /// A request was sent; [`Forecast::left`] when it has ended.
    pub(crate) fn sent(&self, demand: Demand) {
        self.in_flight.places.fetch_add(demand.queued.places, Ordering::Relaxed);
        self.in_flight.size.fetch_add(demand.queued.size, Ordering::Relaxed);
    }

    /// A request has ended.
    pub(crate) fn left(&self, demand: Demand) {
        self.in_flight.places.fetch_sub(demand.queued.places, Ordering::Relaxed);
        self.in_flight.size.fetch_sub(demand.queued.size, Ordering::Relaxed);
    }

    /// A batch begins, with these requests that had not begun before. It could have been formed at `wanted`: what batches
    /// take, as it is told, begins with that.
    pub(crate) fn begun(&self, demands: impl Iterator<Item = Demand>, wanted: Instant) {
        let mut learned = self.learned.lock();
        learned.began.push_back(wanted);
        for Demand { queued, .. } in demands {
            learned.running.places += queued.places;
            learned.running.size += queued.size;
        }
    }

    /// One that had begun has been answered, or its caller has left.
    pub(crate) fn ended(&self, demand: Demand) {
        let running = &mut self.learned.lock().running;
        running.places = running.places.saturating_sub(demand.queued.places);
        running.size = running.size.saturating_sub(demand.queued.size);
    }

    /// A batch of so many items has run; what the environment reckons with since.
    pub(crate) fn ran(&self, items: u32, outlook: Option<Outlook>) {
        let mut learned = self.learned.lock();
        learned.edge = (learned.edge - f64::from(items) * EDGE_STEP / ITEMS_PER_REFUSED).max(0.0);
        learned.outlook = outlook.or(learned.outlook);
        learned.edge_grown = false;
        // Which of them it was is not told; that it began first is likely, and errs little.
        learned.began.pop_front();
    }

    /// The environment refused one as late that had been sent. Several at a time have one cause.
    pub(crate) fn refused_as_late(&self) {
        let mut learned = self.learned.lock();
        if !std::mem::replace(&mut learned.edge_grown, true) {
            learned.edge = (learned.edge + EDGE_STEP).min(EDGE_MAX);
        }
    }

    /// The environment served one, which had so many tokens.
    pub(crate) fn served(&self, demand: Demand, tokens: u64) {
        self.counting.observe(demand, tokens);
    }

    /// When such a request would be done, as the environment would reckon. `None` if nothing ran lately.
    pub(crate) fn done_in(&self, demand: Demand, now: Instant) -> Option<Foretold> {
        let learned = self.learned.lock();
        let Outlook { line, caution } = learned.outlook?;
        let time = |size| line.predict(size, now);
        let waiting = |sum: &AtomicU64, running: u64| sum.load(Ordering::Relaxed).saturating_sub(running);
        let queued = Queued {
            places: waiting(&self.in_flight.places, learned.running.places),
            size: waiting(&self.in_flight.size, learned.running.size),
        };
        let idle = learned.began.len() < self.shape.workers as usize;
        let free_in = if idle { Duration::ZERO } else { self.first_ends_in(&learned, time, now)? };
        let full = self.shape.full_batch();
        let backlog = Backlog::new(queued, full, self.shape.workers, free_in);
        backlog.done_in(queued.joined_by(demand.size_min, full), time, caution.plus(learned.edge))
    }

    /// How long until a batch ends, in the mean. `None` if none runs or nothing ran lately.
    pub(crate) fn ends_in(&self, now: Instant) -> Option<Duration> {
        let learned = self.learned.lock();
        let line = learned.outlook?.line;
        self.first_ends_in(&learned, |size| line.expect(size, now), now)
    }

    fn first_ends_in(
        &self,
        learned: &Learned,
        time: impl Fn(u64) -> Option<Duration>,
        now: Instant,
    ) -> Option<Duration> {
        let began = learned.began.front()?;
        let each = learned.running.size / learned.began.len() as u64;
        // A request that is split over several batches counts whole from its first.
        let size = each.min(self.shape.batch_size_max());
        Some(time(size)?.saturating_sub(now.saturating_duration_since(*began)))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
mod tests {
    use super::*;
    use crate::demand::tests::{ITEMS, TEXTS, request};
    use penstock_domain::Datatype;

    const MS: Duration = Duration::from_millis(1);

    /// A batch takes 10 ms and `per_unit` for each unit of its size, and a fifth is added to every wait.
    fn outlook(per_unit: Duration, observed: Instant) -> Option<Outlook> {
        let per_unit_s = per_unit.as_secs_f64();
        let line = ServiceLine { fixed_s: 0.01, per_unit_s, size_max: f64::INFINITY, deviation_s: 0.0, observed };
        Some(Outlook { line, caution: Caution::with_margin(0.2) })
    }

    fn millis(told: Option<Foretold>) -> f64 {
        (told.unwrap().done_in.as_secs_f64() * 1e4).round() / 10.0
    }

    #[test]
    fn what_is_in_flight_is_done_first() {
        let (start, forecast) = (Instant::now(), Forecast::new(ITEMS));
        let demand = |rows| forecast.demand(&request(Datatype::Fp32, rows, 0));
        let done_in = |now| millis(forecast.done_in(demand(1), now));
        assert_eq!(forecast.done_in(demand(1), start), None, "nothing ran yet");
        forecast.ran(1, outlook(Duration::ZERO, start));
        assert_eq!(done_in(start), 10.0, "nothing is in flight");
        forecast.sent(demand(1));
        forecast.begun([demand(1)].into_iter(), start);
        assert_eq!(done_in(start), 22.0, "a fifth more for what comes before");
        assert_eq!(done_in(start + 5 * MS), 16.0, "the batch that runs has come on");
        (0..5).for_each(|_| forecast.sent(demand(4)));
        assert_eq!(done_in(start), 46.0, "it is in the third batch after this");
        forecast.ran(0, None);
        forecast.ended(demand(1));
        forecast.left(demand(1));
        (0..5).for_each(|_| forecast.left(demand(4)));
        assert_eq!(done_in(start), 10.0);
        assert_eq!(forecast.done_in(demand(1), start + 2000 * MS), None, "that is too long ago");
    }

    #[test]
    fn what_waits_counts_by_its_tokens() {
        let (start, forecast) = (Instant::now(), Forecast::new(TEXTS));
        let text = |bytes| forecast.demand(&request(Datatype::Bytes, 1, bytes));
        forecast.served(text(100), 25);
        forecast.ran(1, outlook(MS, start));
        // Two batches by their tokens, though there is room for all in one.
        (0..4).for_each(|_| forecast.sent(text(400)));
        let done_in = millis(forecast.done_in(text(400), start));
        assert_eq!(done_in, 1.2 * 2.0 * 210.0 + 60.0, "of its own tokens, which nobody has counted, half are certain");
    }

    #[test]
    fn the_environments_refusals_make_it_reckon_with_more() {
        let (start, forecast) = (Instant::now(), Forecast::new(ITEMS));
        let one = forecast.demand(&request(Datatype::Fp32, 1, 0));
        forecast.ran(1, outlook(Duration::ZERO, start));
        forecast.sent(one);
        forecast.begun([one].into_iter(), start);
        let done_in = || millis(forecast.done_in(one, start));
        assert_eq!(done_in(), 22.0);
        let refusals = |moments| {
            for _ in 0..moments {
                (0..3).for_each(|_| forecast.refused_as_late());
                forecast.learned.lock().edge_grown = false; // another batch has run
            }
        };
        refusals(10);
        assert_eq!(done_in(), 22.5);
        refusals(1000);
        assert_eq!(done_in(), 23.0, "a tenth of the wait at most");
        let wait = forecast.done_in(one, start).unwrap().in_time_in(10 * MS);
        assert_eq!(wait, 10 * MS, "once the batch that runs has ended");
        forecast.begun([one].into_iter(), start);
        forecast.ran(50_000, None);
        assert_eq!(done_in(), 22.0);
    }

    #[test]
    fn workers_share_the_work() {
        let start = Instant::now();
        let forecast = Forecast::new(Shape { workers: 2, batch_items_max: None, ..ITEMS });
        let one = forecast.demand(&request(Datatype::Fp32, 1, 0));
        let done_in = || millis(forecast.done_in(one, start));
        forecast.ran(1, outlook(Duration::ZERO, start));
        (0..6).for_each(|_| forecast.sent(one));
        forecast.begun([one].into_iter(), start);
        assert_eq!(done_in(), 34.0, "one of them is free: two rounds and its own");
        forecast.begun([one].into_iter(), start + 6 * MS);
        assert_eq!(forecast.ends_in(start + 8 * MS), Some(2 * MS), "the one that began first");
        assert_eq!(done_in(), 46.0, "two rounds after the one that runs");
        forecast.ran(0, None);
        assert_eq!(forecast.ends_in(start + 8 * MS), Some(8 * MS));
        forecast.ran(0, None);
        assert_eq!(forecast.ends_in(start), None, "none runs");
    }
}
