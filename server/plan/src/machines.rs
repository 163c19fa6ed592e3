//! The instances: launched, ready, empty, given back, and paid for.
//!
//! Used by the world, which carries out what `plan_instances` says. The scaler's view of each is kept beside ours, so that it
//! can be handed over as it is.

use crate::books::Books;
use crate::level::Level;
use crate::scenario::Scenario;
use penstock_scaler::{Held, Instance, Launch, Stage};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

const SECOND_NS: u64 = 1_000_000_000;
/// EC2 bills Linux by the second, and this much at least.
const BILLED_SECONDS_MIN: u64 = 60;

/// What one instance is for to us.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) number: u32,
    /// Of the market.
    offer: usize,
    launched_ns: u64,
    /// Environments that fit.
    holds: u32,
    /// Environments that are there: starting, ready or draining.
    live: u32,
    /// When those were asked for that cannot start yet.
    pending: VecDeque<u64>,
    /// Those that are starting or ready.
    pub(crate) environments: Vec<u32>,
}

/// What an instance costs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bill {
    /// Of the market.
    pub(crate) offer: usize,
    pub(crate) from_ns: u64,
    pub(crate) seconds: u64,
    /// Slots of the environments that fit.
    pub(crate) slots: u64,
}

/// All instances.
#[derive(Debug)]
pub(crate) struct Machines<'a> {
    scenario: &'a Scenario,
    origin: Instant,
    /// As the scaler sees them.
    instances: Vec<Instance>,
    machines: Vec<Machine>,
    /// Where each is, by its number.
    places: HashMap<u32, usize>,
    launched: u32,
    /// When those that became empty may be given back, if they still are: ascending.
    empty_until_ns: VecDeque<u64>,
    vcpu: u32,
    vcpu_most: u32,
    bills: Vec<Bill>,
    /// How many there are of each offer of the market.
    by_offer: Vec<Level>,
}

impl<'a> Machines<'a> {
    pub(crate) fn new(scenario: &'a Scenario, origin: Instant) -> Self {
        Self {
            scenario,
            origin,
            instances: Vec::new(),
            machines: Vec::new(),
            places: HashMap::new(),
            launched: 0,
            empty_until_ns: VecDeque::new(),
            vcpu: 0,
            vcpu_most: 0,
            bills: Vec::new(),
            by_offer: vec![Level::default(); scenario.market.offers.len()],
        }
    }

    /// As the scaler sees them.
    pub(crate) fn instances(&self) -> &[Instance] {
        &self.instances
    }

    /// The most cores that all had together.
    pub(crate) fn vcpu_most(&self) -> u32 {
        self.vcpu_most
    }

    /// The number of an instance that the scaler names.
    pub(crate) fn number(&self, id: &str) -> u32 {
        id.strip_prefix("i-").and_then(|number| number.parse().ok()).expect("it names those that it was given")
    }

    /// One is launched; its number. No limit on cores is ever passed: that is what the scaler promises.
    pub(crate) fn launch(&mut self, launch: &Launch, now_ns: u64, books: &mut Books) -> u32 {
        let offers = &self.scenario.market.offers;
        let offer = offers.iter().position(|offer| offer.instance_type.name == launch.instance_type);
        let offer = offer.expect("it buys what is offered");
        let shape = offers[offer].instance_type.shape;
        self.vcpu += shape.vcpu;
        self.vcpu_most = self.vcpu_most.max(self.vcpu);
        let vcpu_max = self.scenario.rules.vcpu_max;
        assert!(self.vcpu <= vcpu_max, "{} cores where {vcpu_max} are the most", self.vcpu);
        let number = self.launched;
        self.launched += 1;
        self.places.insert(number, self.machines.len());
        self.machines.push(Machine {
            number,
            offer,
            launched_ns: now_ns,
            holds: shape.holds(&self.scenario.environments.needs),
            live: 0,
            pending: VecDeque::new(),
            environments: Vec::new(),
        });
        self.instances.push(Instance {
            id: format!("i-{number}"),
            shape,
            zone: launch.zone.clone(),
            stage: Stage::Launching,
            since: self.moment(now_ns),
            empty_since: None,
            devices_left: None,
            environments: BTreeMap::new(),
        });
        self.by_offer[offer].add(now_ns, 1);
        books.instances.add(now_ns, 1);
        books.micro_usd_per_hour.add(now_ns, offers[offer].micro_usd_per_hour);
        number
    }

    /// It takes environments from now on.
    pub(crate) fn becomes_ready(&mut self, number: u32, now_ns: u64) {
        let moment = self.moment(now_ns);
        if let Some(place) = self.places.get(&number) {
            (self.instances[*place].stage, self.instances[*place].since) = (Stage::Ready, moment);
        }
    }

