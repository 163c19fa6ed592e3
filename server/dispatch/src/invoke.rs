//! One request's way: slot, router, link, and what to do when an environment is lost or a version replaced under it.
//!
//! Called by the house with an invocation whose version is known.

use crate::function::{Placed, ServedVersion, Shared, Unavailable, VersionState};
use penstock_admission::{CallerFull, CallerSlot, Foretold, usable};
use penstock_domain::{CallerId, ErrorCode, Invocation, Refusal, ShedReason, StageTimes, VersionNumber};
use penstock_environment::{CallAnswer, CallEnd, OUT_OF_HOST_MEMORY};
use penstock_router::{Candidate, choose};
use smallvec::SmallVec;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use turn::{Taken, Turn};

mod turn;

/// How often a request is sent on because its environment refused it or had no slot left: enough to get past a full
/// neighbour. All requests of a version together have a budget for it, so that a storm cannot grow.
const REROUTES_MAX: usize = 1;
/// How often an environment is chosen for a request that others come before each time: they had what it wanted.
const CHOICES_MAX: usize = 3;
/// How often a request that has not begun to run is sent on because its environment was lost. Each loss takes at
/// least a restart, so this does not add load; one deadly request costs two environments, and this outlives four.
const LOSSES_MAX: u32 = 8;
/// How long the one request that is to run alone pauses when there is no room for it yet.
const ALONE_PAUSE: Duration = Duration::from_millis(5);
/// How often it does if it has no deadline: for five seconds in all.
const ALONE_PAUSES_MAX: u32 = 1000;
/// What a client is told to wait while environments start, where none has been started before.
const START_WAIT: Duration = Duration::from_secs(1);

/// Why there is no answer, and whether the request may have run all the same.
struct Unanswered {
    refusal: Refusal,
    begun: bool,
}

impl From<Refusal> for Unanswered {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, begun: false }
    }
}

/// Runs an invocation on the version its name means. One whose version was stopped between the look-up and the run asks
/// `resolve` once more: if its name means another version by now, it has not noticed the change.
pub(crate) async fn invoke(
    version: Arc<ServedVersion>,
    invocation: &Invocation,
    random: impl Fn() -> u64,
    resolve: impl Fn() -> Result<Arc<ServedVersion>, Refusal>,
) -> Result<(VersionNumber, CallAnswer), Refusal> {
    let answered = |version: &ServedVersion, answer| (version.number, answer);
    let Unanswered { refusal, begun } = match invoke_version(&version, invocation, &random).await {
        Ok(answer) => return Ok(answered(&version, answer)),
        Err(unanswered) => unanswered,
    };
    let stopped = refusal.shed == Some(ShedReason::Draining) || refusal.code == ErrorCode::NotFound;
    if begun || !stopped || !version.stop.is_cancelled() {
        return Err(refusal);
    }
    match resolve() {
        Ok(other) if !Arc::ptr_eq(&other, &version) => match invoke_version(&other, invocation, &random).await {
            Ok(answer) => Ok(answered(&other, answer)),
            Err(unanswered) => Err(unanswered.refusal),
        },
        _ => Err(refusal),
    }
}

/// Runs an invocation on one of the version's environments.
async fn invoke_version(
    version: &Arc<ServedVersion>,
    invocation: &Invocation,
    random: &impl Fn() -> u64,
) -> Result<CallAnswer, Unanswered> {
    let Some(_slot) = version.slots.try_take() else {
        let limit = version.slots.limit();
        let wait = slot_in(version);
        let text = format!("function '{}' has all its {limit} requests in flight", version.function);
        return Err(Refusal::shed(ShedReason::FunctionConcurrency, text, Some(wait)).into());
    };
    let shared = version.shared.load_full();
    let _shared = match &shared {
        None => None,
        Some(shared) => Some(shared.slots.try_take().ok_or_else(|| none_left(shared))?),
    };
    let _place = invocation.caller.map(|caller| place(version, caller)).transpose()?;
    let work = run(version, invocation, random);
    let result = match invocation.deadline {
        None => work.await,
        Some(deadline) => match tokio::time::timeout_at(deadline.into(), work).await {
            Ok(result) => result,
            Err(_) => Err(expired().into()),
        },
    };
    // A refusal frees no slot that anybody waits for.
    if !result.as_ref().is_err_and(|unanswered| unanswered.refusal.shed.is_some()) {
        let now = Instant::now().into_std();
        version.drain_rate.lock().finished(now, version.slots.taken() > 1);
        if let Some(shared) = &shared {
            shared.drain_rate.lock().finished(now, shared.slots.taken() > 1);
        }
    }
    result
}

