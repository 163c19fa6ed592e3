//! The ledger: which instances the fleet has, and what a look at those that there are says about them. Pure: `now` is an
//! argument.
//!
//! Kept by the provider. A look shows what is there by tag; what the ledger does not know was launched twice, or left by a server
//! that is gone, and is ended. What it knows and is there no more was ended from outside, and is told.

use penstock_instances::{Market, Offer};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Where EC2 says that an instance stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum State {
    /// It is coming or running.
    Alive,
    /// It is stopped or about to be; nobody here stops any.
    Stopped,
    /// It is ended or about to be.
    Gone,
}

/// An instance as a look shows it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Seen {
    pub(crate) name: String,
    pub(crate) state: State,
    pub(crate) offer: Offer,
    /// Its cores.
    pub(crate) vcpu: u32,
    pub(crate) market: Market,
    /// The order that it is of, by its tag.
    pub(crate) order: Option<String>,
}

/// An instance of this server's.
#[derive(Clone, PartialEq, Debug)]
struct Known {
    market: Market,
    /// When it was last seen, or launched.
    seen: Instant,
}

/// What is to be done after a look.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Looked {
    /// They have ended by themselves: to be told.
    pub(crate) ended: Vec<String>,
    /// They are to be ended, and whether each was known.
    pub(crate) terminate: Vec<(String, bool)>,
}

/// All that is known.
#[derive(Default, Debug)]
pub(crate) struct Ledger {
    known: BTreeMap<String, Known>,
    /// Those that are being ended.
    leaving: BTreeMap<String, Leaving>,
    /// Orders whose answer has not come yet, and how many instances each is to have, by market.
    orders: BTreeMap<String, (u32, u32)>,
    /// Orders that may have brought more than is known: so many cores, and since when.
    doubts: BTreeMap<String, (u32, Instant)>,
}

/// One that is being ended.
#[derive(Clone, PartialEq, Debug)]
struct Leaving {
    /// Since when it was not seen alive.
    at: Instant,
    /// Its cores, unless the fleet still counts them itself.
    vcpu: u32,
    /// EC2 has said that it ends.
    ends: bool,
}

impl Ledger {
    /// An order is about to be made: instances of it are not unknown.
    pub(crate) fn begin(&mut self, order: &str, on_demand: u32, spot: u32) {
        self.orders.insert(order.to_owned(), (on_demand, spot));
    }

    /// What came of an order.
    pub(crate) fn launched(&mut self, name: &str, market: Market, now: Instant) {
        self.known.insert(name.to_owned(), Known { market, seen: now });
    }

    /// An order is done: what else there is of it is unknown from now on.
    pub(crate) fn finish(&mut self, order: &str) {
        self.orders.remove(order);
    }

    /// An order may have brought so many cores more than is known: they count until looks have shown that it has not.
    pub(crate) fn doubt(&mut self, order: &str, vcpu: u32, now: Instant) {
        let doubt = self.doubts.entry(order.to_owned()).or_insert((0, now));
        *doubt = (doubt.0 + vcpu, now);
    }

    /// An instance is to end: one of the fleet's, or one that the fleet does not know and that has so many cores.
    pub(crate) fn leave(&mut self, name: &str, vcpu: u32, now: Instant) {
        self.known.remove(name);
        self.leaving.insert(name.to_owned(), Leaving { at: now, vcpu, ends: false });
    }

