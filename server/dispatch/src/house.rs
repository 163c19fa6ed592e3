//! The house: everything that is served, and the one way through it.
//!
//! Called by the front end (invoke, look up, load, unload) and by the composition root (start, poll, drain). Holds no
//! lock on a request's way: what is served is a snapshot behind one atomic pointer.

use crate::accounting::{Account, InFlight};
use crate::changes::settled;
use crate::deployed::beside_deployed;
use crate::function::{Health, ServedFunction, ServedVersion, Shared, Unavailable};
use crate::invoke;
use crate::journal::Journals;
use crate::scaling::Targets;
use arc_swap::ArcSwap;
use parking_lot::Mutex;
use penstock_admission::{ByteBudget, ByteShare};
use penstock_capacity::Placement;
use penstock_domain::{Answer, ErrorCode, FunctionName, Invocation, Outcome, Qualifier, Refusal, ShedReason};
use penstock_environment::{Device, DeviceShare, Launch, Specification};
use penstock_repository::{FunctionSource, VersionSource};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Turns a version's source into what an environment is told, or says why there can be none on this machine. Given by the
/// composition root, which knows the runtimes.
pub type Specify = Box<dyn Fn(&FunctionSource, &VersionSource) -> Result<Specification, String> + Send + Sync>;

/// Share of the time that a GPU runs kernels, by its identifier; `None` if its driver does not tell. Given by the composition root,
/// which knows the GPUs.
pub type DeviceBusy = Box<dyn Fn(&str) -> Option<f64> + Send + Sync>;

/// How a house is set up.
pub struct HouseOptions {
    /// Model repositories, in order.
    pub repositories: Vec<PathBuf>,
    /// How they are followed.
    pub control: penstock_repository::ControlMode,
    /// In explicit mode: what is loaded at start.
    pub load_at_start: Vec<String>,
    /// Starts environments.
    pub launcher: Arc<dyn Launch>,
    /// Describes them.
    pub specify: Specify,
    /// The GPUs that environments are placed on; `None` where there are none.
    pub placement: Option<Placement>,
    /// How busy GPUs are.
    pub device_busy: DeviceBusy,
    /// Requests in flight of the whole house; what functions reserve is kept for them.
    pub concurrency: u32,
    /// Requests in flight per version.
    pub function_concurrency: u32,
    /// Requests in flight per caller and version, where callers are told apart; 0 for no such limit.
    pub caller_concurrency: u32,
    /// Deadline of a request that brings none, from its arrival; a function's own `timeout_ms` goes before it.
    pub function_timeout: Option<Duration>,
    /// Environments per version.
    pub environments: u32,
    /// Requests per version that wait for an environment.
    pub waiting: u32,
    /// How long an instance may take to be there for an environment; zero where there are none.
    pub instance_timeout: Duration,
    /// How long loading may take there. A request without a deadline waits for both.
    pub load_timeout: Duration,
    /// How long finishing may take at unload and at shut-down.
    pub drain_timeout: Duration,
    /// `memory_budget_bytes`, shared with the doors: large answers take their share before they are read.
    pub budget: ByteBudget,
    /// Where the router's random numbers start.
    pub seed: u64,
}

/// What a load request may carry instead of the files in the repository.
#[derive(Clone, Debug, Default)]
pub struct LoadOverride {
    /// JSON of a model configuration that replaces `config.pbtxt`.
    pub config_json: Option<String>,
}

/// An answer, with what it holds of the memory budget until it is sent or dropped.
#[derive(Debug)]
pub struct Reply {
    /// The answer.
    pub answer: Answer,
    /// The share of a large one.
    pub share: Option<ByteShare>,
}

/// Devices that environments share, by name.
#[derive(Default)]
pub(crate) struct Devices(Mutex<BTreeMap<String, Device>>);

impl Devices {
    /// The device of this name; its depth is that of the first to come, for as long as anybody is at it.
    pub(crate) fn named(&self, share: &DeviceShare) -> Device {
        let mut devices = self.0.lock();
        devices.retain(|_, device| !device.is_unused());
        devices.entry(share.name.clone()).or_insert_with(|| Device::new(share.depth)).clone()
    }
}

