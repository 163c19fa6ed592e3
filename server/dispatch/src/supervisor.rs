//! The supervisor: one task for each environment, which starts it, watches it, and starts it again when it is lost.
//!
//! Called by the house when a version is loaded; ends when the version is stopped. Never inside a request.

use crate::function::{Cause, Placed, ServedVersion, Starts, Unavailable, VersionState};
use crate::house::Devices;
use crate::journal::Journals;
use crate::log::{self, LastWords};
use futures_util::future::BoxFuture;
use penstock_admission::ByteBudget;
use penstock_capacity::{Grant, NoRoom, Placement, Wanted};
use penstock_environment::{EnvironmentHandle, Launch, LaunchError, OnBatch, Specification, StartError, Started};
use running::{Log, Running, cancelled, ended, ended_if, remove, tell_load, watch_load};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

mod running;

/// First pause before an environment is started again, doubled each time up to [`BACKOFF_MAX`].
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// Longest pause: a version that dies at every start costs a process start every ten seconds.
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// An environment that has lived this long starts the pauses from the beginning.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);
/// How long a drained environment may take to end by itself.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the last lines of an environment that has ended are waited for.
const LISTEN_TIMEOUT: Duration = Duration::from_millis(200);
/// How often its load is passed on to the metrics.
const LOAD_INTERVAL: Duration = Duration::from_millis(500);

/// How often a version that has run on a GPU, and cannot be started there any more, is placed again before it runs on the
/// CPU: a failing device is withdrawn by then, and a full one may have room again.
const TRIES_ELSEWHERE: u32 = 2;

/// What the supervisor needs to know.
pub(crate) struct Supervisor {
    pub(crate) version: Arc<ServedVersion>,
    pub(crate) specification: Specification,
    pub(crate) launcher: Arc<dyn Launch>,
    pub(crate) load_timeout: Duration,
    pub(crate) drain_timeout: Duration,
    /// Where large answers take their shares.
    pub(crate) budget: ByteBudget,
    /// Whose time it may share with others.
    pub(crate) devices: Arc<Devices>,
    /// The GPUs, if there are any.
    pub(crate) placement: Option<Placement>,
    /// How often it is placed again, should it fail on the GPU, before it runs on the CPU.
    pub(crate) tries_elsewhere: u32,
    /// Its part of one, from when it was placed there until it is stopped or cannot be started: between two lives nobody
    /// else gets it.
    pub(crate) grant: Option<Grant>,
    /// One that another has taken the place of, and that drains.
    pub(crate) leaving: Option<BoxFuture<'static, ()>>,
    /// Ends it: the version's own is its parent.
    pub(crate) stop: CancellationToken,
    /// Told when the version's state changes.
    pub(crate) changed: watch::Sender<u64>,
    /// Where people read what became of it.
    pub(crate) journals: Arc<Journals>,
}

/// How one life of an environment ended.
enum Life {
    /// It was asked to.
    Stopped,
    /// It was ready and is gone; how it ended, and how long it lived.
    Lost(String, Duration),
    /// It never got ready; `true` if trying again cannot help.
    Failed(Unavailable, bool),
    /// Its process could not be started, or the way to its instance broke before it began, which says nothing of a GPU there.
    Unreached(Unavailable),
    /// There is no device with so much memory left.
    NoRoom(NoRoom),
    /// There is no instance for it; `true` if there never will be, as things are.
    NoInstance(String, bool),
    /// It has drained, to be started somewhere else.
    Moved,
}

impl Life {
    /// Why it never got ready.
    fn reason(&self) -> String {
        match self {
            Life::Failed(why, _) | Life::Unreached(why) => why.reason.clone(),
            Life::NoRoom(no_room) => no_room.to_string(),
            Life::NoInstance(reason, _) => reason.clone(),
            Life::Stopped | Life::Lost(..) | Life::Moved => "it is stopped".to_owned(),
        }
    }
}

