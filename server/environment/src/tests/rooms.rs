//! A whole environment behind an in-memory link: the same code as over a socket. The model runs when the test says so.

use crate::handle::{CallEnd, EnvironmentHandle};
use crate::specification::{BatchingPolicy, IsolationPolicy, QueueLimits, Specification};
use bytes::Bytes;
use parking_lot::Mutex;
use penstock_domain::{
    Architecture, Datatype, ErrorCode, FunctionName, Invocation, ParameterValue, RequestedOutput, ShedReason,
    Signature, Tensor,
};
use penstock_executor::{Batch, ExecError, Executor, LoadError, Model, Outputs, Part, PartInput, Prepared, Work};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

/// What the model did: the first byte of each part, batch by batch.
type Log = Arc<Mutex<Vec<Vec<u8>>>>;

/// A request on its way.
pub(super) type Sent = tokio::task::JoinHandle<Result<Vec<u8>, CallEnd>>;

/// Echoes rows. Runs one batch for each `()` it is given. A row of 13 panics, of 14 fails, of 15 runs out of memory
/// unless it is alone, of 16 breaks the device.
pub(super) struct Gated {
    signature: Signature,
    gate: Arc<Mutex<Receiver<()>>>,
    log: Log,
}

impl Model for Gated {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn prepare(&self, work: Work) -> Result<Prepared, ExecError> {
        let tensor = work.inputs.into_iter().next().ok_or_else(|| ExecError::Invalid("no input".into()))?;
        let rows = tensor.shape[0] as usize;
        let parts = (0..rows).map(|row| Part {
            input: PartInput::Tensors(vec![Tensor {
                name: "out".into(),
                datatype: Datatype::Uint8,
                shape: [1].as_slice().into(),
                data: tensor.data.slice(row..=row),
            }]),
            items: 1,
            tokens: 0,
            kind: 0,
        });
        Ok(Prepared { parts: parts.collect(), parameters: vec![] })
    }

    fn warmup(&self) -> Vec<Work> {
        Vec::new()
    }

    fn executor(&self, _worker: usize) -> Result<Box<dyn Executor>, LoadError> {
        Ok(Box::new(GatedExecutor { gate: self.gate.clone(), log: self.log.clone() }))
    }
}

struct GatedExecutor {
    gate: Arc<Mutex<Receiver<()>>>,
    log: Log,
}

impl Executor for GatedExecutor {
    fn execute(&mut self, batch: Batch) -> Result<Outputs, ExecError> {
        let _ = self.gate.lock().recv();
        let tensors: Vec<Vec<Tensor>> = batch
            .parts
            .into_iter()
            .map(|part| match part.input {
                PartInput::Tensors(tensors) => tensors,
                PartInput::Tokens(_) => Vec::new(),
            })
            .collect();
        let rows: Vec<u8> = tensors.iter().map(|part| part[0].data[0]).collect();
        self.log.lock().push(rows.clone());
        assert!(!rows.contains(&13), "row 13");
        match rows.iter().find(|row| (14..=16).contains(*row)) {
            Some(14) => return Err(ExecError::Failed("row 14".into())),
            Some(15) if rows.len() > 1 => return Err(ExecError::OutOfMemory("row 15".into())),
            Some(16) => return Err(ExecError::Broken("row 16".into())),
            _ => {}
        }
        let parts = tensors.into_iter().map(Ok).collect();
        Ok(Outputs { parts, compute_input_ns: 0, compute_ns: 1, compute_output_ns: 0, padded_tokens: 0 })
    }
}

pub(super) struct World {
    pub(super) handle: Arc<EnvironmentHandle>,
    pub(super) open: Sender<()>,
    pub(super) log: Log,
}

pub(super) async fn world(change: impl FnOnce(&mut Specification)) -> World {
    world_of(|model| Arc::new(model), change).await
}

