//! What is served: functions, their versions, and the state of each as people see it.
//!
//! Read by the front end on every request (a snapshot behind one atomic pointer, no lock), written by the house when
//! something is loaded, unloaded or lost.

use crate::accounting::{Balance, Books};
use crate::statistics::{StatisticsCell, VersionStatistics};
use crate::waiting::WaitingRoom;
use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use penstock_admission::{Callers, DrainRate, Slots};
use penstock_domain::{FunctionName, Qualifier, Signature, VersionNumber};
use penstock_environment::EnvironmentHandle;
use penstock_repository::ModelConfig;
use penstock_repository::{FunctionSource, VersionSource};
use penstock_router::{Breaker, RetryBudget, Route};
use penstock_scaler::Bounds;
use penstock_telemetry::VersionMetrics;
use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The alias that an unqualified name means, where it is set.
pub const ALIAS_LIVE: &str = "live";

/// Where a version stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum VersionState {
    /// Its environments are starting.
    Loading,
    /// It has no environment now, and why; one is started again after a pause, and who asks may wait for it.
    Restarting(Unavailable),
    /// At least one environment is ready.
    Ready,
    /// No environment is kept while nobody asks; a request has one started, and waits until it is ready.
    Resting,
    /// Finishing what it has; takes nothing new.
    Unloading,
    /// Not served, and why: nobody who asks is made to wait.
    Unavailable(Unavailable),
}

/// Why a version is not served.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unavailable {
    /// In a word.
    pub cause: Cause,
    /// In words.
    pub reason: String,
}

/// Kinds of reasons why a version is not served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It was unloaded.
    Unloaded,
    /// It cannot run here, as it is configured.
    Configuration,
    /// Loading or warming up failed.
    Load,
    /// Loading took too long.
    LoadTimeout,
    /// The process ended while it loaded.
    Ended,
    /// No device has so much memory left, or no instance has room for it.
    NoRoom,
    /// No device of this machine has so much memory.
    NoDevice,
}

impl Cause {
    /// The same, with words.
    pub(crate) fn because(self, reason: impl Into<String>) -> Unavailable {
        Unavailable { cause: self, reason: reason.into() }
    }
}

impl VersionState {
    /// It answers requests, if need be after a start.
    pub fn is_ready(&self) -> bool {
        matches!(self, VersionState::Ready | VersionState::Resting)
    }

    /// The word in the repository index.
    pub fn name(&self) -> &'static str {
        match self {
            // There is nothing that could load it.
            VersionState::Restarting(Unavailable { cause: Cause::NoRoom, .. }) => "UNAVAILABLE",
            VersionState::Loading | VersionState::Restarting(_) => "LOADING",
            // To whoever asks it answers.
            VersionState::Ready | VersionState::Resting => "READY",
            VersionState::Unloading => "UNLOADING",
            VersionState::Unavailable(_) => "UNAVAILABLE",
        }
    }

    /// Why it is not ready; empty if it is.
    pub fn reason(&self) -> &str {
        match self {
            VersionState::Unavailable(why) | VersionState::Restarting(why) => &why.reason,
            VersionState::Loading | VersionState::Ready | VersionState::Resting | VersionState::Unloading => "",
        }
    }
}

/// Of the whole server or of one function, as `grpc.health.v1` and the ready routes tell it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Health {
    /// Takes requests.
    Serving,
    /// Does not, now.
    NotServing,
    /// There is no such function.
    Unknown,
}

/// An environment, and whether requests are sent there.
pub struct Placed {
    pub(crate) handle: Arc<EnvironmentHandle>,
    pub(crate) breaker: Breaker,
    /// The GPU that it is on.
    pub(crate) device: Option<String>,
    /// Time of cores that has been counted, in microseconds.
    cpu_counted_us: AtomicU64,
}

impl Placed {
    pub(crate) fn new(handle: Arc<EnvironmentHandle>, device: Option<String>) -> Self {
        Self { handle, breaker: Breaker::default(), device, cpu_counted_us: AtomicU64::new(0) }
    }

    /// Time of cores that it has used since this was last called; what it took to load is not counted.
    pub(crate) fn cpu_since(&self) -> Duration {
        let used_us = self.handle.load().cpu.as_micros() as u64;
        let counted_us = self.cpu_counted_us.swap(used_us, Ordering::Relaxed);
        match counted_us {
            0 => Duration::ZERO,
            _ => Duration::from_micros(used_us.saturating_sub(counted_us)),
        }
    }
}

impl Deref for Placed {
    type Target = EnvironmentHandle;

    fn deref(&self) -> &EnvironmentHandle {
        &self.handle
    }
}

