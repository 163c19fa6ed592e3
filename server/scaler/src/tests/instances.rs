//! Level two: that wishes are met for the least, within the rules, and that a plan that was carried out leaves nothing to do.

use super::start;
use crate::{
    Architecture, Fleet, Held, Instance, InstanceType, Needs, Rules, Shape, Stage, TypePattern, Unavailable, Why, Wish,
    plan_instances,
};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const GIB: u64 = 1024;

fn shape(vcpu: u32, memory_gib: u64, devices: u32, device_gib: u64) -> Shape {
    let architecture = Architecture::X86;
    Shape { vcpu, memory_mib: memory_gib * GIB, devices, device_memory_mib: device_gib * GIB, architecture }
}

fn types() -> Vec<InstanceType> {
    let all = [
        ("c7i.large", shape(2, 4, 0, 0), 0.09),
        ("c7i.xlarge", shape(4, 8, 0, 0), 0.18),
        ("c7i.4xlarge", shape(16, 32, 0, 0), 0.71),
        ("r7i.xlarge", shape(4, 32, 0, 0), 0.26),
        ("g6.xlarge", shape(4, 16, 1, 22), 0.80),
        ("g6.12xlarge", shape(48, 192, 4, 22), 4.60),
        ("p5.48xlarge", shape(192, 2048, 8, 80), 55.04),
    ];
    let zones = || ["a", "b", "c"].map(String::from).to_vec();
    let mut all: Vec<InstanceType> = all
        .into_iter()
        .map(|(name, shape, usd_per_hour)| InstanceType { name: name.into(), shape, usd_per_hour, zones: zones() })
        .collect();
    let arm = Shape { architecture: Architecture::Arm, ..shape(8, 16, 0, 0) };
    all.push(InstanceType { name: "c7g.2xlarge".into(), shape: arm, usd_per_hour: 0.29, zones: zones() });
    all
}

fn rules(vcpu_max: u32) -> Rules {
    Rules {
        vcpu_max,
        allowed: Vec::new(),
        excluded: Vec::new(),
        zones: ["a", "b", "c"].map(String::from).to_vec(),
        start_timeout: Duration::from_secs(300),
        empty_after: Duration::from_secs(60),
    }
}

fn wish(version: &str, environments: u32, vcpu: u32, memory_gib: u64, device_gib: u64) -> Wish {
    let architecture = Architecture::X86;
    let (memory_mib, device_memory_mib) = (memory_gib * GIB, device_gib * GIB);
    Wish { version: version.into(), environments, needs: Needs { vcpu, memory_mib, device_memory_mib, architecture } }
}

/// Instances that do what they are told.
#[derive(Clone)]
struct World {
    instances: Vec<Instance>,
    launched: u32,
    now: Instant,
}

impl World {
    fn new() -> Self {
        Self { instances: Vec::new(), launched: 0, now: start() }
    }

    fn plan(&self, wishes: &[Wish], rules: &Rules, unavailable: &Unavailable) -> Fleet {
        plan_instances(wishes, &self.instances, &types(), rules, unavailable, self.now)
    }

    fn carry_out(&mut self, fleet: &Fleet, wishes: &[Wish]) {
        let now = self.now;
        let mut change = |id: &str, version: &str, add: u32, less: u32| {
            let instance = self.instances.iter_mut().find(|instance| instance.id == id).unwrap();
            let has = instance.environments.entry(version.to_owned()).or_insert_with(|| {
                let wish = wishes.iter().find(|wish| wish.version == version).unwrap();
                Held { count: 0, needs: wish.needs }
            });
            has.count = (has.count + add).checked_sub(less).unwrap();
            instance.environments.retain(|_, has| has.count > 0);
            let empty_since = instance.empty_since.unwrap_or(now);
            instance.empty_since = instance.environments.is_empty().then_some(empty_since);
        };
        fleet.place.iter().for_each(|(id, version, count)| change(id, version, *count, 0));
        fleet.remove.iter().for_each(|(id, version, count)| change(id, version, 0, *count));
        let gone = |id: &String| fleet.give_back.contains(id) || fleet.give_up.contains(id);
        self.instances.retain(|instance| !gone(&instance.id));
        for launch in &fleet.launch {
            let shape = types().iter().find(|one| one.name == launch.instance_type).unwrap().shape;
            self.instances.push(Instance {
                id: format!("i-{}", self.launched),
                shape,
                zone: launch.zone.clone(),
                stage: Stage::Launching,
                since: now,
                empty_since: None,
                devices_left: None,
                environments: launch.environments.clone(),
            });
            self.launched += 1;
        }
    }

    /// Plans and does it; what it planned.
    fn step(&mut self, wishes: &[Wish], rules: &Rules) -> Fleet {
        let fleet = self.plan(wishes, rules, &Unavailable::new());
        self.carry_out(&fleet, wishes);
        fleet
    }

