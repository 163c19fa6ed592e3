//! What will happen to a fleet: its types and limits, the functions on it, their load, how the provider behaves and what goes
//! wrong, all drawn from a seed. Pure.

use crate::arrivals::Arrivals;
use penstock_domain::FunctionName;
use penstock_instances::Deadlines;
use penstock_scaler::{Architecture, InstanceType, Shape};
use rand::rngs::SmallRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use std::time::Duration;

/// Most requests of a run that is drawn.
const REQUESTS_MAX: usize = 300;
/// So many of them at one moment, in some runs.
const AT_ONCE: usize = 1000;
/// How long load and faults go on, in seconds.
const BUSY: (f64, f64) = (20.0, 120.0);

/// A run, before it has happened.
#[derive(Clone, Debug)]
pub struct Script {
    /// Everything else follows from it.
    pub seed: u64,
    /// What can be bought.
    pub types: Vec<InstanceType>,
    /// Where.
    pub zones: Vec<String>,
    /// Most cores of all instances together, at the beginning.
    pub vcpu_max: u32,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// How long an instance may take to be ready.
    pub start_timeout: Duration,
    /// How long an instance may be empty.
    pub empty_after: Duration,
    /// What is served.
    pub functions: Vec<Function>,
    /// How long fewer environments must be enough.
    pub down_after: Duration,
    /// How long nobody must have asked before the last one goes.
    pub idle_after: Duration,
    /// How the provider behaves while there are faults.
    pub temper: Temper,
    /// In the order in which they come.
    pub requests: Vec<Request>,
    /// In the order in which they happen.
    pub faults: Vec<(Duration, Fault)>,
    /// When all faults are over.
    pub calm_at: Duration,
    /// Nothing is ever lost: instances are replaced, taken away with notice, or complain, and there is room beside them. Then
    /// nobody may be refused.
    pub is_gentle: bool,
}

/// A function.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name.
    pub name: FunctionName,
    /// Environments, at least.
    pub min: u32,
    /// And at most.
    pub max: u32,
    /// Cores of each.
    pub vcpu: u32,
    /// Memory of each.
    pub memory_mib: u64,
    /// Requests in flight in one.
    pub slots: u32,
    /// What a batch takes.
    pub batch: Duration,
    /// How long one takes to load.
    pub load: Duration,
}

/// How a provider behaves: chances of one, and times.
#[derive(Clone, Debug)]
pub struct Temper {
    /// How long a call takes, at least and at most.
    pub call: (Duration, Duration),
    /// From an order to an instance that runs its agent.
    pub boot: (Duration, Duration),
    /// An order fails, and nothing comes.
    pub fails: f64,
    /// An order fails, and all comes.
    pub loses_answers: f64,
    /// An order is carried out twice.
    pub doubles: f64,
    /// Fewer come than were ordered.
    pub is_short: f64,
    /// An answer takes longer than an instance may take to be ready.
    pub is_late: f64,
    /// An instance never runs its agent.
    pub never_ready: f64,
    /// It ends before its agent runs.
    pub dies_at_launch: f64,
    /// Its agent ends at some time, and is started again.
    pub crashes: f64,
    /// It does not let go of its connections for long when its agent has ended.
    pub clings: f64,
    /// That an instance has ended is told at once, and not only seen at the next look.
    pub tells_ends: f64,
    /// An instance that is to end is not ended before the next look.
    pub fails_to_end: f64,
    /// How long ending takes, at most.
    pub ending: Duration,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// When it comes, from the start.
    pub at: Duration,
    /// Which function it asks.
    pub function: usize,
    /// How long it may take.
    pub timeout: Option<Duration>,
}

/// Something that happens to a fleet. Which one of those that live: the first, second, …
#[derive(Clone, Debug, PartialEq)]
pub enum Fault {
    /// A machine is gone.
    Kill(u32),
    /// A machine does nothing for so long.
    Freeze(u32, Duration),
    /// A machine says that something is wrong with it, for so long.
    Complain(u32, Duration),
    /// A machine is told that it will be taken away after so long.
    Notice(u32, Duration),
    /// An environment is gone.
    KillEnvironment(u32),
    /// A type cannot be had in a zone for so long; `None` for any.
    Drought(Option<usize>, Option<usize>, Duration),
    /// There may be so many cores from now on.
    Limit(u32),
    /// All instances are to be replaced.
    ReplaceAll,
}

fn seconds(random: &mut SmallRng, least: f64, most: f64) -> Duration {
    Duration::from_secs_f64(random.random_range(least..most))
}

