//! One request's way through a version whose environments are real ones behind in-memory links. Their model runs a
//! batch when the test says so; they are lost when the test cuts their links.

use super::{VersionNumber, invoke};
use crate::function::{Cause, Concurrency, Placed, ServedVersion, Shared, Starts, VersionState};
use bytes::Bytes;
use parking_lot::Mutex;
use penstock_domain::{
    Architecture, CallerId, Datatype, ErrorCode, FunctionName, Invocation, Refusal, ShedReason, Signature, Tensor,
};
use penstock_environment::{BatchingPolicy, EnvironmentHandle, IsolationPolicy, QueueLimits, Specification};
use penstock_executor::{Batch, ExecError, Executor, LoadError, Model, Outputs, Part, PartInput, Prepared, Work};
use penstock_repository::{ContentRevision, IdentityDelays, RuntimeSource, VersionSource};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// First bytes of the requests, batch by batch.
type Log = Arc<Mutex<Vec<Vec<u8>>>>;
type Answered = Result<(VersionNumber, u8), Refusal>;

/// Echoes requests of one row each; runs one batch for each `()` it is given.
struct Gated {
    signature: Signature,
    gate: Arc<Mutex<Receiver<()>>>,
    log: Log,
    fails: bool,
}

struct GatedExecutor(Arc<Mutex<Receiver<()>>>, Log, bool);

impl Model for Gated {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn prepare(&self, work: Work) -> Result<Prepared, ExecError> {
        let part = Part { input: PartInput::Tensors(work.inputs), items: 1, tokens: 0, kind: 0 };
        Ok(Prepared { parts: vec![part], parameters: Vec::new() })
    }

    fn warmup(&self) -> Vec<Work> {
        Vec::new()
    }

    fn executor(&self, _worker: usize) -> Result<Box<dyn Executor>, LoadError> {
        Ok(Box::new(GatedExecutor(self.gate.clone(), self.log.clone(), self.fails)))
    }
}

impl Executor for GatedExecutor {
    fn execute(&mut self, batch: Batch) -> Result<Outputs, ExecError> {
        let _ = self.0.lock().recv();
        let tensors = |part: Part| match part.input {
            PartInput::Tensors(tensors) => tensors,
            PartInput::Tokens(_) => Vec::new(),
        };
        let parts: Vec<Vec<Tensor>> = batch.parts.into_iter().map(tensors).collect();
        self.1.lock().push(parts.iter().map(|part| part[0].data[0]).collect());
        let fails = || ExecError::Failed("as it always does".into());
        let parts = parts.into_iter().map(|part| if self.2 { Err(fails()) } else { Ok(part) }).collect();
        Ok(Outputs { parts, compute_input_ns: 0, compute_ns: 1, compute_output_ns: 0, padded_tokens: 0 })
    }
}

struct Environment {
    handle: Arc<EnvironmentHandle>,
    open: Sender<()>,
    log: Log,
}

/// An environment that is ready, with room for `requests`.
async fn environment(requests: u32) -> Environment {
    environment_that(requests, false).await
}

async fn environment_that(requests: u32, fails: bool) -> Environment {
    let specification = Specification {
        function: "f".into(),
        version: 1,
        runtime: serde_json::Value::Null,
        batching: BatchingPolicy { dynamic: true, max_tokens: 1, ..BatchingPolicy::default() },
        queue: QueueLimits { requests, ..QueueLimits::default() },
        workers: 1,
        preparation_threads: 1,
        isolation: IsolationPolicy::default(),
        device: None,
        accelerator: None,
        provider: None,
        architecture: Architecture::OWN,
        cores: 1,
        memory_bytes: 0,
        body_bytes_max: 1 << 20,
    };
    let (open, gate) = channel();
    let log = Log::default();
    let signature = Signature { max_batch_size: 4, ..Signature::default() };
    let model: Arc<dyn Model> =
        Arc::new(Gated { signature, gate: Arc::new(Mutex::new(gate)), log: log.clone(), fails });
    let (near, far) = tokio::io::duplex(64 * 1024);
    let told = specification.clone();
    tokio::spawn(async move {
        let (mut from, to) = tokio::io::split(far);
        // The first frame is the specification, which a process reads before it has a room.
        let bytes = from.read_u32_le().await.unwrap();
        let mut rest = vec![0; 4 + bytes as usize];
        from.read_exact(&mut rest).await.unwrap();
        let _ = penstock_environment::serve(from, to, told, Vec::new(), Box::new(move |_| Ok(model))).await;
    });
    let (from, to) = tokio::io::split(near);
    let handle = EnvironmentHandle::start(from, to, &specification, None, Box::new(|_| {})).await.unwrap();
    Environment { handle, open, log }
}

