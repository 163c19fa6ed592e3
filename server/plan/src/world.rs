//! The simulated world: requests come, wait, run and end; environments and instances become ready; the scaler looks.
//!
//! One event after the other, in order of time. What happens at the same moment happens in this order: requests that wait
//! expire, requests end, things become ready, requests come, the scaler looks.

use crate::books::{Books, Shed};
use crate::events::{Ended, Events, Ready};
use crate::level::Level;
use crate::load::{Arrival, Load};
use crate::machines::{Bill, Machines};
use crate::pool::{Pool, Waiter};
use crate::scenario::Scenario;
use crate::series::{Recorder, Series};
use penstock_domain::FunctionName;
use penstock_scaler::{InstanceType, Scaler};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Told apart from the seeds of what else is drawn.
const CHOICES: u64 = 0x6368_6f69_6365;

/// What is known of the starts of environments, as the dispatch room knows it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Starts {
    /// Since when one is starting, where none was ready.
    pub(crate) since_ns: Option<u64>,
    /// From asking for one to its being ready, the last time.
    pub(crate) took_ns: u64,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Next {
    Ends,
    BecomesReady,
    LeavesLine,
    LeavesQueue,
    Comes,
    Looks,
}

/// The world.
pub(crate) struct World<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) origin: Instant,
    pub(crate) now_ns: u64,
    pub(crate) books: Books,
    pub(crate) pool: Pool,
    pub(crate) machines: Machines<'a>,
    pub(crate) events: Events,
    /// Those that wait for an environment, in the order in which they came.
    pub(crate) line: VecDeque<Waiter>,
    /// When those expire that got into a queue, and in which environment: ascending, for whoever came first is taken first and
    /// all have as long.
    late: VecDeque<(u64, u32)>,
    pub(crate) starts: Starts,
    pub(crate) scaler: Scaler,
    pub(crate) function: FunctionName,
    pub(crate) types: Vec<InstanceType>,
    /// When the scaler looks next.
    pub(crate) looks_ns: u64,
    /// Something changed that instances depend on.
    pub(crate) replan: bool,
    /// Plans instances at every look, which must change nothing.
    pub(crate) always_replan: bool,
    /// Changes of level one, by reason: more, fewer.
    pub(crate) steps: BTreeMap<&'static str, (u64, u64)>,
    pub(crate) unmet_why: BTreeSet<&'static str>,
    deadline_ns: u64,
}

/// What came of a run.
pub(crate) struct Outcome {
    pub(crate) books: Books,
    pub(crate) series: Series,
    pub(crate) bills: Vec<Bill>,
    /// How many instances there were of each offer of the market.
    pub(crate) by_offer: Vec<Level>,
    pub(crate) vcpu_most: u32,
    pub(crate) steps: BTreeMap<&'static str, (u64, u64)>,
    pub(crate) unmet_why: BTreeSet<&'static str>,
    pub(crate) end_ns: u64,
}

impl<'a> World<'a> {
    /// Runs a load to its end.
    pub(crate) fn run(load: &Load, scenario: &'a Scenario, origin: Instant) -> Outcome {
        Self::new(scenario, origin).live(load)
    }

    pub(crate) fn new(scenario: &'a Scenario, origin: Instant) -> Self {
        let environments = &scenario.environments;
        let random = SmallRng::seed_from_u64(scenario.seed ^ CHOICES);
        let took_ns = (scenario.instance_start + environments.start).as_nanos() as u64;
        Self {
            scenario,
            origin,
            now_ns: 0,
            books: Books::new(),
            pool: Pool::new(environments.slots, environments.workers, random),
            machines: Machines::new(scenario, origin),
            events: Events::default(),
            line: VecDeque::new(),
            late: VecDeque::new(),
            // A version is published once an environment of it has been ready.
            starts: Starts { since_ns: None, took_ns },
            scaler: Scaler::default(),
            function: FunctionName::new("plan").expect("a name"),
            types: scenario.market.offers.iter().map(|offer| offer.instance_type.clone()).collect(),
            looks_ns: 0,
            replan: false,
            always_replan: false,
            steps: BTreeMap::new(),
            unmet_why: BTreeSet::new(),
            deadline_ns: scenario.requests.deadline.map_or(u64::MAX, |deadline| deadline.as_nanos() as u64),
        }
    }