impl Script {
    /// The run of a seed.
    pub fn draw(seed: u64) -> Script {
        let mut random = SmallRng::seed_from_u64(seed ^ 0x00f1_ee70);
        let r = &mut random;
        let is_gentle = r.random_bool(0.25);
        let zones: Vec<String> = ["a", "b", "c"].iter().take(r.random_range(1..=3)).map(|z| (*z).to_owned()).collect();
        let types = draw_types(r, &zones);
        let functions = draw_functions(r, &types, is_gentle);
        let largest = types.iter().map(|one| one.shape.vcpu).max().unwrap_or(1);
        let kept: u32 = functions.iter().map(|f| f.min).sum();
        let all: u32 = functions.iter().map(|f| f.max * (f.vcpu + 1)).sum();
        // Room for all and for what takes their place, or hardly enough.
        let (is_tight, is_any) = (r.random_bool(0.3), r.random_range(largest..=largest + 2 * all));
        let vcpu_max = match (is_gentle, is_tight) {
            (true, false) => 4 * (all + largest),
            (true, true) => kept * largest,
            (false, _) => is_any,
        };
        let start_timeout = seconds(r, 15.0, 40.0);
        let busy = seconds(r, BUSY.0, BUSY.1);
        let temper = draw_temper(r, start_timeout, is_gentle);
        let requests = draw_requests(r, &functions, busy, is_gentle);
        let mut script = Script {
            seed,
            types,
            zones,
            vcpu_max,
            deadlines: Deadlines {
                beat: Duration::from_secs(5),
                drain: Duration::from_secs(r.random_range(20..60)),
                stop: Duration::from_secs(5),
                // All of them can be replaced, one after the other, before the first is old again.
                age: r.random_bool(0.2).then(|| seconds(r, 40.0, 60.0) * (1 + kept)),
            },
            start_timeout,
            empty_after: seconds(r, 1.0, 20.0),
            functions,
            down_after: seconds(r, 1.0, 10.0),
            idle_after: seconds(r, 1.0, 15.0),
            temper,
            requests,
            faults: Vec::new(),
            calm_at: busy,
            is_gentle,
        };
        script.faults = script.draw_faults(r, busy);
        if is_tight && is_gentle {
            // What will be taken away could not be elsewhere before.
            script.faults.retain(|(_, fault)| !matches!(fault, Fault::Notice(..)));
        }
        script
    }

    fn draw_faults(&self, r: &mut SmallRng, busy: Duration) -> Vec<(Duration, Fault)> {
        let mut faults = Vec::new();
        let count = if r.random_bool(0.2) { 0 } else { r.random_range(1..=10) };
        for _ in 0..count {
            let at = busy.mul_f64(r.random_range(0.0..1.0));
            let (which, long) = (r.random_range(0..8), seconds(r, 1.0, 20.0));
            let pick = |r: &mut SmallRng, count: usize| r.random_bool(0.6).then(|| r.random_range(0..count));
            let fault = match r.random_range(0..if self.is_gentle { 3 } else { 9 }) {
                0 => Fault::ReplaceAll,
                // What EC2 gives.
                1 if self.is_gentle => Fault::Notice(which, Duration::from_secs(120)),
                1 => Fault::Notice(which, seconds(r, 2.0, 120.0)),
                2 => Fault::Complain(which, long),
                3 => Fault::Freeze(which, if r.random_bool(0.5) { long } else { Duration::from_secs(100_000) }),
                4 => Fault::KillEnvironment(which),
                5 => Fault::Drought(pick(r, self.types.len()), pick(r, self.zones.len()), long),
                6 => Fault::Limit(r.random_range(1..=self.vcpu_max.max(2))),
                _ => Fault::Kill(which),
            };
            faults.push((at, fault));
        }
        if faults.iter().any(|(_, fault)| matches!(fault, Fault::Limit(_))) {
            faults.push((busy, Fault::Limit(self.vcpu_max)));
        }
        faults.sort_by_key(|(at, _)| *at);
        faults
    }
}

fn draw_types(r: &mut SmallRng, zones: &[String]) -> Vec<InstanceType> {
    let count = r.random_range(1..=4);
    let mut types = Vec::new();
    for number in 0..count {
        let vcpu = *[2, 3, 5, 9].choose(r).unwrap_or(&5);
        let each = if r.random_bool(0.5) { 1024 } else { 2048 };
        let mut offered: Vec<String> = zones.iter().filter(|_| r.random_bool(0.8)).cloned().collect();
        if offered.is_empty() {
            offered.clone_from(&zones[..1].to_vec());
        }
        types.push(InstanceType {
            name: format!("t{number}.{vcpu}"),
            shape: Shape {
                vcpu,
                memory_mib: 1024 + u64::from(vcpu - 1) * each,
                devices: 0,
                device_memory_mib: 0,
                architecture: Architecture::OWN,
            },
            usd_per_hour: f64::from(vcpu) * r.random_range(0.05..0.2),
            zones: offered,
        });
    }
    types
}