/// One version, served or not.
pub struct ServedVersion {
    /// The function's name.
    pub function: FunctionName,
    /// Its number.
    pub number: VersionNumber,
    /// Where it came from and how it is configured.
    pub source: VersionSource,
    pub(crate) state: watch::Sender<VersionState>,
    /// Told after each change of `state`.
    pub(crate) changed: Notify,
    pub(crate) signature: ArcSwapOption<Signature>,
    pub(crate) environments: ArcSwap<Vec<Arc<Placed>>>,
    pub(crate) slots: Slots,
    /// Where a slot is taken, too, of those that all share; `None` where its own are reserved.
    pub(crate) shared: ArcSwapOption<Shared>,
    /// Of each caller, where they are told apart.
    pub(crate) callers: Callers,
    pub(crate) drain_rate: Mutex<DrainRate>,
    pub(crate) statistics: StatisticsCell,
    pub(crate) metrics: VersionMetrics,
    /// One request that has already cost an environment may run at a time.
    pub(crate) retry_lane: tokio::sync::Semaphore,
    /// That request waits for a slot: others leave one.
    pub(crate) alone_waits: AtomicBool,
    pub(crate) stop: CancellationToken,
    /// Stop one environment each, in the order in which they were started.
    pub(crate) environment_stops: Mutex<Vec<CancellationToken>>,
    /// How many environments there may be.
    pub(crate) bounds: Mutex<Bounds>,
    /// Requests that wait for one.
    pub(crate) waiting: WaitingRoom,
    /// How long one waits at most, without a deadline.
    pub(crate) patience: Duration,
    /// Told when a request waits and nothing is being started.
    pub(crate) demanded: Arc<Notify>,
    /// When and how its environments start.
    pub(crate) starts: Mutex<Starts>,
    /// Why it cannot be loaded, however often that is tried, if one of its environments has found so since the last was ready.
    pub(crate) hopeless: Mutex<Option<Unavailable>>,
    /// Of new content for a version that serves: whether it took its place, once that is known.
    pub(crate) switched: watch::Sender<Option<Result<(), Unavailable>>>,
    pub(crate) books: Books,
    pub(crate) retry_budget: RetryBudget,
    /// Tasks that keep an environment of this version alive; 0 once every process is gone for good.
    pub(crate) supervisors: AtomicU32,
    /// Time of cores that its environments on the CPU have used, in microseconds, as far as the scaler has looked.
    pub(crate) cpu_us: AtomicU64,
}

/// Slots that several versions share, and how fast they come back: all those of the server without reserved ones, or those
/// of one function that has.
pub(crate) struct Shared {
    /// The function that they are reserved for.
    pub(crate) function: Option<FunctionName>,
    pub(crate) slots: Slots,
    pub(crate) drain_rate: Mutex<DrainRate>,
}

impl Shared {
    pub(crate) fn new(slots: u32, function: Option<FunctionName>) -> Arc<Self> {
        let now = tokio::time::Instant::now().into_std();
        Arc::new(Self { function, slots: Slots::new(slots), drain_rate: Mutex::new(DrainRate::new(now)) })
    }
}

/// What is known of the starts of a version's environments.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Starts {
    /// Since when one is starting, or from when on it will be, where none was ready.
    pub(crate) since: Option<Instant>,
    /// From asking for one to its being ready, the last time.
    pub(crate) took: Option<Duration>,
    /// One was ready once, here or before this server was started.
    pub(crate) has_served: bool,
    /// It ran on a GPU.
    pub(crate) on_gpu: bool,
    /// Slots of that one, and its runtime workers.
    pub(crate) slots: u32,
    pub(crate) workers: u32,
    /// Its cores.
    pub(crate) cores: u32,
}

impl Starts {
    /// How long until one is ready, if that is known.
    pub(crate) fn ready_in(&self, now: Instant) -> Option<Duration> {
        let since = self.since.unwrap_or(now);
        self.took.map(|took| (since + took).saturating_duration_since(now))
    }
}

/// How many of a version's requests may be in flight, and wait.
pub(crate) struct Concurrency {
    /// Of all.
    pub(crate) slots: u32,
    /// Slots that all versions without reserved ones share.
    pub(crate) shared: Option<Arc<Shared>>,
    /// Of a caller; 0 for no such limit.
    pub(crate) caller: u32,
    /// That wait for an environment.
    pub(crate) waiting: u32,
    /// How long each does at most.
    pub(crate) patience: Duration,
    /// Told when one waits and nothing is being started.
    pub(crate) demanded: Arc<Notify>,
}

impl ServedVersion {
    pub(crate) fn new(
        function: FunctionName,
        source: VersionSource,
        concurrency: Concurrency,
        stop: CancellationToken,
    ) -> Self {
        let (number, now) = (source.number, tokio::time::Instant::now().into_std());
        let has_served = source.settings.has_served;
        let Concurrency { slots, shared, caller, waiting, patience, demanded } = concurrency;
        Self {
            metrics: VersionMetrics::new(function.as_str(), number.0),
            function,
            number,
            source,
            state: watch::Sender::new(VersionState::Loading),
            changed: Notify::new(),
            signature: ArcSwapOption::empty(),
            environments: ArcSwap::default(),
            slots: Slots::new(slots),
            shared: ArcSwapOption::new(shared),
            callers: Callers::new(caller, now),
            drain_rate: Mutex::new(DrainRate::new(now)),
            statistics: StatisticsCell::default(),
            books: Books::default(),
            retry_budget: RetryBudget::default(),
            retry_lane: tokio::sync::Semaphore::new(1),
            alone_waits: AtomicBool::new(false),
            stop,
            environment_stops: Mutex::default(),
            bounds: Mutex::new(Bounds { min: 1, max: 1 }),
            waiting: WaitingRoom::new(waiting),
            patience,
            demanded,
            starts: Mutex::new(Starts { has_served, ..Starts::default() }),
            hopeless: Mutex::default(),
            switched: watch::Sender::new(None),
            supervisors: AtomicU32::new(0),
            cpu_us: AtomicU64::new(0),
        }
    }

