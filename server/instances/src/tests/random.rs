//! Whatever happens to a roster, in whatever order: limits hold, room is given once, and it comes to rest.

use super::devices::machine;
use super::{SECOND, deadlines, needs, rules, types};
use crate::Address;
use crate::protocol::{Beat, DeviceBeat};
use crate::roster::{Action, Leased, Proof, Roster};
use penstock_scaler::{Needs, Stage};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

#[derive(Clone, Debug)]
enum Event {
    /// So many environments of a version want so many cores each, and so much of a device.
    Seek { version: u8, count: u8, vcpu: u8, device_mib: u8 },
    /// One that has room turns out to take so much of its device.
    Resize { which: u8, device_mib: u8 },
    /// A device of one fails, or answers again.
    Fail { which: u8, second: bool, is_bad: bool },
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
    /// All that were to end have.
    End,
    /// The provider has so many cores that nobody knows of.
    Find(u8),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (0u8..3, 1u8..6, 1u8..5, prop_oneof![Just(0u8), 1u8..12])
            .prop_map(|(version, count, vcpu, device_mib)| Event::Seek { version, count, vcpu, device_mib }),
        2 => (any::<u8>(), 0u8..12).prop_map(|(which, device_mib)| Event::Resize { which, device_mib }),
        1 => (any::<u8>(), any::<bool>(), any::<bool>())
            .prop_map(|(which, second, is_bad)| Event::Fail { which, second, is_bad }),
        3 => any::<u8>().prop_map(Event::Leave),
        4 => Just(Event::Join),
        3 => (0u16..90, prop::option::weighted(0.2, any::<u8>()))
            .prop_map(|(seconds, silent)| Event::Pass { seconds, silent }),
        1 => (any::<u8>(), any::<bool>()).prop_map(|(which, is_bad)| Event::Complain { which, is_bad }),
        1 => any::<u8>().prop_map(Event::Die),
        1 => Just(Event::Replace),
        1 => (5u8..40).prop_map(Event::Limit),
        2 => Just(Event::End),
        1 => (0u8..8).prop_map(Event::Find),
    ]
}

/// A roster, and what those who use it know.
struct World {
    roster: Roster,
    now: Instant,
    limit: u32,
    waiting: BTreeSet<u64>,
    given: BTreeSet<u64>,
    /// Those that are to end and have not, and their cores.
    ending: BTreeMap<String, u32>,
    unknown: u32,
    /// The cores of each.
    shapes: BTreeMap<String, u32>,
}

impl World {
    fn vcpu(&self) -> u32 {
        let wanted: u32 = self.roster.instances().values().map(|entry| entry.shape.vcpu).sum();
        wanted + self.ending.values().sum::<u32>() + self.unknown
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
                    let vcpu = |id: &String| self.roster.instances()[id].shape.vcpu;
                    self.shapes.extend(ids.iter().map(|id| (id.clone(), vcpu(id))));
                }
                Action::Give { seeker, .. } => {
                    assert!(self.waiting.remove(&seeker) && self.given.insert(seeker), "{seeker} is given room twice");
                }
                Action::Refuse { seeker, .. } => assert!(self.waiting.remove(&seeker), "{seeker} does not wait"),
                Action::Terminate { id, leases, .. } => {
                    let vcpu = self.shapes.remove(&id).unwrap();
                    self.ending.insert(id, vcpu);
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
                Action::Forget { .. } => {}
                Action::Leave { lease } => assert!(self.given.contains(&lease)),
            }
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Seek { version, count, vcpu, device_mib } => {
                for _ in 0..count {
                    let needs = Needs { device_memory_mib: device_mib.into(), ..needs(vcpu.into()) };
                    self.waiting.insert(self.roster.seek(format!("f:{version}"), needs));
                }
            }
            Event::Resize { which, device_mib } => {
                let given: Vec<u64> = self.given.iter().copied().collect();
                if let Some(lease) = given.get(usize::from(which) % given.len().max(1)) {
                    // What does not fit is refused.
                    let _ = self.roster.resize(*lease, device_mib.into());
                }
            }
            Event::Fail { which, second, is_bad } => {
                if let Some(id) = self.nth(which) {
                    let entry = &self.roster.instances()[&id];
                    let mut beat = entry.beat.clone();
                    let uuid = format!("{id}-{}", u8::from(second));
                    beat.devices.retain(|device| device.uuid != uuid);
                    let fault = is_bad.then(|| "it has failed".to_owned());
                    beat.devices.push(DeviceBeat { uuid, memory_used_mib: None, busy_percent: None, fault });
                    self.roster.beat(&id, beat, self.now);
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
                    self.roster.join(proof, machine(&id, &[10, 10]), Address::Unix("/a".into()), self.now).unwrap();
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
            Event::End => {
                let ending = std::mem::take(&mut self.ending);
                ending.keys().for_each(|id| self.roster.ended(id));
            }
            Event::Find(vcpu) => {
                self.unknown = vcpu.into();
                self.roster.set_unknown_vcpu(self.unknown);
            }
        }
    }
}

proptest! {
    #[test]
    fn limits_hold_and_it_comes_to_rest(events in prop::collection::vec(any_event(), 1..60)) {
        let mut types = types();
        (types[0].shape.devices, types[0].shape.device_memory_mib) = (2, 10);
        let roster = Roster::new(rules(20), types, deadlines());
        let now = tokio::time::Instant::now().into_std();
        let mut world = World {
            roster,
            now,
            limit: 20,
            waiting: BTreeSet::new(),
            given: BTreeSet::new(),
            ending: BTreeMap::new(),
            unknown: 0,
            shapes: BTreeMap::new(),
        };
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
                let taken: u32 = entry.leases.values().map(|leased| leased.needs.vcpu).sum();
                prop_assert!(taken <= entry.shape.for_environments().0, "{taken} vCPU on one");
                for device in entry.devices() {
                    let given = entry.given_mib(&device.uuid);
                    prop_assert!(given <= device.memory_mib, "{given} MiB of one device");
                }
                let on_none = |leased: &Leased| leased.device.is_none() && leased.needs.device_memory_mib > 0;
                prop_assert!(!entry.leases.values().any(on_none), "one has no device");
                held.extend(entry.leases.keys().copied());
            }
            prop_assert_eq!(&held, &world.given);
        }
    }
}