    fn ready(&mut self) {
        for instance in &mut self.instances {
            (instance.stage, instance.since) = (Stage::Ready, self.now);
        }
    }

    fn vcpu(&self) -> u32 {
        self.instances.iter().map(|instance| instance.shape.vcpu).sum()
    }

    fn has(&self, version: &str) -> u32 {
        self.instances.iter().filter_map(|instance| instance.environments.get(version)).map(|held| held.count).sum()
    }
}

fn bought(fleet: &Fleet) -> Vec<&str> {
    fleet.launch.iter().map(|launch| launch.instance_type.as_str()).collect()
}

#[test]
fn what_is_left_of_each_device_counts_where_it_is_known() {
    let rules = Rules { allowed: vec![TypePattern::new("g6.12xlarge")], ..rules(400) };
    let wishes = [wish("f", 2, 1, 2, 20), wish("g", 1, 1, 2, 6)];
    let mut world = World::new();
    assert_eq!(bought(&world.step(&wishes, &rules)), ["g6.12xlarge"]);
    world.ready();
    assert!(world.plan(&wishes, &rules, &Unavailable::new()).is_at_rest());
    // Whatever its environments are said to take.
    world.instances[0].devices_left = Some(vec![0, 13 * GIB, GIB, 0]);
    let another = |device_gib| {
        let wishes = [&wishes[..], &[wish("h", 1, 1, 2, device_gib)]].concat();
        let fleet = world.plan(&wishes, &rules, &Unavailable::new());
        (fleet.place.len(), fleet.launch.len())
    };
    assert_eq!([13, 14].map(another), [(1, 0), (0, 1)]);
}

#[test]
fn the_cheapest_that_fits_is_bought() {
    let plan = |wishes: &[Wish]| World::new().plan(wishes, &rules(400), &Unavailable::new());
    assert_eq!(bought(&plan(&[wish("f", 1, 1, 2, 0)])), ["c7i.large"]);
    assert_eq!(bought(&plan(&[wish("f", 1, 1, 20, 0)])), ["r7i.xlarge"], "for its memory");
    assert_eq!(bought(&plan(&[wish("f", 1, 2, 8, 16)])), ["g6.xlarge"], "for its device");
    assert_eq!(bought(&plan(&[wish("f", 1, 2, 8, 60)])), ["p5.48xlarge"], "no other has so much in one");
    assert_eq!(bought(&plan(&[wish("f", 15, 1, 2, 0)])), ["c7i.4xlarge"], "one large for many");
    let arm = Needs { architecture: Architecture::Arm, ..wish("f", 1, 1, 2, 0).needs };
    assert_eq!(bought(&plan(&[Wish { needs: arm, ..wish("f", 1, 1, 2, 0) }])), ["c7g.2xlarge"]);
}

#[test]
fn rules_say_what_may_be_bought() {
    let plan = |rules: Rules| World::new().plan(&[wish("f", 1, 1, 2, 0)], &rules, &Unavailable::new());
    let named = |names: &[&str]| names.iter().map(|name| TypePattern::new(*name)).collect::<Vec<_>>();
    assert_eq!(bought(&plan(Rules { allowed: named(&["g6.*", "p5.*"]), ..rules(400) })), ["g6.xlarge"]);
    assert_eq!(bought(&plan(Rules { excluded: named(&["*.large"]), ..rules(400) })), ["c7i.xlarge"]);
    let none = plan(Rules { allowed: named(&["t4.*"]), ..rules(400) });
    assert_eq!((none.launch.len(), none.unmet[0].why), (0, Why::NoType));
    let none = plan(rules(1));
    assert_eq!((none.launch.len(), none.unmet[0].why, none.unmet[0].environments), (0, Why::VcpuMax, 1));
    assert!(none.is_at_rest());
}

#[test]
fn what_cannot_be_had_in_one_zone_is_had_in_another() {
    let mut unavailable: Unavailable = [("c7i.large".into(), "a".into())].into();
    let plan = |unavailable: &Unavailable| World::new().plan(&[wish("f", 1, 1, 2, 0)], &rules(400), unavailable);
    let launch = &plan(&unavailable).launch[0];
    assert_eq!((launch.instance_type.as_str(), launch.zone.as_str()), ("c7i.large", "b"));
    unavailable.extend(["b", "c"].map(|zone| ("c7i.large".into(), zone.into())));
    assert_eq!(bought(&plan(&unavailable)), ["c7i.xlarge"], "the next type");
    unavailable.extend(types().iter().flat_map(|one| ["a", "b", "c"].map(|zone| (one.name.clone(), zone.into()))));
    assert_eq!(plan(&unavailable).unmet[0].why, Why::Unavailable);
}

