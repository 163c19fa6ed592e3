//! The room behind the link: one event loop on one thread that owns the queue and keeps the runtime workers busy.
//!
//! Called by the environment process (and, over an in-memory pipe, by tests). All causes of work are in [`Event`], in
//! what the link brings and in two timers. It never computes: models run on worker threads, tokenization on
//! preparation threads. What a request meets on its way in is in `entering`.

mod deadlines;
mod entering;
mod turn;

use crate::batcher::{BatchShape, Decision, choose};
use crate::call::Call;
use crate::forecast::Outlook;
use crate::frame::{Body, FrameReader, Incoming, Outbox};
use crate::message;
use crate::prepare::Preparation;
use crate::queue::{Entry, Queue};
use crate::specification::Specification;
use crate::worker::{Assignment, BatchDone, Hand};
use deadlines::Running;
use penstock_admission::{Caution, DrainRate, ServiceTime};
use penstock_domain::Refusal;
use penstock_executor::{ExecError, Model, Prepared};
use penstock_proto::link::{self, header::Kind};
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::AsyncRead;
use tokio::sync::mpsc::UnboundedReceiver;
use turn::Turn;

/// How often at most the load is told.
const LOAD_INTERVAL: Duration = Duration::from_millis(100);
/// How often at least: it is the sign of life that the front end waits for.
const LIFE_INTERVAL: Duration = Duration::from_secs(1);

/// What happens inside the environment.
pub(crate) enum Event {
    /// A request has been turned into parts.
    Prepared(u64, Result<Prepared, ExecError>),
    /// A worker has finished its batch.
    BatchDone(BatchDone),
    /// A worker's thread has ended by a panic outside the model's run.
    WorkerGone(usize),
}

/// What an environment uses of its machine.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Used {
    /// Resident memory.
    pub(crate) resident_bytes: u64,
    /// Time of cores, since it began.
    pub(crate) cpu: Duration,
}

/// Why the room ended.
#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// The link broke, or its peer sent something that is not the link's language.
    #[error("the link failed: {0}")]
    Link(#[from] io::Error),
    /// A device or library needs a fresh process.
    #[error("{0}")]
    Broken(String),
}

/// The state behind the loop.
pub(crate) struct Room {
    specification: Specification,
    model: Arc<dyn Model>,
    shape: BatchShape,
    queue: Queue,
    calls: HashMap<u64, Call>,
    /// Requests being prepared.
    preparing: usize,
    deadlines: BTreeSet<(Instant, u64)>,
    /// When those of which nothing has begun will have waited too long.
    timeouts: BTreeSet<(Instant, u64)>,
    workers: Vec<Hand>,
    idle: Vec<usize>,
    /// Since when each of those is idle, the longest first; which of them it is does not matter.
    idle_since: VecDeque<Instant>,
    /// What each worker runs.
    running: Vec<Option<Running>>,
    service: ServiceTime,
    caution: Caution,
    /// What runs is to run alone.
    alone: bool,
    turn: Turn,
    preparation: Option<Preparation>,
    outbox: Outbox,
    used: fn() -> Used,
    drain_rate: DrainRate,
    batches: u64,
    wake: Option<Instant>,
    load: LoadReport,
    draining: bool,
}

/// When the load was last told, and whether it has changed since.
struct LoadReport {
    at: Instant,
    changed: bool,
}

impl Room {
    pub(crate) fn new(
        specification: Specification,
        model: Arc<dyn Model>,
        workers: Vec<Hand>,
        preparation: Option<Preparation>,
        outbox: Outbox,
        used: fn() -> Used,
        now: Instant,
    ) -> Self {
        let max_items = model.signature().max_batch_size;
        let shape = BatchShape { max_items, cost: model.batch_cost() };
        let idle = (0..workers.len()).rev().collect();
        let idle_since = workers.iter().map(|_| now).collect();
        let turn = if specification.device.is_some() { Turn::None } else { Turn::Own };
        Self {
            specification,
            model,
            shape,
            queue: Queue::default(),
            calls: HashMap::new(),
            preparing: 0,
            deadlines: BTreeSet::new(),
            timeouts: BTreeSet::new(),
            running: vec![None; workers.len()],
            service: ServiceTime::default(),
            caution: Caution::default(),
            workers,
            idle,
            idle_since,
            alone: false,
            turn,
            preparation,
            outbox,
            used,
            drain_rate: DrainRate::new(now),
            batches: 0,
            wake: None,
            load: LoadReport { at: now, changed: false },
            draining: false,
        }
    }