/// The refusal of one for which a pool of slots has none left.
fn none_left(shared: &Shared) -> Refusal {
    let (limit, wait) = (shared.slots.limit(), shared.drain_rate.lock().wait(1));
    match &shared.function {
        Some(function) => {
            let text = format!("function '{function}' has all of its {limit} reserved requests in flight");
            Refusal::shed(ShedReason::FunctionConcurrency, text, Some(wait))
        }
        None => {
            let text = format!(
                "the server has {limit} requests in flight (limits.concurrency, less what other functions reserve)"
            );
            Refusal::shed(ShedReason::ServerConcurrency, text, Some(wait))
        }
    }
}

async fn run(
    version: &Arc<ServedVersion>,
    invocation: &Invocation,
    random: &impl Fn() -> u64,
) -> Result<CallAnswer, Unanswered> {
    version.retry_budget.request();
    let (mut refusals, mut losses, mut turn) = (Refusals::default(), 0, Turn::new(version, invocation.deadline));
    loop {
        // While an admitted request waits for a slot to run alone in, the last one is kept for it.
        let kept = u32::from(version.alone_waits.load(Ordering::Relaxed));
        // One that lost its environment had its turn.
        let taken = match losses == 0 && turn.is_before_me() {
            true => Err(full_or_not_ready(version)),
            false => take(version, invocation, random, kept, &refusals),
        };
        let (environment, slot) = match taken {
            Ok(taken) => taken,
            Err(refusal) if !turn.is_after(&refusal) => return Err(refusal.into()),
            Err(_) => {
                turn.line_up()?;
                match take(version, invocation, random, kept, &refusals) {
                    Ok(taken) => taken,
                    Err(refusal) if !turn.is_after(&refusal) => return Err(refusal.into()),
                    Err(refusal) => {
                        turn.called(refusal).await?;
                        continue;
                    }
                }
            }
        };
        turn.comes();
        let end = call(&environment, invocation, false).await;
        drop(slot);
        match end {
            Ok(answer) => return Ok(answer),
            Err(CallEnd::Refused(refusal)) if may_go_elsewhere(&refusal) => {
                refusals.add(version, environment, refusal)?
            }
            Err(CallEnd::Refused(refusal)) => return Err(refusal.into()),
            Err(CallEnd::Lost { begun: true }) => {
                let retried = retry_alone(version, invocation, random).await;
                return retried.map_err(|refusal| Unanswered { refusal, begun: true });
            }
            Err(CallEnd::Lost { begun: false }) => {
                losses += 1;
                if losses > LOSSES_MAX {
                    return Err(not_ready(version).into());
                }
                wait_for_environment(version, invocation.deadline).await?;
            }
        }
    }
}

/// Environments that have refused a request, and what the last of them said.
#[derive(Default)]
struct Refusals(Vec<(Arc<Placed>, Refusal)>);

impl Refusals {
    /// One more; the refusal is final if there were enough of it, of this request or of all.
    fn add(&mut self, version: &ServedVersion, environment: Arc<Placed>, refusal: Refusal) -> Result<(), Refusal> {
        if self.0.len() >= REROUTES_MAX || !version.retry_budget.try_retry() {
            return Err(refusal);
        }
        self.0.push((environment, refusal));
        Ok(())
    }

