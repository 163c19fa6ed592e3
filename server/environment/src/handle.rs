//! The front end's end of the link: one environment, as the dispatch room sees it.
//!
//! Called by dispatch. Many calls share the link; dropping a call cancels it there. When the link is lost every open
//! call hears whether it had begun to run, because that decides whether it may simply be sent elsewhere.

use crate::demand::{Demand, Shape};
use crate::device::{Device, Seat};
use crate::forecast::Forecast;
use crate::frame::{Body, FrameReader, Incoming, Outbox, write_frames};
use crate::message::{self, fits};
use crate::specification::{BatchingPolicy, ReadyReport, Specification};
use parking_lot::Mutex;
use penstock_admission::{AdaptiveLimit, ByteBudget, ByteShare, Foretold, Slots};
use penstock_domain::{BatchReport, Invocation, Parameters, Refusal, ShedReason, StageTimes, Tensor};
use penstock_proto::link::{self, header::Kind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{oneshot, watch};

/// An environment tells its load every second; one that is silent for so long is lost. Long enough for a machine that is
/// short of memory or of cores.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// One that has been silent for so long gets no new calls while others can take them: a breaker that opens by itself,
/// and closes with the next word.
const QUIET: Duration = Duration::from_millis(2500);

/// What the environment made of a call.
#[derive(Debug)]
pub struct CallAnswer {
    /// Output tensors.
    pub outputs: Vec<Tensor>,
    /// Parameters of the answer.
    pub parameters: Parameters,
    /// Where its time went inside the environment.
    pub timing: StageTimes,
    /// What a large answer holds of the memory budget.
    pub share: Option<ByteShare>,
}

/// Why a call has no answer.
#[derive(Debug)]
pub enum CallEnd {
    /// The environment said no.
    Refused(Refusal),
    /// The environment is gone. `begun` says whether the call may have been running when it went.
    Lost {
        /// It had begun to run.
        begun: bool,
    },
}

/// Why an environment did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The version cannot be loaded; `permanent` if trying again cannot help.
    #[error("{message}")]
    Load {
        /// What is wrong.
        message: String,
        /// Trying again cannot help.
        permanent: bool,
    },
    /// The environment went away while loading.
    #[error("the environment ended while loading")]
    Lost,
    /// The two ends do not understand each other.
    #[error("the environment's report cannot be read: {0}")]
    Report(String),
}

/// How busy an environment last said it was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Requests of which something waits.
    pub queued_requests: u32,
    /// Items waiting.
    pub queued_items: u64,
    /// Tokens waiting.
    pub queued_tokens: u64,
    /// Workers running a batch.
    pub busy_workers: u32,
    /// Resident memory of its process.
    pub resident_bytes: u64,
    /// How long the oldest request in its queue had waited.
    pub oldest_wait: Duration,
    /// Time of cores that its process had used since it began; none before it has said so.
    pub cpu: Duration,
}

/// Hears of every batch. Called on the link's task: must be quick.
pub type OnBatch = Box<dyn Fn(BatchReport) + Send + Sync>;

struct Open {
    answer: oneshot::Sender<Result<CallAnswer, CallEnd>>,
    demand: Demand,
    begun: bool,
}

#[derive(Default)]
struct Calls {
    /// By number, so that the oldest hears first of a loss.
    open: BTreeMap<u64, Open>,
    lost: bool,
}

/// One environment that is ready, or was.
pub struct EnvironmentHandle {
    report: ReadyReport,
    outbox: Outbox,
    calls: Mutex<Calls>,
    next_call: AtomicU64,
    slots: Slots,
    /// What sets the limit of `slots`.
    adaptive: Mutex<AdaptiveLimit>,
    draining: AtomicBool,
    load: Mutex<LoadReport>,
    forecast: Forecast,
    /// When it last told its load.
    heard: Mutex<Instant>,
    batching: BatchingPolicy,
    lost: watch::Sender<bool>,
    body_bytes_max: u64,
    /// Its place at a device that it shares.
    seat: Mutex<Option<Seat>>,
}