fn failed(cause: Cause, reason: String, permanent: bool) -> Life {
    Life::Failed(cause.because(reason), permanent)
}

impl Supervisor {
    /// Keeps one environment of the version alive until the version is stopped.
    pub(crate) async fn run(mut self) {
        let mut pause = BACKOFF_FIRST;
        loop {
            let mut started = true;
            match self.live().await {
                Life::Stopped => break,
                Life::Lost(status, lived) => {
                    if lived >= HEALTHY_AFTER {
                        pause = BACKOFF_FIRST;
                    }
                    let (lived, wait) = (lived.as_secs_f64(), pause.as_secs_f64());
                    let text =
                        format!("the environment ended after {lived:.1} s ({status}), the next starts in {wait} s");
                    self.restarts(Cause::Ended.because(text), pause);
                }
                // A device that it ran on may be at fault: another is tried before the CPU.
                Life::Failed(why, _) if self.may_fall_back() && self.tries_elsewhere > 0 => {
                    self.tries_elsewhere -= 1;
                    self.grant = None;
                    tracing::warn!(function = self.name(), reason = why.reason, "a version is to be placed again");
                    self.restarts(why, pause);
                }
                Life::Failed(why, _) if self.may_fall_back() => {
                    self.fall_back(&why.reason);
                    continue;
                }
                Life::NoRoom(no_room) if no_room.is_final() && self.may_fall_back() => {
                    self.fall_back(&no_room.to_string());
                    continue;
                }
                // Another may leave.
                Life::NoRoom(reason) => {
                    started = false;
                    let cause = if reason.is_final() { Cause::NoDevice } else { Cause::NoRoom };
                    self.not_started(cause.because(reason.to_string()), !reason.is_final(), pause);
                }
                // One may come, or have room again.
                Life::NoInstance(reason, is_final) => {
                    started = false;
                    self.not_started(Cause::NoRoom.because(reason), !is_final, pause);
                }
                Life::Moved => {
                    self.restarts(Cause::Ended.because("it moves to another instance"), Duration::ZERO);
                    continue;
                }
                Life::Unreached(why) => self.restarts(why, pause),
                // Where another serves, it can be loaded.
                Life::Failed(why, true) if self.version.environments.load().is_empty() => {
                    self.grant = None;
                    *self.version.hopeless.lock() = Some(why.clone());
                    self.set_state(VersionState::Unavailable(why));
                    self.stop.cancelled().await;
                    break;
                }
                Life::Failed(why, _) => {
                    self.grant = None;
                    // One that has never been ready may never be.
                    let has_served = self.version.starts.lock().has_served;
                    self.not_started(why, has_served, pause);
                }
            }
            tokio::select! {
                biased;
                () = sleep(pause) => pause = (pause * 2).min(BACKOFF_MAX),
                () = self.stop.cancelled() => break,
            }
            if started {
                self.version.metrics.environment_restarted();
            }
        }
        ended_if(self.leaving.take()).await;
        // The last of the version's supervisors: all its processes are gone.
        if self.version.supervisors.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.version.metrics.retired();
            self.set_state(match self.version.stop.is_cancelled() {
                true => VersionState::Unavailable(Cause::Unloaded.because("unloaded")),
                false => VersionState::Resting,
            });
        }
    }

    /// It was to run on a GPU and need not.
    fn may_fall_back(&self) -> bool {
        self.specification.accelerator.as_ref().is_some_and(|accelerator| !accelerator.required)
    }

    fn fall_back(&mut self, reason: &str) {
        let name = self.name();
        tracing::warn!(function = name, reason, "a version cannot be loaded on a GPU: it runs on the CPU");
        self.specification.accelerator = None;
        self.grant = None;
    }

    fn name(&self) -> String {
        format!("{}:{}", self.version.function, self.version.number)
    }

    /// What the next life is told: with a part of a GPU where it needs one.
    fn place(&mut self) -> Result<Specification, NoRoom> {
        let mut specification = self.specification.clone();
        let wanted = specification.accelerator.as_ref().filter(|wanted| !wanted.with_instance);
        let Some((placement, wanted)) = self.placement.as_ref().zip(wanted) else {
            return Ok(specification);
        };
        if self.grant.as_ref().is_none_or(|grant| !grant.is_good()) {
            // What it had is free before it asks.
            self.grant = None;
            let wanted = Wanted { memory_bytes: wanted.memory_bytes, gpus: wanted.gpus.clone() };
            self.grant = Some(placement.place(&self.name(), &wanted)?);
        }
        if let Some(grant) = &self.grant {
            specification.place_on(grant.uuid());
        }
        Ok(specification)
    }

    async fn live(&mut self) -> Life {
        match self.begin().await {
            Ok(running) => self.keep(running).await,
            Err(life) => life,
        }
    }

    /// Starts an environment, and waits until it takes requests.
    async fn begin(&mut self) -> Result<Running, Life> {
        let (name, asked) = (self.name(), Instant::now());
        let specification = self.place().map_err(Life::NoRoom)?;
        let started = tokio::select! {
            biased;
            started = self.launcher.start(&specification) => started,
            () = self.stop.cancelled() => return Err(Life::Stopped),
        };
        let Started { from, to, log, mut life, leaving, specification: there } = match started {
            Ok(started) => started,
            Err(LaunchError::NoRoom(reason)) => return Err(Life::NoInstance(reason, false)),
            Err(LaunchError::NeverRoom(reason)) => return Err(Life::NoInstance(reason, true)),
            Err(error) => {
                let text = format!("the environment could not be started: {error}");
                let on_gpu_here = specification.accelerator.is_some_and(|accelerator| !accelerator.with_instance);
                return Err(match on_gpu_here {
                    true => failed(Cause::Ended, text, false),
                    false => Life::Unreached(Cause::Ended.because(text)),
                });
            }
        };
        let log = self.listen(log);
        let specification = there.unwrap_or(specification);
        let starting = EnvironmentHandle::start(from, to, &specification, Some(self.budget.clone()), self.on_batch());
        let started = tokio::select! {
            biased;
            started = timeout(self.load_timeout, starting) => started,
            () = self.stop.cancelled() => {
                life.end(Duration::ZERO).await;
                return Err(Life::Stopped);
            }
        };
        let environment = match started {
            Ok(Ok(environment)) => environment,
            Ok(Err(StartError::Load { message, permanent })) => {
                life.end(EXIT_TIMEOUT).await;
                tracing::warn!(function = name, reason = message, "a version could not be loaded");
                return Err(failed(Cause::Load, message, permanent));
            }
            Ok(Err(error)) => {
                let status = life.end(EXIT_TIMEOUT).await;
                return Err(failed(Cause::Ended, format!("{error} ({status}){}", log.last_words().await), false));
            }
            Err(_) => {
                life.end(Duration::ZERO).await;
                let text = format!("not loaded within {} s", self.load_timeout.as_secs());
                return Err(failed(Cause::LoadTimeout, text, false));
            }
        };
        let report = environment.report();
        if let Some(bytes) = report.device_memory_bytes.filter(|_| specification.placed_on().is_some()) {
            let resized = match &self.grant {
                Some(grant) => grant.resize(bytes).map_err(|no_room| no_room.to_string()),
                None => life.resize(bytes),
            };
            // Should it be placed again, that is what it asks for: elsewhere there may be so much.
            if resized.is_ok() || self.grant.is_none() {
                self.specification.accelerator.iter_mut().for_each(|accelerator| accelerator.memory_bytes = bytes);
            }
            if let Err(no_room) = resized {
                environment.cut();
                life.end(EXIT_TIMEOUT).await;
                let text = format!("it takes more device memory than it was given: {no_room}");
                return Err(failed(Cause::NoRoom, text, false));
            }
        }
        self.open(&environment, &specification, asked.elapsed());
        Ok(Running { environment, life, log, leaving, ready: Instant::now() })
    }

    /// From now on it takes requests.
    fn open(&mut self, environment: &Arc<EnvironmentHandle>, specification: &Specification, took: Duration) {
        let (name, report) = (self.name(), environment.report());
        let (pid, load_ms, warmup_ms) = (report.pid, report.load_ms, report.warmup_ms);
        let device = specification.placed_on().unwrap_or("cpu");
        tracing::info!(function = name, pid, load_ms, warmup_ms, device, "environment ready");
        self.tell(format!("environment ready: pid {pid}, loaded in {load_ms} ms, warm in {warmup_ms} ms, on {device}"));
        let hidden = report.isolation.iter().any(|measure| measure.name == "read_only_view" && measure.in_force);
        if !hidden && specification.isolation.secrets {
            let remedy = "this machine's kernel has no Landlock: `penstock devices` says more";
            tracing::warn!(function = name, remedy, "other environments may read the credentials of this one's role");
        }
        *self.version.hopeless.lock() = None;
        self.version.signature.store(Some(Arc::new(report.signature())));
        if let Some(share) = &specification.device {
            environment.take_turns(&self.devices.named(share), share.weight);
        }
        *self.version.starts.lock() = Starts {
            since: None,
            took: Some(took),
            has_served: true,
            on_gpu: specification.placed_on().is_some(),
            slots: environment.slots().limit(),
            workers: specification.workers as u32,
            cores: specification.cores,
        };
        self.version.metrics.environment_started(took);
        self.add(environment, specification.placed_on().map(str::to_owned));
        self.set_state(VersionState::Ready);
        self.version.waiting.call(environment.slots().limit());
        if specification.placed_on().is_some() {
            self.tries_elsewhere = TRIES_ELSEWHERE;
        }
    }

    /// Keeps an environment until it is lost or stopped. One that is to be somewhere else is started there first, and drained
    /// here when that is ready.
    async fn keep(&mut self, mut running: Running) -> Life {
        let mut leaving = self.leaving.take();
        let mut pause = BACKOFF_FIRST;
        let stopped = loop {
            let leaves = running.leaving.clone();
            tokio::select! {
                biased;
                () = watch_load(&self.version) => {}
                () = running.environment.lost() => break false,
                () = self.stop.cancelled() => break true,
                () = ended(&mut leaving) => leaving = None,
                // Two do not fit into what it has of its device.
                () = cancelled(leaves.clone()), if self.grant.is_some() => {
                    running.drain(self.version.clone(), self.drain_timeout).await;
                    tell_load(&self.version);
                    return Life::Moved;
                }
                () = cancelled(leaves), if leaving.is_none() => match self.begin_beside(&running).await {
                    None => break false,
                    Some(Ok(next)) => {
                        pause = BACKOFF_FIRST;
                        let old = std::mem::replace(&mut running, next);
                        tracing::info!(function = self.name(), "an environment has moved");
                        leaving = Some(Box::pin(old.drain(self.version.clone(), self.drain_timeout)));
                    }
                    // It goes on where it is, for as long as it can.
                    Some(Err(Life::Stopped)) => break true,
                    Some(Err(life)) => {
                        let (function, why) = (self.name(), life.reason());
                        tracing::warn!(function, why, "an environment that is to move cannot yet");
                        tokio::select! {
                            biased;
                            () = running.environment.lost() => break false,
                            () = self.stop.cancelled() => break true,
                            () = sleep(pause) => pause = (pause * 2).min(BACKOFF_MAX),
                        }
                    }
                },
            }
        };
        if stopped {
            if self.version.stop.is_cancelled() {
                self.set_state(VersionState::Unloading);
            }
            let drained = running.drain(self.version.clone(), self.drain_timeout);
            tokio::join!(drained, ended_if(leaving));
            tell_load(&self.version);
            return Life::Stopped;
        }
        let Running { environment, mut life, log, ready, .. } = running;
        remove(&self.version, &environment);
        tell_load(&self.version);
        self.set_state(VersionState::Restarting(Cause::Ended.because("the environment has ended")));
        let status = life.end(EXIT_TIMEOUT).await;
        let (function, pid) = (self.name(), environment.report().pid);
        tracing::warn!(function, pid, status, "environment lost");
        let lived = ready.elapsed();
        let words = log.last_words().await;
        // The next life sees to it.
        self.leaving = leaving;
        Life::Lost(format!("{status}{words}"), lived)
    }

    /// Starts another; `None` if the one that runs is lost meanwhile.
    async fn begin_beside(&mut self, running: &Running) -> Option<Result<Running, Life>> {
        let environment = running.environment.clone();
        tokio::select! {
            biased;
            () = environment.lost() => None,
            next = self.begin() => Some(next),
        }
    }

    /// Passes on what its process writes.
    fn listen(&self, log: Option<Box<dyn AsyncRead + Send + Unpin>>) -> Log {
        let (words, function) = (LastWords::default(), self.name());
        let heard = words.clone();
        let (journals, version) = (self.journals.clone(), self.version.clone());
        let listening = log.map(|log| {
            tokio::spawn(log::pass_on(log, move |line| {
                heard.heard(line);
                journals.add(&version.function, version.number, line);
                tracing::info!(target: "environment", function, "{line}");
            }))
        });
        Log { listening, words }
    }

    fn on_batch(&self) -> OnBatch {
        let version = self.version.clone();
        Box::new(move |batch| {
            version.statistics.batch(batch.items, batch.compute_input_ns, batch.compute_ns, batch.compute_output_ns);
            version.metrics.batch(&batch);
        })
    }

    fn add(&self, environment: &Arc<EnvironmentHandle>, device: Option<String>) {
        let placed = Arc::new(Placed::new(environment.clone(), device));
        self.version.environments.rcu(|list| {
            let mut list = Vec::clone(list);
            list.push(placed.clone());
            list
        });
        self.version.metrics.environments(self.version.environments.load().len());
    }

    /// Says it to whoever reads the function's log.
    fn tell(&self, text: String) {
        self.journals.add(&self.version.function, self.version.number, text);
    }

    /// It is started again after a pause; those that ask meanwhile are told so, or wait.
    fn restarts(&self, why: Unavailable, pause: Duration) {
        if self.version.environments.load().is_empty() {
            let is_alone = self.version.supervisors.load(Ordering::Acquire) == 1;
            let (mut starts, now) = (self.version.starts.lock(), Instant::now());
            // Another's start may come first; one that has not in its time does not.
            let comes_first = |since: Instant| since < now + pause && since + starts.took.unwrap_or_default() > now;
            if is_alone || !starts.since.is_some_and(comes_first) {
                starts.since = Some(now + pause);
            }
        }
        self.set_state(VersionState::Restarting(why));
    }

    /// It could not be started: those that ask wait if that may pass.
    fn not_started(&self, why: Unavailable, may_pass: bool, pause: Duration) {
        match may_pass {
            true => self.restarts(why, pause),
            false => self.set_state(VersionState::Unavailable(why)),
        }
    }

    fn set_state(&self, state: VersionState) {
        if !state.reason().is_empty() {
            self.tell(state.reason().to_owned());
        }
        // Another environment of the version may still be ready.
        let state = match state {
            VersionState::Restarting(_) | VersionState::Unavailable(_)
                if !self.version.environments.load().is_empty() =>
            {
                VersionState::Ready
            }
            // What another environment of it has found holds for all.
            VersionState::Restarting(why) => match self.version.hopeless.lock().clone() {
                Some(found) => VersionState::Unavailable(found),
                None => VersionState::Restarting(why),
            },
            state => state,
        };
        let hopeless = matches!(state, VersionState::Unloading | VersionState::Unavailable(_));
        self.version.state.send_replace(state);
        self.version.changed.notify_waiters();
        if hopeless {
            // Each of them finds out why.
            self.version.waiting.call_all();
        }
        self.changed.send_modify(|count| *count += 1);
    }
}