/// A version that is ready, with these environments.
fn version(number: u64, slots: u32, environments: &[&Environment]) -> Arc<ServedVersion> {
    version_with(number, concurrency(slots, None), environments)
}

fn concurrency(slots: u32, shared: Option<Arc<Shared>>) -> Concurrency {
    Concurrency { slots, shared, caller: 0, waiting: 3, patience: PATIENCE, demanded: Arc::default() }
}

fn version_with(number: u64, concurrency: Concurrency, environments: &[&Environment]) -> Arc<ServedVersion> {
    let source = VersionSource {
        number: VersionNumber(number),
        directory: "/nowhere".into(),
        runtime: RuntimeSource::Identity { delays: IdentityDelays::default() },
        settings: Arc::default(),
        revision: ContentRevision(number),
        config: None,
        linked_paths: Vec::new(),
    };
    let name = FunctionName::new("f").unwrap();
    let version = Arc::new(ServedVersion::new(name, source, concurrency, CancellationToken::new()));
    has(&version, environments);
    version.state.send_replace(VersionState::Ready);
    version
}

/// From now on these are its environments.
fn has(version: &ServedVersion, environments: &[&Environment]) {
    version
        .environments
        .store(Arc::new(environments.iter().map(|one| Arc::new(Placed::new(one.handle.clone(), None))).collect()));
}

fn request(number: u8, deadline: Option<Duration>) -> Invocation {
    let shape = [1, 1].into_iter().collect();
    let data = Bytes::copy_from_slice(&[number]);
    Invocation {
        function: FunctionName::new("f").unwrap(),
        qualifier: penstock_domain::Qualifier::Unnamed,
        id: String::new(),
        parameters: Vec::new(),
        inputs: vec![Tensor { name: "x".into(), datatype: Datatype::Uint8, shape, data }],
        outputs: Vec::new(),
        deadline: deadline.map(|left| (Instant::now() + left).into_std()),
        priority: 0,
        caller: None,
        splittable: false,
    }
}

/// Sends a request to `version`, whose name means `now_means` when it is asked again, and lets it go as far as it can.
async fn send_renamed(
    version: &Arc<ServedVersion>,
    now_means: &Arc<ServedVersion>,
    invocation: Invocation,
) -> JoinHandle<Answered> {
    let (version, now_means) = (version.clone(), now_means.clone());
    let task = tokio::spawn(async move {
        let answered = invoke(version, &invocation, || 7, || Ok(now_means.clone())).await;
        answered.map(|(number, answer)| (number, answer.outputs[0].data[0]))
    });
    settle().await;
    task
}

async fn send(version: &Arc<ServedVersion>, number: u8, deadline: Option<Duration>) -> JoinHandle<Answered> {
    send_renamed(version, version, request(number, deadline)).await
}

/// Lets everything run until nothing moves.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

async fn shed(task: JoinHandle<Answered>) -> (ErrorCode, Option<&'static str>) {
    let refusal = task.await.unwrap().unwrap_err();
    (refusal.code, refusal.reason_name())
}

