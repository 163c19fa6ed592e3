//! Runtime workers: threads that run one batch at a time on their own executor.
//!
//! Started by the room, which hands a worker a batch only when it is idle. A worker never touches the queue or the
//! link. A model that panics costs its batch, not the worker: the executor is made anew.

use crate::queue::Entry;
use crate::room::Event;
use penstock_domain::BatchReport;
use penstock_executor::{Batch, ExecError, Executor, LoadError, Model, Outputs, Part, PartOutputs};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

/// Niceness of threads that compute, beyond that of their process.
const COMPUTE_NICE: i32 = 5;

/// The room answers while others compute, so it comes before them: before this thread, and those that it starts.
pub(crate) fn step_back() {
    // Where it may not be changed, all are alike.
    let _ = rustix::process::nice(COMPUTE_NICE);
}

/// Gives a batch to a worker that is idle. Never blocks.
pub(crate) type Hand = Arc<dyn Fn(Assignment) + Send + Sync>;

/// A batch given to a worker.
pub(crate) struct Assignment {
    pub(crate) batch: u64,
    pub(crate) entries: Vec<Entry>,
}

/// One part of a batch that has run.
pub(crate) struct PartDone {
    pub(crate) call: u64,
    pub(crate) row: u32,
    pub(crate) result: Result<PartOutputs, ExecError>,
}

/// A batch that has run.
pub(crate) struct BatchDone {
    pub(crate) worker: usize,
    pub(crate) batch: u64,
    pub(crate) parts: Vec<PartDone>,
    pub(crate) report: BatchReport,
}

/// Tells once when a worker has its executor and is warm, or why it cannot be.
pub(crate) type Started = oneshot::Receiver<Result<(), LoadError>>;

/// Starts worker `index`. The second half tells when it has its executor and is warm; after that it sends one
/// [`Event::BatchDone`] for each assignment. It ends when the hand is dropped.
pub(crate) fn start(
    index: usize,
    model: Arc<dyn Model>,
    events: UnboundedSender<Event>,
) -> std::io::Result<(Hand, Started)> {
    let (assign, assigned) = sync_channel(1);
    let (started, starting) = oneshot::channel();
    std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
        step_back();
        let gone = events.clone();
        let ran = catch_unwind(AssertUnwindSafe(|| run(index, &*model, started, &assigned, &events)));
        if ran.is_err() {
            // The room may be gone as well.
            let _ = gone.send(Event::WorkerGone(index));
        }
    })?;
    let hand = move |assignment| {
        // A worker that is gone has told so by an event, and the room ends.
        let _ = assign.send(assignment);
    };
    Ok((Arc::new(hand), starting))
}

fn run(
    index: usize,
    model: &dyn Model,
    started: oneshot::Sender<Result<(), LoadError>>,
    assigned: &Receiver<Assignment>,
    events: &UnboundedSender<Event>,
) {
    let warm = |mut executor: Box<dyn Executor>| warm_up(model, &mut *executor).map(|()| executor);
    let mut executor = match model.executor(index).and_then(warm) {
        Ok(executor) => {
            if started.send(Ok(())).is_err() {
                return;
            }
            executor
        }
        Err(error) => {
            // Whoever started this worker is told, or is gone.
            let _ = started.send(Err(error));
            return;
        }
    };
    while let Ok(Assignment { batch, entries }) = assigned.recv() {
        let done = run_batch(index, batch, entries, model, &mut executor);
        if events.send(Event::BatchDone(done)).is_err() {
            return;
        }
    }
}

pub(crate) fn run_batch(
    worker: usize,
    batch: u64,
    entries: Vec<Entry>,
    model: &dyn Model,
    executor: &mut Box<dyn Executor>,
) -> BatchDone {
    let items = entries.iter().map(|entry| entry.part.items).sum();
    let tokens = entries.iter().map(|entry| u64::from(entry.part.tokens)).sum();
    let (owners, parts): (Vec<(u64, u32)>, Vec<Part>) =
        entries.into_iter().map(|entry| ((entry.call, entry.row), entry.part)).unzip();
    let mut outputs = execute(parts, model, executor, worker);
    outputs.parts.truncate(owners.len());
    let missing = owners.len() - outputs.parts.len();
    outputs.parts.extend(
        (0..missing).map(|_| Err(ExecError::Failed("the model answered fewer parts than it was given".into()))),
    );
    let parts = owners.into_iter().zip(outputs.parts);
    BatchDone {
        worker,
        batch,
        parts: parts.map(|((call, row), result)| PartDone { call, row, result }).collect(),
        report: BatchReport {
            items,
            tokens,
            padded_tokens: outputs.padded_tokens.max(tokens),
            compute_input_ns: outputs.compute_input_ns,
            compute_ns: outputs.compute_ns,
            compute_output_ns: outputs.compute_output_ns,
        },
    }
}

