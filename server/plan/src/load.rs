//! The load: requests in the order in which they come, from a trace or made up, multiplied and compressed.
//!
//! Made by the caller, read by the world one request at a time. Holds no more than a trace's rows and those copies whose time
//! has not come.

use crate::scenario::WrongOption;
use crate::synthetic::Synthetic;
use crate::trace::Trace;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::iter::Peekable;
use std::time::Duration;

/// Most copies of a request: with more the shape is that of the copies' jitter.
const SCALE_MAX: f64 = 1e6;
/// Most that time is compressed.
const SPEED_MAX: f64 = 1e6;
/// Longest time from the first request to the last: ten years.
pub(crate) const SPAN_MAX_NS: u64 = 315_576_000_000_000_000;
/// Longest that one request runs: a day.
pub(crate) const SERVICE_MAX_NS: u64 = 86_400_000_000_000;
/// Most requests, on average.
const REQUESTS_MAX: f64 = 1e10;
/// Longest jitter: copies whose time has not come are kept.
const JITTER_MAX: Duration = Duration::from_secs(3600);
/// Told apart from the seeds of what else is drawn.
const COPIES: u64 = 0x636f_7069_6573;

/// A request.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Arrival {
    /// When it comes, in nanoseconds from the start of the load.
    pub at_ns: u64,
    /// How long a worker runs it, in nanoseconds.
    pub service_ns: u64,
}

/// Where requests come from.
#[derive(Clone, PartialEq, Debug)]
pub enum Source {
    /// What was recorded.
    Recorded(Trace),
    /// What is made up.
    Synthetic(Synthetic),
}

/// A load.
#[derive(Clone, PartialEq, Debug)]
pub struct Load {
    /// Where its requests come from.
    pub source: Source,
    /// How many there are of each; of 2.5 half of them have two and half three.
    pub scale: f64,
    /// How many times faster they come. How long each runs does not change.
    pub speed: f64,
    /// The first copy comes with its original, the others up to so much later, evenly.
    pub jitter: Duration,
    /// Of everything that is drawn.
    pub seed: u64,
}

impl Load {
    /// Errors: it cannot be multiplied or compressed by that much.
    pub(crate) fn check(&self) -> Result<(), WrongOption> {
        let within = |field, value: f64, most: f64, right| match value > 0.0 && value <= most {
            true => Ok(()),
            false => Err(WrongOption { field, found: format!("{value:?}"), right }),
        };
        within("scale", self.scale, SCALE_MAX, "a number above 0, at most 1000000")?;
        within("speed", self.speed, SPEED_MAX, "a number above 0, at most 1000000")?;
        if self.jitter > JITTER_MAX {
            let found = self.jitter.as_millis().to_string();
            return Err(WrongOption { field: "jitter-ms", found, right: "0 to 3600000" });
        }
        let originals = match &self.source {
            Source::Recorded(trace) if trace.arrivals.is_empty() => {
                return Err(WrongOption { field: "trace", found: "no request".into(), right: "at least one row" });
            }
            Source::Recorded(trace) => trace.arrivals.len() as f64,
            Source::Synthetic(synthetic) => {
                synthetic.check()?;
                synthetic.requests_most()
            }
        };
        if originals * self.scale > REQUESTS_MAX {
            let found = format!("{:?}, which makes {:.0} requests", self.scale, originals * self.scale);
            return Err(WrongOption { field: "scale", found, right: "what makes at most 10000000000 requests" });
        }
        if self.span_ns() > SPAN_MAX_NS {
            let found = format!("{:?}, which makes {} s", self.speed, self.span_ns() / 1_000_000_000);
            return Err(WrongOption { field: "speed", found, right: "what makes at most ten years" });
        }
        Ok(())
    }

    /// The requests, in order of time.
    pub fn arrivals(&self) -> Box<dyn Iterator<Item = Arrival> + '_> {
        let source: Box<dyn Iterator<Item = Arrival> + '_> = match &self.source {
            Source::Recorded(trace) => Box::new(trace.arrivals.iter().copied()),
            Source::Synthetic(synthetic) => Box::new(synthetic.arrivals(self.seed)),
        };
        let speed = self.speed;
        let source: Box<dyn Iterator<Item = Arrival> + '_> = match speed == 1.0 {
            true => source,
            false => Box::new(source.map(move |arrival| Arrival { at_ns: faster(arrival.at_ns, speed), ..arrival })),
        };
        match self.scale == 1.0 {
            true => source,
            false => Box::new(Copies::new(source, self)),
        }
    }

    /// How long requests come, in nanoseconds, jitter left out.
    pub(crate) fn span_ns(&self) -> u64 {
        let span_ns = match &self.source {
            Source::Recorded(trace) => trace.arrivals.last().map_or(0, |last| last.at_ns),
            Source::Synthetic(synthetic) => synthetic.span_ns(),
        };
        faster(span_ns, self.speed)
    }
}

fn faster(at_ns: u64, speed: f64) -> u64 {
    if speed == 1.0 { at_ns } else { (at_ns as f64 / speed) as u64 }
}

/// Requests with their copies.
struct Copies<I: Iterator<Item = Arrival>> {
    source: Peekable<I>,
    scale: f64,
    jitter_ns: u64,
    random: SmallRng,
    /// Those whose time has not come.
    held: BinaryHeap<Reverse<Arrival>>,
}

impl<I: Iterator<Item = Arrival>> Copies<I> {
    fn new(source: I, load: &Load) -> Self {
        let random = SmallRng::seed_from_u64(load.seed ^ COPIES);
        let jitter_ns = load.jitter.as_nanos() as u64;
        Self { source: source.peekable(), scale: load.scale, jitter_ns, random, held: BinaryHeap::new() }
    }

    fn copy(&mut self, arrival: Arrival) {
        let more = self.random.random::<f64>() < self.scale.fract();
        for number in 0..self.scale.trunc() as u64 + u64::from(more) {
            let late_ns = if number == 0 { 0 } else { self.random.random_range(0..=self.jitter_ns) };
            self.held.push(Reverse(Arrival { at_ns: arrival.at_ns + late_ns, ..arrival }));
        }
    }
}

impl<I: Iterator<Item = Arrival>> Iterator for Copies<I> {
    type Item = Arrival;

    fn next(&mut self) -> Option<Arrival> {
        // No copy comes before its original: one that is held is due once no original comes earlier.
        let due = |held: &BinaryHeap<Reverse<Arrival>>| held.peek().map(|Reverse(copy)| copy.at_ns);
        while let Some(original) = self.source.next_if(|original| due(&self.held).is_none_or(|at| original.at_ns <= at))
        {
            self.copy(original);
        }
        self.held.pop().map(|Reverse(copy)| copy)
    }
}