    /// Serves until the link ends or everything is drained.
    pub(crate) async fn run<R: AsyncRead + Unpin>(
        mut self,
        reader: &mut FrameReader<R>,
        events: &mut UnboundedReceiver<Event>,
    ) -> Result<(), RoomError> {
        loop {
            let timer = self.next_timer();
            tokio::select! {
                biased;
                message = reader.next() => {
                    let Some(message) = message? else { return Ok(()) };
                    self.message(message, now());
                    while let Some(message) = reader.next_buffered()? {
                        self.message(message, now());
                    }
                }
                event = events.recv() => {
                    let Some(event) = event else {
                        return Err(RoomError::Broken("every runtime worker has ended".into()));
                    };
                    self.event(event, now())?;
                }
                () = until(timer) => {}
            }
            while let Ok(event) = events.try_recv() {
                self.event(event, now())?;
            }
            let now = now();
            self.expire(now);
            self.watch(now)?;
            self.assign(now);
            self.tell_load(now);
            if self.draining && self.calls.is_empty() {
                return Ok(());
            }
        }
    }

    fn next_timer(&self) -> Option<Instant> {
        let deadline = self.deadlines.first().map(|(at, _)| *at);
        let timeout = self.timeouts.first().map(|(at, _)| *at);
        let load = self.load.at + if self.load.changed { LOAD_INTERVAL } else { LIFE_INTERVAL };
        [deadline, timeout, self.wake, Some(load), self.hang_at()].into_iter().flatten().min()
    }

    fn message(&mut self, message: Incoming, now: Instant) {
        match message.kind {
            Kind::Invoke(invoke) => self.invoke(message.call, invoke, message.body, now),
            Kind::Cancel(_) => self.cancel(message.call),
            Kind::Drain(_) => self.draining = true,
            Kind::Turn(_) => self.turn_given(now),
            // There was no memory for it.
            Kind::Refused(refused) => self.outbox.send(message.call, Kind::Refused(refused), Body::new()),
            // The rest are this side's own words, or were read before the room opened.
            _ => tracing::warn!(call = message.call, "unexpected message on the link"),
        }
    }

    fn event(&mut self, event: Event, now: Instant) -> Result<(), RoomError> {
        match event {
            Event::Prepared(call, prepared) => self.prepared(call, prepared, now),
            Event::BatchDone(done) => return self.batch_done(done, now),
            Event::WorkerGone(worker) => return Err(RoomError::Broken(format!("runtime worker {worker} has ended"))),
        }
        Ok(())
    }

    fn batch_done(&mut self, done: BatchDone, now: Instant) -> Result<(), RoomError> {
        self.idle.push(done.worker);
        self.idle_since.push_back(now);
        self.alone = false; // nothing else was running if it was set
        if let Some(Running { wanted, size, has_turn, .. }) = self.running[done.worker].take() {
            // What a request waits for includes the turns of others.
            self.service.observe(size, now.saturating_duration_since(wanted), now);
            if has_turn {
                self.turn_over(now);
            }
        }
        self.load.changed = true;
        let outlook = self.service.line().map(|line| Outlook { line, caution: self.caution });
        self.outbox.send(0, Kind::Batch(message::batch_out(&done.report, outlook)), Body::new());
        for part in done.parts {
            if let Err(ExecError::Broken(text)) = part.result {
                return Err(RoomError::Broken(text));
            }
            let Some(call) = self.calls.get_mut(&part.call) else {
                continue; // cancelled or expired meanwhile
            };
            call.part_done(part.row, part.result, done.batch, &done.report);
            if call.is_complete() {
                self.finish(part.call, now);
            }
        }
        Ok(())
    }

    /// Answers a complete request.
    fn finish(&mut self, number: u64, now: Instant) {
        let Some(call) = self.forget(number) else {
            return;
        };
        self.drain_rate.finished(now, !self.queue.is_empty());
        if let Some(deadline) = call.deadline.filter(|_| call.foretold) {
            let (took, had) = (now - call.received, deadline - call.received);
            self.caution.in_time(took.as_secs_f64() / had.as_secs_f64());
        }
        let tokens = call.tokens();
        match call.answer() {
            Ok((tensors, parameters, timing)) => {
                let (outputs, body) = message::tensors_out(tensors);
                let result = link::Result {
                    outputs,
                    parameters: message::parameters_out(parameters),
                    prepare_ns: timing.prepare_ns,
                    queue_ns: timing.queue_ns,
                    compute_input_ns: timing.compute_input_ns,
                    compute_ns: timing.compute_ns,
                    compute_output_ns: timing.compute_output_ns,
                    batch_items: timing.batch_items,
                    tokens,
                };
                let body_bytes = body.iter().map(|piece| piece.len() as u64).sum();
                match message::fits(&result, body_bytes, self.specification.body_bytes_max) {
                    Ok(()) => self.outbox.send(number, Kind::Result(result), body),
                    Err(error) => self.refuse(number, error),
                }
            }
            Err(error) => self.refuse(number, error),
        }
    }

