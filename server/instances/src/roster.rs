//! The roster: which instances there are, where each stands, and who has room on which. Pure: `now` is an argument, and what
//! is to be done is told as [`Action`]s.
//!
//! ```text
//! wanted -> launching -> ready -> draining -> gone
//!             |            |         |
//!             +- given up  +- lost   +- ended by force, each after its deadline
//! ```
//!
//! Called by the fleet alone. Which instances there are to be is the scaler's word ([`plan_instances`]); what happens to each
//! is decided here.

mod devices;
mod entry;
mod orders;

use crate::protocol::{Beat, Machine};
use crate::transport::Address;
use penstock_scaler::{Held, Instance, InstanceType, Needs, Rules, Stage, Wish, plan_instances};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub(crate) use entry::{Action, Entry, Leased, Place, Proof};
pub use entry::{Deadlines, Gone};

/// How long a token is good, from the order that it was made for.
const TOKEN_GOOD: Duration = Duration::from_secs(600);

struct Seeker {
    version: String,
    needs: Needs,
    place: Option<Seat>,
}

/// Where one that waits is to be.
struct Seat {
    id: String,
    /// Of its devices, by their order: the one that it is to be on, when they are known.
    device: Option<usize>,
}

impl Seeker {
    fn is_for(&self, id: &str) -> bool {
        self.place.as_ref().is_some_and(|seat| seat.id == id)
    }
}

/// All of a provider's instances.
pub(crate) struct Roster {
    rules: Rules,
    types: Vec<InstanceType>,
    deadlines: Deadlines,
    instances: BTreeMap<String, Entry>,
    /// Cores of those that were given up and have not ended yet.
    ending: BTreeMap<String, u32>,
    /// Cores of what the provider has beside them.
    unknown_vcpu: u32,
    seekers: BTreeMap<u64, Seeker>,
    away: BTreeMap<(String, String), (Instant, u32)>,
    /// Until when nothing is launched, and how often that was so in a row.
    held: Option<(Instant, u32)>,
    /// Those that were launched until then are to be replaced.
    replaced_until: Option<Instant>,
    next: u64,
}

impl Roster {
    pub(crate) fn new(rules: Rules, types: Vec<InstanceType>, deadlines: Deadlines) -> Self {
        Self {
            rules,
            types,
            deadlines,
            instances: BTreeMap::new(),
            ending: BTreeMap::new(),
            unknown_vcpu: 0,
            seekers: BTreeMap::new(),
            away: BTreeMap::new(),
            held: None,
            replaced_until: None,
            next: 1,
        }
    }

    /// Those that there are are to be replaced as if they were old: one after the other, each by a new one first.
    pub(crate) fn replace_all(&mut self, now: Instant) {
        self.replaced_until = Some(now);
    }

    pub(crate) fn set_vcpu_max(&mut self, vcpu_max: u32) {
        self.rules.vcpu_max = vcpu_max;
    }

    pub(crate) fn vcpu_max(&self) -> u32 {
        self.rules.vcpu_max
    }

    pub(crate) fn instances(&self) -> &BTreeMap<String, Entry> {
        &self.instances
    }

    /// Cores of all that there may be: what is wanted, what is given up and has not ended, and what nobody here knows.
    pub(crate) fn vcpu(&self) -> u32 {
        let known: u32 = self.instances.values().map(|entry| entry.shape.vcpu).sum();
        known + self.vcpu_elsewhere()
    }

    /// Cores that cannot be had because something has them that is not among the instances any more, or never was.
    fn vcpu_elsewhere(&self) -> u32 {
        self.ending.values().sum::<u32>() + self.unknown_vcpu
    }

    /// See [`crate::provider::Provider::unknown_vcpu`].
    pub(crate) fn set_unknown_vcpu(&mut self, vcpu: u32) {
        self.unknown_vcpu = vcpu;
    }

    /// What was given up has ended.
    pub(crate) fn ended(&mut self, id: &str) {
        self.ending.remove(id);
    }

    /// Somebody wants room for an environment.
    pub(crate) fn seek(&mut self, version: String, needs: Needs) -> u64 {
        let seeker = self.next;
        self.next += 1;
        self.seekers.insert(seeker, Seeker { version, needs, place: None });
        seeker
    }

