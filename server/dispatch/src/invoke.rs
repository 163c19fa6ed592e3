//! One request's way: slot, router, link, and what to do when an environment is lost under it.
//!
//! Called by the house with an invocation whose version is known.

use crate::function::{ServedVersion, VersionState};
use penstock_domain::{ErrorCode, Invocation, Refusal, ShedReason, StageTimes, Tensor};
use penstock_environment::{CallAnswer, CallEnd, EnvironmentHandle};
use penstock_router::{Candidate, choose};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How often a request is sent on because its environment refused it or had no slot left: enough to get past a full
/// neighbour, few enough that a storm cannot grow.
const REROUTES_MAX: u32 = 2;
/// How often a request that has not begun to run is sent on because its environment was lost. Each loss takes at
/// least a restart, so this does not add load; one deadly request costs two environments, and this outlives four.
const LOSSES_MAX: u32 = 8;
/// What a client is told to wait while environments start, when nothing better is known.
const START_WAIT: Duration = Duration::from_secs(1);

/// Runs an invocation on one of the version's environments.
pub(crate) async fn invoke(
    version: &Arc<ServedVersion>,
    invocation: Invocation,
    random: impl Fn() -> u64,
) -> Result<CallAnswer, Refusal> {
    let Some(_slot) = version.slots.try_take() else {
        let limit = version.slots.limit();
        let wait = version.drain_rate.lock().wait(1);
        let text = format!("function '{}' has all its {limit} requests in flight", version.function);
        return Err(Refusal::shed(ShedReason::FunctionConcurrency, text, Some(wait)));
    };
    let deadline = invocation.deadline;
    let work = run(version, invocation, random);
    let result = match deadline {
        None => work.await,
        Some(deadline) => match tokio::time::timeout_at(deadline.into(), work).await {
            Ok(result) => result,
            Err(_) => Err(expired()),
        },
    };
    // A refusal frees no slot that anybody waits for.
    if !result.as_ref().is_err_and(|refusal| refusal.shed.is_some()) {
        version.drain_rate.lock().finished(Instant::now().into_std(), version.slots.taken() > 1);
    }
    result
}

async fn run(
    version: &Arc<ServedVersion>,
    invocation: Invocation,
    random: impl Fn() -> u64,
) -> Result<CallAnswer, Refusal> {
    let (mut reroutes, mut losses) = (0, 0);
    loop {
        let environment = pick(version, &random)?;
        let Some(slot) = environment.slots().try_take() else {
            // Taken by another since it was picked.
            reroutes += 1;
            if reroutes > REROUTES_MAX {
                return Err(full(version));
            }
            continue;
        };
        let now = Instant::now();
        let end = environment.call(invocation.clone(), false, now.into_std()).await;
        drop(slot);
        match end {
            Ok(answer) => return Ok(answer),
            Err(CallEnd::Refused(refusal)) => {
                reroutes += 1;
                if reroutes > REROUTES_MAX || !may_go_elsewhere(&refusal) || !has_others(version, &environment) {
                    return Err(refusal);
                }
            }
            Err(CallEnd::Lost { begun: true }) => return retry_alone(version, invocation, &random).await,
            Err(CallEnd::Lost { begun: false }) => {
                losses += 1;
                if losses > LOSSES_MAX {
                    return Err(not_ready(version));
                }
                wait_for_environment(version, invocation.deadline).await?;
            }
        }
    }
}

/// A request that was running when its environment was lost may be what killed it: it runs once more, alone in its
/// batch, one such request at a time in the function.
async fn retry_alone(
    version: &Arc<ServedVersion>,
    invocation: Invocation,
    random: &impl Fn() -> u64,
) -> Result<CallAnswer, Refusal> {
    // The semaphore is never closed.
    let _lane = version.retry_lane.acquire().await;
    for _ in 0..=LOSSES_MAX {
        wait_for_environment(version, invocation.deadline).await?;
        let environment = pick(version, random)?;
        match environment.call(invocation.clone(), true, Instant::now().into_std()).await {
            Ok(answer) => return Ok(answer),
            Err(CallEnd::Refused(refusal)) => return Err(refusal),
            Err(CallEnd::Lost { begun: true }) => {
                let text = "the execution environment ended while it ran this request, twice, the second time alone";
                return Err(Refusal::new(ErrorCode::Internal, text).with_reason("execution_crashed"));
            }
            Err(CallEnd::Lost { begun: false }) => {}
        }
    }
    Err(not_ready(version))
}

/// The router's choice among the environments that take requests; else why there is none.
fn pick(version: &ServedVersion, random: &impl Fn() -> u64) -> Result<Arc<EnvironmentHandle>, Refusal> {
    let environments = version.environments.load();
    let candidates = environments.iter().map(|environment| {
        let slots = environment.slots();
        let load = slots.taken();
        Candidate { load, open: environment.is_open() && load < slots.limit() }
    });
    match choose(candidates, random()) {
        Some(index) => Ok(environments[index].clone()),
        None if environments.iter().any(|environment| environment.is_open()) => Err(full(version)),
        None => Err(not_ready(version)),
    }
}

fn has_others(version: &ServedVersion, than: &Arc<EnvironmentHandle>) -> bool {
    version.environments.load().iter().any(|other| other.is_open() && !Arc::ptr_eq(other, than))
}

fn may_go_elsewhere(refusal: &Refusal) -> bool {
    matches!(refusal.shed, Some(ShedReason::QueueRequests | ShedReason::QueueItems | ShedReason::Draining))
}

/// Waits until an environment is ready. Without a deadline it does not wait: the caller can, and is told how long.
async fn wait_for_environment(version: &ServedVersion, deadline: Option<std::time::Instant>) -> Result<(), Refusal> {
    let mut state = version.state.subscribe();
    loop {
        // The state follows the environments: right after a loss it may still say ready, so they are asked.
        let hopeless = matches!(*state.borrow_and_update(), VersionState::Unloading | VersionState::Unavailable(_));
        if version.environments.load().iter().any(|environment| environment.is_open()) {
            return Ok(());
        }
        // The caller's timeout bounds this wait.
        if hopeless || deadline.is_none() || state.changed().await.is_err() {
            return Err(not_ready(version));
        }
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
        VersionState::Unavailable(reason) => {
            Refusal::new(ErrorCode::Unavailable, format!("{name} is not available: {reason}"))
        }
        VersionState::Loading | VersionState::Ready => {
            let text = format!("{name} has no environment ready yet");
            Refusal::shed(ShedReason::NoCapacity, text, Some(START_WAIT))
        }
    }
}

fn full(version: &ServedVersion) -> Refusal {
    let environments = version.environments.load();
    let limit: u32 = environments.iter().map(|environment| environment.slots().limit()).sum();
    let text = format!("function '{}' version {} has all its {limit} slots in use", version.function, version.number);
    let wait = version.drain_rate.lock().wait(1);
    Refusal::shed(ShedReason::EnvironmentConcurrency, text, Some(wait))
}

pub(crate) fn expired() -> Refusal {
    Refusal::new(ErrorCode::DeadlineExceeded, "the deadline passed before the answer was ready")
}

/// Rows of a request, for the statistics: dimension 0 of its first input, or 1.
pub(crate) fn items(inputs: &[Tensor], batches: bool) -> u64 {
    let rows = inputs.first().and_then(|tensor| tensor.shape.first()).copied().unwrap_or(1);
    if batches { u64::try_from(rows).unwrap_or(1) } else { 1 }
}

/// The stage times of a request that never reached an environment.
pub(crate) fn untimed() -> StageTimes {
    StageTimes::default()
}