    /// Where it stands now.
    pub fn state(&self) -> VersionState {
        self.state.borrow().clone()
    }

    /// Why it could not be brought up, as far as is known; `None`, too, for one that has been ready and will be again.
    pub fn failure(&self) -> Option<Unavailable> {
        match self.state() {
            VersionState::Unavailable(why) => Some(why),
            VersionState::Restarting(why) if !self.starts.lock().has_served => Some(why),
            _ => None,
        }
    }

    /// Completes once the version was stopped and all its processes are gone; bounded by the supervisors' own timeouts.
    pub(crate) async fn ended(&self) {
        let mut state = self.state.subscribe();
        // The last supervisor counts down, then tells the state.
        while self.supervisors.load(Ordering::Acquire) > 0 && state.changed().await.is_ok() {}
    }

    /// Completes once new content has taken the place of old, or has not; bounded by how long an instance and then loading may take.
    pub(crate) async fn switched(&self) -> Result<(), Unavailable> {
        let mut switched = self.switched.subscribe();
        // The sender lives in the version, so the only end of the wait is the value.
        let known = switched.wait_for(Option::is_some).await.map(|known| known.clone());
        known.ok().flatten().unwrap_or(Ok(()))
    }

    /// Stopped, and all its processes are gone.
    pub(crate) fn has_ended(&self) -> bool {
        self.stop.is_cancelled() && self.supervisors.load(Ordering::Acquire) == 0
    }

    /// What it takes and gives; `None` until it was loaded once.
    pub fn signature(&self) -> Option<Arc<Signature>> {
        self.signature.load_full()
    }

    /// How many requests came, and how each ended.
    pub fn balance(&self) -> Balance {
        self.books.balance()
    }

    /// Those of its environments that are ready, or were a moment ago.
    pub fn environments(&self) -> Arc<Vec<Arc<Placed>>> {
        self.environments.load_full()
    }

    /// How many environments are kept: ready, starting, or being started again.
    pub fn environments_kept(&self) -> u32 {
        self.environment_stops.lock().len() as u32
    }

    /// Its own slots; each environment has its own beside them.
    pub fn slots(&self) -> &Slots {
        &self.slots
    }

    /// How many of its requests may be in flight as it stands: its own limit, or less where its environments take less.
    pub(crate) fn limit(&self) -> u32 {
        let environments: u32 = self.environments.load().iter().map(|environment| environment.slots().limit()).sum();
        if environments == 0 { self.slots.limit() } else { environments.min(self.slots.limit()) }
    }

    /// What it has done.
    pub fn statistics(&self) -> VersionStatistics {
        self.statistics.snapshot()
    }
}

/// One function with its versions. Immutable: a change makes a new one.
pub struct ServedFunction {
    /// Its name.
    pub name: FunctionName,
    /// Where it came from and how it is configured.
    pub source: Arc<FunctionSource>,
    /// By number.
    pub versions: BTreeMap<VersionNumber, Arc<ServedVersion>>,
    /// By name.
    pub aliases: BTreeMap<String, Route>,
}

impl ServedFunction {
    /// The version that a request means; `random` is a uniform draw, for aliases that lead to two. `None`: there is none.
    pub fn version(&self, qualifier: &Qualifier, random: u64) -> Option<&Arc<ServedVersion>> {
        let led = |name: &str| self.aliases.get(name).map(|route| self.versions.get(&route.pick(random)));
        match qualifier {
            Qualifier::Version(number) => self.versions.get(number),
            Qualifier::Alias(name) => led(name).flatten(),
            Qualifier::Unnamed => match led(ALIAS_LIVE) {
                Some(version) => version,
                None => self.versions.get(&VersionNumber::LATEST_PUBLISHED).or_else(|| self.highest()),
            },
        }
    }

    /// The configuration of a version.
    pub fn config_of(&self, number: VersionNumber) -> &ModelConfig {
        let own = self.versions.get(&number).and_then(|version| version.source.config.as_ref());
        own.unwrap_or(&self.source.config)
    }

    /// The highest that is ready, else the highest.
    fn highest(&self) -> Option<&Arc<ServedVersion>> {
        let ready = |version: &&Arc<ServedVersion>| version.state.borrow().is_ready();
        self.versions.values().rev().find(ready).or_else(|| self.versions.values().next_back())
    }
}