    fn by(&self, environment: &Arc<Placed>) -> bool {
        self.0.iter().any(|(refused, _)| Arc::ptr_eq(refused, environment))
    }

    fn last(&self) -> Option<Refusal> {
        self.0.last().map(|(_, refusal)| refusal.clone())
    }
}

/// A request that was running when its environment was lost may be what killed it: it runs once more, alone in its
/// environment, one such request at a time in the function. It was admitted already, so where there is no room for it
/// yet it waits, at most until its deadline.
async fn retry_alone(
    version: &Arc<ServedVersion>,
    invocation: &Invocation,
    random: &impl Fn() -> u64,
) -> Result<CallAnswer, Refusal> {
    // The semaphore is never closed.
    let _lane = version.retry_lane.acquire().await;
    let (mut losses, mut pauses) = (0, 0);
    loop {
        wait_for_environment(version, invocation.deadline).await?;
        match run_alone(version, invocation, random).await {
            Ok(answer) => return Ok(answer),
            Err(CallEnd::Refused(refusal)) => {
                pauses += 1;
                let patient = invocation.deadline.is_some() || pauses <= ALONE_PAUSES_MAX;
                if !patient || !is_full(&refusal) {
                    return Err(refusal);
                }
                let _kept = AloneWaits::begin(version);
                tokio::time::sleep(ALONE_PAUSE).await;
            }
            Err(CallEnd::Lost { begun: true }) => {
                let text = "the execution environment ended while it ran this request, twice, the second time alone";
                return Err(Refusal::new(ErrorCode::Internal, text).with_reason("execution_crashed"));
            }
            Err(CallEnd::Lost { begun: false }) => {
                losses += 1;
                if losses > LOSSES_MAX {
                    return Err(not_ready(version));
                }
            }
        }
    }
}

async fn run_alone(
    version: &ServedVersion,
    invocation: &Invocation,
    random: &impl Fn() -> u64,
) -> Result<CallAnswer, CallEnd> {
    let taken = take(version, invocation, random, 0, &Refusals::default());
    let (environment, _slot) = taken.map_err(CallEnd::Refused)?;
    call(&environment, invocation, true).await
}

/// Says, as long as it lives, that a request waits for a slot to run alone in. There is one at a time: its lane's.
struct AloneWaits<'a>(&'a ServedVersion);

impl<'a> AloneWaits<'a> {
    fn begin(version: &'a ServedVersion) -> Self {
        version.alone_waits.store(true, Ordering::Relaxed);
        Self(version)
    }
}

impl Drop for AloneWaits<'_> {
    fn drop(&mut self) {
        self.0.alone_waits.store(false, Ordering::Relaxed);
        self.0.waiting.call(1);
    }
}

/// What the router makes of an environment.
#[derive(Clone, Copy, PartialEq)]
enum Standing {
    Good,
    /// It is quiet, or fails again and again.
    LastResort,
    /// When it would be done, and how long is left.
    Late(Foretold, Duration),
    /// It is closed, has no slot for this request, or has refused it.
    Out,
}

/// A slot of the router's choice. One that another took since it was chosen is chosen no more: what is taken has been told by then.
fn take<'a>(
    version: &'a ServedVersion,
    invocation: &Invocation,
    random: &impl Fn() -> u64,
    kept: u32,
    refusals: &Refusals,
) -> Result<(Arc<Placed>, Taken<'a>), Refusal> {
    for _ in 0..CHOICES_MAX {
        let environment = pick(version, invocation, random, kept, refusals)?;
        if let Some(slot) = Taken::try_take(version, &environment) {
            return Ok((environment, slot));
        }
    }
    Err(full(version))
}

