//! What must hold of any fleet: at each look, at rest, when all is over, and of what its callers saw.

use super::cloud::{LOOK, Stage};
use super::script::{Fault, Script};
use super::world::{Run, World};
use crate::checkers::seen;
use crate::world::How;
use penstock_dispatch::VersionState;
use penstock_domain::ErrorCode;
use penstock_instances::InstanceView;
use penstock_scaler::{Architecture, Needs};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// tokio's timers tick in milliseconds, and round up.
const TICKS: Duration = Duration::from_millis(3);
/// From an answer to when the fleet must know what came of it, or have it ended.
const GRACE: Duration = Duration::from_millis(1500);

/// Everything that does not hold, in words. Empty for a run that is well.
pub fn check(script: &Script, run: &Run) -> Vec<String> {
    let mut broken = run.broken.clone();
    answers(script, run, &mut broken);
    books(run, &mut broken);
    broken
}

/// Everybody is answered: with their own answer, in time, or with a refusal that says why. A request fails only because
/// something was lost.
fn answers(script: &Script, run: &Run, broken: &mut Vec<String>) {
    if run.unanswered > 0 {
        broken.push(format!("{} requests were never answered", run.unanswered));
    }
    for end in &run.ends {
        let name = format!("request {} (came at {:?}, ended at {:?})", end.number, end.came, end.ended);
        let timeout = script.requests.get(end.number as usize).and_then(|request| request.timeout);
        if let How::Wrong(other) = &end.how {
            broken.push(format!("{name} got the answer of {other}"));
        }
        if timeout.is_some_and(|timeout| end.ended > end.came + timeout + TICKS) {
            broken.push(format!("{name} had {timeout:?}"));
        }
        let How::Refused(refusal) = &end.how else { continue };
        if refusal.shed.is_some() && refusal.retry_after.is_none() {
            broken.push(format!("{name} was shed without a wait: {refusal}"));
        }
        if refusal.to_string().is_empty() {
            broken.push(format!("{name} was refused without a reason"));
        }
        let is_loss = |(from, to): &(Duration, Duration)| *from <= end.ended && end.came <= *to;
        if refusal.code == ErrorCode::Internal && !run.losses.iter().any(is_loss) {
            broken.push(format!("{name} failed and nothing was lost: {refusal}"));
        }
        if script.is_gentle {
            broken.push(format!("{name} was refused and nothing was lost: {refusal}"));
        }
        if timeout.is_none() && refusal.code == ErrorCode::DeadlineExceeded {
            broken.push(format!("{name} had no deadline and was told that it has passed: {refusal}"));
        }
    }
}

/// received = answered + refused + failed, each as the callers saw it, and nothing is held any more.
fn books(run: &Run, broken: &mut Vec<String>) {
    let seen = seen(&run.ends);
    let mut counted: BTreeMap<usize, u64> = BTreeMap::new();
    for (outcome, count) in run.balances.iter().flat_map(|balance| &balance.ended) {
        *counted.entry(outcome.index()).or_default() += count;
    }
    let received: u64 = run.balances.iter().map(|balance| balance.received).sum();
    if received != counted.values().sum::<u64>() {
        broken.push(format!("{received} were received; have ended: {counted:?}"));
    }
    if run.unanswered == 0 && seen != counted {
        broken.push(format!("callers saw {seen:?}; the books say {counted:?}"));
    }
    if run.held != (0, 0, 0) {
        let (slots, bytes, in_flight) = run.held;
        broken.push(format!("still held: {slots} slots, {bytes} bytes, {in_flight} in flight"));
    }
}

impl World {
    /// What must hold at each moment.
    pub(super) fn look(&self) {
        let (now, instances) = (self.cloud.now(), self.fleet.instances());
        let of_fleet: BTreeMap<&str, &InstanceView> =
            instances.iter().map(|one| (one.instance_id.as_str(), one)).collect();
        let mut broken = Vec::new();
        let state = self.cloud.state.lock();
        for (name, one) in &state.machines {
            let is_known = of_fleet.contains_key(name.as_str());
            if one.stage == Stage::Alive && !is_known && one.answered.is_some_and(|at| now > at + GRACE) {
                broken.push(format!("at {now:?}: {name} runs, and the fleet neither knows it nor has it ended"));
            }
            if one.stage == Stage::Alive && one.orphan_since.is_some_and(|at| now > at + LOOK + GRACE) {
                broken.push(format!("at {now:?}: {name} was launched for nobody, and runs"));
            }
            let silent = self.script.deadlines.beat + GRACE;
            let is_ready = of_fleet.get(name.as_str()).is_some_and(|one| one.state != "Launching");
            if is_ready && one.gone_at.is_some_and(|at| now > at + silent) {
                broken.push(format!("at {now:?}: {name} is long gone, and the fleet believes in it"));
            }
            broken.extend(one.host.broken());
        }
        drop(state);
        for one in &instances {
            let taken: u32 = one.environments.iter().map(|(version, count)| self.vcpu_of(version) * count).sum();
            if taken > one.vcpu.saturating_sub(1) {
                broken
                    .push(format!("at {now:?}: {} has room for {taken} vCPU given, of {}", one.instance_id, one.vcpu));
            }
        }
        broken.into_iter().for_each(|text| self.breaks(text));
    }