    /// EC2 has said that these end.
    pub(crate) fn end<'a>(&mut self, names: impl Iterator<Item = &'a String>) {
        for name in names {
            self.leaving.entry(name.clone()).and_modify(|leaving| leaving.ends = true);
        }
    }

    /// Whether one is to end, and EC2 has not said yet that it does.
    pub(crate) fn lingers(&self, name: &str) -> bool {
        self.leaving.get(name).is_some_and(|leaving| !leaving.ends)
    }

    /// Cores of what the fleet does not know and what may run.
    pub(crate) fn unknown_vcpu(&self) -> u32 {
        let leaving = self.leaving.values().filter(|leaving| !leaving.ends).map(|leaving| leaving.vcpu);
        leaving.chain(self.doubts.values().map(|(vcpu, _)| *vcpu)).sum()
    }

    /// All are to end.
    pub(crate) fn leave_all(&mut self, now: Instant) {
        let known = std::mem::take(&mut self.known);
        known.into_keys().for_each(|name| self.leave(&name, 0, now));
    }

    /// Whether an instance is known.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.known.contains_key(name)
    }

    /// Whether there is an order whose answer has not come yet.
    pub(crate) fn is_ordering(&self) -> bool {
        !self.orders.is_empty()
    }

    /// Those that are being ended.
    pub(crate) fn leaving(&self) -> Vec<String> {
        self.leaving.keys().cloned().collect()
    }

    /// Spot instances, and all, those that are ordered included.
    pub(crate) fn counts(&self) -> (u32, u32) {
        let (on_demand, spot) = self.orders.values().fold((0, 0), |sum, order| (sum.0 + order.0, sum.1 + order.1));
        let known_spot = self.known.values().filter(|one| one.market == Market::Spot).count() as u32;
        (known_spot + spot, self.known.len() as u32 + on_demand + spot)
    }

    /// Whether an order's answer has not come yet.
    pub(crate) fn is_ordered(&self, order: Option<&str>) -> bool {
        order.is_some_and(|order| self.orders.contains_key(order))
    }

    /// Takes a whole look into account, which began at `begun`: what was launched after that may not be in it.
    pub(crate) fn look(&mut self, all: &[Seen], unseen: Duration, begun: Instant, now: Instant) -> Looked {
        let mut looked = Looked::default();
        let mut there = BTreeSet::new();
        for seen in all {
            there.insert(seen.name.as_str());
            match seen.state {
                State::Gone => {
                    self.leaving.remove(&seen.name);
                    if self.known.remove(&seen.name).is_some() {
                        looked.ended.push(seen.name.clone());
                    }
                }
                State::Alive if self.known.contains_key(&seen.name) => {
                    self.known.entry(seen.name.clone()).and_modify(|known| known.seen = now);
                }
                State::Alive | State::Stopped if self.leaving.contains_key(&seen.name) => {
                    self.leaving.entry(seen.name.clone()).and_modify(|leaving| leaving.at = now);
                    looked.terminate.push((seen.name.clone(), true));
                }
                State::Alive if self.is_ordered(seen.order.as_deref()) => {}
                State::Alive | State::Stopped => {
                    let is_known = self.known.contains_key(&seen.name);
                    if is_known {
                        looked.ended.push(seen.name.clone());
                    }
                    // Of one that it is told of, the fleet counts the cores until that is ended.
                    self.leave(&seen.name, if is_known { 0 } else { seen.vcpu }, now);
                    let doubt = seen.order.as_ref().and_then(|order| self.doubts.get_mut(order));
                    doubt.into_iter().for_each(|(vcpu, _)| *vcpu = vcpu.saturating_sub(seen.vcpu));
                    looked.terminate.push((seen.name.clone(), is_known));
                }
            }
        }
        let is_missing = |name: &String, at: Instant| {
            !there.contains(name.as_str()) && at <= begun && begun.saturating_duration_since(at) > unseen
        };
        let missing = self.known.iter().filter(|(name, known)| is_missing(name, known.seen));
        let missing: Vec<String> = missing.map(|(name, _)| name.clone()).collect();
        for name in missing {
            self.known.remove(&name);
            // If it is seen again, it is nobody's.
            looked.ended.push(name);
        }
        self.leaving.retain(|name, leaving| !is_missing(name, leaving.at));
        self.doubts.retain(|_, (vcpu, at)| *vcpu > 0 && begun.saturating_duration_since(*at) <= unseen);
        looked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    const SECOND: Duration = Duration::from_secs(1);
    const UNSEEN: Duration = Duration::from_secs(60);

    fn seen(name: &str, state: State, order: &str) -> Seen {
        let offer = Offer { instance_type: "g6.xlarge".into(), zone: "a".into() };
        Seen { name: name.into(), state, offer, vcpu: 4, market: Market::OnDemand, order: Some(order.into()) }
    }

    #[test]
    fn what_is_unknown_is_ended_unless_its_order_is_under_way() {
        let now = tokio::time::Instant::now().into_std();
        let mut ledger = Ledger::default();
        ledger.begin("o-1", 2, 0);
        let all =
            [seen("i-1", State::Alive, "o-1"), seen("i-2", State::Alive, "o-1"), seen("i-9", State::Alive, "o-0")];
        let looked = ledger.look(&all, UNSEEN, now, now);
        assert_eq!((looked.ended.len(), looked.terminate), (0, vec![("i-9".to_owned(), false)]));
        assert_eq!(ledger.counts(), (0, 2));
        ledger.launched("i-1", Market::OnDemand, now);
        ledger.finish("o-1");
        assert_eq!(ledger.counts(), (0, 1));
        let looked = ledger.look(&all, UNSEEN, now, now);
        let expected = [("i-2".to_owned(), false), ("i-9".to_owned(), true)];
        assert_eq!(looked.terminate, expected, "launched twice; and what is to end is told so again");
        let all = [seen("i-1", State::Alive, "o-1"), seen("i-2", State::Gone, "o-1"), seen("i-9", State::Gone, "o-0")];
        assert_eq!(ledger.look(&all, UNSEEN, now, now), Looked::default());
        assert_eq!(ledger.leaving(), [""; 0]);
    }

    #[test]
    fn what_was_ended_from_outside_is_told_once() {
        let now = tokio::time::Instant::now().into_std();
        let mut ledger = Ledger::default();
        for name in ["i-1", "i-2", "i-3"] {
            ledger.launched(name, Market::Spot, now);
        }
        ledger.leave("i-3", 0, now);
        let all = [seen("i-1", State::Gone, "o"), seen("i-2", State::Stopped, "o"), seen("i-3", State::Gone, "o")];
        let looked = ledger.look(&all, UNSEEN, now, now);
        assert_eq!(looked.ended, ["i-1", "i-2"], "what was told to end is not told");
        assert_eq!(looked.terminate, [("i-2".to_owned(), true)], "a stopped one is paid for still");
        assert_eq!(ledger.look(&all, UNSEEN, now, now).ended, [""; 0]);
        assert_eq!(ledger.counts(), (0, 0));
    }

    #[test]
    fn what_is_not_seen_yet_has_time() {
        let (start, mut ledger) = (tokio::time::Instant::now().into_std(), Ledger::default());
        ledger.launched("i-1", Market::OnDemand, start);
        for (s, ended) in [(1, 0), (60, 0), (61, 1), (62, 0)] {
            let now = start + SECOND * s;
            assert_eq!(ledger.look(&[], UNSEEN, now, now).ended.len(), ended, "after {s} s");
        }
        ledger.launched("i-2", Market::OnDemand, start + SECOND * 100);
        let looked = ledger.look(&[], UNSEEN, start + SECOND * 90, start + SECOND * 200);
        assert_eq!(looked.ended.len(), 0, "the look began before it was launched");
        ledger.leave("i-2", 0, start + SECOND * 200);
        ledger.look(&[], UNSEEN, start + SECOND * 300, start + SECOND * 300);
        assert_eq!(ledger.leaving(), [""; 0], "one that was never seen is not waited for");
        let late = ledger.look(&[seen("i-1", State::Alive, "o")], UNSEEN, start + SECOND * 400, start + SECOND * 400);
        assert_eq!(late.terminate, [("i-1".to_owned(), false)], "it was given up");
    }

    /// What EC2 has: by name, whether it is alive, and its order.
    type There = BTreeMap<String, (bool, String)>;

    /// Orders whose answers are lost or doubled, instances that end from outside or are told to end, servers that start anew.
    #[test]
    fn whatever_happens_what_is_known_lives_and_what_lives_is_known() {
        for seed in 0..300 {
            let mut chance = SmallRng::seed_from_u64(seed);
            let (mut there, mut ledger) = (There::new(), Ledger::default());
            let (mut now, mut ours, mut next) = (tokio::time::Instant::now().into_std(), BTreeSet::new(), 0);
            let mut outside = BTreeSet::new();
            let look = |ledger: &mut Ledger, there: &mut There, ours: &mut BTreeSet<String>, now| {
                let state = |alive: &bool| if *alive { State::Alive } else { State::Gone };
                let all: Vec<Seen> =
                    there.iter().map(|(name, (alive, order))| seen(name, state(alive), order)).collect();
                let looked = ledger.look(&all, UNSEEN, now, now);
                for name in &looked.ended {
                    assert!(ours.remove(name) && !there[name].0, "seed {seed}: {name} is told to have ended");
                }
                for (name, _) in &looked.terminate {
                    assert!(!ours.contains(name), "seed {seed}: {name} is ended, and nobody wanted it");
                    there.insert(name.clone(), (false, String::new()));
                }
            };
            for step in 0..60 {
                now += SECOND;
                let order = format!("o-{step}");
                match chance.random_range(0..6) {
                    0 | 1 => {
                        let (count, doubled) = (chance.random_range(1..4), chance.random_bool(0.3));
                        ledger.begin(&order, count, 0);
                        let mut names = Vec::new();
                        for _ in 0..(if doubled { 2 * count } else { count }) {
                            next += 1;
                            names.push(format!("i-{next}"));
                            there.insert(format!("i-{next}"), (true, order.clone()));
                        }
                        if chance.random_bool(0.5) {
                            look(&mut ledger, &mut there, &mut ours, now);
                            assert!(names.iter().all(|name| there[name].0), "seed {seed}: its answer has not come yet");
                        }
                        // A lost answer: nobody is told what has come.
                        for name in names.into_iter().take(count as usize).filter(|_| chance.random_bool(0.8)) {
                            ledger.launched(&name, Market::OnDemand, now);
                            ours.insert(name);
                        }
                        ledger.finish(&order);
                    }
                    2 => {
                        if let Some(name) = ours.iter().next().cloned() {
                            there.insert(name.clone(), (false, String::new()));
                            outside.insert(name);
                        }
                    }
                    3 => {
                        if let Some(name) = ours.pop_last() {
                            ledger.leave(&name, 0, now);
                        }
                    }
                    4 if chance.random_bool(0.1) => (ledger, ours) = (Ledger::default(), BTreeSet::new()),
                    _ => look(&mut ledger, &mut there, &mut ours, now),
                }
            }
            look(&mut ledger, &mut there, &mut ours, now);
            let alive: BTreeSet<String> =
                there.iter().filter(|(_, (alive, _))| *alive).map(|(name, _)| name.clone()).collect();
            assert_eq!(alive, ours, "seed {seed}");
            assert!(outside.iter().all(|name| !ledger.has(name)), "seed {seed}");
        }
    }
}