/// Runs parts together; if that fails, in halves (out of memory) or one by one (anything else but a broken device), so
/// that one bad input does not fail its neighbours. Each part runs at most twice.
fn execute(parts: Vec<Part>, model: &dyn Model, executor: &mut Box<dyn Executor>, worker: usize) -> Outputs {
    if parts.len() < 2 {
        let count = parts.len();
        return guarded(parts, model, executor, worker).unwrap_or_else(|error| failed(count, &error));
    }
    let error = match guarded(parts.clone(), model, executor, worker) {
        Ok(outputs) => return outputs,
        Err(error) => error,
    };
    let pieces: Vec<Vec<Part>> = match error {
        ExecError::OutOfMemory(_) => {
            let half = parts.len().div_ceil(2);
            parts.chunks(half).map(<[Part]>::to_vec).collect()
        }
        ExecError::Failed(_) | ExecError::Invalid(_) => parts.into_iter().map(|part| vec![part]).collect(),
        ExecError::Broken(_) => return failed(parts.len(), &error),
    };
    let mut whole = failed(0, &error);
    for piece in pieces {
        let count = piece.len();
        let outputs = guarded(piece, model, executor, worker).unwrap_or_else(|error| failed(count, &error));
        whole.parts.extend(outputs.parts);
        whole.compute_input_ns += outputs.compute_input_ns;
        whole.compute_ns += outputs.compute_ns;
        whole.compute_output_ns += outputs.compute_output_ns;
        whole.padded_tokens += outputs.padded_tokens;
    }
    whole
}

fn failed(parts: usize, error: &ExecError) -> Outputs {
    Outputs {
        parts: vec![Err(error.clone()); parts],
        compute_input_ns: 0,
        compute_ns: 0,
        compute_output_ns: 0,
        padded_tokens: 0,
    }
}

/// Runs a batch; a panic becomes [`ExecError::Failed`] and the executor is replaced.
fn guarded(
    parts: Vec<Part>,
    model: &dyn Model,
    executor: &mut Box<dyn Executor>,
    worker: usize,
) -> Result<Outputs, ExecError> {
    let panic = match catch_unwind(AssertUnwindSafe(|| executor.execute(Batch { parts }))) {
        Ok(result) => return result,
        Err(panic) => panic,
    };
    let text = panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("without a message");
    tracing::error!(worker, panic = text, "the model panicked");
    match model.executor(worker) {
        Ok(fresh) => {
            *executor = fresh;
            Err(ExecError::Failed(format!("the model panicked: {text}")))
        }
        Err(error) => {
            Err(ExecError::Broken(format!("the model panicked ({text}) and could not be made anew: {error}")))
        }
    }
}

/// Runs the model's sample work once: the first run of everything pays what only the first pays.
fn warm_up(model: &dyn Model, executor: &mut dyn Executor) -> Result<(), LoadError> {
    for work in model.warmup() {
        match model.prepare(work) {
            Ok(prepared) => run_sample(executor, prepared.parts)?,
            Err(error) => tracing::warn!(%error, "a warm-up request was not accepted by the model"),
        }
    }
    Ok(())
}

/// A model may refuse a sample and still serve real requests: sample inputs are guesses.
fn run_sample(executor: &mut dyn Executor, parts: Vec<Part>) -> Result<(), LoadError> {
    match executor.execute(Batch { parts }) {
        Ok(_) => {}
        Err(ExecError::Broken(error)) => return Err(LoadError::Failed(format!("warm-up: {error}"))),
        Err(error) => tracing::warn!(%error, "a warm-up run failed"),
    }
    Ok(())
}