    /// Room is not wanted any more, had or not.
    pub(crate) fn release(&mut self, lease: u64, now: Instant) {
        self.seekers.remove(&lease);
        for entry in self.instances.values_mut() {
            if entry.leases.remove(&lease).is_some() && entry.leases.is_empty() {
                entry.empty_since = Some(now);
            }
        }
    }

    /// What lets an instance join.
    pub(crate) fn expect(&mut self, id: &str, token: String) {
        if let Some(entry) = self.instances.get_mut(id) {
            entry.token = Some(token);
        }
    }

    /// The instance that goes by this name.
    pub(crate) fn id_of(&self, name: &str) -> Option<String> {
        let is_meant = |(id, entry): &(&String, &Entry)| entry.name.as_ref().unwrap_or(id) == name;
        self.instances.iter().find(is_meant).map(|(id, _)| id.clone())
    }

    /// An agent wants a certificate for its token. Errors: why it is not believed.
    /// Asked again with the same key, it is the one whose answer was lost.
    pub(crate) fn enrol(
        &mut self,
        name: &str,
        token: &str,
        public_key: &str,
        now: Instant,
    ) -> Result<(), &'static str> {
        let id = self.id_of(name).ok_or("nobody launched it")?;
        let Some(entry) = self.instances.get_mut(&id) else { return Err("nobody launched it") };
        match entry.token.as_deref() {
            Some(known) if known != token => Err("its token is another"),
            None => Err("it has no token yet"),
            Some(_) if entry.known_key.as_deref().is_some_and(|known| known != public_key || known.is_empty()) => {
                Err("its token was used")
            }
            Some(_) if entry.stage != Stage::Launching => Err("it is too late"),
            Some(_) if now.saturating_duration_since(entry.launched) > TOKEN_GOOD => Err("its token is too old"),
            Some(_) => {
                entry.known_key = Some(public_key.to_owned());
                Ok(())
            }
        }
    }

    /// An agent says that it is an instance's: which, and how long its launch took. Errors: why it is not believed.
    pub(crate) fn join(
        &mut self,
        (name, proof): (&str, Proof<'_>),
        machine: Machine,
        address: Address,
        now: Instant,
    ) -> Result<(String, Duration), &'static str> {
        if let Proof::Token(token) = proof {
            self.enrol(name, token, "", now)?;
        }
        let id = self.id_of(name).ok_or("nobody launched it")?;
        let Some(entry) = self.instances.get_mut(&id) else { return Err("nobody launched it") };
        match entry.stage {
            _ if entry.known_key.is_none() => return Err("its certificate is not of its token"),
            _ if entry.has_joined => return Err("it has joined already"),
            _ if machine.devices.len() < entry.shape.devices as usize => {
                return Err("it has fewer devices than its type");
            }
            Stage::Launching => entry.has_joined = true,
            Stage::Ready | Stage::Draining => return Err("it is too late"),
        }
        (entry.stage, entry.since, entry.heard) = (Stage::Ready, now, now);
        entry.empty_since = entry.leases.is_empty().then_some(now);
        let (took, instance_type) = (now.saturating_duration_since(entry.launched), entry.instance_type.clone());
        let devices = machine.devices.clone();
        (entry.machine, entry.address) = (Some(machine), Some(address));
        self.away.remove(&(instance_type.clone(), entry.zone.clone()));
        self.learn(&instance_type, &devices);
        Ok((id, took))
    }

    /// Nothing was seen for so long, because nobody looked.
    pub(crate) fn stood_still(&mut self, gap: Duration) {
        for entry in self.instances.values_mut() {
            entry.heard += gap;
            entry.since += gap;
        }
    }

    /// A sign of life.
    pub(crate) fn beat(&mut self, id: &str, beat: Beat, now: Instant) {
        if let Some(entry) = self.instances.get_mut(id) {
            (entry.heard, entry.beat) = (now, beat);
        }
    }

    /// One could not be launched, or its process or connection has ended: whoever has room there has to leave. `None` if that
    /// is known already.
    pub(crate) fn gone(&mut self, id: &str, now: Instant) -> Option<Action> {
        let why = match self.instances.get(id)? {
            Entry { stage: Stage::Launching, .. } => Gone::Refused,
            Entry { leaving: Some(why), stopped: Some(_), .. } => *why,
            _ => Gone::Lost,
        };
        Some(self.terminate(id, why, now))
    }

    fn terminate(&mut self, id: &str, why: Gone, now: Instant) -> Action {
        if let Some(entry) = self.instances.get(id) {
            let is_new = now.saturating_duration_since(entry.launched) < orders::AWAY.1;
            if matches!(why, Gone::GivenUp | Gone::Refused) || (why == Gone::Unhealthy && is_new) {
                let (instance_type, zone) = (entry.instance_type.clone(), entry.zone.clone());
                self.leave_alone(&instance_type, &zone, now);
            }
        }
        self.remove(id, why)
    }

    fn remove(&mut self, id: &str, why: Gone) -> Action {
        let (mut leases, mut name, mut is_answered) = (Vec::new(), id.to_owned(), true);
        if let Some(entry) = self.instances.remove(id) {
            self.ending.insert(id.to_owned(), entry.shape.vcpu);
            is_answered = entry.is_answered;
            name = entry.name.unwrap_or(name);
            leases.extend(entry.leases.into_keys());
        }
        self.unseat(id);
        Action::Terminate { id: id.to_owned(), name, is_answered, leases, why }
    }

    /// Those that were to go there have no place any more.
    fn unseat(&mut self, id: &str) {
        let there = self.seekers.values_mut().filter(|seeker| seeker.is_for(id));
        there.for_each(|seeker| seeker.place = None);
    }

    /// What is to be done now.
    pub(crate) fn decide(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = self.end_overdue(now);
        actions.extend(self.begin_drains(now));
        actions.extend(self.plan(now));
        actions.extend(self.give());
        actions
    }

    /// Those that are past a deadline.
    fn end_overdue(&mut self, now: Instant) -> Vec<Action> {
        let Deadlines { beat, drain, stop, .. } = self.deadlines;
        let start = self.rules.start_timeout;
        let past = |at: Instant, limit| now.saturating_duration_since(at) > limit;
        let overdue = |entry: &Entry| match entry.stage {
            Stage::Launching if entry.is_answered && past(entry.since, start) => Some(Gone::GivenUp),
            Stage::Launching => None,
            _ if past(entry.heard, beat) => Some(Gone::Lost),
            Stage::Ready => None,
            Stage::Draining if entry.stopped.is_some_and(|at| past(at, stop)) => entry.leaving,
            Stage::Draining => None,
        };
        for entry in self.instances.values_mut() {
            // It answers, and what it has found no room elsewhere: it goes on, and is to drain again when there is some.
            if entry.stage == Stage::Draining && entry.stopped.is_none() && past(entry.since, drain) {
                (entry.stage, entry.since, entry.leaving) = (Stage::Ready, now, None);
            }
        }
        let found = self.instances.iter().filter_map(|(id, entry)| Some((id.clone(), overdue(entry)?)));
        let found: Vec<(String, Gone)> = found.collect();
        found.into_iter().map(|(id, why)| self.terminate(&id, why, now)).collect()
    }

    /// Those that are to be replaced: at once where they will be taken away, else one after the other. And those that have
    /// drained stop.
    fn begin_drains(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let old = self.old(now);
        let mut draining = self.instances.values().filter(|entry| entry.stage == Stage::Draining).count();
        let mut vcpu = self.vcpu();
        for (id, entry) in &mut self.instances {
            let why = match entry.stage {
                // There is no time to wait for others.
                Stage::Ready if entry.beat.is_taken_away => Gone::TakenAway,
                // One after the other: what is wrong with all of them is not mended by others.
                Stage::Ready if entry.beat.unhealthy.is_some() && draining == 0 => Gone::Unhealthy,
                // A new one has to fit beside it.
                Stage::Ready if old.contains(id) && draining == 0 => {
                    let fits = entry.leases.is_empty() || vcpu + entry.shape.vcpu <= self.rules.vcpu_max;
                    if !fits {
                        continue;
                    }
                    vcpu += entry.shape.vcpu;
                    Gone::Aged
                }
                Stage::Draining if entry.leases.is_empty() && entry.stopped.is_none() => {
                    entry.stopped = Some(now);
                    actions.push(Action::Stop { id: id.clone() });
                    continue;
                }
                _ => continue,
            };
            draining += 1;
            (entry.stage, entry.since, entry.leaving) = (Stage::Draining, now, Some(why));
            actions.extend(entry.leases.keys().map(|lease| Action::Leave { lease: *lease }));
            let there = self.seekers.values_mut().filter(|seeker| seeker.is_for(id));
            there.for_each(|seeker| seeker.place = None);
        }
        actions
    }

    /// Those that are as old as they may become, or that somebody wants to have replaced.
    fn old(&self, now: Instant) -> BTreeSet<String> {
        let is_old = |entry: &Entry| {
            self.deadlines.age.is_some_and(|age| now.saturating_duration_since(entry.launched) >= age)
                || self.replaced_until.is_some_and(|until| entry.launched <= until)
        };
        self.instances.iter().filter(|(_, entry)| is_old(entry)).map(|(id, _)| id.clone()).collect()
    }

    /// How many are to be replaced and stay, because a new one does not fit beside them.
    pub(crate) fn unreplaced(&self, now: Instant) -> usize {
        let (old, vcpu) = (self.old(now), self.vcpu());
        let stays = |entry: &Entry| {
            entry.stage == Stage::Ready && !entry.leases.is_empty() && vcpu + entry.shape.vcpu > self.rules.vcpu_max
        };
        self.instances.iter().filter(|(id, entry)| old.contains(*id) && stays(entry)).count()
    }

    /// Those that take nothing more, as far as the plan goes: they drain, or soon will, because a new one fits beside them. So
    /// an environment moves once, and not from one old instance to the next.
    fn closed(&self, now: Instant) -> BTreeSet<String> {
        let (old, vcpu) = (self.old(now), self.vcpu());
        let is_closed = |id: &String, entry: &Entry| match entry.stage {
            Stage::Draining => true,
            Stage::Ready => old.contains(id) && vcpu + entry.shape.vcpu <= self.rules.vcpu_max,
            Stage::Launching => false,
        };
        self.instances.iter().filter(|(id, entry)| is_closed(id, entry)).map(|(id, _)| id.clone()).collect()
    }

    fn plan(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let closed = self.closed(now);
        let there =
            self.seekers.values_mut().filter(|one| one.place.as_ref().is_some_and(|seat| closed.contains(&seat.id)));
        there.for_each(|seeker| seeker.place = None);
        let devices_left = self.settle();
        let unavailable = self.unavailable(now);
        let (wishes, instances) = (self.wishes(&closed), self.as_planned(&closed, devices_left, now));
        let vcpu_max = self.rules.vcpu_max.saturating_sub(self.vcpu_elsewhere());
        let rules = Rules { vcpu_max, ..self.rules.clone() };
        let fleet = plan_instances(&wishes, &instances, &self.types, &rules, &unavailable, now);
        for (id, version, count) in &fleet.place {
            self.seat(id, version, *count);
        }
        self.settle();
        actions.extend(self.order(fleet.launch, &unavailable, now));
        for id in fleet.give_back {
            if let Some(entry) = self.instances.get_mut(&id) {
                (entry.stage, entry.since, entry.leaving) = (Stage::Draining, now, Some(Gone::Empty));
                entry.stopped = Some(now);
                actions.push(Action::Stop { id });
            }
        }
        for unmet in fleet.unmet {
            let is_meant = |one: &Seeker| one.place.is_none() && kind(&one.version, &one.needs) == unmet.version;
            let unplaced = self.seekers.iter().filter(|(_, one)| is_meant(one));
            let last: Vec<u64> = unplaced.map(|(seeker, _)| *seeker).collect();
            for seeker in last.into_iter().rev().take(unmet.environments as usize) {
                self.seekers.remove(&seeker);
                actions.push(Action::Refuse { seeker, why: unmet.why });
            }
        }
        actions
    }

    fn wishes(&self, closed: &BTreeSet<String>) -> Vec<Wish> {
        let mut wishes: BTreeMap<String, Wish> = BTreeMap::new();
        let open = self.instances.iter().filter(|(id, _)| !closed.contains(*id));
        let held = open.flat_map(|(_, entry)| entry.leases.values().map(|leased| (&leased.version, &leased.needs)));
        for (version, needs) in held.chain(self.seekers.values().map(|seeker| (&seeker.version, &seeker.needs))) {
            let version = kind(version, needs);
            let wish = Wish { version: version.clone(), environments: 0, needs: *needs };
            wishes.entry(version).or_insert(wish).environments += 1;
        }
        wishes.into_values().collect()
    }

    fn as_planned(
        &self,
        closed: &BTreeSet<String>,
        mut devices_left: BTreeMap<String, Vec<u64>>,
        now: Instant,
    ) -> Vec<Instance> {
        let mut instances: BTreeMap<&str, Instance> = BTreeMap::new();
        for (id, entry) in &self.instances {
            let mut instance = Instance {
                id: id.clone(),
                shape: entry.shape,
                zone: entry.zone.clone(),
                stage: if closed.contains(id) { Stage::Draining } else { entry.stage },
                // What was not answered is not given up.
                since: if entry.stage == Stage::Launching && !entry.is_answered { now } else { entry.since },
                empty_since: entry.empty_since.filter(|_| entry.leases.is_empty()),
                environments: BTreeMap::new(),
                devices_left: devices_left.remove(id),
            };
            entry.leases.values().for_each(|leased| hold(&mut instance, &leased.version, leased.needs));
            instances.insert(id, instance);
        }
        for seeker in self.seekers.values() {
            let place = seeker.place.as_ref();
            if let Some(instance) = place.and_then(|seat| instances.get_mut(seat.id.as_str())) {
                instance.empty_since = None;
                hold(instance, &seeker.version, seeker.needs);
            }
        }
        instances.into_values().collect()
    }

    /// So many of a version that have no place yet go to an instance: those that have waited longest.
    fn seat(&mut self, id: &str, version: &str, count: u32) {
        let is_meant = |one: &&mut Seeker| one.place.is_none() && kind(&one.version, &one.needs) == version;
        let unplaced = self.seekers.values_mut().filter(is_meant);
        unplaced.take(count as usize).for_each(|seeker| {
            seeker.place = Some(Seat { id: id.to_owned(), device: None });
        });
    }

    /// Those whose instance is ready get their room.
    fn give(&mut self) -> Vec<Action> {
        let mut actions = Vec::new();
        let placed: Vec<u64> = self.seekers.iter().filter(|(_, one)| one.place.is_some()).map(|(id, _)| *id).collect();
        for number in placed {
            let Some(seeker) = self.seekers.get(&number) else { continue };
            let Some(Seat { id, device }) = &seeker.place else { continue };
            let Some(entry) = self.instances.get_mut(id).filter(|entry| entry.stage == Stage::Ready) else { continue };
            let (Some(address), Some(token)) = (entry.address.clone(), entry.token.clone()) else { continue };
            let device = entry.machine.as_ref().zip(*device).and_then(|(machine, device)| {
                Some((machine.devices.get(device)?.uuid.clone(), machine.access.clone()))
            });
            let name = entry.name.clone().unwrap_or_else(|| id.clone());
            let place = Place { id: id.clone(), name, address, token, device };
            let (version, needs) = (seeker.version.clone(), seeker.needs);
            let device = place.device.as_ref().map(|(uuid, _)| uuid.clone());
            entry.leases.insert(number, Leased { version, needs, device });
            entry.empty_since = None;
            self.seekers.remove(&number);
            actions.push(Action::Give { seeker: number, place });
        }
        actions
    }
}

/// What the plan counts together: a version's environments take the same, unless it is being replaced by other content.
fn kind(version: &str, needs: &Needs) -> String {
    let Needs { vcpu, memory_mib, device_memory_mib, architecture } = needs;
    format!("{version} {vcpu} {memory_mib} {device_memory_mib} {}", architecture.name())
}

fn hold(instance: &mut Instance, version: &str, needs: Needs) {
    instance.environments.entry(kind(version, &needs)).or_insert(Held { count: 0, needs }).count += 1;
}
