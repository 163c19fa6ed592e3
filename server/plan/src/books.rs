//! The books: what became of the requests, and how much of what there was at every moment.
//!
//! Written by the world, read by the scaler's signals, the series and the report. They balance:
//! received = done + shed + expired + in environments + waiting.

use crate::level::Level;
use hdrhistogram::Histogram;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// The longest time that is told apart from longer ones, in microseconds: a day.
const LONGEST_US: u64 = 86_400_000_000;
/// Significant digits of percentiles.
const DIGITS: u8 = 3;

/// Why a request was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shed {
    /// Every slot was taken.
    NoSlot,
    /// No environment was ready, and the line was full.
    LineFull,
    /// No environment was ready, and starting one would have taken longer than its deadline left.
    StartTooLong,
    /// It waited for an environment as long as one may take to start.
    OutOfPatience,
}

/// Counts since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) received: u64,
    pub(crate) done: u64,
    /// By reason, in the order of [`Shed`].
    pub(crate) shed: [u64; 4],
    /// Their deadline passed in the line or in a queue.
    pub(crate) expired_waiting: u64,
    /// Their deadline passed while they ran.
    pub(crate) expired_running: u64,
    /// That began to run, and how long they had waited, all together.
    pub(crate) began: u64,
    pub(crate) waited_ns: u128,
}

impl Counts {
    pub(crate) fn shed_all(&self) -> u64 {
        self.shed.iter().sum()
    }

    pub(crate) fn expired_all(&self) -> u64 {
        self.expired_waiting + self.expired_running
    }

    /// Requests that an environment took: what a fee for requests is paid on.
    pub(crate) fn taken(&self) -> u64 {
        self.began
    }
}

/// Integrals since the start, in units × nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sums {
    pub(crate) offered: u128,
    pub(crate) taken: u128,
    pub(crate) slots: u128,
    pub(crate) instances: u128,
    pub(crate) micro_usd_per_hour: u128,
}

/// Requests that would be there if each were taken at once.
#[derive(Debug, Default)]
struct Offered {
    level: Level,
    leave: BinaryHeap<Reverse<u64>>,
}

impl Offered {
    fn until(&mut self, now_ns: u64) {
        while let Some(Reverse(at_ns)) = self.leave.peek().copied().filter(|Reverse(at_ns)| *at_ns <= now_ns) {
            self.leave.pop();
            self.level.take(at_ns, 1);
        }
    }
}

/// The books of a run.
#[derive(Debug)]
pub(crate) struct Books {
    pub(crate) counts: Counts,
    offered: Offered,
    /// Slots that are taken.
    pub(crate) taken: Level,
    /// Workers that run a request.
    pub(crate) running: Level,
    /// Slots of environments that take requests.
    pub(crate) slots: Level,
    /// Slots of these and of those that drain.
    pub(crate) slots_kept: Level,
    /// Environments that take requests.
    pub(crate) ready: Level,
    /// Environments that level one wants.
    pub(crate) wanted: Level,
    /// Of these, those for which there may be no instance.
    pub(crate) unmet: Level,
    pub(crate) instances: Level,
    pub(crate) micro_usd_per_hour: Level,
    /// Time in queues of those that began to run, and time that workers ran what ended, as the product counts them.
    pub(crate) queued: Duration,
    pub(crate) busy: Duration,
    pub(crate) waits: Times,
    /// From coming to being done.
    pub(crate) responses: Times,
    longest_wait_ns: u64,
}

/// Times, as many as there are, in little room.
#[derive(Debug)]
pub(crate) struct Times {
    microseconds: Histogram<u64>,
    most_ns: u64,
}

impl Times {
    fn new() -> Self {
        let microseconds = Histogram::new_with_bounds(1, LONGEST_US, DIGITS);
        Self { microseconds: microseconds.expect("bounds and digits are those that it takes"), most_ns: 0 }
    }

    fn add(&mut self, ns: u64) {
        self.microseconds.saturating_record(ns / 1_000);
        self.most_ns = self.most_ns.max(ns);
    }

    /// The longest, in milliseconds.
    pub(crate) fn most_ms(&self) -> f64 {
        self.most_ns as f64 / 1e6
    }

    /// What a share of them does not exceed, in milliseconds, to three digits.
    pub(crate) fn quantile_ms(&self, share: f64) -> f64 {
        (self.microseconds.value_at_quantile(share) as f64 / 1e3).min(self.most_ms())
    }
}

impl Books {
    pub(crate) fn new() -> Self {
        Self {
            counts: Counts::default(),
            offered: Offered::default(),
            taken: Level::default(),
            running: Level::default(),
            slots: Level::default(),
            slots_kept: Level::default(),
            ready: Level::default(),
            wanted: Level::default(),
            unmet: Level::default(),
            instances: Level::default(),
            micro_usd_per_hour: Level::default(),
            queued: Duration::ZERO,
            busy: Duration::ZERO,
            waits: Times::new(),
            responses: Times::new(),
            longest_wait_ns: 0,
        }
    }

    /// A request comes, and would stay so long if it were taken at once.
    pub(crate) fn comes(&mut self, now_ns: u64, stays_ns: u64) {
        self.counts.received += 1;
        self.offered.until(now_ns);
        self.offered.level.add(now_ns, 1);
        self.offered.leave.push(Reverse(now_ns.saturating_add(stays_ns)));
    }

    pub(crate) fn shed(&mut self, why: Shed) {
        self.counts.shed[why as usize] += 1;
    }

    /// A request begins to run; `response_ns` if it will be done.
    pub(crate) fn begins(&mut self, waited_ns: u64, response_ns: Option<u64>) {
        self.counts.began += 1;
        self.counts.waited_ns += u128::from(waited_ns);
        self.longest_wait_ns = self.longest_wait_ns.max(waited_ns);
        self.waits.add(waited_ns);
        if let Some(response_ns) = response_ns {
            self.responses.add(response_ns);
        }
    }

    /// The longest wait of those that began since this was last asked, in nanoseconds.
    pub(crate) fn mark_longest_wait(&mut self) -> u64 {
        std::mem::take(&mut self.longest_wait_ns)
    }

    /// Integrals until `now_ns`.
    pub(crate) fn sums(&mut self, now_ns: u64) -> Sums {
        self.offered.until(now_ns);
        Sums {
            offered: self.offered.level.until(now_ns),
            taken: self.taken.until(now_ns),
            slots: self.slots.until(now_ns),
            instances: self.instances.until(now_ns),
            micro_usd_per_hour: self.micro_usd_per_hour.until(now_ns),
        }
    }

    /// The most requests that would have been there at once if each had been taken at once.
    pub(crate) fn offered_most(&self) -> u64 {
        self.offered.level.most()
    }
}
