//! What will happen in a run: the house, its load and its faults, all drawn from a seed. Pure.

use crate::arrivals::Arrivals;
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// Most requests of a run that is drawn: enough for queues to fill several times, few enough for thousands of runs.
const REQUESTS_MAX: u64 = 240;

/// A run, before it has happened.
#[derive(Clone, Debug)]
pub struct Script {
    /// Everything else follows from it.
    pub seed: u64,
    /// Execution environments of the one version, where their number is fixed.
    pub environments: u32,
    /// How their number follows the load, where it does.
    pub scaling: Option<Scaling>,
    /// How long an environment takes to start.
    pub start_time: Duration,
    /// Runtime workers of each.
    pub workers: u32,
    /// Largest batch, in items.
    pub max_batch: u32,
    /// Whether requests share batches.
    pub dynamic: bool,
    /// `max_queue_delay_microseconds`.
    pub max_delay: Duration,
    /// Levels of priority; 0 for none.
    pub priority_levels: u32,
    /// A queue in which everybody waits longer lowers the concurrency; zero for never.
    pub standing_wait: Duration,
    /// Requests in flight in one environment.
    pub slots: u32,
    /// Requests in flight in the whole house.
    pub concurrency: u32,
    /// Whether the environments share one device, and take turns.
    pub one_device: bool,
    /// How many of them at once.
    pub device_depth: u32,
    /// What a batch costs.
    pub fixed: Duration,
    /// And each item of it.
    pub per_item: Duration,
    /// A batch takes up to this share more or less.
    pub jitter: f64,
    /// Longest that a batch may run.
    pub run_timeout: Duration,
    /// In the order in which they come.
    pub requests: Vec<Request>,
    /// In the order in which they happen.
    pub faults: Vec<(Duration, Fault)>,
}

/// How the number of environments follows the load.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scaling {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: u32,
    /// How long fewer must be enough.
    pub down_after: Duration,
    /// How long nobody must have asked before the last one goes.
    pub idle_after: Duration,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it comes, from the start.
    pub at: Duration,
    /// Its rows.
    pub items: u32,
    /// How long it may take.
    pub timeout: Option<Duration>,
    /// When its caller leaves, from its coming.
    pub leaves: Option<Duration>,
    /// 1 the highest; 0 for none.
    pub priority: u32,
    /// Who sends it, where callers are told apart.
    pub caller: Option<u64>,
    /// Any batch it is in takes the environment with it.
    pub deadly: bool,
}

/// Something that goes wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// An environment is killed: the first, second, … of those that live.
    Kill(u32),
    /// The next batch anywhere never ends.
    Hang,
    /// All batches take so many times as long, until [`Fault::Mend`].
    Slow(u32),
    /// They do not any more.
    Mend,
    /// An environment's link passes nothing on any more, either way, and is not closed.
    Cut(u32),
}

