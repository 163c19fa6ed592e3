//! The control loop: what was measured goes to `decide`, what that wants to `plan_instances`, and what that says is done.
//!
//! Run by the world at every look, as the dispatch room does it. Instances are planned when what is wanted changed, or when
//! an instance may have been empty for long: a plan that was carried out leaves nothing to do until then. What could not be had is
//! not had later either, for nothing is given back while something is wanted.

use crate::events::Ready;
use crate::world::World;
use penstock_domain::VersionNumber;
use penstock_scaler::{Fleet, Signals, Step, Unavailable, Version, Why, Wish, decide, plan_instances};
use std::time::Duration;

/// The one version, as level two names it.
const VERSION: &str = "plan:1";

impl World<'_> {
    /// What is there at the beginning: the fewest environments that there may be, ready, on instances that are paid from now on;
    /// and a scaler that has looked before anybody came.
    pub(crate) fn begin(&mut self) {
        let least = self.scenario.environments.bounds.min;
        let took_ns = self.starts.took_ns;
        self.books.wanted.add(0, u64::from(least));
        self.plan_instances(Duration::ZERO);
        while self.events.next_ready() == Some(0) {
            self.becomes_ready(Duration::ZERO);
        }
        // As when it was published.
        self.starts.took_ns = took_ns;
        self.look();
    }

    /// The scaler looks.
    pub(crate) fn look(&mut self) {
        let (function, bounds) = (self.function.clone(), self.scenario.environments.bounds);
        let version = Version { function, number: VersionNumber(1), bounds, target: None, signals: self.signals() };
        let moment = self.moment();
        let plan = decide(std::slice::from_ref(&version), &mut self.scaler, &self.scenario.policy, moment);
        for step in &plan.steps {
            self.wants(step);
        }
        if self.machines.some_long_empty(self.now_ns) || self.replan || self.always_replan {
            self.plan_instances(self.scenario.instance_start);
        }
        let starts = self.pool.ready() == 0 && self.books.wanted.value() > 0;
        self.starts.since_ns = if starts { self.starts.since_ns.or(Some(self.now_ns)) } else { None };
        self.looks_ns = self.now_ns + self.scenario.interval.as_nanos() as u64;
    }

    /// What the dispatch room measures.
    fn signals(&self) -> Signals {
        let (books, environments) = (&self.books, &self.scenario.environments);
        Signals {
            environments: books.wanted.value() as u32,
            ready: self.pool.ready(),
            slots: self.pool.ready().saturating_mul(environments.slots),
            slots_each: environments.slots,
            workers_each: environments.workers,
            is_unbatched: true,
            in_flight: self.pool.in_flight(),
            waiting: self.line.len() as u32,
            received: books.counts.received,
            shed: books.counts.shed_all(),
            done: books.counts.done,
            queued: books.queued,
            queue_age: Duration::from_nanos(self.pool.queue_age_ns(self.now_ns)),
            batches: books.counts.done + books.counts.expired_running,
            busy: books.busy,
            start_time: Some(Duration::from_nanos(self.starts.took_ns)),
            // Workers are all that is simulated of what is busy.
            ..Signals::default()
        }
    }

    /// Level one wants another number of environments.
    fn wants(&mut self, step: &Step) {
        let (from, to) = (u64::from(step.from), u64::from(step.to));
        let (more, fewer) = self.steps.entry(step.reason.name()).or_default();
        if to > from {
            *more += 1;
            self.books.wanted.add(self.now_ns, to - from);
        } else {
            *fewer += 1;
            self.books.wanted.take(self.now_ns, from - to);
        }
        self.replan = true;
    }

    fn plan_instances(&mut self, instance_start: Duration) {
        self.replan = false;
        let environments = self.books.wanted.value() as u32;
        let wish = Wish { version: VERSION.into(), environments, needs: self.scenario.environments.needs };
        let (instances, rules) = (self.machines.instances(), &self.scenario.rules);
        let fleet = plan_instances(&[wish], instances, &self.types, rules, &Unavailable::new(), self.moment());
        self.carry_out(&fleet, instance_start);
        let (had, has) =
            (self.books.unmet.value(), fleet.unmet.iter().map(|unmet| u64::from(unmet.environments)).sum());
        self.books.unmet.take(self.now_ns, had);
        self.books.unmet.add(self.now_ns, has);
        self.unmet_why.extend(fleet.unmet.iter().map(|unmet| why(unmet.why)));
    }

    fn carry_out(&mut self, fleet: &Fleet, instance_start: Duration) {
        let now_ns = self.now_ns;
        for (id, version, count) in &fleet.remove {
            self.take_away(self.machines.number(id), version, *count);
        }
        for (id, version, count) in &fleet.place {
            let number = self.machines.number(id);
            self.machines.hold(number, version, *count, now_ns);
            self.start_on(number, self.scenario.environments.start);
        }
        for id in fleet.give_back.iter().chain(&fleet.give_up) {
            let number = self.machines.number(id);
            self.machines.give_back(number, now_ns, &mut self.books);
        }
        for launch in &fleet.launch {
            let number = self.machines.launch(launch, now_ns, &mut self.books);
            for (version, held) in &launch.environments {
                self.machines.hold(number, version, held.count, now_ns);
            }
            self.events.ready(now_ns + instance_start.as_nanos() as u64, Ready::Instance(number));
        }
    }

    /// An instance has so many environments less: those that had not begun to start, then those that start, then those with
    /// the fewest requests, which go when they are empty.
    fn take_away(&mut self, instance: u32, version: &str, count: u32) {
        for _ in 0..count {
            if self.machines.let_go(instance, version) {
                continue;
            }
            let Some(machine) = self.machines.machine(instance) else { return };
            let Some(position) = self.pool.easiest(&machine.environments) else { return };
            let environment = machine.environments.swap_remove(position);
            let slots = u64::from(self.scenario.environments.slots);
            let was_ready = self.pool.is_ready(environment);
            self.pool.drain(environment);
            if was_ready {
                self.books.ready.take(self.now_ns, 1);
                self.books.slots.take(self.now_ns, slots);
            }
            if let Some(instance) = self.pool.goes(environment) {
                if was_ready {
                    self.books.slots_kept.take(self.now_ns, slots);
                }
                self.gone(instance);
            }
        }
        self.machines.note_empty(instance, self.now_ns);
    }
}

fn why(why: Why) -> &'static str {
    match why {
        Why::NoType => "no_type",
        Why::Unavailable => "unavailable",
        Why::VcpuMax => "vcpu_max",
    }
}
