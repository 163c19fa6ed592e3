//! Devices in the roster: who gets which, and what becomes of them.

use super::{SECOND, deadlines, needs, rules, shape};
use crate::Address;
use crate::protocol::{Beat, Device, DeviceBeat, Machine};
use crate::roster::{Action, Proof, Roster};
use penstock_scaler::{InstanceType, Needs, Shape, Why};
use std::collections::BTreeMap;
use std::time::Instant;

/// One that has devices with so much memory.
pub(super) fn machine(id: &str, memory_mib: &[u64]) -> Machine {
    let device = |(index, memory_mib): (usize, &u64)| Device {
        uuid: format!("{id}-{index}"),
        name: "GPU".into(),
        memory_mib: *memory_mib,
        kept_mib: 0,
    };
    Machine { devices: memory_mib.iter().enumerate().map(device).collect(), ..Machine::default() }
}

/// A roster of instances that have two devices of 1000 MiB each, by their type.
struct World {
    roster: Roster,
    now: Instant,
    /// Who was given which device.
    given: BTreeMap<u64, Option<String>>,
    refused: Vec<(u64, Why)>,
    launched: Vec<String>,
}

impl World {
    fn new(vcpu_max: u32) -> Self {
        Self::of(vcpu_max, shape().vcpu)
    }

    fn of(vcpu_max: u32, vcpu: u32) -> Self {
        let of = |name: &str, devices, device_memory_mib| InstanceType {
            name: name.into(),
            shape: Shape { vcpu, devices, device_memory_mib, ..shape() },
            usd_per_hour: 0.0,
            zones: vec!["here".into()],
        };
        let types = vec![of("plain", 0, 0), of("gpu", 2, 1000)];
        let roster = Roster::new(rules(vcpu_max), types, deadlines());
        let now = tokio::time::Instant::now().into_std();
        Self { roster, now, given: BTreeMap::new(), refused: Vec::new(), launched: Vec::new() }
    }

    fn seek(&mut self, device_memory_mib: u64) -> u64 {
        let version = format!("f:{device_memory_mib}");
        self.roster.seek(version, Needs { device_memory_mib, ..needs(1) })
    }

    fn join(&mut self, id: &str, machine: Machine) -> Result<String, &'static str> {
        self.roster.expect(id, "token".into());
        let joined = self.roster.join((id, Proof::Token("token")), machine, Address::Unix("/a".into()), self.now);
        joined.map(|(id, _)| id)
    }

    /// Decides until there is nothing to do, and has all instances that are launched join with such devices.
    fn settle(&mut self, memory_mib: &[u64]) {
        for _ in 0..20 {
            let actions = self.roster.decide(self.now);
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Launch { ids, offers, .. } => {
                        for id in ids {
                            let has = if offers[0].instance_type == "gpu" { memory_mib } else { &[] };
                            self.join(&id, machine(&id, has)).unwrap();
                            self.launched.push(id);
                        }
                    }
                    Action::Give { seeker, place } => {
                        self.given.insert(seeker, place.device.map(|(uuid, _)| uuid));
                    }
                    Action::Refuse { seeker, why } => self.refused.push((seeker, why)),
                    other => panic!("{other:?}"),
                }
            }
        }
        panic!("it does not come to rest");
    }

    /// `instance-device`, by number of each.
    fn on(&self, instance: usize, device: usize) -> Option<String> {
        Some(format!("{}-{device}", self.launched[instance]))
    }

    fn tell(&mut self, instance: usize, fault: Option<(usize, &str)>, unhealthy: bool) {
        let id = self.launched[instance].clone();
        let beat = |(device, why): (usize, &str)| DeviceBeat {
            uuid: format!("{id}-{device}"),
            memory_used_mib: None,
            busy_percent: None,
            fault: Some(why.to_owned()),
        };
        let devices: Vec<DeviceBeat> = fault.into_iter().map(beat).collect();
        let unhealthy = fault.filter(|_| unhealthy).map(|(_, why)| why.to_owned());
        self.roster.beat(&id, Beat { devices, unhealthy, ..Beat::default() }, self.now);
    }
}

