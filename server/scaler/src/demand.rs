//! What is wanted of a version, in slots, from one look at it.
//!
//! Called by `decide`.

use std::time::Duration;

/// What one refused request stands for at most, in those that were taken: offered load is guessed no higher than this many
/// times what is served.
const OFFERED_MAX: f64 = 4.0;

/// What was measured of a version. Counters grow from the version's start on.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Signals {
    /// Environments that are kept: ready, starting, or being started again.
    pub environments: u32,
    /// Those that take requests.
    pub ready: u32,
    /// Slots of all ready ones together.
    pub slots: u32,
    /// Slots of one environment, where none is ready.
    pub slots_each: u32,
    /// Runtime workers of one environment.
    pub workers_each: u32,
    /// A worker runs one request at a time, and never several together: how busy it is says how much more it can do.
    pub is_unbatched: bool,
    /// Requests in environments now.
    pub in_flight: u32,
    /// Requests that wait for an environment now.
    pub waiting: u32,
    /// Requests that came.
    pub received: u64,
    /// Requests that were refused because all was full, or because there was no environment.
    pub shed: u64,
    /// Requests that were done.
    pub done: u64,
    /// Time that those waited in queues, all together.
    pub queued: Duration,
    /// How long the oldest request in a queue has waited, in the environment where that is least: all have queues so old.
    pub queue_age: Duration,
    /// Batches that were run.
    pub batches: u64,
    /// Time that workers ran them, all together.
    pub busy: Duration,
    /// Cores of one environment.
    pub cores_each: u32,
    /// Time of cores that environments have used, all together.
    pub cpu: Duration,
    /// Share of the time that the devices run kernels on which ready ones are, by what their drivers say, all together: 1 for one
    /// that always does.
    pub devices_busy: f64,
    /// From asking for an environment to its being ready, as measured last.
    pub start_time: Option<Duration>,
}

/// What happened between two looks.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Passed {
    received: u64,
    shed: u64,
    done: u64,
    queued: Duration,
    batches: u64,
    busy: Duration,
    cpu: Duration,
    seconds: f64,
}

/// How busy a version was for a while, in environments that were so all the time.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub(crate) struct Busy {
    /// Their runtime workers.
    pub(crate) workers: f64,
    /// Their cores.
    pub(crate) cores: f64,
    /// Devices: one may have several of them, and more on the same one would not make it less busy.
    pub(crate) devices: f64,
    /// For how long.
    pub(crate) seconds: f64,
}

impl Busy {
    /// Over the time of both.
    pub(crate) fn and(self, other: Self) -> Self {
        let seconds = self.seconds + other.seconds;
        let mean = |one: f64, two: f64| match seconds > 0.0 {
            true => (one * self.seconds + two * other.seconds) / seconds,
            false => 0.0,
        };
        Self {
            workers: mean(self.workers, other.workers),
            cores: mean(self.cores, other.cores),
            devices: mean(self.devices, other.devices),
            seconds,
        }
    }
}

impl Passed {
    pub(crate) fn between(before: &Signals, after: &Signals, time: Duration) -> Self {
        Self {
            received: after.received.saturating_sub(before.received),
            shed: after.shed.saturating_sub(before.shed),
            done: after.done.saturating_sub(before.done),
            queued: after.queued.saturating_sub(before.queued),
            batches: after.batches.saturating_sub(before.batches),
            busy: after.busy.saturating_sub(before.busy),
            cpu: after.cpu.saturating_sub(before.cpu),
            seconds: time.as_secs_f64(),
        }
    }

    /// Somebody wanted something.
    pub(crate) fn is_asked(&self) -> bool {
        self.received > 0
    }

    /// Some were refused.
    pub(crate) fn is_shed(&self) -> bool {
        self.shed > 0
    }

    /// Mean wait in a queue, of those that were done.
    pub(crate) fn queue_wait(&self) -> Duration {
        self.queued.checked_div(u32::try_from(self.done).unwrap_or(u32::MAX)).unwrap_or_default()
    }

    /// Mean time of a batch, if any were run.
    pub(crate) fn batch_time(&self) -> Option<Duration> {
        self.busy.checked_div(u32::try_from(self.batches).unwrap_or(u32::MAX))
    }

    /// How busy they were, on average. Who served nobody was not busy: signs of life cost a little, too.
    pub(crate) fn busy(&self, signals: &Signals) -> Busy {
        if !self.is_asked() && signals.in_flight == 0 && self.busy.is_zero() {
            return Busy { seconds: self.seconds, ..Busy::default() };
        }
        let average = |time: Duration, each: u32| match self.seconds > 0.0 {
            true => time.as_secs_f64() / self.seconds / f64::from(each.max(1)),
            false => 0.0,
        };
        Busy {
            workers: average(self.busy, signals.workers_each),
            cores: average(self.cpu, signals.cores_each),
            devices: signals.devices_busy,
            seconds: self.seconds,
        }
    }
}

impl Signals {
    /// Slots of one environment; at least 1.
    pub(crate) fn slots_of_one(&self) -> f64 {
        let of_ready = self.slots.checked_div(self.ready).filter(|slots| *slots > 0);
        f64::from(of_ready.unwrap_or(self.slots_each).max(1))
    }

    /// Slots that are wanted now. What was refused counts as if it had stayed as long as what was taken: in flight grows as
    /// what is offered to what is taken does (Little's law, L = λW, with the same W).
    pub(crate) fn slots_wanted(&self, passed: &Passed) -> f64 {
        let here = f64::from(self.in_flight) + f64::from(self.waiting);
        let taken = passed.received.saturating_sub(passed.shed);
        let offered = match (passed.shed, taken) {
            (0, _) => 1.0,
            (_, 0) => OFFERED_MAX,
            (_, taken) => (passed.received as f64 / taken as f64).min(OFFERED_MAX),
        };
        // Refused with nothing in flight: at least they themselves.
        let refused = if here == 0.0 { (passed.shed as f64).min(self.slots_of_one()) } else { 0.0 };
        here * offered + refused
    }
}