async fn done(task: JoinHandle<Answered>) -> u8 {
    task.await.unwrap().unwrap().1
}

const MINUTE: Option<Duration> = Some(Duration::from_secs(60));
/// How long a request without a deadline waits for an environment.
const PATIENCE: Duration = Duration::from_secs(10);

#[tokio::test]
async fn without_a_slot_a_request_is_shed_with_the_reason_and_a_wait() {
    for (function_slots, environment_slots, reason) in
        [(1, 9, ShedReason::FunctionConcurrency), (9, 1, ShedReason::EnvironmentConcurrency)]
    {
        let environment = environment(environment_slots).await;
        let version = version(1, function_slots, &[&environment]);
        let first = send(&version, 1, None).await;
        let refusal = send(&version, 2, None).await.await.unwrap().unwrap_err();
        assert_eq!((refusal.shed, refusal.code), (Some(reason), ErrorCode::Exhausted));
        assert!(refusal.retry_after.is_some());
        (0..2).for_each(|_| environment.open.send(()).unwrap());
        assert_eq!(done(first).await, 1);
        assert_eq!(done(send(&version, 3, None).await).await, 3, "its slots came back");
        assert_eq!((version.slots.taken(), environment.handle.slots().taken()), (0, 0));
    }
}

#[tokio::test]
async fn what_all_versions_share_is_refused_when_it_is_taken_and_what_is_reserved_is_not() {
    let environment = environment(9).await;
    let shared = Shared::new(1, None);
    let sharing = || concurrency(9, Some(shared.clone()));
    let (one, other) = (version_with(1, sharing(), &[&environment]), version_with(2, sharing(), &[&environment]));
    let reserved = version(3, 1, &[&environment]);
    let first = send(&one, 1, None).await;
    let refusal = send(&other, 2, None).await.await.unwrap().unwrap_err();
    assert_eq!((refusal.shed, refusal.code), (Some(ShedReason::ServerConcurrency), ErrorCode::Exhausted));
    let second = send(&reserved, 3, None).await;
    (0..3).for_each(|_| environment.open.send(()).unwrap());
    assert_eq!((done(first).await, done(second).await), (1, 3));
    assert_eq!(done(send(&other, 4, None).await).await, 4);
    assert_eq!((shared.slots.taken(), one.slots.taken(), other.slots.taken()), (0, 0, 0));
}

#[tokio::test]
async fn a_caller_with_its_share_leaves_what_is_free_to_others() {
    let environment = environment(8).await;
    let version = version(1, 64, &[&environment]);
    let of = |caller: &[u8], number| Invocation { caller: Some(CallerId::of(caller)), ..request(number, None) };
    let mut calls = Vec::new();
    // Alone it may have them all, less one once somebody else has been seen.
    for number in 0..6 {
        calls.push(send_renamed(&version, &version, of(b"greedy", number)).await);
    }
    calls.push(send_renamed(&version, &version, of(b"modest", 6)).await);
    let refusal = send_renamed(&version, &version, of(b"greedy", 7)).await.await.unwrap().unwrap_err();
    assert_eq!(refusal.shed, Some(ShedReason::CallerConcurrency), "{refusal}");
    assert!(refusal.message.contains("its share of 8"), "{refusal}");
    calls.push(send_renamed(&version, &version, of(b"modest", 8)).await);
    (0..8).for_each(|_| environment.open.send(()).unwrap());
    for call in calls {
        done(call).await;
    }
    assert_eq!((version.slots.taken(), environment.handle.slots().taken()), (0, 0));
}