    /// The caller left: what waits is dropped, what runs is thrown away when it comes back.
    fn cancel(&mut self, number: u64) {
        if self.forget(number).is_some() {
            self.queue.remove(number);
            self.load.changed = true;
        }
    }

    fn forget(&mut self, number: u64) -> Option<Call> {
        let call = self.calls.remove(&number)?;
        if let Some(deadline) = call.deadline {
            self.deadlines.remove(&(deadline, number));
        }
        if let Some(timeout) = call.timeout {
            self.timeouts.remove(&(timeout, number));
        }
        if call.is_preparing() {
            call.leave();
            self.preparing -= 1;
        }
        Some(call)
    }

    /// Gives work to idle workers.
    fn assign(&mut self, now: Instant) {
        self.wake = None;
        while !self.idle.is_empty() && !self.keeps_still() {
            self.drop_late(now);
            let nothing_more = self.draining || self.is_full();
            let selected = match choose(&self.queue, &self.specification.batching, &self.shape, nothing_more, now) {
                Decision::Run(selected) => selected,
                Decision::WaitUntil(at) => {
                    self.give_back_turn();
                    self.wake = Some(at);
                    return;
                }
                Decision::Idle => return self.give_back_turn(),
            };
            if !self.may_run(now) {
                return;
            }
            let entries = selected.take(&mut self.queue);
            let Some(worker) = self.idle.pop() else { return };
            self.run_batch(worker, entries, now);
        }
        // A turn that was given meanwhile is not held until a worker is idle, or nothing else runs.
        self.give_back_turn();
    }

    /// Workers are threads of one process: what runs alone, because it may be what ended another, has the process to
    /// itself. It waits until nothing else runs, and nothing starts beside it.
    fn keeps_still(&self) -> bool {
        let busy = self.workers.len() > self.idle.len();
        busy && (self.alone || self.queue.first().is_some_and(|(_, entry)| entry.alone))
    }

    fn run_batch(&mut self, worker: usize, entries: Vec<Entry>, now: Instant) {
        self.batches += 1;
        self.load.changed = true;
        let mut begun: Vec<u64> = Vec::with_capacity(entries.len());
        for entry in &entries {
            self.alone |= entry.alone;
            if begun.last() != Some(&entry.call) {
                begun.push(entry.call);
            }
            if let Some(call) = self.calls.get_mut(&entry.call) {
                call.begun(now);
                if let Some(timeout) = call.timeout.take() {
                    self.timeouts.remove(&(timeout, entry.call));
                }
            }
        }
        let items = entries.iter().map(|entry| u64::from(entry.part.items)).sum();
        let tokens = entries.iter().map(|entry| u64::from(entry.part.tokens)).sum();
        let turn = self.use_turn();
        let (wanted, has_turn) = (turn.unwrap_or(now), turn.is_some());
        self.idle_since.pop_front();
        self.running[worker] = Some(Running { since: now, wanted, has_turn, size: self.size(items, tokens) });
        let assignment = Assignment { batch: self.batches, entries };
        let hand = self.workers[worker].clone();
        // The batch starts only once the front end is sure to learn of it: should it kill this process, it is known
        // which requests were running.
        let waited_us = now.saturating_duration_since(wanted).as_micros() as u64;
        let begun = link::Begun { calls: begun, waited_us };
        self.outbox.send_then(0, Kind::Begun(begun), Box::new(move || hand(assignment)));
    }

    fn refuse(&mut self, call: u64, refusal: Refusal) {
        self.outbox.send(call, Kind::Refused(message::refusal_out(refusal)), Body::new());
    }

    fn tell_load(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.load.at);
        if elapsed < if self.load.changed { LOAD_INTERVAL } else { LIFE_INTERVAL } {
            return;
        }
        let Used { resident_bytes, cpu } = (self.used)();
        let load = link::Load {
            queued_requests: self.queue.requests() as u32,
            queued_items: self.queue.items(),
            queued_tokens: self.queue.tokens(),
            busy_workers: (self.workers.len() - self.idle.len()) as u32,
            resident_bytes,
            cpu_us: cpu.as_micros() as u64,
            oldest_wait_us: self.queue.oldest().map_or(0, |at| now.saturating_duration_since(at).as_micros() as u64),
        };
        self.outbox.send(0, Kind::Load(load), Body::new());
        self.load.at = now;
        self.load.changed = false;
    }
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

async fn until(timer: Option<Instant>) {
    match timer {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