    /// It is to have so many more environments, asked for now.
    pub(crate) fn hold(&mut self, number: u32, version: &str, count: u32, now_ns: u64) {
        let Some(place) = self.places.get(&number).copied() else { return };
        let needs = self.scenario.environments.needs;
        let instance = &mut self.instances[place];
        instance.environments.entry(version.to_owned()).or_insert(Held { count: 0, needs }).count += count;
        instance.empty_since = None;
        self.machines[place].pending.extend((0..count).map(|_| now_ns));
    }

    /// It is to have one less. Whether that one had not begun to start: then it is gone already.
    pub(crate) fn let_go(&mut self, number: u32, version: &str) -> bool {
        let Some(place) = self.places.get(&number).copied() else { return true };
        let environments = &mut self.instances[place].environments;
        if let Some(held) = environments.get_mut(version) {
            held.count -= 1;
            environments.retain(|_, held| held.count > 0);
        }
        self.machines[place].pending.pop_back().is_some()
    }

    /// When the next of those that cannot start yet was asked for, if there is room for it now: it has its place from now on.
    pub(crate) fn starts(&mut self, number: u32) -> Option<u64> {
        let place = *self.places.get(&number)?;
        let machine = &mut self.machines[place];
        if self.instances[place].stage != Stage::Ready || machine.live >= machine.holds {
            return None;
        }
        let asked_ns = machine.pending.pop_front()?;
        machine.live += 1;
        Some(asked_ns)
    }

    pub(crate) fn machine(&mut self, number: u32) -> Option<&mut Machine> {
        self.places.get(&number).map(|place| &mut self.machines[*place])
    }

    /// One of its environments is gone.
    pub(crate) fn leaves(&mut self, number: u32) {
        if let Some(machine) = self.machine(number) {
            machine.live -= 1;
        }
    }

    /// Notes that it is empty, if it is.
    pub(crate) fn note_empty(&mut self, number: u32, now_ns: u64) {
        let moment = self.moment(now_ns);
        let Some(place) = self.places.get(&number).copied() else { return };
        let (instance, machine) = (&mut self.instances[place], &self.machines[place]);
        if instance.environments.is_empty() && machine.live == 0 && instance.empty_since.is_none() {
            instance.empty_since = Some(moment);
            let empty_after_ns = self.scenario.rules.empty_after.as_nanos() as u64;
            self.empty_until_ns.push_back(now_ns + empty_after_ns);
        }
    }

    /// Whether it has no environments, and is to have none.
    pub(crate) fn is_empty(&self, number: u32) -> bool {
        self.places.get(&number).is_some_and(|place| self.instances[*place].environments.is_empty())
    }

    /// Whether some have been empty for long, as far as is known without looking at each.
    pub(crate) fn some_long_empty(&mut self, now_ns: u64) -> bool {
        let due = self.empty_until_ns.iter().take_while(|until_ns| **until_ns <= now_ns).count();
        self.empty_until_ns.drain(..due);
        due > 0
    }

    /// It is given back.
    pub(crate) fn give_back(&mut self, number: u32, now_ns: u64, books: &mut Books) {
        let Some(place) = self.places.remove(&number) else { return };
        let instance = self.instances.swap_remove(place);
        let machine = self.machines.swap_remove(place);
        debug_assert!(machine.live == 0 && machine.environments.is_empty(), "{machine:?}");
        if let Some(moved) = self.machines.get(place) {
            self.places.insert(moved.number, place);
        }
        self.vcpu -= instance.shape.vcpu;
        self.by_offer[machine.offer].take(now_ns, 1);
        books.instances.take(now_ns, 1);
        books.micro_usd_per_hour.take(now_ns, self.scenario.market.offers[machine.offer].micro_usd_per_hour);
        self.bills.push(self.bill(&machine, now_ns));
    }

    /// All bills, those of what is still there until now, and how many there were of each offer.
    pub(crate) fn close(mut self, now_ns: u64) -> (Vec<Bill>, Vec<Level>) {
        let last: Vec<Bill> = self.machines.iter().map(|machine| self.bill(machine, now_ns)).collect();
        self.bills.extend(last);
        (self.bills, self.by_offer)
    }

    fn bill(&self, machine: &Machine, until_ns: u64) -> Bill {
        let seconds = (until_ns - machine.launched_ns).div_ceil(SECOND_NS).max(BILLED_SECONDS_MIN);
        let slots = u64::from(machine.holds) * u64::from(self.scenario.environments.slots);
        Bill { offer: machine.offer, from_ns: machine.launched_ns, seconds, slots }
    }

    fn moment(&self, at_ns: u64) -> Instant {
        self.origin + Duration::from_nanos(at_ns)
    }
}
