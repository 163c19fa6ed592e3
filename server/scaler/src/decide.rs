//! Level one: how many environments each version is to have.

use crate::Policy;
use crate::demand::{Busy, Passed, Signals};
use crate::history::{History, Scaler};
use penstock_domain::{FunctionName, VersionNumber};
use std::time::{Duration, Instant};

/// What a step down takes away, of what there is: a quarter.
const DOWN_PART: u32 = 4;
/// To have fewer, so much more than is wanted must be enough as well: noise of as much never takes away what it will want
/// back.
const NOISE: f64 = 1.1;
/// Share of the time that workers are busy at most, if nothing is said, where that tells anything: Poisson arrivals wait as long
/// as four of them take, on average, at 0.8 (M/M/1, ρ/(1-ρ)), and ever longer beyond.
const BUSY: f64 = 0.8;
/// What a queue that is too long asks for at most, in what there is.
const QUEUE_MAX: f64 = 2.0;

/// How many environments a version may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// At least.
    pub min: u32,
    /// At most.
    pub max: u32,
}

/// One version, as it is.
#[derive(Clone, PartialEq, Debug)]
pub struct Version {
    /// Whose it is.
    pub function: FunctionName,
    /// Its number.
    pub number: VersionNumber,
    /// How many environments it may have.
    pub bounds: Bounds,
    /// Share of the time that its workers, its cores and its devices are to be busy, whichever are most, where somebody has said
    /// so: it is followed, and headroom, growth and queues have no say. There are always slots for what is in flight.
    pub target: Option<f64>,
    /// What was measured.
    pub signals: Signals,
}

/// Why a version is to have another number of environments.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reason {
    /// There is to be at least, or at most, another number.
    Bounds,
    /// Requests wait, and there is no environment.
    Waiting,
    /// Requests were refused because all was full.
    Shed,
    /// More requests are in flight than leave the headroom.
    Demand,
    /// They soon will be, if they go on to grow.
    Growth,
    /// Requests wait too long in queues.
    QueueWait,
    /// Workers, cores or devices are busy more of the time than they should.
    Utilization,
    /// Less was wanted for a while.
    Quiet,
    /// Nothing was wanted for a while.
    Idle,
}

impl Reason {
    /// For logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Reason::Bounds => "bounds",
            Reason::Waiting => "waiting",
            Reason::Shed => "shed",
            Reason::Demand => "demand",
            Reason::Growth => "growth",
            Reason::QueueWait => "queue_wait",
            Reason::Utilization => "utilization",
            Reason::Quiet => "quiet",
            Reason::Idle => "idle",
        }
    }
}

/// A change of one version.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// Whose it is.
    pub function: FunctionName,
    /// Its number.
    pub number: VersionNumber,
    /// Environments that it has.
    pub from: u32,
    /// Environments that it is to have.
    pub to: u32,
    /// Why.
    pub reason: Reason,
}

/// What is to be done. Empty if all is as it should be.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// At most one for each version.
    pub steps: Vec<Step>,
}

/// Decides for all versions that there are; those that are not among `versions` are forgotten. To do what the plan says and
/// decide again at the same time changes nothing.
pub fn decide(versions: &[Version], scaler: &mut Scaler, policy: &Policy, now: Instant) -> Plan {
    let key = |version: &Version| (version.function.clone(), version.number);
    let mut known = std::mem::take(&mut scaler.versions);
    let mut steps = Vec::new();
    for version in versions {
        let history = known.remove(&key(version)).unwrap_or_else(|| History::new(&version.signals, now));
        let history = scaler.versions.entry(key(version)).or_insert(history);
        let from = version.signals.environments;
        let (to, reason) = one(version, history, policy, now);
        if to != from {
            steps.push(Step { function: version.function.clone(), number: version.number, from, to, reason });
        }
    }
    Plan { steps }
}