impl EnvironmentHandle {
    /// Starts the environment at the other end of the link and waits until it is ready. `slots` bounds the calls in
    /// flight; `budget` bounds the bytes of large answers. The link's tasks run until it ends.
    pub async fn start<R, W>(
        from: R,
        to: W,
        specification: &Specification,
        budget: Option<ByteBudget>,
        on_batch: OnBatch,
    ) -> Result<Arc<Self>, StartError>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        let outbox = Outbox::new();
        tokio::spawn(write_frames(outbox.clone(), to));
        // Whatever keeps it from getting ready, and if this future is dropped.
        let unused = outbox.close_on_drop();
        let text = serde_json::to_string(specification).map_err(|error| StartError::Report(error.to_string()))?;
        outbox.send(0, Kind::Start(link::Start { specification: text }), Body::new());
        let mut reader = FrameReader::new(from, specification.body_bytes_max).with_budget(budget);
        let report: ReadyReport = match reader.next().await {
            Ok(Some(Incoming { kind: Kind::Ready(ready), .. })) => {
                serde_json::from_str(&ready.report).map_err(|error| StartError::Report(error.to_string()))?
            }
            Ok(Some(Incoming { kind: Kind::LoadFailed(failed), .. })) => {
                return Err(StartError::Load { message: failed.message, permanent: failed.permanent });
            }
            _ => return Err(StartError::Lost),
        };
        let items_max = report.signature().max_batch_size;
        let together = specification.batching.dynamic && items_max > 0;
        let handle = Arc::new(Self {
            forecast: Forecast::new(Shape {
                workers: specification.workers as u32,
                batch_items_max: together.then_some(items_max),
                rows_max: items_max,
                tokens_max: report.item_tokens_max.map(|item| (item, specification.batching.max_tokens)),
            }),
            batching: specification.batching.clone(),
            heard: Mutex::new(now()),
            report,
            outbox,
            calls: Mutex::default(),
            next_call: AtomicU64::new(1),
            slots: Slots::new(specification.queue.requests),
            adaptive: Mutex::new(adaptive(specification, items_max)),
            draining: AtomicBool::new(false),
            load: Mutex::default(),
            lost: watch::Sender::new(false),
            body_bytes_max: specification.body_bytes_max,
            seat: Mutex::default(),
        });
        unused.keep();
        tokio::spawn(read(handle.clone(), reader, on_batch));
        Ok(handle)
    }

    /// It takes turns at `device` from now on. To be said before its first call.
    pub fn take_turns(&self, device: &Device, weight: u32) {
        *self.seat.lock() = Some(device.seat(weight, self.outbox.clone()));
        if *self.lost.borrow() {
            *self.seat.lock() = None;
        }
    }

    /// What it reported when it became ready.
    pub fn report(&self) -> &ReadyReport {
        &self.report
    }

    /// Its slots: one for each call in flight.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// A request found no slot free: the limit may be too low.
    pub fn found_full(&self) {
        self.adaptive.lock().refused();
    }

    /// How busy it last said it was.
    pub fn load(&self) -> LoadReport {
        *self.load.lock()
    }

    /// How long the oldest request in its queue has waited, by what it last said.
    pub fn queue_age(&self, now: Instant) -> Duration {
        let load = self.load();
        match load.queued_requests {
            0 => Duration::ZERO,
            _ => load.oldest_wait + now.saturating_duration_since(*self.heard.lock()),
        }
    }

    /// Slots that a request leaves to those of a higher priority: an eighth, unless it is of the highest level.
    pub fn slots_kept(&self, invocation: &Invocation) -> u32 {
        let highest = self.batching.level(invocation.priority) == 0;
        if highest { 0 } else { self.slots.limit().div_ceil(8) }
    }

    /// When a request that is sent now would be done, as the environment would reckon; `None` if nothing ran
    /// lately, or if only the environment can judge, because the request may go before others.
    pub fn done_in(&self, invocation: &Invocation, now: Instant) -> Option<Foretold> {
        if self.batching.priority_levels > 1 {
            return None;
        }
        self.forecast.done_in(self.forecast.demand(invocation), now)
    }

    /// How long until one of its batches ends, in the mean, and with it the slots of its requests; `None` if none runs or
    /// nobody knows.
    pub fn ends_in(&self, now: Instant) -> Option<Duration> {
        self.forecast.ends_in(now)
    }

    /// Whether it takes new calls.
    pub fn is_open(&self) -> bool {
        !self.draining.load(Ordering::Relaxed) && !*self.lost.borrow()
    }

    /// Whether it has given no sign of life for a while: others go before it.
    pub fn is_quiet(&self, now: Instant) -> bool {
        now.saturating_duration_since(*self.heard.lock()) > QUIET
    }

    /// Takes no new calls, finishes what it has, and ends.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.outbox.send(0, Kind::Drain(link::Drain {}), Body::new());
    }

    /// Cuts the link: the environment ends at once, open calls are lost.
    pub fn cut(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.outbox.close();
    }

    /// Completes when the link has ended.
    pub async fn lost(&self) {
        // The sender lives as long as this handle, so the only end of the wait is the value.
        let _ = self.lost.subscribe().wait_for(|lost| *lost).await;
    }

    /// Runs one invocation there. `alone` keeps strangers out of its batch. Dropping the future cancels it.
    pub async fn call(&self, invocation: Invocation, alone: bool, now: Instant) -> Result<CallAnswer, CallEnd> {
        let demand = self.forecast.demand(&invocation);
        let (inputs, body) = message::tensors_out(invocation.inputs);
        let invoke = link::Invoke {
            inputs,
            outputs: message::wanted_out(invocation.outputs),
            parameters: message::parameters_out(invocation.parameters),
            deadline_us: invocation.deadline.map(|at| at.saturating_duration_since(now).as_micros() as u64),
            priority: invocation.priority,
            splittable: invocation.splittable,
            alone,
        };
        let body_bytes: u64 = body.iter().map(|piece| piece.len() as u64).sum();
        fits(&invoke, body_bytes, self.body_bytes_max).map_err(CallEnd::Refused)?;
        let number = self.next_call.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        {
            let mut calls = self.calls.lock();
            if calls.lost {
                return Err(CallEnd::Lost { begun: false });
            }
            calls.open.insert(number, Open { answer, demand, begun: false });
        }
        self.forecast.sent(demand);
        let guard = CancelOnDrop { handle: self, number, demand };
        self.outbox.send(number, Kind::Invoke(invoke), body);
        let end = answered.await.unwrap_or(Err(CallEnd::Lost { begun: true }));
        drop(guard);
        end
    }

    fn take(&self, number: u64) -> Option<Open> {
        let mut calls = self.calls.lock();
        let open = calls.open.remove(&number)?;
        if open.begun {
            self.forecast.ended(open.demand);
        }
        Some(open)
    }

    fn message(&self, incoming: Incoming, on_batch: &OnBatch) {
        match incoming.kind {
            Kind::Result(result) => {
                let Some(open) = self.take(incoming.call) else { return };
                self.forecast.served(open.demand, result.tokens);
                let waited = Duration::from_nanos(result.queue_ns);
                if let Some(limit) = self.adaptive.lock().ended(waited, now()) {
                    self.slots.set_limit(limit);
                }
                // A caller that has just left does not mind.
                let _ = open.answer.send(answer(result, incoming.body, incoming.share));
            }
            Kind::Refused(refused) => {
                let Some(open) = self.take(incoming.call) else { return };
                let refusal = message::refusal_in(refused);
                if refusal.shed == Some(ShedReason::DeadlineUnmeetable) {
                    self.forecast.refused_as_late();
                }
                let _ = open.answer.send(Err(CallEnd::Refused(refusal)));
            }
            Kind::Begun(begun) => {
                // Locked until it is counted, so that no call of it ends before.
                let mut calls = self.calls.lock();
                let first = begun.calls.iter().filter_map(|call| {
                    let open = calls.open.get_mut(call)?;
                    (!std::mem::replace(&mut open.begun, true)).then_some(open.demand)
                });
                let now = now();
                let wanted = now.checked_sub(Duration::from_micros(begun.waited_us)).unwrap_or(now);
                self.forecast.begun(first, wanted);
            }
            Kind::Batch(batch) => {
                let (batch, outlook) = message::batch_in(batch, now());
                self.forecast.ran(batch.items, outlook);
                on_batch(batch);
            }
            Kind::Load(load) => {
                *self.heard.lock() = now();
                *self.load.lock() = LoadReport {
                    queued_requests: load.queued_requests,
                    queued_items: load.queued_items,
                    queued_tokens: load.queued_tokens,
                    busy_workers: load.busy_workers,
                    resident_bytes: load.resident_bytes,
                    oldest_wait: Duration::from_micros(load.oldest_wait_us),
                    cpu: Duration::from_micros(load.cpu_us),
                };
            }
            Kind::TurnWanted(_) => self.seat.lock().iter().for_each(Seat::wanted),
            Kind::TurnDone(done) => self.seat.lock().iter().for_each(|seat| seat.done(done.again)),
            _ => tracing::warn!(call = incoming.call, "unexpected message from an environment"),
        }
    }

    fn end(&self) {
        // First, so that whoever hears that a call is lost does not pick this environment again.
        self.lost.send_replace(true);
        *self.seat.lock() = None;
        let open = {
            let mut calls = self.calls.lock();
            calls.lost = true;
            std::mem::take(&mut calls.open)
        };
        self.outbox.close();
        for (_, open) in open {
            let _ = open.answer.send(Err(CallEnd::Lost { begun: open.begun }));
        }
    }
}