    fn vcpu_of(&self, version: &str) -> u32 {
        let name = version.split(':').next().unwrap_or_default();
        self.script.functions.iter().find(|function| function.name.as_str() == name).map_or(0, |one| one.vcpu)
    }

    /// What is not yet as it is to be when there is no load and no fault.
    pub(super) fn unrest(&self) -> Vec<String> {
        let instances = self.fleet.instances();
        let mut unrest = Vec::new();
        let state = self.cloud.state.lock();
        let alive = state.machines.iter().filter(|(_, one)| one.stage == Stage::Alive);
        let running: BTreeSet<&str> = alive.clone().map(|(name, _)| name.as_str()).collect();
        let known: BTreeSet<&str> = instances.iter().map(|one| one.instance_id.as_str()).collect();
        if running != known {
            unrest.push(format!("{running:?} run, the fleet knows {known:?}"));
        }
        if !state.orders.is_empty() {
            unrest.push(format!("orders are under way: {:?}", state.orders));
        }
        for one in &instances {
            if one.state != "Ready" || one.environments.is_empty() {
                unrest.push(format!("{} is {} and has {:?}", one.instance_id, one.state, one.environments));
            }
            let there = state.machines.get(&one.instance_id).map(|known| known.host.environments()).unwrap_or_default();
            let there: BTreeMap<String, u32> =
                there.into_iter().map(|(name, count)| (format!("{name}:1"), count)).collect();
            if there != one.environments {
                let id = &one.instance_id;
                unrest.push(format!("{there:?} run on {id}, the fleet knows {:?}", one.environments));
            }
        }
        drop(state);
        for (index, (function, version)) in self.script.functions.iter().zip(&self.versions).enumerate() {
            let (kept, running) = (version.environments_kept(), version.environments().len() as u32);
            if kept != function.min {
                unrest.push(format!("{} has {kept} environments, and {} are enough", function.name, function.min));
            }
            if running != kept && (self.may_have_one_more(index) || version.state() == VersionState::Loading) {
                unrest.push(format!("of {}, {running} of {kept} run: {:?}", function.name, version.state()));
            }
        }
        unrest
    }

    /// Whether one more environment of a function could be had.
    pub(super) fn may_have_one_more(&self, function: usize) -> bool {
        let function = &self.script.functions[function];
        let needs = Needs {
            vcpu: function.vcpu,
            memory_mib: function.memory_mib,
            device_memory_mib: 0,
            architecture: Architecture::OWN,
        };
        let instances = self.fleet.instances();
        let state = self.cloud.state.lock();
        let beside = instances.iter().filter_map(|one| state.machines.get(&one.instance_id)).any(|known| {
            let there = known.host.environments();
            let all = self.script.functions.iter().map(|function| {
                (function.vcpu, function.memory_mib, there.get(function.name.as_str()).copied().unwrap_or(0))
            });
            let taken =
                all.fold((0, 0), |sum, (vcpu, mib, count)| (sum.0 + vcpu * count, sum.1 + mib * u64::from(count)));
            let room = known.host.shape.for_environments();
            taken.0 + needs.vcpu <= room.0 && taken.1 + needs.memory_mib <= room.1
        });
        let all: u32 = instances.iter().map(|one| one.vcpu).sum();
        let fits = |one: &penstock_scaler::InstanceType| {
            one.shape.holds(&needs) > 0 && all + one.shape.vcpu <= self.fleet.vcpu_max()
        };
        beside || self.script.types.iter().any(fits)
    }

    /// No instance was asked for more than it has. One that did nothing for a while may still have what it was told to end.
    pub(super) fn nothing_was_refused(&self) {
        if self.script.faults.iter().any(|(_, fault)| matches!(fault, Fault::Freeze(..))) {
            return;
        }
        for function in &self.script.functions {
            let (lines, _) = self.house.log(&function.name, 0);
            let refused = lines.into_iter().find(|line| line.text.contains("it does not fit"));
            refused.into_iter().for_each(|line| self.breaks(format!("{}: {}", function.name, line.text)));
        }
    }

    /// When all is over, nothing is left.
    pub(super) fn ended(&self) {
        let state = self.cloud.state.lock();
        let left: Vec<String> =
            state.machines.iter().filter(|(_, one)| one.stage != Stage::Gone).map(|(name, _)| name.clone()).collect();
        drop(state);
        if !left.is_empty() {
            self.breaks(format!("the server has ended, and {left:?} run"));
        }
    }
}