    /// Lives through a load.
    pub(crate) fn live(mut self, load: &Load) -> Outcome {
        let (mut arrivals, mut recorder, span_ns) = (load.arrivals(), Recorder::new(), load.span_ns());
        let mut arrival = arrivals.next();
        self.begin();
        loop {
            let (at_ns, next) = self.next(arrival.as_ref());
            let over = arrival.is_none() && self.line.is_empty() && self.books.taken.value() == 0;
            if over && at_ns > self.now_ns.max(span_ns) {
                break;
            }
            while recorder.ends_ns() <= at_ns {
                recorder.close(&mut self.books);
            }
            self.now_ns = at_ns;
            match next {
                Next::Ends => self.ends(),
                Next::BecomesReady => self.becomes_ready(self.scenario.environments.start),
                Next::LeavesLine => self.leaves_line(),
                Next::LeavesQueue => self.leaves_queue(),
                Next::Comes => {
                    if let Some(arrival) = std::mem::replace(&mut arrival, arrivals.next()) {
                        self.comes(arrival);
                    }
                }
                Next::Looks => self.look(),
            }
        }
        // Some time passes, so that there are averages.
        let end_ns = self.now_ns.max(span_ns).max(1);
        recorder.finish(end_ns, &mut self.books);
        let vcpu_most = self.machines.vcpu_most();
        let (bills, by_offer) = self.machines.close(end_ns);
        let Self { books, steps, unmet_why, .. } = self;
        Outcome { books, series: recorder.series(), bills, by_offer, vcpu_most, steps, unmet_why, end_ns }
    }

    fn next(&self, arrival: Option<&Arrival>) -> (u64, Next) {
        let mut next = (self.looks_ns, Next::Looks);
        let mut consider = |at_ns: Option<u64>, what: Next| {
            if let Some(at_ns) = at_ns.filter(|at_ns| *at_ns <= next.0) {
                next = (at_ns, what);
            }
        };
        // Of the same moment the last of these is the first.
        consider(arrival.map(|arrival| arrival.at_ns), Next::Comes);
        consider(self.events.next_ready(), Next::BecomesReady);
        consider(self.events.next_end(), Next::Ends);
        consider(self.late.front().map(|(at_ns, _)| *at_ns), Next::LeavesQueue);
        consider(self.line.front().map(|waiter| waiter.arrived_ns.saturating_add(self.in_line_ns())), Next::LeavesLine);
        next
    }

    /// How long a request is in line at most.
    fn in_line_ns(&self) -> u64 {
        self.deadline_ns.min(self.scenario.requests.patience.as_nanos() as u64)
    }

    /// A request comes: to an environment with a free slot, or into the line if none takes requests, or nowhere.
    fn comes(&mut self, arrival: Arrival) {
        let now_ns = self.now_ns;
        let waiter = Waiter { arrived_ns: now_ns, taken_ns: now_ns, service_ns: arrival.service_ns };
        self.books.comes(now_ns, arrival.service_ns.min(self.deadline_ns));
        if let Some(environment) = self.pool.choose() {
            // Those in line had their turn when the slot became free.
            debug_assert!(self.line.is_empty());
            return self.take(environment, waiter);
        }
        if self.pool.ready() > 0 {
            return self.books.shed(Shed::NoSlot);
        }
        let passed_ns = self.starts.since_ns.map_or(0, |since_ns| now_ns - since_ns);
        if self.starts.took_ns.saturating_sub(passed_ns) > self.deadline_ns {
            self.books.shed(Shed::StartTooLong);
        } else if self.line.len() >= self.scenario.requests.waiting as usize {
            self.books.shed(Shed::LineFull);
        } else {
            self.line.push_back(waiter);
        }
        // Whatever becomes of this one, somebody asks: looked at now, not when it is time.
        if self.books.wanted.value() == 0 {
            self.looks_ns = now_ns;
        }
    }

    /// It has a slot: it runs there, or waits in the queue.
    fn take(&mut self, environment: u32, waiter: Waiter) {
        let waiter = Waiter { taken_ns: self.now_ns, ..waiter };
        self.books.taken.add(self.now_ns, 1);
        if self.pool.take(environment, waiter) {
            self.books.running.add(self.now_ns, 1);
            return self.runs(environment, waiter);
        }
        if self.deadline_ns < u64::MAX {
            let at_ns = waiter.arrived_ns + self.deadline_ns;
            debug_assert!(self.late.back().is_none_or(|(before_ns, _)| *before_ns <= at_ns));
            self.late.push_back((at_ns, environment));
        }
    }