#[test]
fn environments_share_a_device_as_far_as_its_memory_goes() {
    let mut world = World::new(15);
    let all = [600, 400, 600].map(|mib| world.seek(mib));
    world.settle(&[1000, 1000]);
    let given = |world: &World, lease: u64| world.given[&lease].clone();
    assert_eq!(all.map(|lease| given(&world, lease)), [world.on(0, 0), world.on(0, 0), world.on(0, 1)]);
    // What needs none goes beside them, and what has no room to another instance.
    let (plain, large) = (world.seek(0), world.seek(500));
    world.settle(&[1000, 1000]);
    assert_eq!((given(&world, plain), given(&world, large)), (None, world.on(1, 0)));
    assert_eq!(world.launched.len(), 2);
    // One leaves: its part is the next one's.
    world.roster.release(all[0], world.now);
    let next = world.seek(600);
    world.settle(&[1000, 1000]);
    assert_eq!((given(&world, next), world.launched.len()), (world.on(0, 0), 2));
}

#[test]
fn environments_of_a_version_are_on_different_devices_while_there_are_some() {
    let mut world = World::new(15);
    let [first, other] = [300, 200].map(|mib| world.seek(mib));
    world.settle(&[1000, 1000]);
    assert_eq!([first, other].map(|lease| world.given[&lease].clone()), [world.on(0, 0), world.on(0, 0)]);
    let [second, third] = [300, 300].map(|mib| world.seek(mib));
    world.settle(&[1000, 1000]);
    let given = [second, third].map(|lease| world.given[&lease].clone());
    assert_eq!(given, [world.on(0, 1), world.on(0, 0)], "then the fuller one");
}

#[test]
fn what_was_planned_to_fit_has_its_place_though_versions_share_a_device_then() {
    let mut world = World::of(9, 9);
    let seekers = [500, 500, 330, 331, 332].map(|mib| world.seek(mib));
    world.settle(&[1000, 1000]);
    assert_eq!((&world.refused[..], world.launched.len()), (&[][..], 1));
    let on: Vec<_> = seekers.iter().map(|lease| world.given[lease].clone()).collect();
    assert_eq!((&on[0], &on[1]), (&world.on(0, 0), &world.on(0, 0)), "apart there would be no room for all");
    assert!(on[2..].iter().all(|on| *on == world.on(0, 1)));
}

#[test]
fn what_needs_no_device_leaves_them_to_others() {
    let mut world = World::new(15);
    world.seek(0);
    world.settle(&[1000, 1000]);
    assert_eq!(world.roster.instances()[&world.launched[0]].instance_type, "plain");
    assert!(world.roster.may_hold(&Needs { device_memory_mib: 1000, ..needs(1) }));
    assert!(!world.roster.may_hold(&Needs { device_memory_mib: 1001, ..needs(1) }));
}

#[test]
fn what_is_seen_of_devices_goes_before_what_is_said_of_their_type() {
    let mut world = World::new(15);
    let seeker = world.seek(1001);
    world.settle(&[]);
    assert_eq!((&world.refused[..], world.launched.len()), (&[(seeker, Why::NoType)][..], 0), "no type is so large");
    // They turn out to have less than their type says: no more are launched for what would not fit there either.
    let [large, small] = [900, 800].map(|mib| world.seek(mib));
    world.settle(&[850, 1000]);
    assert_eq!(world.given[&large], world.on(0, 1), "one has so much");
    assert_eq!(world.given[&small], world.on(0, 0));
    let seeker = world.seek(900);
    world.settle(&[]);
    assert_eq!((world.refused[1], world.launched.len()), ((seeker, Why::NoType), 1));
    // What is kept free is nobody's.
    let mut world = World::new(15);
    let seeker = world.seek(950);
    let [Action::Launch { ids, .. }] = &world.roster.decide(world.now)[..] else { panic!("it is launched") };
    let mut has = machine(&ids[0], &[1000, 1000]);
    has.devices.iter_mut().for_each(|device| device.kept_mib = 100);
    world.join(&ids[0], has).unwrap();
    world.settle(&[]);
    assert_eq!(world.refused, [(seeker, Why::NoType)]);
}

