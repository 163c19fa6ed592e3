//! What must hold of any run, whatever its script. Pure.

use crate::script::Script;
use crate::stage::Start;
use crate::world::{End, How, Run};
use penstock_domain::{ErrorCode, Outcome};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// tokio's timers tick in milliseconds, and round up; a request that waits to be sent on may need two.
const TICKS: Duration = Duration::from_millis(3);

/// Everything that does not hold, in words. Empty for a run that is well.
pub fn check(script: &Script, run: &Run) -> Vec<String> {
    let mut broken = Vec::new();
    answers(script, run, &mut broken);
    books(run, &mut broken);
    starts(script, run, &mut broken);
    environments(script, run, &mut broken);
    broken
}

/// There are never fewer environments than there are to be, and never more than there may be.
fn environments(script: &Script, run: &Run, broken: &mut Vec<String>) {
    let (min, max) = script.scaling.map_or((script.environments, script.environments), |s| (s.min, s.max));
    let (fewest, most) = run.environments;
    if fewest < min || most > max.max(1) {
        broken.push(format!("{fewest} to {most} environments were kept, {min} to {max} are allowed"));
    }
}

/// Everybody is answered: with their own answer, in time, or with a refusal that says why and how long to wait.
fn answers(script: &Script, run: &Run, broken: &mut Vec<String>) {
    if run.unanswered > 0 {
        broken.push(format!("{} requests were never answered", run.unanswered));
    }
    for end in &run.ends {
        let name = format!("request {} (came at {:?})", end.number, end.came);
        let request = script.requests.get(end.number as usize);
        if let How::Wrong(other) = &end.how {
            broken.push(format!("{name} got the answer of {other}"));
        }
        if let Some(timeout) = request.and_then(|request| request.timeout)
            && end.ended > end.came + timeout + TICKS
        {
            broken.push(format!("{name} had {timeout:?} and was answered after {:?}", end.ended - end.came));
        }
        let How::Refused(refusal) = &end.how else { continue };
        if refusal.shed.is_some() && refusal.retry_after.is_none() {
            broken.push(format!("{name} was shed without a wait: {refusal}"));
        }
        if refusal.code == ErrorCode::Internal && !script.loses_environments() {
            broken.push(format!("{name} failed and no environment was lost: {refusal}"));
        }
        if end.number >= run.probes_from {
            broken.push(format!("{name} came when all faults were over, and was refused: {refusal}"));
        }
        if request.is_some_and(|request| request.timeout.is_none()) && refusal.code == ErrorCode::DeadlineExceeded {
            broken.push(format!("{name} had no deadline and was told that it has passed: {refusal}"));
        }
    }
}

/// How many ended how, as their callers saw it, by the outcome's index.
pub(crate) fn seen(ends: &[End]) -> BTreeMap<usize, u64> {
    let mut seen: BTreeMap<usize, u64> = BTreeMap::new();
    for end in ends {
        let outcome = match &end.how {
            How::Done | How::Wrong(_) => Outcome::Done,
            How::Refused(refusal) => refusal.outcome(),
            How::Left => Outcome::Cancelled,
        };
        *seen.entry(outcome.index()).or_default() += 1;
    }
    seen
}

/// received = done + failed + shed + expired + cancelled, each as the callers saw it, and nothing is held any more.
fn books(run: &Run, broken: &mut Vec<String>) {
    let seen = seen(&run.ends);
    let counted: BTreeMap<usize, u64> =
        run.balance.ended.iter().map(|(outcome, count)| (outcome.index(), *count)).collect();
    let total: u64 = counted.values().sum();
    if run.balance.received != total {
        broken.push(format!("{} were received and {total} have ended", run.balance.received));
    }
    if run.unanswered == 0 && seen != counted {
        let names: Vec<Outcome> = Outcome::all().collect();
        let told = |counts: &BTreeMap<usize, u64>| {
            counts.iter().map(|(index, count)| format!("{:?} {count}", names[*index])).collect::<Vec<_>>().join(", ")
        };
        broken.push(format!("callers saw {}; the books say {}", told(&seen), told(&counted)));
    }
    if run.held != (0, 0, 0) {
        let (slots, bytes, in_flight) = run.held;
        broken.push(format!("still held: {slots} slots, {bytes} bytes, {in_flight} in flight"));
    }
}

/// Nothing starts after its caller left or its time was up; what is done has run, and nothing runs more than twice.
fn starts(script: &Script, run: &Run, broken: &mut Vec<String>) {
    let mut started: HashMap<u64, Vec<Start>> = HashMap::new();
    for start in &run.starts {
        started.entry(start.number).or_default().push(*start);
    }
    let most = if script.loses_environments() { 2 } else { 1 };
    for end in &run.ends {
        let none = Vec::new();
        let at = started.get(&end.number).unwrap_or(&none);
        if let Some(late) = at.iter().find(|start| start.at > end.ended && !start.cut) {
            broken.push(format!("request {} started at {:?}, after its end at {:?}", end.number, late.at, end.ended));
        }
        // Over a link that is cut nobody hears that it has begun.
        let heard = at.iter().filter(|start| !start.cut).count();
        if heard > most {
            broken.push(format!("request {} ran {heard} times", end.number));
        }
        if end.how == How::Done && at.is_empty() {
            broken.push(format!("request {} is done and never ran", end.number));
        }
    }
}