    fn runs(&mut self, environment: u32, waiter: Waiter) {
        let now_ns = self.now_ns;
        let (ends_ns, late_ns) = (now_ns + waiter.service_ns, waiter.arrived_ns.saturating_add(self.deadline_ns));
        let done = ends_ns <= late_ns;
        self.books.queued += Duration::from_nanos(now_ns - waiter.taken_ns);
        self.books.begins(now_ns - waiter.arrived_ns, done.then(|| ends_ns - waiter.arrived_ns));
        self.events.ends(Ended { at_ns: ends_ns.min(late_ns), started_ns: now_ns, environment, done });
    }

    fn ends(&mut self) {
        let Some(Ended { started_ns, environment, done, .. }) = self.events.take_end() else { return };
        self.books.busy += Duration::from_nanos(self.now_ns - started_ns);
        match done {
            true => self.books.counts.done += 1,
            false => self.books.counts.expired_running += 1,
        }
        self.books.taken.take(self.now_ns, 1);
        match self.pool.ended(environment) {
            Some(next) => self.runs(environment, next),
            None => self.books.running.take(self.now_ns, 1),
        }
        self.released(environment);
    }

    /// Its deadline passed in a queue, if it is still there.
    fn leaves_queue(&mut self) {
        let Some((at_ns, environment)) = self.late.pop_front() else { return };
        if self.pool.leaves_queue(environment, at_ns - self.deadline_ns).is_some() {
            self.books.counts.expired_waiting += 1;
            self.books.taken.take(self.now_ns, 1);
            self.released(environment);
        }
    }

    /// The first in line has waited too long.
    fn leaves_line(&mut self) {
        self.line.pop_front();
        match self.deadline_ns <= self.in_line_ns() {
            true => self.books.counts.expired_waiting += 1,
            false => self.books.shed(Shed::OutOfPatience),
        }
    }

    /// A slot is free: the first in line has it, or the environment goes.
    fn released(&mut self, environment: u32) {
        match self.pool.goes(environment) {
            Some(instance) => {
                self.books.slots_kept.take(self.now_ns, u64::from(self.scenario.environments.slots));
                self.gone(instance);
            }
            None => self.call_line(),
        }
    }

    /// Those in line have their turn, as long as there are slots.
    fn call_line(&mut self) {
        while !self.line.is_empty()
            && let Some(environment) = self.pool.choose()
            && let Some(waiter) = self.line.pop_front()
        {
            self.take(environment, waiter);
        }
    }

    /// An instance has one environment less.
    pub(crate) fn gone(&mut self, instance: u32) {
        self.machines.leaves(instance);
        self.start_on(instance, self.scenario.environments.start);
        self.machines.note_empty(instance, self.now_ns);
    }

    /// Starts what is to be on an instance and has room there.
    pub(crate) fn start_on(&mut self, instance: u32, takes: Duration) {
        let start_ns = takes.as_nanos() as u64;
        while let Some(asked_ns) = self.machines.starts(instance) {
            let (environment, generation) = self.pool.start(instance, asked_ns);
            if let Some(machine) = self.machines.machine(instance) {
                machine.environments.push(environment);
            }
            self.events.ready(self.now_ns + start_ns, Ready::Environment { environment, generation });
        }
    }

    /// Something becomes ready; on an instance environments start then, which takes as long as is said.
    pub(crate) fn becomes_ready(&mut self, start: Duration) {
        match self.events.take_ready() {
            None => {}
            Some(Ready::Instance(number)) => {
                self.machines.becomes_ready(number, self.now_ns);
                self.start_on(number, start);
                self.replan |= self.machines.is_empty(number);
            }
            Some(Ready::Environment { environment, generation }) => {
                let Some(asked_ns) = self.pool.becomes_ready(environment, generation) else { return };
                let slots = u64::from(self.scenario.environments.slots);
                self.books.ready.add(self.now_ns, 1);
                self.books.slots.add(self.now_ns, slots);
                self.books.slots_kept.add(self.now_ns, slots);
                self.starts = Starts { since_ns: None, took_ns: self.now_ns - asked_ns };
                self.call_line();
            }
        }
    }

    pub(crate) fn moment(&self) -> Instant {
        self.origin + Duration::from_nanos(self.now_ns)
    }
}