/// The house.
pub struct House {
    /// Itself, for the tasks it starts.
    pub(crate) this: Weak<House>,
    pub(crate) options: HouseOptions,
    pub(crate) functions: ArcSwap<BTreeMap<String, Arc<ServedFunction>>>,
    /// What is served by source; its lock orders all changes.
    pub(crate) control: tokio::sync::Mutex<Vec<FunctionSource>>,
    in_flight: InFlight,
    /// New content that has not taken the place of old yet.
    pub(crate) switching: Mutex<Vec<Arc<ServedVersion>>>,
    /// Slots of those that have none reserved.
    pub(crate) unreserved: Arc<Shared>,
    /// Slots reserved for functions, over all their versions.
    pub(crate) reserved: Mutex<BTreeMap<FunctionName, Arc<Shared>>>,
    draining: AtomicBool,
    started: AtomicBool,
    random: AtomicU64,
    pub(crate) changed: watch::Sender<u64>,
    /// Told when a request finds no environment and none is being started.
    pub(crate) demanded: Arc<Notify>,
    /// How busy environments are to be, by capacity provider; by no name for those of functions that name none.
    pub(crate) targets: Mutex<BTreeMap<String, Targets>>,
    /// Devices that environments share, by name.
    pub(crate) devices: Arc<Devices>,
    /// What environments said last.
    pub(crate) journals: Arc<Journals>,
    /// Parent of every version's own.
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
}