#[test]
fn one_that_has_fewer_devices_than_its_type_does_not_join() {
    let mut world = World::new(15);
    world.seek(100);
    let [Action::Launch { ids, .. }] = &world.roster.decide(world.now)[..] else { panic!("it is launched") };
    assert_eq!(world.join(&ids[0], machine(&ids[0], &[1000])), Err("it has fewer devices than its type"));
    assert_eq!(world.roster.decide(world.now), []);
}

#[test]
fn a_device_that_is_lost_gets_nobody_else_and_its_instance_drains() {
    let mut world = World::new(15);
    let [first, second] = [600, 600].map(|mib| world.seek(mib));
    world.settle(&[1000, 1000]);
    assert_eq!(world.given[&second], world.on(0, 1));
    world.tell(0, Some((0, "it has failed")), false);
    let next = world.seek(300);
    world.settle(&[]);
    assert_eq!(world.given[&next], world.on(0, 1), "the other has room");
    assert_eq!(world.roster.resize(first, 601).unwrap_err().split(" of ").next(), Some("it takes 601 MiB"));
    world.tell(0, Some((0, "it has failed")), true);
    let leave = [first, second, next].map(|lease| Action::Leave { lease });
    assert_eq!(world.roster.decide(world.now), leave);
    let moved = world.seek(600);
    world.settle(&[1000, 1000]);
    assert_eq!(world.given[&moved], world.on(1, 0), "not back");
    // It answers again while nobody else has room: it is as before.
    let mut alone = World::new(5);
    let first = alone.seek(600);
    alone.settle(&[1000, 1000]);
    alone.tell(0, Some((0, "it does not answer")), false);
    let (next, refused) = (alone.seek(1000), alone.seek(300));
    alone.settle(&[]);
    assert_eq!((&alone.refused[..], &alone.given[&next]), (&[(refused, Why::VcpuMax)][..], &alone.on(0, 1)));
    alone.tell(0, None, false);
    let more = alone.seek(400);
    alone.settle(&[]);
    assert_eq!((&alone.given[&more], &alone.given[&first]), (&alone.on(0, 0), &alone.on(0, 0)));
}

#[test]
fn what_one_turns_out_to_take_counts() {
    let mut world = World::new(5);
    let [first, second] = [600, 300].map(|mib| world.seek(mib));
    world.settle(&[1000, 1000]);
    assert_eq!([first, second].map(|lease| world.given[&lease].clone()), [world.on(0, 0), world.on(0, 0)]);
    assert_eq!(world.roster.resize(first, 700), Ok(()));
    let uuid = world.on(0, 0).unwrap();
    let words = format!("it takes 701 MiB of GPU {uuid}, and has 700 MiB, with 0 MiB left there");
    assert_eq!(world.roster.resize(first, 701), Err(words));
    assert_eq!(world.roster.resize(first, 100), Ok(()));
    let next = world.seek(590);
    world.settle(&[]);
    assert_eq!(world.given[&next], world.on(0, 0));
    assert_eq!(world.roster.instances()[&world.launched[0]].given_mib(&uuid), 990);
    // One without a device takes none, and one that is gone has none.
    let plain = world.seek(0);
    world.settle(&[]);
    world.roster.release(next, world.now + SECOND);
    assert_eq!([plain, next].map(|lease| world.roster.resize(lease, 5000)), [Ok(()), Ok(())]);
}
