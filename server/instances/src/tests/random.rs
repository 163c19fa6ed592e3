//! Whatever happens to a roster, in whatever order: limits hold, room is given once, and it comes to rest.

use super::{SECOND, deadlines, needs, rules, types};
use crate::Address;
use crate::protocol::Beat;
use crate::roster::{Action, Proof, Roster};
use penstock_scaler::Stage;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::Instant;

#[derive(Clone, Debug)]
enum Event {
    /// So many environments of a version want so many cores each.
    Seek { version: u8, count: u8, vcpu: u8 },
    /// One of those that have room, or wait, leaves.
    Leave(u8),
    /// Those that are launching join.
    Join,
    /// Time passes, and all but one tell that they live.
    Pass { seconds: u16, silent: Option<u8> },
    /// One says that something is wrong with it, or that nothing is.
    Complain { which: u8, is_bad: bool },
    /// The process of one ends.
    Die(u8),
    /// All are to be replaced.
    Replace,
    /// There may be so many cores.
    Limit(u8),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u8..3, 1u8..6, 1u8..5).prop_map(|(version, count, vcpu)| Event::Seek { version, count, vcpu }),
        3 => any::<u8>().prop_map(Event::Leave),
        4 => Just(Event::Join),
        3 => (0u16..90, prop::option::weighted(0.2, any::<u8>()))
            .prop_map(|(seconds, silent)| Event::Pass { seconds, silent }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(which, is_bad)| Event::Complain { which, is_bad }),
        1 => any::<u8>().prop_map(Event::Die),
        1 => Just(Event::Replace),
        1 => (5u8..40).prop_map(Event::Limit),
    ]
}

/// A roster, and what those who use it know.
struct World {
    roster: Roster,
    now: Instant,
    limit: u32,
    waiting: BTreeSet<u64>,
    given: BTreeSet<u64>,
}

impl World {
    fn vcpu(&self) -> u32 {
        self.roster.instances().values().map(|entry| entry.shape.vcpu).sum()
    }

    fn nth(&self, which: u8) -> Option<String> {
        let ids: Vec<&String> = self.roster.instances().keys().collect();
        ids.get(usize::from(which) % ids.len().max(1)).map(|id| (*id).clone())
    }

    fn carry_out(&mut self, actions: Vec<Action>) {
        for action in actions {
            match action {
                Action::Launch { ids, .. } => {
                    assert!(self.vcpu() <= self.limit, "{} of {}", self.vcpu(), self.limit);
                    ids.iter().for_each(|id| self.roster.expect(id, id.clone()));
                }
                Action::Give { seeker, .. } => {
                    assert!(self.waiting.remove(&seeker) && self.given.insert(seeker), "{seeker} is given room twice");
                }
                Action::Refuse { seeker, .. } => assert!(self.waiting.remove(&seeker), "{seeker} does not wait"),
                Action::Terminate { leases, .. } => {
                    // Their supervisors see it and give the room back.
                    for lease in leases {
                        assert!(self.given.remove(&lease), "{lease} has no room");
                        self.roster.release(lease, self.now);
                    }
                }
                Action::Stop { id } => {
                    let gone = self.roster.gone(&id, self.now);
                    self.carry_out(gone.into_iter().collect());
                }
                Action::Leave { lease } => assert!(self.given.contains(&lease)),
            }
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Seek { version, count, vcpu } => {
                for _ in 0..count {
                    self.waiting.insert(self.roster.seek(format!("f:{version}"), needs(vcpu.into())));
                }
            }
            Event::Leave(which) => {
                let all: Vec<u64> = self.given.iter().chain(&self.waiting).copied().collect();
                if let Some(lease) = all.get(usize::from(which) % all.len().max(1)) {
                    self.roster.release(*lease, self.now);
                    self.given.remove(lease);
                    self.waiting.remove(lease);
                }
            }
            Event::Join => {
                let launching = self.roster.instances().iter().filter(|(_, entry)| entry.stage == Stage::Launching);
                let ids: Vec<String> = launching.map(|(id, _)| id.clone()).collect();
                for id in ids {
                    let proof = (&*id, Proof::Token(&id));
                    self.roster.join(proof, (1, false), Address::Unix("/a".into()), self.now).unwrap();
                }
            }
            Event::Pass { seconds, silent } => {
                self.now += SECOND * u32::from(seconds);
                let silent = silent.and_then(|which| self.nth(which));
                let ids: Vec<String> = self.roster.instances().keys().cloned().collect();
                for id in ids.into_iter().filter(|id| Some(id) != silent.as_ref()) {
                    let beat = self.roster.instances()[&id].beat.clone();
                    self.roster.beat(&id, beat, self.now);
                }
            }
            Event::Complain { which, is_bad } => {
                if let Some(id) = self.nth(which) {
                    let unhealthy = is_bad.then(|| "its disk is full".to_owned());
                    self.roster.beat(&id, Beat { unhealthy, ..Beat::default() }, self.now);
                }
            }
            Event::Die(which) => {
                let gone = self.nth(which).and_then(|id| self.roster.gone(&id, self.now));
                self.carry_out(gone.into_iter().collect());
            }
            Event::Replace => self.roster.replace_all(self.now),
            Event::Limit(limit) => {
                self.limit = limit.into();
                self.roster.set_vcpu_max(self.limit);
            }
        }
    }
}

proptest! {
    #[test]
    fn limits_hold_and_it_comes_to_rest(events in prop::collection::vec(any_event(), 1..60)) {
        let roster = Roster::new(rules(20), types(), deadlines());
        let now = tokio::time::Instant::now().into_std();
        let mut world = World { roster, now, limit: 20, waiting: BTreeSet::new(), given: BTreeSet::new() };
        for event in events {
            world.happens(event);
            let mut looks = 0;
            loop {
                let actions = world.roster.decide(world.now);
                if actions.is_empty() {
                    break;
                }
                world.carry_out(actions);
                looks += 1;
                prop_assert!(looks < 40, "it does not come to rest");
            }
            let mut held = BTreeSet::new();
            for entry in world.roster.instances().values() {
                let taken: u32 = entry.leases.values().map(|(_, needs)| needs.vcpu).sum();
                prop_assert!(taken <= entry.shape.for_environments().0, "{taken} vCPU on one");
                held.extend(entry.leases.keys().copied());
            }
            prop_assert_eq!(&held, &world.given);
        }
    }
}