/// What one version is to have.
fn one(version: &Version, history: &mut History, policy: &Policy, now: Instant) -> (u32, Reason) {
    let Version { signals, bounds, .. } = version;
    let passed = Passed::between(&history.last, signals, now.saturating_duration_since(history.looked));
    (history.last, history.looked) = (*signals, now);
    let is_asked = passed.is_asked() || signals.in_flight > 0 || signals.waiting > 0;
    if is_asked {
        history.asked = now;
    }
    let Wanted { environments: wanted, enough, reason } = wanted(version, &passed, history, policy, now);
    let current = signals.environments;
    let peak = history.peak(now, enough, policy.down_after);
    let idle = now.saturating_duration_since(history.asked) >= policy.idle_after;
    // The last one stays until nobody has wanted anything for longer.
    let least = if is_asked || (current > 0 && !idle) { bounds.min.max(1) } else { bounds.min };
    let within = |environments: u32| environments.max(least).min(bounds.max);
    let to = match () {
        () if wanted > current => wanted,
        () if peak >= current => current,
        () => down(peak, current, history, policy, now),
    };
    let to = within(to);
    if to < current {
        history.went_down = Some(now);
    }
    let reason = match () {
        () if to > current && wanted > current => reason,
        () if to == 0 => Reason::Idle,
        () if to < current && current <= bounds.max => Reason::Quiet,
        () => Reason::Bounds,
    };
    (to, reason)
}

/// A step down towards what is enough, if it is time for one.
fn down(enough: u32, current: u32, history: &History, policy: &Policy, now: Instant) -> u32 {
    let rested = history.went_down.is_none_or(|at| now.saturating_duration_since(at) >= policy.down_every);
    if rested { enough.max(current - current.div_ceil(DOWN_PART)) } else { current }
}

/// What is wanted of a version now.
struct Wanted {
    environments: u32,
    /// With fewer there would soon be too few.
    enough: u32,
    /// What for.
    reason: Reason,
}

fn wanted(version: &Version, passed: &Passed, history: &mut History, policy: &Policy, now: Instant) -> Wanted {
    let Version { signals, target, .. } = version;
    let slots = signals.slots_wanted(passed);
    history.note_wanted(now, slots);
    let headroom = if target.is_some() { 0.0 } else { policy.headroom };
    let filled = signals.slots_of_one() / (1.0 + headroom);
    let environments = |slots: f64| (slots / filled).ceil() as u32;
    // What waits for an environment is not evened out: nothing serves it.
    let average = if signals.ready == 0 { slots } else { history.average(now) };
    let ahead = signals.start_time.unwrap_or_default();
    let mut best = match () {
        () if signals.ready == 0 && signals.waiting > 0 => (environments(average), Reason::Waiting),
        () if passed.is_shed() => (environments(average), Reason::Shed),
        () => (environments(average), Reason::Demand),
    };
    let mut consider = |environments: u32, reason: Reason| {
        if environments > best.0 {
            best = (environments, reason);
        }
    };
    let mut enough = 0;
    if target.is_none() {
        consider(environments(average * history.growth(now, ahead)), Reason::Growth);
    }
    history.batch_time = passed.batch_time().or(history.batch_time);
    let limit = policy.queue_wait.max(history.batch_time.unwrap_or_default() * 2);
    // Of those that wait still nothing can be said before it is known how long a batch takes.
    let age = history.batch_time.map_or(Duration::ZERO, |_| signals.queue_age);
    let waited = passed.queue_wait().max(age);
    let queue = (waited.as_secs_f64() / limit.max(Duration::from_micros(1)).as_secs_f64()).min(QUEUE_MAX);
    if queue > 1.0 && signals.ready >= signals.environments && target.is_none() {
        consider((f64::from(signals.ready) * queue).ceil() as u32, Reason::QueueWait);
    }
    history.note_busy(now, passed.busy(signals));
    let given = target.or(policy.utilization);
    if let Some(target) = given.or(signals.is_unbatched.then_some(BUSY)) {
        let Busy { workers, cores, devices, .. } = history.busy();
        // Cores and devices may be busy with what no worker does: preparing, waiting for the next batch. What is meant to be busy
        // is what somebody has set a target for.
        let busiest = if given.is_some() { workers.max(cores).max(devices) } else { workers };
        let busy = busiest / target.clamp(0.01, 1.0);
        consider(busy.ceil() as u32, Reason::Utilization);
        enough = (busy * NOISE).ceil() as u32;
    }
    let (wanted, reason) = best;
    Wanted { environments: wanted, enough: wanted.max(environments(average * NOISE)).max(enough), reason }
}