fn draw_functions(r: &mut SmallRng, types: &[InstanceType], is_gentle: bool) -> Vec<Function> {
    let room = types.iter().map(|one| one.shape.for_environments());
    let (most_vcpu, most_mib) = room.max().unwrap_or((1, 1024));
    let (count, is_large) = (r.random_range(1..=4), r.random_bool(0.1));
    let each = |index: usize| {
        let min = r.random_range(u32::from(is_gentle)..=2);
        Function {
            name: FunctionName::new(&format!("f{index}")).unwrap_or_else(|_| unreachable!("a plain name")),
            min,
            max: min.max(1) + r.random_range(0..=if is_large { 20 } else { 3 }),
            vcpu: r.random_range(1..=most_vcpu.min(3)),
            memory_mib: r.random_range(128..=most_mib.min(1024)),
            slots: if is_gentle { 256 } else { r.random_range(4..=32) },
            batch: seconds(r, 0.002, 0.4),
            load: seconds(r, 0.0, 3.0),
        }
    };
    (0..count).map(each).collect()
}

fn draw_temper(r: &mut SmallRng, start_timeout: Duration, is_gentle: bool) -> Temper {
    let call_most = seconds(r, 0.05, 3.0);
    let boot_least = seconds(r, 0.1, 8.0);
    let ending = seconds(r, 0.0, 30.0);
    let mut chance = |most: f64| if is_gentle || r.random_bool(0.5) { 0.0 } else { r.random_range(0.0..most) };
    Temper {
        call: (Duration::from_millis(20), call_most),
        boot: (boot_least, boot_least + start_timeout.mul_f64(0.3)),
        fails: chance(0.3),
        loses_answers: chance(0.2),
        doubles: chance(0.2),
        is_short: chance(0.3),
        is_late: chance(0.2),
        never_ready: chance(0.3),
        dies_at_launch: chance(0.3),
        crashes: chance(0.2),
        clings: chance(0.5),
        tells_ends: 1.0 - chance(1.0),
        fails_to_end: chance(0.5),
        ending,
    }
}

fn draw_requests(r: &mut SmallRng, functions: &[Function], busy: Duration, is_gentle: bool) -> Vec<Request> {
    let count = r.random_range(10..=REQUESTS_MAX);
    if !is_gentle && r.random_bool(0.03) {
        let at = busy.mul_f64(r.random_range(0.0..0.5));
        return (0..AT_ONCE)
            .map(|_| Request { at, function: r.random_range(0..functions.len()), timeout: None })
            .collect();
    }
    let arrivals = match r.random_range(0..3) {
        _ if is_gentle => Arrivals::Poisson,
        0 => Arrivals::Bursts { size: r.random_range(2..40) },
        1 => Arrivals::HeavyTail,
        _ => Arrivals::Poisson,
    };
    let moments = arrivals.draw(count, count as f64 / busy.as_secs_f64(), r);
    let deadlines = if r.random_bool(0.5) { 0.0 } else { 0.8 };
    let request = |at: Duration| Request {
        at,
        function: r.random_range(0..functions.len()),
        timeout: (!is_gentle && r.random_bool(deadlines)).then(|| seconds(r, 0.5, 60.0)),
    };
    moments.into_iter().map(request).collect()
}

impl Script {
    /// A thousand environments that are wanted at once, on instances for eight each, and a thousand requests that come at once.
    pub fn of_a_thousand() -> Script {
        let mut script = Script::draw(0);
        let mut random = SmallRng::seed_from_u64(1000);
        let shape =
            Shape { vcpu: 9, memory_mib: 9 * 1024, devices: 0, device_memory_mib: 0, architecture: Architecture::OWN };
        script.zones = vec!["a".into()];
        script.types = vec![InstanceType { name: "t.9".into(), shape, usd_per_hour: 1.0, zones: script.zones.clone() }];
        script.vcpu_max = 125 * 9;
        (script.deadlines.age, script.is_gentle, script.faults) = (None, true, Vec::new());
        script.temper = draw_temper(&mut random, script.start_timeout, true);
        // All of them start at the same moment.
        script.temper.boot.1 = script.temper.boot.0;
        script.functions.truncate(1);
        for function in &mut script.functions {
            (function.min, function.max) = (1000, 1000);
            (function.vcpu, function.memory_mib, function.slots) = (1, 1024, 8);
        }
        let request = |_| Request { at: Duration::from_secs(1), function: 0, timeout: None };
        script.requests = (0..AT_ONCE).map(request).collect();
        script.calm_at = Duration::from_secs(2);
        script
    }
}