#[tokio::test]
async fn what_fails_again_and_again_is_passed_over() {
    let (good, bad) = (environment(9).await, environment_that(9, true).await);
    let version = version(1, 9, &[&good, &bad]);
    let (mut failed, mut random) = (0, 0);
    for number in 0..100 {
        (0..2).for_each(|_| [&good, &bad].into_iter().for_each(|one| one.open.send(()).unwrap()));
        random += 1; // Alike, both are drawn in turn.
        let invocation = request(number, None);
        match invoke(version.clone(), &invocation, || random, || Ok(version.clone())).await {
            Ok((_, answer)) => assert_eq!(answer.outputs[0].data[0], number),
            Err(refusal) => {
                assert_eq!((refusal.code, refusal.shed), (ErrorCode::Internal, None), "{refusal}");
                failed += 1;
            }
        }
    }
    assert!((5..=20).contains(&failed), "the breaker opens, and lets hardly any try again meanwhile: {failed} failed");
    // Alone, it is a last resort.
    has(&version, &[&bad]);
    let refusal = send(&version, 1, None).await.await.unwrap().unwrap_err();
    assert_eq!(refusal.reason, Some("execution_failed"), "{refusal}");
}

#[tokio::test]
async fn of_a_lost_environment_what_had_begun_runs_alone_and_the_rest_is_sent_on() {
    let (lost, next) = (environment(9).await, environment(9).await);
    let version = version(1, 9, &[&lost]);
    let begun = send(&version, 1, None).await;
    let rest = [send(&version, 2, None).await, send(&version, 3, None).await];
    has(&version, &[&next]);
    lost.handle.cut();
    (0..3).for_each(|_| next.open.send(()).unwrap());
    assert_eq!(done(begun).await, 1);
    for (task, number) in rest.into_iter().zip(2..) {
        assert_eq!(done(task).await, number);
    }
    assert!(next.log.lock().contains(&vec![1]), "alone: {:?}", next.log.lock());
    assert_eq!((version.slots.taken(), next.handle.slots().taken()), (0, 0));
}

#[tokio::test]
async fn one_that_was_running_at_two_losses_is_not_run_again() {
    let (first, second) = (environment(9).await, environment(9).await);
    let version = version(1, 9, &[&first]);
    let deadly = send(&version, 1, MINUTE).await;
    has(&version, &[&second]);
    first.handle.cut();
    settle().await;
    assert_eq!(second.handle.slots().taken(), 1, "it runs alone, and has a slot for that");
    second.handle.cut();
    assert_eq!(shed(deadly).await, (ErrorCode::Internal, Some("execution_crashed")));
    assert_eq!(version.slots.taken(), 0);
}

#[tokio::test]
async fn one_that_is_to_run_alone_waits_for_its_slot_and_others_leave_it_one() {
    let (lost, next) = (environment(9).await, environment(2).await);
    let version = version(1, 9, &[&lost]);
    let waits = send(&version, 1, None).await;
    let held = [next.handle.slots().try_take(), next.handle.slots().try_take()];
    has(&version, &[&next]);
    lost.handle.cut();
    settle().await;
    let [_still_held, given_back] = held;
    drop(given_back);
    let full = (ErrorCode::Exhausted, Some("environment_concurrency"));
    assert_eq!(shed(send(&version, 2, None).await).await, full, "the last slot is not for others");
    next.open.send(()).unwrap();
    assert_eq!(done(waits).await, 1);
    next.open.send(()).unwrap();
    assert_eq!(done(send(&version, 3, None).await).await, 3);
}