impl Script {
    /// The run of a seed. `trace` is used by some.
    pub fn draw(seed: u64, trace: Option<&Arrivals>) -> Script {
        let mut random = SmallRng::seed_from_u64(seed);
        let r = &mut random;
        let ms = |r: &mut SmallRng, least: f64, most: f64| Duration::from_secs_f64(r.random_range(least..most) / 1e3);
        let max_batch = *[1, 2, 4, 8, 16].choose(r).unwrap_or(&8);
        let delayed = r.random_bool(0.2);
        let mut script = Script {
            seed,
            environments: r.random_range(1..=3),
            scaling: None,
            start_time: Duration::ZERO,
            workers: r.random_range(1..=2),
            max_batch,
            dynamic: r.random_bool(0.9),
            max_delay: if delayed { ms(r, 0.5, 20.0) } else { Duration::ZERO },
            priority_levels: if r.random_bool(0.3) { 3 } else { 0 },
            standing_wait: if r.random_bool(0.5) { ms(r, 5.0, 200.0) } else { Duration::ZERO },
            slots: r.random_range(2..=64),
            concurrency: 1 << 20,
            one_device: false,
            device_depth: 1,
            fixed: ms(r, 0.5, 60.0),
            per_item: ms(r, 0.0, 5.0),
            jitter: if r.random_bool(0.5) { 0.0 } else { r.random_range(0.0..0.5) },
            run_timeout: Duration::from_secs(r.random_range(2..10)),
            requests: Vec::new(),
            faults: Vec::new(),
        };
        let load = *[0.3, 0.7, 1.0, 2.0, 5.0, 10.0].choose(r).unwrap_or(&1.0);
        let arrivals = match (r.random_range(0..4), trace) {
            (0, _) => Arrivals::Bursts { size: r.random_range(2..60) },
            (1, _) => Arrivals::HeavyTail,
            (2, Some(trace)) => trace.clone(),
            _ => Arrivals::Poisson,
        };
        let items_max = if r.random_bool(0.5) { 1 } else { max_batch };
        let (deadlines, leavers): (f64, f64) = (r.random_range(0.0..1.2), if r.random_bool(0.5) { 0.0 } else { 0.3 });
        let (faulty, deadly) = (r.random_bool(0.5), if r.random_bool(0.15) { 0.02 } else { 0.0 });
        let count = r.random_range(20..=REQUESTS_MAX) as usize;
        let rate = load * script.capacity() * 2.0 / f64::from(items_max + 1);
        let batch = script.batch_time(max_batch).as_secs_f64();
        script.requests = arrivals
            .draw(count, rate, r)
            .into_iter()
            .map(|at| Request {
                at,
                items: r.random_range(1..=items_max),
                timeout: r
                    .random_bool(deadlines.min(1.0))
                    .then(|| Duration::from_secs_f64(batch * *[0.5, 1.5, 3.0, 10.0].choose(r).unwrap_or(&3.0))),
                leaves: r.random_bool(leavers).then(|| Duration::from_secs_f64(batch * r.random_range(0.0..4.0))),
                priority: r.random_range(0..5),
                caller: None,
                deadly: r.random_bool(deadly),
            })
            .collect();
        let last = script.requests.last().map_or(0.0, |request| request.at.as_secs_f64()).max(0.01);
        if faulty {
            for _ in 0..r.random_range(1..=4) {
                let at = Duration::from_secs_f64(r.random_range(0.0..last));
                let fault = match r.random_range(0..5) {
                    0 => Fault::Hang,
                    1 => Fault::Slow(r.random_range(2..20)),
                    2 => Fault::Cut(r.random_range(0..3)),
                    _ => Fault::Kill(r.random_range(0..3)),
                };
                script.faults.push((at, fault));
            }
            script.faults.push((Duration::from_secs_f64(last), Fault::Mend));
            script.faults.sort_by_key(|(at, _)| *at);
        }
        script.share(r);
        script.follow(r);
        script
    }

    /// Whether the environments follow the load, and with what quiet spells.
    fn follow(&mut self, random: &mut SmallRng) {
        if random.random_bool(0.6) {
            return;
        }
        let min = random.random_range(0..=self.environments);
        let mut seconds = |least: f64, most: f64| Duration::from_secs_f64(random.random_range(least..most));
        let (down_after, idle_after) = (seconds(0.5, 10.0), seconds(0.5, 20.0));
        self.start_time = seconds(0.0, 3.0);
        let max = self.environments + random.random_range(0..=3);
        self.scaling = Some(Scaling { min, max, down_after, idle_after });
        if random.random_bool(0.5) {
            // Nobody comes for a while: what may rest, rests.
            let from = random.random_range(0..self.requests.len());
            let pause = idle_after + down_after + Duration::from_secs(20);
            let at = self.requests[from].at;
            self.requests[from..].iter_mut().for_each(|request| request.at += pause);
            self.faults.iter_mut().filter(|(when, _)| *when >= at).for_each(|(when, _)| *when += pause);
        }
    }

    /// What is shared: a device among the environments, the slots among callers, the house among versions.
    fn share(&mut self, random: &mut SmallRng) {
        if random.random_bool(0.3) {
            (self.one_device, self.device_depth) = (true, random.random_range(1..=2));
            // One environment alone can fill it, or not even all together.
            self.workers = self.workers.min(self.device_depth);
        }
        if random.random_bool(0.2) {
            self.concurrency = random.random_range(1..=self.slots * self.environments);
        }
        if random.random_bool(0.3) {
            // The first sends as many as all others together.
            let callers = random.random_range(2..6);
            for request in &mut self.requests {
                request.caller = Some(if random.random_bool(0.5) { 0 } else { random.random_range(1..callers) });
            }
        }
    }

    /// How long a batch takes in the mean.
    pub fn batch_time(&self, items: u32) -> Duration {
        self.fixed + self.per_item * items
    }

    /// Items a second, all environments together, in full batches.
    pub fn capacity(&self) -> f64 {
        let together = if self.dynamic { self.max_batch } else { 1 };
        let each = f64::from(together) / self.batch_time(together).as_secs_f64();
        let workers = self.environments * self.workers;
        each * f64::from(if self.one_device { workers.min(self.device_depth) } else { workers })
    }

    /// Whether any fault may take an environment.
    pub fn loses_environments(&self) -> bool {
        let takes = |(_, fault): &(_, Fault)| matches!(fault, Fault::Kill(_) | Fault::Cut(_) | Fault::Hang);
        self.faults.iter().any(takes) || self.requests.iter().any(|request| request.deadly)
    }
}