/// The router's choice among the environments that take requests, have more than `kept` slots left, have not refused this
/// one and can be in time, as far as is known here; else why there is none. One that is quiet or fails is a last resort.
fn pick(
    version: &ServedVersion,
    invocation: &Invocation,
    random: &impl Fn() -> u64,
    kept: u32,
    refusals: &Refusals,
) -> Result<Arc<Placed>, Refusal> {
    let (environments, now) = (version.environments.load(), Instant::now().into_std());
    let judge = |environment: &Arc<Placed>| {
        let slots = environment.slots();
        let kept = kept + environment.slots_kept(invocation);
        if !environment.is_open() || slots.taken().saturating_add(kept) >= slots.limit() || refusals.by(environment) {
            return Standing::Out;
        }
        // So that late requests do not cross the link for nothing.
        if let Some(deadline) = invocation.deadline
            && let Some(foretold) = environment.done_in(invocation, now)
        {
            let left = usable(deadline.saturating_duration_since(now));
            if foretold.done_in > left {
                return Standing::Late(foretold, left);
            }
        }
        match environment.is_quiet(now) || !environment.breaker.lets_through(now) {
            true => Standing::LastResort,
            false => Standing::Good,
        }
    };
    let standings: SmallVec<[Standing; 8]> = environments.iter().map(judge).collect();
    let among = |wanted: Standing| {
        let each = environments.iter().zip(&standings);
        each.map(move |(environment, standing)| Candidate {
            load: environment.slots().taken(),
            open: *standing == wanted,
        })
    };
    let random = random();
    let index = choose(among(Standing::Good), random).or_else(|| choose(among(Standing::LastResort), random));
    if let Some(index) = index {
        return Ok(environments[index].clone());
    }
    if let Some(refusal) = refusals.last() {
        return Err(refusal);
    }
    let late = standings.iter().filter_map(|standing| match standing {
        Standing::Late(foretold, left) => Some((*foretold, *left)),
        _ => None,
    });
    if let Some((foretold, left)) = late.min_by_key(|(foretold, _)| foretold.done_in) {
        return Err(Refusal::unmeetable(foretold.done_in, left, foretold.in_time_in(left)));
    }
    Err(full_or_not_ready(version))
}

fn full_or_not_ready(version: &ServedVersion) -> Refusal {
    match version.environments.load().iter().any(|environment| environment.is_open()) {
        true => full(version),
        false => not_ready(version),
    }
}

/// Runs it there, and tells the breaker whether it failed.
async fn call(environment: &Placed, invocation: &Invocation, alone: bool) -> Result<CallAnswer, CallEnd> {
    let now = Instant::now().into_std();
    environment.breaker.sent(now);
    let end = environment.call(invocation.clone(), alone, now).await;
    match &end {
        Ok(_) => environment.breaker.succeeded(),
        // Too large for its memory is the request's own fault.
        Err(CallEnd::Refused(Refusal { shed: None, reason: Some(reason), .. })) if *reason != OUT_OF_HOST_MEMORY => {
            environment.breaker.failed(Instant::now().into_std());
        }
        Err(_) => {}
    }
    end
}

fn may_go_elsewhere(refusal: &Refusal) -> bool {
    use ShedReason::{DeadlineUnmeetable, Draining, QueueItems, QueueRequests};
    matches!(refusal.shed, Some(QueueRequests | QueueItems | Draining | DeadlineUnmeetable))
}

/// There is no room now, and there will be.
fn is_full(refusal: &Refusal) -> bool {
    let full = [ShedReason::EnvironmentConcurrency, ShedReason::QueueRequests, ShedReason::QueueItems];
    refusal.shed.is_some_and(|reason| full.contains(&reason))
}

/// Waits until an environment is ready. Without a deadline it does not wait: the caller can, and is told how long.
async fn wait_for_environment(version: &ServedVersion, deadline: Option<std::time::Instant>) -> Result<(), Refusal> {
    loop {
        // Before the look, so that no change is missed. Those that wait are woken in the order in which they came.
        let changed = version.changed.notified();
        // The state follows the environments: right after a loss it may still say ready, so they are asked.
        if version.environments.load().iter().any(|environment| environment.is_open()) {
            return Ok(());
        }
        let hopeless = matches!(*version.state.borrow(), VersionState::Unloading | VersionState::Unavailable(_));
        if hopeless || deadline.is_none() {
            return Err(not_ready(version));
        }
        // The caller's timeout bounds this wait.
        changed.await;
    }
}