/// The floor keeps the workers busy: a batch in each, and one that forms meanwhile.
fn adaptive(specification: &Specification, items_max: u32) -> AdaptiveLimit {
    let together = if specification.batching.dynamic { items_max.max(1) } else { 1 };
    let floor = (specification.workers as u32).saturating_add(1).saturating_mul(together);
    let target = Duration::from_micros(specification.queue.standing_wait_us);
    AdaptiveLimit::new(floor, specification.queue.requests, target, now())
}

fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

fn answer(result: link::Result, body: bytes::Bytes, share: Option<ByteShare>) -> Result<CallAnswer, CallEnd> {
    let timing = StageTimes {
        prepare_ns: result.prepare_ns,
        queue_ns: result.queue_ns,
        compute_input_ns: result.compute_input_ns,
        compute_ns: result.compute_ns,
        compute_output_ns: result.compute_output_ns,
        total_ns: 0,
        batch_items: result.batch_items,
    };
    match message::tensors_in(result.outputs, body) {
        Ok(outputs) => {
            let parameters = message::parameters_in(result.parameters);
            Ok(CallAnswer { outputs, parameters, timing, share })
        }
        Err(error) => {
            let text = format!("the environment's answer cannot be read: {error}");
            Err(CallEnd::Refused(Refusal::new(penstock_domain::ErrorCode::Internal, text)))
        }
    }
}

async fn read<R: AsyncRead + Unpin>(handle: Arc<EnvironmentHandle>, mut reader: FrameReader<R>, on_batch: OnBatch) {
    loop {
        let read = match reader.next_buffered() {
            Ok(None) => tokio::time::timeout(SILENCE_MAX, reader.next()).await.unwrap_or_else(|_| {
                let seconds = SILENCE_MAX.as_secs();
                let text = format!("nothing came from the environment for {seconds} s: it hangs, or its link is cut");
                Err(std::io::Error::new(std::io::ErrorKind::TimedOut, text))
            }),
            buffered => buffered,
        };
        match read {
            Ok(Some(incoming)) => handle.message(incoming, &on_batch),
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(%error, "a link broke");
                break;
            }
        }
    }
    handle.end();
}

/// Cancels a call whose future is dropped before it was answered.
struct CancelOnDrop<'a> {
    handle: &'a EnvironmentHandle,
    number: u64,
    demand: Demand,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        self.handle.forecast.left(self.demand);
        if self.handle.take(self.number).is_some() {
            self.handle.outbox.send(self.number, Kind::Cancel(link::Cancel {}), Body::new());
        }
    }
}
