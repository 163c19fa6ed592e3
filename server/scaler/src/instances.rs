//! Level two: which instances there are to be for the environments that are wanted, and where each of these goes.
//!
//! Called by the control loop with what level one wants. Environments stay where they are; those that are new go to instances
//! that have room, the rest to new ones: of the types that the provider allows, the cheapest for what is left, in the zone
//! that has the fewest. All instances together, those that are coming included, never have more cores than the provider allows.

use crate::shapes::{InstanceType, Needs, Room, Shape, TypePattern};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// What a capacity provider may buy.
#[derive(Clone, PartialEq, Debug)]
pub struct Rules {
    /// Most cores of all instances together.
    pub vcpu_max: u32,
    /// Types that may be bought; empty for all.
    pub allowed: Vec<TypePattern>,
    /// Types that may not.
    pub excluded: Vec<TypePattern>,
    /// Zones where they may be.
    pub zones: Vec<String>,
    /// How long an instance may take to be ready before it is given up.
    pub start_timeout: Duration,
    /// How long an instance may be without environments before it is given back.
    pub empty_after: Duration,
}

impl Rules {
    /// Whether instances of a type may be bought.
    pub fn may_buy(&self, instance_type: &str) -> bool {
        let named = |patterns: &[TypePattern]| patterns.iter().any(|pattern| pattern.is(instance_type));
        (self.allowed.is_empty() || named(&self.allowed)) && !named(&self.excluded)
    }
}

/// Where an instance stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    /// It was asked for, and is starting.
    Launching,
    /// It takes environments.
    Ready,
    /// It takes no more, and ends when those that it has are done.
    Draining,
}

/// One instance.
#[derive(Clone, PartialEq, Debug)]
pub struct Instance {
    /// Its name.
    pub id: String,
    /// What it has.
    pub shape: Shape,
    /// Where it is.
    pub zone: String,
    /// Where it stands.
    pub stage: Stage,
    /// Since when.
    pub since: Instant,
    /// Since when it has had no environments, if it has none.
    pub empty_since: Option<Instant>,
    /// Environments that it has or is to have, by whose they are.
    pub environments: BTreeMap<String, Held>,
    /// Memory of each of its devices that these leave, in MiB; `None` where nobody has seen its devices yet, and they are as its
    /// shape says.
    pub devices_left: Option<Vec<u64>>,
}

/// Environments of one version on one instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Held {
    /// How many.
    pub count: u32,
    /// What each takes.
    pub needs: Needs,
}

/// Environments of one version that are wanted.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Whose they are.
    pub version: String,
    /// How many.
    pub environments: u32,
    /// What each takes.
    pub needs: Needs,
}

/// Types that cannot be had just now, by zone.
pub type Unavailable = BTreeSet<(String, String)>;

/// Instances to be bought.
#[derive(Clone, PartialEq, Debug)]
pub struct Launch {
    /// Their type.
    pub instance_type: String,
    /// Where.
    pub zone: String,
    /// What each is for.
    pub environments: BTreeMap<String, Held>,
}

/// Environments that get no instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unmet {
    /// Whose they are.
    pub version: String,
    /// How many.
    pub environments: u32,
    /// Why.
    pub why: Why,
}

/// Why environments get no instance.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// No type that is allowed is large enough for one.
    NoType,
    /// All such types are unavailable just now.
    Unavailable,
    /// There may be no more cores.
    VcpuMax,
}

/// What is to be done about instances. Empty if all is as it should be.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Fleet {
    /// Environments that go to instances that there are: instance, version, how many.
    pub place: Vec<(String, String, u32)>,
    /// Environments that are taken away again: instance, version, how many.
    pub remove: Vec<(String, String, u32)>,
    /// Instances to be bought.
    pub launch: Vec<Launch>,
    /// Instances that are not needed.
    pub give_back: Vec<String>,
    /// Instances that were not ready in time.
    pub give_up: Vec<String>,
    /// What cannot be had.
    pub unmet: Vec<Unmet>,
}

impl Fleet {
    /// Nothing is to be done. What cannot be had does not count: nothing can be done about it.
    pub fn is_at_rest(&self) -> bool {
        let Self { place, remove, launch, give_back, give_up, unmet: _ } = self;
        place.is_empty() && remove.is_empty() && launch.is_empty() && give_back.is_empty() && give_up.is_empty()
    }
}