pub(crate) fn not_ready(version: &ServedVersion) -> Refusal {
    let name = format!("function '{}' version {}", version.function, version.number);
    match version.state() {
        VersionState::Unloading => {
            Refusal::shed(ShedReason::Draining, format!("{name} is being unloaded"), Some(START_WAIT))
        }
        VersionState::Unavailable(_) if version.stop.is_cancelled() => {
            // In Triton's words: its clients look for them.
            let text = format!("Request for unknown model: '{}' has no available versions", version.function);
            Refusal::new(ErrorCode::NotFound, text)
        }
        VersionState::Unavailable(Unavailable { reason, .. }) => {
            Refusal::new(ErrorCode::Unavailable, format!("{name} is not available: {reason}"))
        }
        VersionState::Loading | VersionState::Ready | VersionState::Resting => {
            let text = format!("{name} has no environment ready yet");
            Refusal::shed(ShedReason::NoCapacity, text, Some(start_wait(version)))
        }
        VersionState::Restarting(Unavailable { reason, .. }) => {
            let text = format!("{name} has no environment ready: {reason}");
            Refusal::shed(ShedReason::NoCapacity, text, Some(start_wait(version)))
        }
    }
}

/// How long until an environment is ready, as far as is known.
fn start_wait(version: &ServedVersion) -> Duration {
    version.starts.lock().ready_in(Instant::now()).unwrap_or(START_WAIT)
}

fn full(version: &ServedVersion) -> Refusal {
    let environments = version.environments.load();
    environments.iter().for_each(|environment| environment.found_full());
    let limit: u32 = environments.iter().map(|environment| environment.slots().limit()).sum();
    let text = format!("function '{}' version {} has all its {limit} slots in use", version.function, version.number);
    Refusal::shed(ShedReason::EnvironmentConcurrency, text, Some(slot_in(version)))
}

/// A place among the caller's own.
fn place(version: &ServedVersion, caller: CallerId) -> Result<CallerSlot<'_>, Refusal> {
    // Of the slots that bound it first; this request's own is taken already.
    let shared = version.shared.load();
    let shared = shared.as_ref().map(|shared| &shared.slots).filter(|shared| shared.limit() < version.limit());
    let (taken, limit) = shared.map_or((version.slots.taken(), version.limit()), |s| (s.taken(), s.limit()));
    let taken = taken.saturating_sub(1);
    version.callers.try_take(caller, taken, limit, Instant::now().into_std()).map_err(|full| {
        let function = &version.function;
        let text = match full {
            CallerFull::Max(max) => format!("this caller has {max} requests of function '{function}' in flight, the most"),
            CallerFull::Share(share) => format!(
                "this caller has {share} requests of function '{function}' in flight, its share of {limit}: what is free is \
                 kept for callers with fewer"
            ),
        };
        // It is refused as if all were taken, and so the environments' limits may be too low.
        version.environments.load().iter().for_each(|environment| environment.found_full());
        Refusal::shed(ShedReason::CallerConcurrency, text, Some(slot_in(version)))
    })
}

/// How long until a slot of this version is free: until a batch ends in one of its environments, or, where that cannot be
/// told, as long as a request takes to leave at the rate measured.
fn slot_in(version: &ServedVersion) -> Duration {
    let now = Instant::now().into_std();
    let ends_in = version.environments.load().iter().filter_map(|environment| environment.ends_in(now)).min();
    ends_in.unwrap_or_else(|| version.drain_rate.lock().wait(1))
}

pub(crate) fn expired() -> Refusal {
    Refusal::new(ErrorCode::DeadlineExceeded, "the deadline passed before the answer was ready")
}

/// The stage times of a request that never reached an environment.
pub(crate) fn untimed() -> StageTimes {
    StageTimes::default()
}

#[cfg(test)]
mod tests;
