//! What the front end foretells of an environment: from how much is in flight there and what the environment reckons with,
//! when a request that is sent now would be done. Pure: `now` is an argument.
//!
//! Called by the handle, and through it by dispatch for requests with a deadline. It judges as the environment would, so
//! that what is refused there anyway does not cross the link: an environment that is busy says no late. It does not see
//! tokens, and reckons with as many as earlier texts of as many bytes had.

use parking_lot::Mutex;
use penstock_admission::{Backlog, Caution, Foretold, FullBatch, Queued, ServiceLine};
use penstock_domain::{Datatype, Invocation};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Most rows of a request that may be split, as far as they count here.
const SPLITTABLE_ROWS_MAX: u64 = 1 << 20;
/// Weight that is left of a text after the next: about the last hundred count.
const FORGET: f64 = 0.99;

/// What a refusal as late by the environment adds to every wait foretold, of what the front end took for in time.
const EDGE_STEP: f64 = 0.002;
/// One such refusal is accepted for so many that are served.
const SERVED_PER_REFUSED: f64 = 500.0;
/// Both ends reckon alike, so they differ by little.
const EDGE_MAX: f64 = 0.1;

/// What an environment reckons with when it judges whether a request will be in time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Outlook {
    pub(crate) line: ServiceLine,
    pub(crate) caution: Caution,
}

/// How an environment forms its batches, as far as the front end knows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) workers: u32,
    /// Most items in a batch; `None` where each request is a batch of its own.
    pub(crate) batch_items_max: Option<u32>,
    /// Most rows of a request that may not be split; 0 where it has none.
    pub(crate) rows_max: u32,
    /// Tokens of one item and of a batch, at most, where its cost grows with them.
    pub(crate) tokens_max: Option<(u32, u64)>,
}

impl Shape {
    fn full_batch(&self) -> FullBatch {
        let Some(items) = self.batch_items_max.map(u64::from) else { return FullBatch::ALONE };
        FullBatch { places: items, size: self.tokens_max.map_or(items, |(_, batch)| batch.max(1)) }
    }
}

/// What a request counts as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Demand {
    queued: Queued,
    /// Bytes of text in it, where it counts by its tokens and nobody has counted them yet.
    text_bytes: u64,
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
    /// Tokens of a byte of text, as bits; 0 before any was seen.
    tokens_per_byte: AtomicU64,
    learned: Mutex<Learned>,
}

#[derive(Default)]
struct Learned {
    outlook: Option<Outlook>,
    /// When the batches that run began, in order.
    began: VecDeque<Instant>,
    /// What is in them, as far as its callers have not left.
    running: Queued,
    /// Of the texts seen, forgotten exponentially.
    tokens: f64,
    text_bytes: f64,
    /// Where the queue is just as long as may be, each request is at the edge, and the two ends would differ by a hair
    /// on half of them. So much more, as a share, the front end reckons with.
    edge: f64,
}

impl Forecast {
    pub(crate) fn new(shape: Shape) -> Self {
        let shape = Shape { workers: shape.workers.max(1), ..shape };
        Self { shape, in_flight: InFlight::default(), tokens_per_byte: AtomicU64::new(0), learned: Mutex::default() }
    }