impl House {
    /// An empty house: call [`House::start`] to load what the repositories hold.
    pub fn new(options: HouseOptions) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            random: AtomicU64::new(options.seed),
            unreserved: Shared::new(options.concurrency, None),
            reserved: Mutex::default(),
            switching: Mutex::default(),
            options,
            functions: ArcSwap::default(),
            control: tokio::sync::Mutex::default(),
            in_flight: InFlight::default(),
            draining: AtomicBool::new(false),
            started: AtomicBool::new(false),
            changed: watch::Sender::new(0),
            demanded: Arc::default(),
            targets: Mutex::default(),
            devices: Arc::default(),
            journals: Arc::default(),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
        })
    }

    /// Runs one invocation: admission, router, link, environment and back. Dropping the future cancels it.
    /// `received` is when the request was read. Every end is counted here, once.
    pub async fn invoke(&self, mut invocation: Invocation, received: Instant) -> Result<Reply, Refusal> {
        let resolved = self.choose(&invocation);
        let version = resolved.as_ref().ok().cloned();
        if invocation.deadline.is_none() {
            let own = version.as_ref().and_then(|version| version.source.settings.penstock.timeout_ms);
            let timeout = own.map(Duration::from_millis).or(self.options.function_timeout);
            invocation.deadline = timeout.and_then(|timeout| received.into_std().checked_add(timeout));
        }
        let resolve = || self.choose(&invocation);
        let batches = version.as_ref().and_then(|v| v.signature.load().as_ref().map(|s| s.max_batch_size > 0));
        let items = invocation.items(batches.unwrap_or(true));
        let account = Account::open(&self.in_flight, version, received, items);
        let result = match resolved {
            Err(refusal) => Err(refusal),
            Ok(_) if self.draining.load(Ordering::Relaxed) => {
                Err(Refusal::shed(ShedReason::Draining, "the server is shutting down", Some(Duration::from_secs(1))))
            }
            Ok(_) if invocation.deadline.is_some_and(|deadline| deadline <= received.into_std()) => {
                Err(invoke::expired())
            }
            Ok(version) => invoke::invoke(version, &invocation, || self.draw(), resolve).await,
        };
        match result {
            Ok((version, answer)) => {
                let timing = account.close(Outcome::Done, answer.timing);
                let share = answer.share;
                let answer = Answer { version, outputs: answer.outputs, parameters: answer.parameters, timing };
                Ok(Reply { answer, share })
            }
            Err(refusal) => {
                account.close(refusal.outcome(), invoke::untimed());
                Err(refusal)
            }
        }
    }

    /// The version an invocation is for: of two behind an alias, one is drawn.
    fn choose(&self, invocation: &Invocation) -> Result<Arc<ServedVersion>, Refusal> {
        self.version(invocation.function.as_str(), &invocation.qualifier, || self.draw())
    }

    /// The version a qualifier means, of two behind an alias the main one: NotFound for an unknown name or version. Ready
    /// or not is not asked.
    pub fn resolve(&self, function: &str, qualifier: &Qualifier) -> Result<Arc<ServedVersion>, Refusal> {
        self.version(function, qualifier, || u64::MAX)
    }

    fn version(
        &self,
        function: &str,
        qualifier: &Qualifier,
        random: impl Fn() -> u64,
    ) -> Result<Arc<ServedVersion>, Refusal> {
        let functions = self.functions.load();
        let unknown = || {
            let which = match qualifier {
                Qualifier::Unnamed => String::new(),
                Qualifier::Version(version) => format!(" version {version}"),
                Qualifier::Alias(alias) => format!(" alias '{alias}'"),
            };
            Refusal::new(ErrorCode::NotFound, format!("Request for unknown model: '{function}'{which} is not found"))
        };
        let served = functions.get(function).ok_or_else(unknown)?;
        // A draw is only worth its while where there is something to choose.
        let random = if served.aliases.is_empty() { 0 } else { random() };
        match served.version(qualifier, random) {
            Some(version) => Ok(version.clone()),
            None if *qualifier == Qualifier::Unnamed => {
                let reason = served.source.unavailable.as_deref().unwrap_or("unloaded");
                let text = format!("function '{function}' has no available versions: {reason}");
                Err(Refusal::new(ErrorCode::NotFound, text))
            }
            None => Err(unknown()),
        }
    }

    /// Everything known by name, ready or not.
    pub fn functions(&self) -> Arc<BTreeMap<String, Arc<ServedFunction>>> {
        self.functions.load_full()
    }

    /// Everything known by name and, in explicit mode, what the repositories hold and nobody has loaded yet. Errors: a
    /// repository that cannot be read.
    pub async fn index(&self) -> Result<Arc<BTreeMap<String, Arc<ServedFunction>>>, Refusal> {
        let known = self.functions();
        if self.options.control != penstock_repository::ControlMode::Explicit {
            return Ok(known);
        }
        let mut all = BTreeMap::clone(&known);
        for source in self.scan().await? {
            let unloaded = |source: FunctionSource| ServedFunction {
                name: source.name.clone(),
                source: Arc::new(source),
                versions: BTreeMap::new(),
                aliases: BTreeMap::new(),
            };
            all.entry(source.name.as_str().to_owned()).or_insert_with(|| Arc::new(unloaded(source)));
        }
        Ok(Arc::new(all))
    }

    /// How the repositories are followed.
    pub fn control(&self) -> penstock_repository::ControlMode {
        self.options.control
    }

    /// Requests between their first and their last moment in the house.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.count()
    }

    /// The whole server takes requests: started, not draining.
    pub fn is_ready(&self) -> bool {
        self.started.load(Ordering::Relaxed) && !self.draining.load(Ordering::Relaxed)
    }

    /// Health of the server (`""`), or of a function by name.
    pub fn health(&self, service: &str) -> Health {
        let of = |serving| if serving { Health::Serving } else { Health::NotServing };
        if service.is_empty() {
            return of(self.is_ready());
        }
        match self.functions.load().get(service) {
            None => Health::Unknown,
            Some(function) => {
                let ready = function.versions.values().any(|version| version.state().is_ready());
                of(ready && self.is_ready())
            }
        }
    }

    /// Completes when the health of anything may have changed since this was called; ask [`House::health`] then.
    pub fn health_changed(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut changes = self.changed.subscribe();
        async move {
            // An error means that the house is gone, which is a change too.
            let _ = changes.changed().await;
        }
    }

    /// Loads what the repositories hold, as the control mode says, and waits until each version is ready or known not
    /// to be; [`House::all_loaded`] comes after. Errors: a repository that cannot be read, a function to load that does not exist.
    pub async fn start(&self) -> Result<(), Refusal> {
        let scan = self.scan().await?;
        let names = &self.options.load_at_start;
        let functions = self.options.control.at_start(scan, names).map_err(|unknown| {
            Refusal::new(
                ErrorCode::NotFound,
                format!("nothing in the model repository is called '{}'", unknown.join("', '")),
            )
        })?;
        self.load_all(functions).await;
        Ok(())
    }

    /// The same with functions that are known, and opens.
    pub async fn start_with(&self, functions: Vec<FunctionSource>) {
        self.load_all(functions).await;
        self.all_loaded();
    }

    /// All is loaded: the house tells that it takes requests.
    pub fn all_loaded(&self) {
        self.started.store(true, Ordering::Relaxed);
        self.changed.send_modify(|count| *count += 1);
    }

    async fn load_all(&self, functions: Vec<FunctionSource>) {
        let changed = {
            let mut control = self.control.lock().await;
            let wanted = beside_deployed(&control, functions);
            self.change(&mut control, wanted)
        };
        settled(&changed.opened).await;
    }

    /// Looks at the repositories again, once, and follows what changed (poll mode).
    pub async fn poll(&self) -> Result<(), Refusal> {
        let functions = self.scan().await?;
        let mut control = self.control.lock().await;
        let wanted = beside_deployed(&control, functions);
        drop(self.change(&mut control, wanted));
        Ok(())
    }

    /// Loads or reloads a function from the repository and waits until it is ready, or says why not.
    pub async fn load(&self, function: &str, load: LoadOverride) -> Result<(), Refusal> {
        let name = self.controllable(function)?;
        self.not_deployed(function)?;
        let repositories = self.options.repositories.clone();
        let source = tokio::task::spawn_blocking(move || match load.config_json {
            None => Ok(penstock_repository::find_function(&repositories, &name)),
            Some(json) => penstock_repository::with_config_json(&repositories, &name, &json)
                .map(Some)
                .map_err(|error| Refusal::new(error.code(), error.to_string())),
        })
        .await
        .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))??;
        let Some(source) = source else {
            let text = format!("failed to load '{function}', no such model in the repository");
            return Err(Refusal::new(ErrorCode::NotFound, text));
        };
        let unavailable = source.unavailable.clone();
        let changed = {
            // Held from reading to writing: another load at the same time must not be undone.
            let mut control = self.control.lock().await;
            self.forget_failures(&mut control, &source.name);
            let mut wanted = control.clone();
            wanted.retain(|other| other.name != source.name);
            wanted.push(source);
            self.change(&mut control, wanted)
        };
        if let Some(reason) = unavailable {
            return Err(Refusal::new(ErrorCode::Unavailable, format!("failed to load '{function}': {reason}")));
        }
        settled(&changed.opened).await;
        for new in changed.switches {
            // Now the new content answers, or it is known why not.
            if let Err(Unavailable { reason, .. }) = new.switched().await {
                let number = new.number;
                let text = format!("failed to load '{function}' version {number}: {reason}; the old content goes on");
                return Err(Refusal::new(ErrorCode::Unavailable, text));
            }
        }
        for version in changed.opened {
            if let Some(Unavailable { reason, .. }) = version.failure() {
                let text = format!("failed to load '{function}' version {}: {reason}", version.number);
                return Err(Refusal::new(ErrorCode::Unavailable, text));
            }
        }
        Ok(())
    }

    /// Makes `control` say what truly is served of a function: a version that failed to load is not, and one whose new
    /// content failed still has its old content. So loading tries again, even if the files are as they were.
    fn forget_failures(&self, control: &mut [FunctionSource], function: &FunctionName) {
        let functions = self.functions.load();
        let Some(served) = functions.get(function.as_str()) else { return };
        for known in control.iter_mut().filter(|known| known.name == *function) {
            known.versions.retain_mut(|known| match served.versions.get(&known.number) {
                Some(version) if version.failure().is_some() => {
                    version.stop.cancel();
                    false
                }
                Some(version) => {
                    known.clone_from(&version.source);
                    true
                }
                None => false,
            });
        }
    }

    /// Unloads a function: drains its environments and ends their processes. Unknown names are fine.
    pub async fn unload(&self, function: &str) -> Result<(), Refusal> {
        self.controllable(function)?;
        self.not_deployed(function)?;
        let served = self.functions.load().get(function).cloned();
        {
            let mut control = self.control.lock().await;
            let mut wanted = control.clone();
            wanted.retain(|other| other.name.as_str() != function);
            self.change(&mut control, wanted);
        }
        for version in served.iter().flat_map(|served| served.versions.values()) {
            version.ended().await;
        }
        Ok(())
    }

    /// Refuses new requests from now on, lets those in flight finish (at most the drain timeout), and ends all
    /// environments.
    pub async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        self.changed.send_modify(|count| *count += 1);
        let deadline = Instant::now() + self.options.drain_timeout;
        while self.in_flight() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Of all versions, those that are just being loaded too.
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    fn draw(&self) -> u64 {
        // SplitMix64 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
        let mut z = self.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn controllable(&self, function: &str) -> Result<FunctionName, Refusal> {
        if self.options.control != penstock_repository::ControlMode::Explicit {
            let text = "explicit model load / unload is not allowed if polling is enabled or model control mode is NONE: \
                        start with --model-control-mode explicit";
            return Err(Refusal::new(ErrorCode::Unavailable, text));
        }
        FunctionName::new(function).map_err(|error| Refusal::invalid(error.to_string()))
    }

    async fn scan(&self) -> Result<Vec<FunctionSource>, Refusal> {
        let repositories = self.options.repositories.clone();
        let scan = tokio::task::spawn_blocking(move || penstock_repository::scan(&repositories))
            .await
            .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))?
            .map_err(|error| Refusal::new(error.code(), error.to_string()))?;
        for rejected in &scan.rejected {
            tracing::warn!(path = %rejected.path.display(), reason = rejected.reason, "not a function");
        }
        Ok(scan.functions)
    }
}