#[tokio::test(start_paused = true)]
async fn its_wait_for_a_slot_ends_with_its_deadline_or_after_five_seconds() {
    for (deadline, waited_s, expected) in [
        (None, 5, (ErrorCode::Exhausted, Some("environment_concurrency"))),
        (MINUTE, 60, (ErrorCode::DeadlineExceeded, None)),
    ] {
        let (lost, next) = (environment(9).await, environment(1).await);
        let version = version(1, 9, &[&lost]);
        let waits = send(&version, 1, deadline).await;
        let _held = next.handle.slots().try_take().unwrap();
        has(&version, &[&next]);
        lost.handle.cut();
        let began = Instant::now();
        assert_eq!(shed(waits).await, expected);
        assert_eq!(began.elapsed().as_secs(), waited_s);
        assert_eq!(version.slots.taken(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_wait_for_an_environment_and_gives_the_slot_back() {
    let lost = environment(9).await;
    let version = version(1, 9, &[&lost]);
    let patient = send(&version, 1, MINUTE).await;
    let impatient = send(&version, 2, None).await;
    has(&version, &[]);
    lost.handle.cut();
    assert_eq!(shed(impatient).await, (ErrorCode::Unavailable, Some("no_capacity")), "without a deadline none waits");
    assert_eq!(version.slots.taken(), 1);
    assert_eq!(shed(patient).await, (ErrorCode::DeadlineExceeded, None));
    assert_eq!(version.slots.taken(), 0);
}

#[tokio::test]
async fn a_version_replaced_in_that_instant_is_looked_up_once_more() {
    let draining = (ErrorCode::Unavailable, Some("draining"));
    let (old_environment, new_environment) = (environment(9).await, environment(9).await);
    let (old, new) = (version(1, 9, &[&old_environment]), version(2, 9, &[&new_environment]));
    let begun = send_renamed(&old, &new, request(1, None)).await;
    old.state.send_replace(VersionState::Unloading);
    old_environment.handle.drain();
    settle().await;
    assert_eq!(shed(send_renamed(&old, &new, request(2, None)).await).await, draining, "it was not stopped");
    old.stop.cancel();
    assert_eq!(shed(send(&old, 3, None).await).await, draining, "its name means nothing else");
    new_environment.open.send(()).unwrap();
    let renamed = send_renamed(&old, &new, request(4, None)).await;
    assert_eq!(renamed.await.unwrap().unwrap(), (VersionNumber(2), 4));
    // Once it may have run, it does not run among strangers.
    old_environment.handle.cut();
    assert_eq!(shed(begun).await, draining);
    assert_eq!(*new_environment.log.lock(), [[4]]);
    // Long after: the old one is gone altogether.
    old.state.send_replace(VersionState::Unavailable(Cause::Unloaded.because("unloaded")));
    has(&old, &[]);
    new_environment.open.send(()).unwrap();
    let renamed = send_renamed(&old, &new, request(5, None)).await;
    assert_eq!(renamed.await.unwrap().unwrap(), (VersionNumber(2), 5));
    assert_eq!(shed(send(&old, 6, None).await).await, (ErrorCode::NotFound, None));
}

/// A version that has no environment and starts one when it is asked.
fn resting() -> Arc<ServedVersion> {
    let version = version(1, 9, &[]);
    version.state.send_replace(VersionState::Resting);
    version
}

/// An environment of it is ready, as its supervisor tells.
fn ready(version: &ServedVersion, environment: &Environment) {
    has(version, &[environment]);
    version.state.send_replace(VersionState::Ready);
    version.waiting.call(environment.handle.slots().limit());
}

#[tokio::test]
async fn requests_wait_for_the_first_environment_in_line_and_then_for_a_slot() {
    let (version, environment) = (resting(), environment(1).await);
    let first = send(&version, 1, MINUTE).await;
    assert!(tokio::time::timeout(Duration::ZERO, version.demanded.notified()).await.is_ok(), "one is to be started");
    let (second, third) = (send(&version, 2, None).await, send(&version, 3, None).await);
    let refusal = send(&version, 4, MINUTE).await.await.unwrap().unwrap_err();
    assert_eq!((refusal.shed, refusal.code), (Some(ShedReason::NoCapacity), ErrorCode::Unavailable));
    assert!(refusal.message.contains("3 requests wait") && refusal.retry_after.is_some(), "{refusal}");
    ready(&version, &environment);
    settle().await;
    let late = send(&version, 5, MINUTE).await;
    assert_eq!(shed(late).await, (ErrorCode::Exhausted, Some("environment_concurrency")), "others came before");
    (0..3).for_each(|_| environment.open.send(()).unwrap());
    assert_eq!((done(first).await, done(second).await, done(third).await), (1, 2, 3));
    assert_eq!(*environment.log.lock(), [[1], [2], [3]]);
    assert_eq!((version.waiting.waiting(), version.slots.taken()), (0, 0));
    environment.open.send(()).unwrap();
    assert_eq!(done(send(&version, 6, None).await).await, 6, "nobody waits any more");
}

#[tokio::test(start_paused = true)]
async fn who_cannot_be_in_time_is_told_how_long_a_start_takes() {
    let version = resting();
    version.starts.lock().took = Some(Duration::from_secs(3));
    let hasty = send(&version, 1, Some(Duration::from_secs(2))).await;
    let refusal = hasty.await.unwrap().unwrap_err();
    assert_eq!((refusal.shed, refusal.retry_after), (Some(ShedReason::NoCapacity), Some(Duration::from_secs(3))));
    assert!(
        tokio::time::timeout(Duration::ZERO, version.demanded.notified()).await.is_ok(),
        "it is started all the same"
    );
    version.starts.lock().since = Some(Instant::now());
    tokio::time::advance(Duration::from_secs(2)).await;
    let patient = send(&version, 2, Some(Duration::from_secs(2))).await;
    assert_eq!(version.waiting.waiting(), 1, "one second is left of the start");
    assert_eq!(shed(patient).await, (ErrorCode::DeadlineExceeded, None));
    let without = send(&version, 3, None).await;
    let began = Instant::now();
    assert_eq!(shed(without).await, (ErrorCode::Unavailable, Some("no_capacity")));
    assert_eq!((began.elapsed(), version.waiting.waiting(), version.slots.taken()), (PATIENCE, 0, 0));
}

/// Its only environment was lost: who has the time waits for the next, who has not is told when.
#[tokio::test]
async fn a_restart_is_waited_for_by_those_whose_deadline_leaves_the_time() {
    let (version, environment) = (version(1, 9, &[]), environment(1).await);
    let (pause, took) = (Duration::from_secs(40), Duration::from_secs(30));
    version.state.send_replace(VersionState::Restarting(Cause::Ended.because("it was killed")));
    *version.starts.lock() = Starts { since: Some(Instant::now() + pause), took: Some(took), ..Starts::default() };
    for deadline in [None, Some(Duration::from_secs(35))] {
        let refusal = send(&version, 1, deadline).await.await.unwrap().unwrap_err();
        let told = refusal.retry_after.unwrap();
        assert!(refusal.shed == Some(ShedReason::NoCapacity) && told > pause && told <= pause + took, "{refusal}");
    }
    let waits = send(&version, 2, Some(Duration::from_secs(80))).await;
    assert_eq!(version.waiting.waiting(), 1);
    ready(&version, &environment);
    environment.open.send(()).unwrap();
    assert_eq!(done(waits).await, 2);
}

#[tokio::test(start_paused = true)]
async fn who_waits_hears_that_it_cannot_be_started() {
    let version = resting();
    let waits = [send(&version, 1, None).await, send(&version, 2, MINUTE).await];
    version.state.send_replace(VersionState::Unavailable(Cause::Load.because("a broken file")));
    version.waiting.call_all();
    for task in waits {
        let refusal = task.await.unwrap().unwrap_err();
        assert!(refusal.code == ErrorCode::Unavailable && refusal.message.contains("a broken file"), "{refusal}");
    }
}

#[tokio::test]
async fn a_place_in_the_line_goes_with_whoever_leaves() {
    let (version, environment) = (resting(), environment(1).await);
    let (first, second) = (send(&version, 1, MINUTE).await, send(&version, 2, MINUTE).await);
    first.abort();
    settle().await;
    assert_eq!(version.waiting.waiting(), 1);
    ready(&version, &environment);
    environment.open.send(()).unwrap();
    assert_eq!(done(second).await, 2);
}
