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

mod entry;
mod orders;

use crate::protocol::Beat;
use crate::transport::Address;
use penstock_scaler::{Held, Instance, InstanceType, Needs, Rules, Stage, Wish, plan_instances};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

pub(crate) use entry::{Action, Entry, Place, Proof};
pub use entry::{Deadlines, Gone};

struct Seeker {
    version: String,
    needs: Needs,
    place: Option<String>,
}

/// All of a provider's instances.
pub(crate) struct Roster {
    rules: Rules,
    types: Vec<InstanceType>,
    deadlines: Deadlines,
    instances: BTreeMap<String, Entry>,
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
        let (instances, seekers, away) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Self { rules, types, deadlines, instances, seekers, away, held: None, replaced_until: None, next: 1 }
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
    pub(crate) fn enrol(&mut self, name: &str, token: &str) -> Result<(), &'static str> {
        let id = self.id_of(name).ok_or("nobody launched it")?;
        let Some(entry) = self.instances.get_mut(&id) else { return Err("nobody launched it") };
        match entry.token.as_deref() {
            Some(known) if known != token => Err("its token is another"),
            None => Err("it has no token yet"),
            Some(_) if entry.is_known => Err("its token was used"),
            Some(_) if entry.stage != Stage::Launching => Err("it is too late"),
            Some(_) => {
                entry.is_known = true;
                Ok(())
            }
        }
    }

    /// An agent says that it is an instance's: which, and how long its launch took. Errors: why it is not believed.
    pub(crate) fn join(
        &mut self,
        (name, proof): (&str, Proof<'_>),
        (pid, is_limited): (u32, bool),
        address: Address,
        now: Instant,
    ) -> Result<(String, Duration), &'static str> {
        if let Proof::Token(token) = proof {
            self.enrol(name, token)?;
        }
        let id = self.id_of(name).ok_or("nobody launched it")?;
        let Some(entry) = self.instances.get_mut(&id) else { return Err("nobody launched it") };
        match entry.stage {
            _ if !entry.is_known => return Err("its certificate is not of its token"),
            _ if entry.has_joined => return Err("it has joined already"),
            Stage::Launching => entry.has_joined = true,
            Stage::Ready | Stage::Draining => return Err("it is too late"),
        }
        (entry.stage, entry.since, entry.heard) = (Stage::Ready, now, now);
        (entry.pid, entry.is_limited, entry.address) = (Some(pid), is_limited, Some(address));
        entry.empty_since = entry.leases.is_empty().then_some(now);
        self.away.remove(&(entry.instance_type.clone(), entry.zone.clone()));
        Ok((id, now.saturating_duration_since(entry.launched)))
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
        let (mut leases, mut name) = (Vec::new(), id.to_owned());
        if let Some(entry) = self.instances.remove(id) {
            name = entry.name.unwrap_or(name);
            leases.extend(entry.leases.into_keys());
        }
        let there = self.seekers.values_mut().filter(|seeker| seeker.place.as_deref() == Some(id));
        there.for_each(|seeker| seeker.place = None);
        Action::Terminate { id: id.to_owned(), name, leases, why }
    }

    /// What is to be done now.
    pub(crate) fn decide(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = self.end_overdue(now);
        actions.extend(self.begin_drains(now));
        actions.extend(self.plan(now));
        actions.extend(self.give(now));
        actions
    }

    /// Those that are past a deadline.
    fn end_overdue(&mut self, now: Instant) -> Vec<Action> {
        let Deadlines { beat, drain, stop, .. } = self.deadlines;
        let start = self.rules.start_timeout;
        let past = |at: Instant, limit| now.saturating_duration_since(at) > limit;
        let overdue = |entry: &Entry| match entry.stage {
            Stage::Launching if past(entry.since, start) => Some(Gone::GivenUp),
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

    /// Those that are to be replaced: one after the other by age, at once if they say that something is wrong. And those that
    /// have drained stop.
    fn begin_drains(&mut self, now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let old = self.old(now);
        let mut draining = self.instances.values().filter(|entry| entry.stage == Stage::Draining).count();
        let mut vcpu: u32 = self.instances.values().map(|entry| entry.shape.vcpu).sum();
        for (id, entry) in &mut self.instances {
            let why = match entry.stage {
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
            let there = self.seekers.values_mut().filter(|seeker| seeker.place.as_ref() == Some(id));
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

    /// Those that take nothing more, as far as the plan goes: they drain, or soon will, because a new one fits beside them. So
    /// an environment moves once, and not from one old instance to the next.
    fn closed(&self, now: Instant) -> BTreeSet<String> {
        let (old, vcpu) = (self.old(now), self.instances.values().map(|entry| entry.shape.vcpu).sum::<u32>());
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
        let there = self.seekers.values_mut().filter(|one| one.place.as_ref().is_some_and(|id| closed.contains(id)));
        there.for_each(|seeker| seeker.place = None);
        let unavailable = self.unavailable(now);
        let (wishes, instances) = (self.wishes(&closed), self.as_planned(&closed));
        let fleet = plan_instances(&wishes, &instances, &self.types, &self.rules, &unavailable, now);
        for (id, version, count) in &fleet.place {
            self.seat(id, version, *count);
        }
        actions.extend(self.order(fleet.launch, &unavailable, now));
        for id in fleet.give_up {
            actions.push(self.terminate(&id, Gone::GivenUp, now));
        }
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
        let held = open.flat_map(|(_, entry)| entry.leases.values().map(|(version, needs)| (version, needs)));
        for (version, needs) in held.chain(self.seekers.values().map(|seeker| (&seeker.version, &seeker.needs))) {
            let version = kind(version, needs);
            let wish = Wish { version: version.clone(), environments: 0, needs: *needs };
            wishes.entry(version).or_insert(wish).environments += 1;
        }
        wishes.into_values().collect()
    }

    fn as_planned(&self, closed: &BTreeSet<String>) -> Vec<Instance> {
        let mut instances: BTreeMap<&str, Instance> = BTreeMap::new();
        for (id, entry) in &self.instances {
            let mut instance = Instance {
                id: id.clone(),
                shape: entry.shape,
                zone: entry.zone.clone(),
                stage: if closed.contains(id) { Stage::Draining } else { entry.stage },
                since: entry.since,
                empty_since: entry.empty_since.filter(|_| entry.leases.is_empty()),
                environments: BTreeMap::new(),
            };
            entry.leases.values().for_each(|(version, needs)| hold(&mut instance, version, *needs));
            instances.insert(id, instance);
        }
        for seeker in self.seekers.values() {
            if let Some(instance) = seeker.place.as_deref().and_then(|id| instances.get_mut(id)) {
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
        unplaced.take(count as usize).for_each(|seeker| seeker.place = Some(id.to_owned()));
    }

    /// Those whose instance is ready get their room.
    fn give(&mut self, _now: Instant) -> Vec<Action> {
        let mut actions = Vec::new();
        let placed = self.seekers.iter().filter_map(|(seeker, one)| Some((*seeker, one.place.clone()?)));
        let placed: Vec<(u64, String)> = placed.collect();
        for (seeker, id) in placed {
            let Some(entry) = self.instances.get_mut(&id).filter(|entry| entry.stage == Stage::Ready) else { continue };
            let (Some(address), Some(token)) = (entry.address.clone(), entry.token.clone()) else { continue };
            let Some(one) = self.seekers.remove(&seeker) else { continue };
            entry.leases.insert(seeker, (one.version, one.needs));
            entry.empty_since = None;
            let name = entry.name.clone().unwrap_or_else(|| id.clone());
            actions.push(Action::Give { seeker, place: Place { id, name, address, token } });
        }
        actions
    }
}

/// What the plan counts together: a version's environments take the same, unless it is being replaced by other content.
fn kind(version: &str, needs: &Needs) -> String {
    format!("{version} {} {}", needs.vcpu, needs.memory_mib)
}

fn hold(instance: &mut Instance, version: &str, needs: Needs) {
    instance.environments.entry(kind(version, &needs)).or_insert(Held { count: 0, needs }).count += 1;
}
