//! What happened over time, in even steps: as many as a picture can show, whatever the length of the run.
//!
//! Written by the world at the end of each step. When there are too many, neighbours become one.

use crate::books::{Books, Counts, Sums};
use serde::Serialize;

const SECOND_NS: u64 = 1_000_000_000;
/// Most steps that are kept.
const POINTS_MAX: usize = 600;
/// Lengths of a step, in seconds: each a multiple of the one before, and such as people read. Beyond the last they double.
const WIDTHS_S: [u64; 12] = [1, 5, 10, 30, 60, 300, 900, 1_800, 3_600, 7_200, 14_400, 86_400];

/// What happened over time.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Series {
    /// Length of each step but the last, in seconds.
    pub width_s: u64,
    /// In order of time.
    pub points: Vec<Point>,
}

/// One step.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Point {
    /// When it begins, in seconds from the start.
    pub from_s: f64,
    /// How long it is, in seconds.
    pub seconds: f64,
    /// Requests that came.
    pub received: u64,
    /// Requests that began to run.
    pub began: u64,
    /// Requests that were done.
    pub done: u64,
    /// Requests that were refused.
    pub shed: u64,
    /// Requests whose deadline passed.
    pub expired: u64,
    /// Requests that would have been there at once if each had been taken at once; mean.
    pub offered: f64,
    /// Slots that were taken; mean.
    pub in_flight: f64,
    /// Slots that there were; mean.
    pub slots: f64,
    /// Instances; mean, and the most.
    pub instances: f64,
    /// The most instances.
    pub instances_most: u64,
    /// How long those waited that began to run; mean, in milliseconds.
    pub wait_mean_ms: f64,
    /// The longest of these waits, in milliseconds.
    pub wait_most_ms: f64,
    /// Price of the instances; mean, in US dollars an hour.
    pub usd_per_hour: f64,
}

/// One step, in exact numbers.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    from_ns: u64,
    until_ns: u64,
    counts: Counts,
    sums: Sums,
    instances_most: u64,
    longest_wait_ns: u64,
}

/// Steps in the making. The counts and sums of each are those since the start of the run.
#[derive(Debug)]
pub(crate) struct Recorder {
    width_s: u64,
    steps: Vec<Step>,
    from_ns: u64,
}

impl Recorder {
    pub(crate) fn new() -> Self {
        Self { width_s: WIDTHS_S[0], steps: Vec::new(), from_ns: 0 }
    }

    /// When the present step ends.
    pub(crate) fn ends_ns(&self) -> u64 {
        self.from_ns + self.width_s * SECOND_NS
    }

    /// The present step ends, at its end.
    pub(crate) fn close(&mut self, books: &mut Books) {
        self.push(self.ends_ns(), books);
        if self.steps.len() >= POINTS_MAX {
            self.widen();
        }
    }

    /// The run ends, mostly in the midst of a step. What happened at the very end of the last one is of that one.
    pub(crate) fn finish(&mut self, now_ns: u64, books: &mut Books) {
        match self.steps.pop_if(|last| last.until_ns == now_ns) {
            None => self.push(now_ns, books),
            Some(last) => {
                self.from_ns = last.from_ns;
                self.push(now_ns, books);
                let both = self.steps.pop().and_then(|now| merged(&[last, now]));
                self.steps.extend(both);
            }
        }
    }

    fn push(&mut self, until_ns: u64, books: &mut Books) {
        self.steps.push(Step {
            from_ns: self.from_ns,
            until_ns,
            counts: books.counts,
            sums: books.sums(until_ns),
            instances_most: books.instances.mark(),
            longest_wait_ns: books.mark_longest_wait(),
        });
        self.from_ns = until_ns;
    }

    /// Neighbours become one. All factors divide [`POINTS_MAX`]: nothing is left over.
    fn widen(&mut self) {
        let wider = WIDTHS_S.into_iter().find(|width| *width > self.width_s).unwrap_or(self.width_s * 2);
        self.steps = self.steps.chunks((wider / self.width_s) as usize).filter_map(merged).collect();
        self.width_s = wider;
    }

