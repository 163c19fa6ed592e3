//! The stage: environments as tasks, what their batches cost, and the faults that befall them.
//!
//! Called by the supervisors (through [`Launch`]) and by the world, which brings the faults on.

use crate::model::{Echo, number};
use crate::script::{Fault, Script};
use async_trait::async_trait;
use parking_lot::Mutex;
use penstock_environment::{Act, Launch, LaunchError, Life, Play, Scene, Specification, Started, rehearse};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep};

/// Bytes under way in a link, each way.
const LINK_BYTES: usize = 64 << 10;
/// What a batch with a deadly request in it takes before it kills.
const DEADLY: Duration = Duration::from_millis(1);

/// A request in a batch that started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// The request.
    pub number: u64,
    /// When, from the run's start.
    pub at: Duration,
    /// Its environment's link was cut by then, so that it could know of no cancel.
    pub cut: bool,
}

/// See the module.
pub(crate) struct Stage {
    fixed: Duration,
    per_item: Duration,
    jitter: f64,
    max_batch: u32,
    start_time: Duration,
    deadly: Vec<bool>,
    /// Cancels do not arrive: a planted bug.
    deaf: bool,
    began: Instant,
    state: Mutex<State>,
}

struct State {
    random: SmallRng,
    slow: u32,
    hang_next: bool,
    starts: Vec<Start>,
    alive: Vec<Alive>,
}

struct Alive {
    task: AbortHandle,
    cut: Arc<AtomicBool>,
}

impl Stage {
    pub(crate) fn new(script: &Script, deaf: bool) -> Arc<Self> {
        let random = SmallRng::seed_from_u64(script.seed ^ 0x57a6e);
        Arc::new(Self {
            fixed: script.fixed,
            per_item: script.per_item,
            jitter: script.jitter,
            max_batch: script.max_batch,
            start_time: script.start_time,
            deadly: script.requests.iter().map(|request| request.deadly).collect(),
            deaf,
            began: Instant::now(),
            state: Mutex::new(State { random, slow: 1, hang_next: false, starts: Vec::new(), alive: Vec::new() }),
        })
    }

    /// From the run's start.
    pub(crate) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    pub(crate) fn starts(&self) -> Vec<Start> {
        self.state.lock().starts.clone()
    }

    pub(crate) fn befall(&self, fault: Fault) {
        let mut state = self.state.lock();
        state.alive.retain(|alive| !alive.task.is_finished());
        let pick = |which: u32, count: usize| (count > 0).then(|| which as usize % count);
        match fault {
            Fault::Kill(which) => {
                if let Some(index) = pick(which, state.alive.len()) {
                    state.alive[index].task.abort();
                }
            }
            Fault::Cut(which) => {
                if let Some(index) = pick(which, state.alive.len()) {
                    state.alive[index].cut.store(true, Ordering::Relaxed);
                }
            }
            Fault::Hang => state.hang_next = true,
            Fault::Slow(times) => state.slow = times,
            Fault::Mend => (state.slow, state.hang_next) = (1, false),
        }
    }

    fn act(&self, scene: &Scene<'_>, cut: &AtomicBool) -> Act {
        let (at, cut) = (self.now(), cut.load(Ordering::Relaxed));
        let mut state = self.state.lock();
        let numbers: Vec<u64> = scene.parts.iter().map(|part| number(part)).collect();
        state.starts.extend(numbers.iter().map(|number| Start { number: *number, at, cut }));
        if numbers.iter().any(|number| self.deadly.get(*number as usize).copied().unwrap_or(false)) {
            return Act::Crashes(DEADLY);
        }
        if std::mem::take(&mut state.hang_next) {
            return Act::Hangs;
        }
        let items: u32 = scene.parts.iter().map(|part| part.items).sum();
        let jitter = 1.0 + self.jitter * state.random.random_range(-1.0..=1.0);
        Act::Takes((self.fixed + self.per_item * items).mul_f64(jitter) * state.slow)
    }
}

/// Starts environments on a stage.
pub(crate) struct Troupe(pub(crate) Arc<Stage>);

#[async_trait]
impl Launch for Troupe {
    async fn start(&self, specification: &Specification) -> Result<Started, LaunchError> {
        let (near, far) = tokio::io::duplex(LINK_BYTES);
        let (from, to) = tokio::io::split(far);
        let cut = Arc::<AtomicBool>::default();
        let (stage, its_cut) = (self.0.clone(), cut.clone());
        let play: Play = Arc::new(move |scene| stage.act(scene, &its_cut));
        let model = Arc::new(Echo::new(self.0.max_batch));
        let (specification, start_time) = (specification.clone(), self.0.start_time);
        let task = tokio::spawn(async move {
            sleep(start_time).await;
            rehearse(from, to, specification, model, play).await
        });
        self.0.state.lock().alive.push(Alive { task: task.abort_handle(), cut: cut.clone() });
        let (from, to) = tokio::io::split(Wire { near, cut, deaf: self.0.deaf });
        Ok(Started {
            from: Box::new(from),
            to: Box::new(to),
            log: None,
            life: Life::Task(task),
            leaving: None,
            specification: None,
        })
    }
}

/// The front end's end of a link that can be cut without being closed.
struct Wire {
    near: DuplexStream,
    cut: Arc<AtomicBool>,
    deaf: bool,
}

impl AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.cut.load(Ordering::Relaxed) {
            return Poll::Pending; // for ever: whoever waits has a timer
        }
        Pin::new(&mut self.near).poll_read(cx, buffer)
    }
}

/// A frame without a body whose header is at most this long: a cancel (its call and an empty message), nothing else.
const CANCEL_BYTES_MAX: usize = 8 + 14;
/// Field 4 of a header, length-delimited, empty: `Cancel`.
const CANCEL_END: [u8; 2] = [0x22, 0x00];

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let lost = self.deaf && bytes.len() <= CANCEL_BYTES_MAX && bytes.ends_with(&CANCEL_END);
        if lost || self.cut.load(Ordering::Relaxed) {
            return Poll::Ready(Ok(bytes.len()));
        }
        Pin::new(&mut self.near).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.near).poll_shutdown(cx)
    }
}