#[test]
fn room_that_there_is_goes_first_and_zones_are_even() {
    let mut world = World::new();
    let only = Rules { allowed: vec![TypePattern::new("c7i.xlarge")], ..rules(400) };
    world.step(&[wish("f", 9, 1, 1, 0)], &only);
    let zones: Vec<&str> = world.instances.iter().map(|instance| instance.zone.as_str()).collect();
    assert_eq!(zones, ["a", "b", "c"]);
    world.ready();
    assert!(world.plan(&[wish("f", 9, 1, 1, 0)], &only, &Unavailable::new()).is_at_rest());
    world.step(&[wish("f", 8, 1, 1, 0)], &only);
    let fleet = world.step(&[wish("f", 8, 1, 1, 0), wish("g", 1, 1, 1, 0)], &only);
    assert_eq!((fleet.launch.len(), fleet.place.len()), (0, 1), "it takes the place that was left");
}

#[test]
fn what_never_comes_is_given_up_and_bought_again() {
    let mut world = World::new();
    let wishes = [wish("f", 1, 1, 2, 0)];
    world.step(&wishes, &rules(4));
    world.now += Duration::from_secs(301);
    let fleet = world.step(&wishes, &rules(4));
    assert_eq!((fleet.give_up.len(), fleet.launch.len()), (1, 1), "within the limit, which has room for two");
    world.now += Duration::from_secs(301);
    let fleet = world.plan(&wishes, &rules(2), &Unavailable::new());
    assert_eq!(
        (fleet.give_up.len(), fleet.launch.len(), fleet.unmet[0].why),
        (1, 0, Why::VcpuMax),
        "it has its cores until it is gone"
    );
}

#[test]
fn what_is_empty_for_long_is_given_back() {
    let mut world = World::new();
    world.step(&[wish("f", 1, 1, 2, 0)], &rules(400));
    world.ready();
    let fleet = world.step(&[], &rules(400));
    assert_eq!((fleet.remove.len(), fleet.give_back.len()), (1, 0));
    world.now += Duration::from_secs(59);
    assert!(world.plan(&[], &rules(400), &Unavailable::new()).is_at_rest());
    world.now += Duration::from_secs(1);
    assert_eq!(world.step(&[], &rules(400)).give_back, ["i-0"]);
    assert!(world.instances.is_empty());
}

/// Plans, one after the other at one moment, until nothing is left to do.
const STEPS_MAX: usize = 12;

prop_compose! {
    /// What versions need, which never changes, and how many of each are wanted one time after the other.
    fn any_rounds()(
        needs in prop::collection::vec((1u32..5, 1u64..9, prop::option::weighted(0.3, 1u64..23)), 0..6),
        rounds in prop::collection::vec((prop::collection::vec(0u32..30, 6), any::<bool>(), 0u64..400), 1..6),
    ) -> Vec<(Vec<Wish>, bool, u64)> {
        let wishes = |counts: Vec<u32>| {
            let each = needs.iter().zip(counts).enumerate();
            each.map(|(index, ((vcpu, memory, device), count))| {
                wish(&format!("v{index}"), count, *vcpu, *memory, device.unwrap_or(0))
            })
            .collect()
        };
        rounds.into_iter().map(|(counts, ready, seconds)| (wishes(counts), ready, seconds)).collect()
    }
}

proptest! {
    /// Whatever is wanted, one after the other: the limit holds, what was planned is enough or said not to be, and once it was
    /// done there is nothing to do.
    #[test]
    fn plans_hold(rounds in any_rounds(), vcpu_max in 2u32..400) {
        let mut world = World::new();
        let rules = rules(vcpu_max);
        for (wishes, ready, seconds) in rounds {
            world.now += Duration::from_secs(seconds);
            // What was given up or taken away has its cores no more: then they may be bought or used, which may make others
            // empty. Each step takes something to where it stays.
            let steps = (0..STEPS_MAX).take_while(|_| {
                let rests = world.step(&wishes, &rules).is_at_rest();
                assert!(world.vcpu() <= vcpu_max, "{} of {vcpu_max}", world.vcpu());
                !rests
            });
            prop_assert!(steps.count() < STEPS_MAX, "{:?}", world.plan(&wishes, &rules, &Unavailable::new()));
            let again = world.plan(&wishes, &rules, &Unavailable::new());
            let unmet: BTreeMap<&str, u32> = again.unmet.iter().map(|unmet| (unmet.version.as_str(), unmet.environments)).collect();
            for wish in &wishes {
                let missing = unmet.get(wish.version.as_str()).copied().unwrap_or(0);
                prop_assert_eq!(world.has(&wish.version) + missing, wish.environments);
            }
            if ready {
                world.ready();
            }
        }
    }
}