    pub(crate) fn series(&self) -> Series {
        let before = std::iter::once(Step::default()).chain(self.steps.iter().copied());
        let points = before.zip(&self.steps).map(|(before, step)| point(&before, step));
        Series { width_s: self.width_s, points: points.collect() }
    }
}

/// Several steps as one.
fn merged(steps: &[Step]) -> Option<Step> {
    let (first, last) = steps.first().zip(steps.last())?;
    Some(Step {
        from_ns: first.from_ns,
        instances_most: steps.iter().map(|step| step.instances_most).max()?,
        longest_wait_ns: steps.iter().map(|step| step.longest_wait_ns).max()?,
        ..*last
    })
}

fn point(before: &Step, step: &Step) -> Point {
    let length_ns = step.until_ns - step.from_ns;
    let mean = |sum: fn(&Sums) -> u128| (sum(&step.sums) - sum(&before.sums)) as f64 / length_ns as f64;
    let count = |count: fn(&Counts) -> u64| count(&step.counts) - count(&before.counts);
    let waited_ns = (step.counts.waited_ns - before.counts.waited_ns) as f64;
    let began = count(|counts| counts.began);
    Point {
        from_s: step.from_ns as f64 / 1e9,
        seconds: length_ns as f64 / 1e9,
        received: count(|counts| counts.received),
        began,
        done: count(|counts| counts.done),
        shed: count(Counts::shed_all),
        expired: count(Counts::expired_all),
        offered: mean(|sums| sums.offered),
        in_flight: mean(|sums| sums.taken),
        slots: mean(|sums| sums.slots),
        instances: mean(|sums| sums.instances),
        instances_most: step.instances_most,
        wait_mean_ms: waited_ns / 1e6 / began.max(1) as f64,
        wait_most_ms: step.longest_wait_ns as f64 / 1e6,
        usd_per_hour: mean(|sums| sums.micro_usd_per_hour) / 1e6,
    }
}

impl Series {
    /// The same in at most so many steps, each a whole number of those.
    pub fn in_steps(&self, most: usize) -> Vec<Point> {
        let nice = WIDTHS_S.into_iter().chain((1..32).map(|doubled| WIDTHS_S[WIDTHS_S.len() - 1] << doubled));
        let factors = nice.filter(|width| *width >= self.width_s).map(|width| (width / self.width_s) as usize);
        let factor = factors.into_iter().find(|factor| self.points.len().div_ceil(*factor) <= most);
        self.points.chunks(factor.unwrap_or(self.points.len().max(1))).filter_map(together).collect()
    }
}

/// Several points as one.
fn together(points: &[Point]) -> Option<Point> {
    let first = points.first()?;
    let seconds: f64 = points.iter().map(|point| point.seconds).sum();
    let mean = |of: fn(&Point) -> f64| points.iter().map(|point| of(point) * point.seconds).sum::<f64>() / seconds;
    let sum = |of: fn(&Point) -> u64| points.iter().map(of).sum();
    let most = |of: fn(&Point) -> f64| points.iter().map(of).fold(0.0, f64::max);
    let began: u64 = sum(|point| point.began);
    let waited: f64 = points.iter().map(|point| point.wait_mean_ms * point.began as f64).sum();
    Some(Point {
        from_s: first.from_s,
        seconds,
        received: sum(|point| point.received),
        began,
        done: sum(|point| point.done),
        shed: sum(|point| point.shed),
        expired: sum(|point| point.expired),
        offered: mean(|point| point.offered),
        in_flight: mean(|point| point.in_flight),
        slots: mean(|point| point.slots),
        instances: mean(|point| point.instances),
        instances_most: points.iter().map(|point| point.instances_most).max()?,
        wait_mean_ms: waited / began.max(1) as f64,
        wait_most_ms: most(|point| point.wait_most_ms),
        usd_per_hour: mean(|point| point.usd_per_hour),
    })
}