/// One worker, and batches of four at most, but for what `change` changes.
pub(super) fn specification(change: impl FnOnce(&mut Specification)) -> Specification {
    let mut specification = Specification {
        function: "f".into(),
        version: 1,
        runtime: serde_json::Value::Null,
        batching: BatchingPolicy { dynamic: true, max_tokens: 1 << 20, ..BatchingPolicy::default() },
        queue: QueueLimits::default(),
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
    change(&mut specification);
    specification
}

pub(super) fn gated() -> (Gated, Sender<()>, Log) {
    let (open, gate) = channel();
    let log = Log::default();
    let signature = Signature { max_batch_size: 4, ..Signature::default() };
    (Gated { signature, gate: Arc::new(Mutex::new(gate)), log: log.clone() }, open, log)
}

/// The same with what `wrap` makes of the model.
pub(super) async fn world_of(
    wrap: impl FnOnce(Gated) -> Arc<dyn Model>,
    change: impl FnOnce(&mut Specification),
) -> World {
    let specification = specification(change);
    let (model, open, log) = gated();
    let model = wrap(model);
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (from_near, to_near) = tokio::io::split(near);
    let told = specification.clone();
    tokio::spawn(async move {
        let (mut from, to) = tokio::io::split(far);
        // The process reads its specification before there is a room; here it is known, so the frame is skipped.
        let mut head = [0; 8];
        tokio::io::AsyncReadExt::read_exact(&mut from, &mut head).await.unwrap();
        let mut frame = vec![0; u32::from_le_bytes([head[0], head[1], head[2], head[3]]) as usize];
        tokio::io::AsyncReadExt::read_exact(&mut from, &mut frame).await.unwrap();
        let _ = crate::serve(from, to, told, Vec::new(), Box::new(move |_| Ok(model))).await;
    });
    let handle = EnvironmentHandle::start(from_near, to_near, &specification, None, Box::new(|_| {})).await.unwrap();
    World { handle, open, log }
}

pub(super) fn invocation(rows: &[u8]) -> Invocation {
    let tensor = Tensor {
        name: "in".into(),
        datatype: Datatype::Uint8,
        shape: [rows.len() as i64].as_slice().into(),
        data: Bytes::copy_from_slice(rows),
    };
    Invocation {
        function: FunctionName::new("f").unwrap(),
        qualifier: penstock_domain::Qualifier::Unnamed,
        id: String::new(),
        parameters: vec![],
        inputs: vec![tensor],
        outputs: vec![],
        deadline: None,
        priority: 0,
        caller: None,
        splittable: false,
    }
}

pub(super) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl World {
    /// Sends a request and returns once the link has it.
    pub(super) async fn send(&self, invocation: Invocation) -> Sent {
        let task = self.start(invocation, false);
        self.settle().await;
        task
    }

    /// Sends a request, or will once this task waits for something.
    pub(super) fn start(&self, invocation: Invocation, alone: bool) -> Sent {
        let handle = self.handle.clone();
        tokio::spawn(async move {
            let answer = handle.call(invocation, alone, now()).await?;
            Ok(answer.outputs.iter().flat_map(|tensor| tensor.data.to_vec()).collect())
        })
    }

    /// Lets both ends of the link run until nothing moves.
    pub(super) async fn settle(&self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
    }
}

pub(super) fn refused(end: Result<Vec<u8>, CallEnd>) -> penstock_domain::Refusal {
    match end {
        Err(CallEnd::Refused(refusal)) => refusal,
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn what_arrives_while_the_worker_is_busy_shares_the_next_batch() {
    let world = world(|_| {}).await;
    let first = world.send(invocation(&[1])).await;
    let (second, third) = (world.send(invocation(&[2, 3])).await, world.send(invocation(&[4])).await);
    (0..2).for_each(|_| world.open.send(()).unwrap());
    assert_eq!(first.await.unwrap().unwrap(), [1]);
    assert_eq!(second.await.unwrap().unwrap(), [2, 3]);
    assert_eq!(third.await.unwrap().unwrap(), [4]);
    assert_eq!(*world.log.lock(), [vec![1], vec![2, 3, 4]]);
}

#[tokio::test]
async fn a_large_request_is_split_over_batches_and_answered_in_order() {
    let world = world(|_| {}).await;
    (0..3).for_each(|_| world.open.send(()).unwrap());
    let rows: Vec<u8> = (20..30).collect();
    let refusal = refused(world.send(invocation(&rows)).await.await.unwrap());
    assert!(refusal.message.contains("must be <= 4 for 'f', got 10"), "{refusal}");
    let whole = world.send(Invocation { splittable: true, ..invocation(&rows) }).await;
    assert_eq!(whole.await.unwrap().unwrap(), rows);
    assert_eq!(world.log.lock().len(), 3);
}

#[tokio::test]
async fn a_caller_that_left_is_not_run() {
    let world = world(|_| {}).await;
    let first = world.send(invocation(&[1])).await;
    let second = world.send(invocation(&[2])).await;
    second.abort();
    world.settle().await;
    let third = world.send(invocation(&[3])).await;
    (0..2).for_each(|_| world.open.send(()).unwrap());
    assert_eq!(first.await.unwrap().unwrap(), [1]);
    assert_eq!(third.await.unwrap().unwrap(), [3]);
    assert_eq!(*world.log.lock(), [vec![1], vec![3]]);
}

#[tokio::test]
async fn a_deadline_that_passes_in_the_queue_is_answered_then() {
    let world = world(|_| {}).await;
    let first = world.send(invocation(&[1])).await;
    let late = Invocation { deadline: Some(now() + Duration::from_millis(20)), ..invocation(&[2]) };
    let refusal = refused(world.send(late).await.await.unwrap());
    assert_eq!(refusal.code, ErrorCode::DeadlineExceeded);
    world.open.send(()).unwrap();
    assert_eq!(first.await.unwrap().unwrap(), [1]);
    assert_eq!(*world.log.lock(), [vec![1]], "the worker was busy all the time, and the late one never ran");
}

#[tokio::test]
async fn a_full_environment_sheds_with_a_reason_and_a_wait() {
    let world = world(|s| s.queue.requests = 2).await;
    let (first, second) = (world.send(invocation(&[1])).await, world.send(invocation(&[2])).await);
    let refusal = refused(world.send(invocation(&[3])).await.await.unwrap());
    assert_eq!((refusal.shed, refusal.code), (Some(ShedReason::QueueRequests), ErrorCode::Exhausted));
    assert!(refusal.retry_after.is_some());
    (0..2).for_each(|_| world.open.send(()).unwrap());
    assert_eq!((first.await.unwrap().unwrap(), second.await.unwrap().unwrap()), (vec![1], vec![2]));
}

#[tokio::test]
async fn a_bad_input_fails_alone_and_a_panic_costs_no_worker() {
    let world = world(|_| {}).await;
    (0..32).for_each(|_| world.open.send(()).unwrap());
    for bad in [13, 14] {
        let rows: Vec<u8> = vec![1, bad, 2];
        let tasks: Vec<_> = rows.iter().map(|row| world.send(invocation(&[*row]))).collect();
        let mut ends = Vec::new();
        for task in tasks {
            ends.push(task.await);
        }
        let mut results = Vec::new();
        for end in ends {
            results.push(end.await.unwrap());
        }
        assert_eq!(results[0].as_ref().unwrap(), &[1]);
        assert_eq!(results[2].as_ref().unwrap(), &[2]);
        let refusal = refused(results.swap_remove(1));
        assert_eq!((refusal.code, refusal.reason), (ErrorCode::Internal, Some("execution_failed")), "{refusal}");
    }
}

#[tokio::test]
async fn what_is_too_large_for_the_link_is_refused_and_hurts_nobody() {
    let world = world(|_| {}).await;
    let neighbour = world.send(invocation(&[1])).await;
    let large = Invocation { splittable: true, ..invocation(&vec![0; (1 << 20) + 1]) };
    let refusal = refused(world.send(large).await.await.unwrap());
    assert_eq!(refusal.code, ErrorCode::TooLarge);
    let wordy = Invocation {
        id: String::new(),
        parameters: vec![("p".repeat(2 << 20), ParameterValue::Bool(true))],
        ..invocation(&[1])
    };
    assert_eq!(refused(world.send(wordy).await.await.unwrap()).code, ErrorCode::TooLarge);
    let twice = vec![RequestedOutput { name: "out".into(), classification: 0 }; 2];
    let refusal = refused(world.send(Invocation { outputs: twice, ..invocation(&[1]) }).await.await.unwrap());
    assert!(refusal.message.contains("'out' is asked for twice"), "{refusal}");
    world.open.send(()).unwrap();
    assert_eq!(neighbour.await.unwrap().unwrap(), [1]);
}

#[tokio::test]
async fn out_of_memory_splits_the_batch() {
    let world = world(|_| {}).await;
    let first = world.send(invocation(&[1])).await;
    let rest = [world.send(invocation(&[15])).await, world.send(invocation(&[2])).await];
    (0..8).for_each(|_| world.open.send(()).unwrap());
    first.await.unwrap().unwrap();
    for task in rest {
        task.await.unwrap().unwrap();
    }
    assert_eq!(*world.log.lock(), [vec![1], vec![15, 2], vec![15], vec![2]]);
}

#[tokio::test]
async fn a_broken_device_ends_the_environment_and_the_calls_know_whether_they_had_begun() {
    let world = world(|_| {}).await;
    let running = world.send(invocation(&[16])).await;
    let waiting = world.send(invocation(&[1])).await;
    world.open.send(()).unwrap();
    assert!(matches!(running.await.unwrap(), Err(CallEnd::Lost { begun: true })));
    assert!(matches!(waiting.await.unwrap(), Err(CallEnd::Lost { begun: false })));
    assert!(!world.handle.is_open());
}

#[tokio::test]
async fn a_drained_environment_finishes_what_it_has_and_ends() {
    let world = world(|_| {}).await;
    let first = world.send(invocation(&[1])).await;
    world.handle.drain();
    world.settle().await;
    let refusal = refused(world.send(invocation(&[2])).await.await.unwrap());
    assert_eq!(refusal.shed, Some(ShedReason::Draining));
    world.open.send(()).unwrap();
    assert_eq!(first.await.unwrap().unwrap(), [1]);
    world.handle.lost().await;
}