    /// What a request counts as. Nobody has checked its tensors yet.
    pub(crate) fn demand(&self, invocation: &Invocation) -> Demand {
        let most = if invocation.splittable { SPLITTABLE_ROWS_MAX } else { self.shape.rows_max.into() };
        let rows = invocation.items(self.shape.rows_max > 0).clamp(1, most.max(1));
        let places = if self.shape.batch_items_max.is_some() { rows } else { 1 };
        let Some((longest, _)) = self.shape.tokens_max else {
            return Demand { queued: Queued { places, size: rows }, text_bytes: 0 };
        };
        let text = |datatype| datatype == Datatype::Bytes;
        let bytes = |of_text: bool| {
            let inputs = invocation.inputs.iter().filter(|tensor| text(tensor.datatype) == of_text);
            inputs
                .map(|tensor| (tensor.data.len() / tensor.datatype.element_bytes().unwrap_or(1)) as u64)
                .max()
                .unwrap_or(0)
        };
        // What is no text is one number for each token.
        let (text_bytes, ids) = (bytes(true), bytes(false));
        let tokens_per_byte = f64::from_bits(self.tokens_per_byte.load(Ordering::Relaxed));
        let tokens = if text_bytes > 0 { (text_bytes as f64 * tokens_per_byte) as u64 } else { ids };
        let size = tokens.clamp(rows, rows.saturating_mul(longest.max(1).into()));
        Demand { queued: Queued { places, size }, text_bytes }
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

    /// A batch begins, with these requests that had not begun before.
    pub(crate) fn begun(&self, demands: impl Iterator<Item = Demand>, now: Instant) {
        let mut learned = self.learned.lock();
        learned.began.push_back(now);
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

    /// A batch has run; what the environment reckons with since.
    pub(crate) fn ran(&self, outlook: Option<Outlook>) {
        let mut learned = self.learned.lock();
        learned.outlook = outlook.or(learned.outlook);
        // Which of them it was is not told; that it began first is likely, and errs little.
        learned.began.pop_front();
    }

    /// The environment refused one as late that was foretold to be in time.
    pub(crate) fn refused_as_late(&self) {
        let mut learned = self.learned.lock();
        learned.edge = (learned.edge + EDGE_STEP).min(EDGE_MAX);
    }

    /// The environment served one.
    pub(crate) fn served(&self, demand: Demand, tokens: u64) {
        let mut learned = self.learned.lock();
        learned.edge = (learned.edge - EDGE_STEP / SERVED_PER_REFUSED).max(0.0);
        if demand.text_bytes == 0 || tokens == 0 {
            return;
        }
        learned.tokens = learned.tokens * FORGET + tokens as f64;
        learned.text_bytes = learned.text_bytes * FORGET + demand.text_bytes as f64;
        let tokens_per_byte = learned.tokens / learned.text_bytes;
        self.tokens_per_byte.store(tokens_per_byte.to_bits(), Ordering::Relaxed);
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
        backlog.done_in(queued.joined_by(demand.queued.size, full), time, caution.plus(learned.edge))
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
        let size = each.min(self.shape.full_batch().size);
        Some(time(size)?.saturating_sub(now.saturating_duration_since(*began)))
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
mod tests {
    use super::*;
    use bytes::Bytes;
    use penstock_domain::{FunctionName, Tensor};

    const MS: Duration = Duration::from_millis(1);
    const ITEMS: Shape = Shape { workers: 1, batch_items_max: Some(8), rows_max: 8, tokens_max: None };
    const TEXTS: Shape = Shape { workers: 1, batch_items_max: Some(8), rows_max: 8, tokens_max: Some((100, 200)) };

    fn request(datatype: Datatype, rows: i64, bytes: usize) -> Invocation {
        let data = Bytes::from(vec![0; bytes]);
        let tensor = Tensor { name: "in".into(), datatype, shape: vec![rows, 1].into(), data };
        Invocation {
            function: FunctionName::new("f").unwrap(),
            version: None,
            id: String::new(),
            parameters: Vec::new(),
            inputs: vec![tensor],
            outputs: Vec::new(),
            deadline: None,
            priority: 0,
            caller: None,
            splittable: false,
        }
    }

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
        forecast.ran(outlook(Duration::ZERO, start));
        assert_eq!(done_in(start), 10.0, "nothing is in flight");
        forecast.sent(demand(1));
        forecast.begun([demand(1)].into_iter(), start);
        assert_eq!(done_in(start), 22.0, "a fifth more for what comes before");
        assert_eq!(done_in(start + 5 * MS), 16.0, "the batch that runs has come on");
        (0..5).for_each(|_| forecast.sent(demand(4)));
        assert_eq!(done_in(start), 46.0, "it is in the third batch after this");
        forecast.ran(None);
        forecast.ended(demand(1));
        forecast.left(demand(1));
        (0..5).for_each(|_| forecast.left(demand(4)));
        assert_eq!(done_in(start), 10.0);
        assert_eq!(forecast.done_in(demand(1), start + 2000 * MS), None, "that is too long ago");
    }

    #[test]
    fn rows_count_as_far_as_a_batch_may_have_them() {
        let together = Forecast::new(ITEMS);
        let alone = Forecast::new(Shape { batch_items_max: None, ..ITEMS });
        let bare = Forecast::new(Shape { batch_items_max: None, rows_max: 0, ..ITEMS });
        let rows = |forecast: &Forecast, rows, splittable| {
            let request = Invocation { splittable, ..request(Datatype::Fp32, rows, 0) };
            let Queued { places, size } = forecast.demand(&request).queued;
            (places, size)
        };
        assert_eq!([-1, 0, 5, i64::MAX].map(|n| rows(&together, n, false)), [(1, 1), (1, 1), (5, 5), (8, 8)]);
        assert_eq!(rows(&together, i64::MAX, true), (1 << 20, 1 << 20));
        assert_eq!((rows(&alone, 5, false), rows(&bare, 5, false)), ((1, 5), (1, 1)));
    }

    #[test]
    fn texts_count_as_many_tokens_as_others_of_as_many_bytes_had() {
        let (start, forecast) = (Instant::now(), Forecast::new(TEXTS));
        let size = |datatype, rows, bytes| forecast.demand(&request(datatype, rows, bytes)).queued.size;
        assert_eq!(size(Datatype::Bytes, 2, 400), 2, "nobody knows: as few as there can be");
        assert_eq!(size(Datatype::Int64, 2, 400), 50, "one number for each token");
        for bytes in [100, 200, 300] {
            forecast.served(forecast.demand(&request(Datatype::Bytes, 1, bytes)), bytes as u64 / 4);
        }
        assert_eq!([40, 400, 4000].map(|bytes| size(Datatype::Bytes, 2, bytes)), [10, 100, 200], "none is longer");
        // Two batches by their tokens, though there is room for all in one.
        forecast.ran(outlook(MS, start));
        let text = forecast.demand(&request(Datatype::Bytes, 1, 400));
        (0..3).for_each(|_| forecast.sent(text));
        assert_eq!(millis(forecast.done_in(text, start)), 1.2 * 210.0 + 210.0);
    }

    #[test]
    fn the_environments_refusals_make_it_reckon_with_more() {
        let (start, forecast) = (Instant::now(), Forecast::new(ITEMS));
        let one = forecast.demand(&request(Datatype::Fp32, 1, 0));
        forecast.ran(outlook(Duration::ZERO, start));
        forecast.sent(one);
        forecast.begun([one].into_iter(), start);
        let done_in = || millis(forecast.done_in(one, start));
        assert_eq!(done_in(), 22.0);
        (0..10).for_each(|_| forecast.refused_as_late());
        assert_eq!(done_in(), 22.2);
        (0..1000).for_each(|_| forecast.refused_as_late());
        assert_eq!(done_in(), 23.0, "a tenth of the wait at most");
        let wait = forecast.done_in(one, start).unwrap().in_time_in(10 * MS);
        assert_eq!(wait, 10 * MS, "once the batch that runs has ended");
        (0..30_000).for_each(|_| forecast.served(one, 0));
        assert_eq!(done_in(), 22.0);
    }

    #[test]
    fn workers_share_the_work() {
        let start = Instant::now();
        let forecast = Forecast::new(Shape { workers: 2, batch_items_max: None, ..ITEMS });
        let one = forecast.demand(&request(Datatype::Fp32, 1, 0));
        let done_in = || millis(forecast.done_in(one, start));
        forecast.ran(outlook(Duration::ZERO, start));
        (0..6).for_each(|_| forecast.sent(one));
        forecast.begun([one].into_iter(), start);
        assert_eq!(done_in(), 34.0, "one of them is free: two rounds and its own");
        forecast.begun([one].into_iter(), start + 6 * MS);
        assert_eq!(forecast.ends_in(start + 8 * MS), Some(2 * MS), "the one that began first");
        assert_eq!(done_in(), 46.0, "two rounds after the one that runs");
        forecast.ran(None);
        assert_eq!(forecast.ends_in(start + 8 * MS), Some(8 * MS));
        forecast.ran(None);
        assert_eq!(forecast.ends_in(start), None, "none runs");
    }
}