/// Plans the instances for what is wanted. `types` is what can be bought at all.
pub fn plan_instances(
    wishes: &[Wish],
    instances: &[Instance],
    types: &[InstanceType],
    rules: &Rules,
    unavailable: &Unavailable,
    now: Instant,
) -> Fleet {
    let mut planning = Planning::new(instances, rules, now);
    let mut left: Vec<(&Wish, u32)> = Vec::new();
    for wish in sorted(wishes) {
        let has = planning.has(&wish.version);
        match wish.environments.checked_sub(has) {
            None => planning.remove(&wish.version, has - wish.environments),
            Some(more) => {
                let unplaced = planning.place(wish, more);
                if unplaced > 0 {
                    left.push((wish, unplaced));
                }
            }
        }
    }
    planning.remove_unwanted(wishes);
    planning.launch(left, types, unavailable);
    planning.give_back();
    planning.fleet
}

/// Largest first: what is hard to place finds more room.
fn sorted(wishes: &[Wish]) -> Vec<&Wish> {
    let mut all: Vec<&Wish> = wishes.iter().collect();
    all.sort_by(|a, b| {
        (b.needs.device_memory_mib, b.needs, &a.version).cmp(&(a.needs.device_memory_mib, a.needs, &b.version))
    });
    all
}

/// One plan in the making.
struct Planning<'a> {
    rules: &'a Rules,
    now: Instant,
    /// Those that may have environments, with what is left of each.
    open: Vec<(Instance, Room)>,
    vcpu: u32,
    /// Instances by zone, those that are coming included.
    by_zone: BTreeMap<String, u32>,
    fleet: Fleet,
}

impl<'a> Planning<'a> {
    fn new(instances: &[Instance], rules: &'a Rules, now: Instant) -> Self {
        let mut planning =
            Self { rules, now, open: Vec::new(), vcpu: 0, by_zone: BTreeMap::new(), fleet: Fleet::default() };
        for instance in instances {
            // One that is given up, or drains, has its cores until it is gone.
            planning.vcpu += instance.shape.vcpu;
            let age = now.saturating_duration_since(instance.since);
            match instance.stage {
                Stage::Launching if age > rules.start_timeout => planning.fleet.give_up.push(instance.id.clone()),
                Stage::Draining => {}
                Stage::Launching | Stage::Ready => {
                    *planning.by_zone.entry(instance.zone.clone()).or_default() += 1;
                    planning.open.push((instance.clone(), room_of(instance)));
                }
            }
        }
        planning
    }

    fn has(&self, version: &str) -> u32 {
        let held = self.open.iter().filter_map(|(instance, _)| instance.environments.get(version));
        held.map(|held| held.count).sum()
    }

    /// Puts environments where there is room: the fullest instance first, so that others may become empty. How many found
    /// none.
    fn place(&mut self, wish: &Wish, mut count: u32) -> u32 {
        let mut order: Vec<usize> = (0..self.open.len()).collect();
        let open = &self.open;
        order.sort_by_key(|index| (open[*index].0.stage != Stage::Ready, open[*index].1.vcpu()));
        for index in order {
            let (instance, room) = &mut self.open[index];
            let fits = (0..count).take_while(|_| room.take(&wish.needs)).count() as u32;
            if fits > 0 {
                hold(&mut instance.environments, wish, fits);
                self.fleet.place.push((instance.id.clone(), wish.version.clone(), fits));
                count -= fits;
            }
        }
        count
    }

    /// Takes environments away, from the instance that has the fewest of all first. Their room is free when they are gone, which
    /// a later plan sees.
    fn remove(&mut self, version: &str, mut count: u32) {
        let mut order: Vec<usize> = (0..self.open.len()).collect();
        let open = &self.open;
        order.sort_by_key(|index| {
            let (instance, _) = &open[*index];
            (instance.stage == Stage::Ready, instance.environments.values().map(|held| held.count).sum::<u32>())
        });
        for index in order {
            let (instance, _) = &mut self.open[index];
            let Some(has) = instance.environments.get_mut(version) else { continue };
            let gone = count.min(has.count);
            if gone == 0 {
                continue;
            }
            has.count -= gone;
            count -= gone;
            self.fleet.remove.push((instance.id.clone(), version.to_owned(), gone));
            instance.environments.retain(|_, left| left.count > 0);
        }
    }

    fn remove_unwanted(&mut self, wishes: &[Wish]) {
        let known: BTreeSet<&str> = wishes.iter().map(|wish| wish.version.as_str()).collect();
        let unknown: BTreeSet<String> = self
            .open
            .iter()
            .flat_map(|(instance, _)| instance.environments.keys())
            .filter(|version| !known.contains(version.as_str()))
            .cloned()
            .collect();
        for version in unknown {
            let has = self.has(&version);
            self.remove(&version, has);
        }
    }

    /// Buys instances for what is left, each time the type that does it for the least.
    fn launch(&mut self, mut left: Vec<(&Wish, u32)>, types: &[InstanceType], unavailable: &Unavailable) {
        let types: Vec<&InstanceType> = types.iter().filter(|one| self.rules.may_buy(&one.name)).collect();
        while let Some((first, _)) = left.first() {
            let candidates = types.iter().filter(|one| Room::of(&one.shape).fits(&first.needs, 1) > 0);
            let mut why = Why::NoType;
            let mut best: Option<(f64, &InstanceType, String, BTreeMap<String, Held>)> = None;
            for one in candidates {
                let zone = self.zone_for(one, unavailable);
                let (Some(zone), fits) = (zone, self.vcpu.saturating_add(one.shape.vcpu) <= self.rules.vcpu_max) else {
                    why = if why == Why::NoType { Why::Unavailable } else { why };
                    continue;
                };
                if !fits {
                    why = Why::VcpuMax;
                    continue;
                }
                let (packed, worth) = pack(&left, &one.shape);
                let price = one.usd_per_hour / worth.max(f64::MIN_POSITIVE);
                if best.as_ref().is_none_or(|(least, ..)| price < *least) {
                    best = Some((price, one, zone, packed));
                }
            }
            let Some((_, one, zone, packed)) = best else {
                let (wish, environments) = left.remove(0);
                self.fleet.unmet.push(Unmet { version: wish.version.clone(), environments, why });
                continue;
            };
            self.vcpu += one.shape.vcpu;
            *self.by_zone.entry(zone.clone()).or_default() += 1;
            for (wish, count) in &mut left {
                *count -= packed.get(&wish.version).map_or(0, |held| held.count);
            }
            left.retain(|(_, count)| *count > 0);
            self.fleet.launch.push(Launch { instance_type: one.name.clone(), zone, environments: packed });
        }
    }

    /// Of the zones where a type can be had, the one with the fewest instances.
    fn zone_for(&self, one: &InstanceType, unavailable: &Unavailable) -> Option<String> {
        let offered = self.rules.zones.iter().filter(|zone| one.zones.contains(zone));
        let had = offered.filter(|zone| !unavailable.contains(&(one.name.clone(), (*zone).clone())));
        had.min_by_key(|zone| self.by_zone.get(*zone).copied().unwrap_or(0)).cloned()
    }

    /// Gives back what has had no environments for long, and gets none.
    fn give_back(&mut self) {
        for (instance, _) in &self.open {
            let long = |at| self.now.saturating_duration_since(at) >= self.rules.empty_after;
            let idle = instance.environments.is_empty() && instance.empty_since.is_some_and(long);
            if idle && instance.stage == Stage::Ready {
                self.fleet.give_back.push(instance.id.clone());
            }
        }
    }
}

/// What the environments of an instance leave of it. What does not fit is there all the same.
fn room_of(instance: &Instance) -> Room {
    let left = instance.devices_left.as_deref();
    let mut room = left.map_or_else(|| Room::of(&instance.shape), |left| Room::with_devices(&instance.shape, left));
    let mut held: Vec<&Held> = instance.environments.values().collect();
    // As they were packed.
    held.sort_by_key(|held| std::cmp::Reverse((held.needs.device_memory_mib, held.needs)));
    for Held { count, needs } in held {
        let _ =
            (0..*count).take_while(|_| if left.is_some() { room.take_host(needs) } else { room.take(needs) }).count();
    }
    room
}

/// What of it goes on one instance of a shape, and what that is worth: the largest share of the instance that it takes of any
/// one thing, so that price by worth compares types by what the environments use of them.
fn pack(left: &[(&Wish, u32)], shape: &Shape) -> (BTreeMap<String, Held>, f64) {
    let mut room = Room::of(shape);
    let (mut packed, mut worth) = (BTreeMap::new(), 0.0);
    for (wish, count) in left {
        let fits = (0..*count).take_while(|_| room.take(&wish.needs)).count() as u32;
        if fits > 0 {
            hold(&mut packed, wish, fits);
            worth += f64::from(fits) * wish.needs.weight();
        }
    }
    (packed, worth)
}

fn hold(environments: &mut BTreeMap<String, Held>, wish: &Wish, count: u32) {
    let held = environments.entry(wish.version.clone()).or_insert(Held { count: 0, needs: wish.needs });
    held.count += count;
}

impl Needs {
    /// How much of a machine an environment is, the same on every type: cores, with 2 GiB of memory or 4 GiB of a device as
    /// much as one.
    fn weight(&self) -> f64 {
        f64::from(self.vcpu) + self.memory_mib as f64 / 2048.0 + self.device_memory_mib as f64 / 4096.0
    }
}
