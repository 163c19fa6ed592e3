//! A run happens: a house on a fleet on a cloud, its callers, its faults, and what came of it all.
//!
//! Called by tests and by the program. One thread, one paused clock: time passes only where nothing is left to do.

use super::cloud::{Cloud, OfCloud};
use super::machine::{FUNCTION, Specifications};
use super::script::{Fault, Function, Script};
use super::wires::Net;
use crate::world::{End, How};
use bytes::Bytes;
use penstock_admission::ByteBudget;
use penstock_dispatch::{Balance, ControlMode, House, HouseOptions, Reply, ScalingPolicy, ServedVersion};
use penstock_domain::{Architecture, Datatype, FunctionName, Invocation, Qualifier, Tensor, Variables, VersionNumber};
use penstock_environment::{BatchingPolicy, IsolationPolicy, QueueLimits, Specification};
use penstock_instances::{Fleet, FleetOptions, Listen, OnInstances};
use penstock_repository::{
    ContentRevision, FunctionSource, IdentityDelays, RuntimeSource, VersionSettings, VersionSource,
};
use penstock_scaler::Rules;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// How long after the last request everybody must have been answered.
const PATIENCE: Duration = Duration::from_secs(900);
/// Within which a fleet comes to rest when all faults are over: longer than the longest time for which a type is left alone.
const REST: Duration = Duration::from_secs(420);
/// How often it is looked whether all holds.
const LOOK: Duration = Duration::from_secs(1);
/// Between two tries of a caller that is told to come again.
const AGAIN: Duration = Duration::from_secs(5);
/// How often the scaler looks.
const SCALE: Duration = Duration::from_millis(500);
const BUDGET_BYTES: u64 = 64 << 20;

/// A bug put in on purpose, to see that it is caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// The fleet is told of a limit that is twice as high.
    WrongLimit,
    /// The fleet keeps what is empty.
    KeepsEmpty,
    /// The provider does not end what it is told to end.
    EndsNothing,
    /// A machine has less room than its type says.
    SmallMachines,
    /// The machines of environments that are to move are ended at once.
    EndsAtNotice,
}

/// A run that has happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// In the order in which they ended.
    pub ends: Vec<End>,
    /// Requests that were never answered.
    pub unanswered: usize,
    /// The books of each version when all was over.
    pub balances: Vec<Balance>,
    /// Slots and bytes still taken, and requests still in flight, when all was over.
    pub held: (u32, u64, u64),
    /// From when to when requests may have failed because something was lost.
    pub losses: Vec<(Duration, Duration)>,
    /// What was seen not to hold while it went on.
    pub broken: Vec<String>,
    /// Most cores that ran or were ordered at any time.
    pub most_vcpu: u32,
    /// Machines that came.
    pub machines: u32,
    /// Of those, machines that came for nobody.
    pub orphans: u32,
    /// When the fleet had come to rest, from the moment at which all faults were over.
    pub rested: Duration,
}

/// Lets a script happen.
pub fn run(script: &Script, plant: Option<Plant>) -> Run {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O needs nothing from the system");
    runtime.block_on(happen(script, plant))
}

/// All that a run is made of.
pub(super) struct World {
    pub(super) script: Script,
    pub(super) cloud: Arc<Cloud>,
    pub(super) fleet: Arc<Fleet>,
    pub(super) house: Arc<House>,
    pub(super) versions: Vec<Arc<ServedVersion>>,
    plant: Option<Plant>,
}

async fn happen(script: &Script, plant: Option<Plant>) -> Run {
    let budget = ByteBudget::new(BUDGET_BYTES);
    let (world, following) = open(script, plant, &budget).await;
    let began = Instant::now();
    let watching = tokio::spawn(world.clone().watch());
    let fate = tokio::spawn(world.clone().befall_all(began));
    let mut callers = JoinSet::new();
    for (number, request) in script.requests.iter().cloned().enumerate() {
        let world = world.clone();
        callers.spawn(async move {
            sleep_until(began + request.at).await;
            world.call(number as u64, request.function, request.timeout).await
        });
    }
    let mut ends = Vec::new();
    let all = async {
        while let Some(end) = callers.join_next().await {
            ends.extend(end);
        }
    };
    let last = script.requests.last().map_or(Duration::ZERO, |request| request.at);
    let _ = timeout(last + PATIENCE, all).await;
    let unanswered = script.requests.len() - ends.len();
    callers.abort_all();
    while callers.join_next().await.is_some() {}
    let _ = fate.await;
    let calm = Instant::now();
    world.rest("after the faults").await;
    let rested = calm.elapsed();
    for function in 0..script.functions.len() {
        ends.extend(world.probe((script.requests.len() + ends.len()) as u64, function).await);
    }
    world.rest("after the probes").await;
    // A caller that has left is forgotten by the environment a moment later.
    sleep(Duration::from_millis(10)).await;
    let held = (world.slots_taken(), budget.taken(), world.house.in_flight());
    let balances = world.versions.iter().map(|version| version.balance()).collect();
    following.abort();
    watching.abort();
    world.house.drain().await;
    world.fleet.close().await.expect("all end");
    sleep(Duration::from_millis(10)).await;
    world.ended();
    world.nothing_was_refused();
    let mut state = world.cloud.state.lock();
    let (losses, broken) = (std::mem::take(&mut state.losses), std::mem::take(&mut state.broken));
    let (most_vcpu, machines) = (state.most_vcpu, state.next - 1);
    let orphans = state.machines.values().filter(|one| one.orphan_since.is_some()).count() as u32;
    Run { ends, unanswered, balances, held, losses, broken, most_vcpu, machines, orphans, rested }
}

impl World {
    pub(super) fn breaks(&self, text: String) {
        let mut state = self.cloud.state.lock();
        // Once is enough to see it.
        if state.broken.len() < 20 {
            state.broken.push(text);
        }
    }

    fn slots_taken(&self) -> u32 {
        let of = |version: &Arc<ServedVersion>| {
            let each: u32 = version.environments().iter().map(|environment| environment.slots().taken()).sum();
            version.slots().taken() + each
        };
        self.versions.iter().map(of).sum()
    }

    async fn watch(self: Arc<Self>) {
        loop {
            sleep(LOOK).await;
            self.look();
        }
    }

    /// Waits until all is as it is to be.
    async fn rest(&self, when: &str) {
        let began = Instant::now();
        loop {
            let unrest = self.unrest();
            if unrest.is_empty() {
                return;
            }
            if began.elapsed() > REST {
                unrest.into_iter().for_each(|text| self.breaks(format!("{when}: {text}")));
                return;
            }
            sleep(LOOK).await;
        }
    }

    async fn befall_all(self: Arc<Self>, began: Instant) {
        for (at, fault) in self.script.faults.clone() {
            sleep_until(began + at).await;
            self.befall(&fault);
        }
        sleep_until(began + self.script.calm_at).await;
        self.cloud.calm();
    }

    fn befall(self: &Arc<Self>, fault: &Fault) {
        match fault {
            Fault::Kill(which) => self.cloud.kill(*which),
            Fault::Freeze(which, long) => self.cloud.freeze(*which, *long),
            Fault::Complain(which, long) => self.cloud.complain(*which, *long),
            Fault::Notice(which, lead) => {
                self.cloud.notice(*which, if self.plant == Some(Plant::EndsAtNotice) { Duration::ZERO } else { *lead });
            }
            Fault::KillEnvironment(which) => self.cloud.kill_environment(*which),
            Fault::Drought(instance_type, zone, long) => {
                let instance_type = instance_type.map(|index| self.script.types[index].name.clone());
                let zone = zone.map(|index| self.script.zones[index].clone());
                self.cloud.state.lock().droughts.push((instance_type, zone, Instant::now() + *long));
            }
            Fault::Limit(vcpu) => {
                self.cloud.state.lock().limits.push((self.cloud.now(), *vcpu));
                self.fleet.set_vcpu_max(*vcpu);
            }
            Fault::ReplaceAll => self.fleet.replace_all(),
        }
    }

    /// Asks until it is answered, as a caller does that is told to come again; all its tries.
    async fn probe(&self, first: u64, function: usize) -> Vec<End> {
        let (began, mut ends) = (Instant::now(), Vec::new());
        loop {
            let end = self.call(first + ends.len() as u64, function, None).await;
            let is_done = end.how == How::Done;
            ends.push(end);
            if is_done || !self.may_have_one_more(function) {
                return ends;
            }
            if began.elapsed() > REST {
                self.breaks(format!("a probe was never answered: {:?}", ends.last()));
                return ends;
            }
            sleep(AGAIN).await;
        }
    }

    async fn call(&self, number: u64, function: usize, timeout: Option<Duration>) -> End {
        let (came, now) = (self.cloud.now(), Instant::now());
        let invocation = invocation(&self.script.functions[function], number, timeout, now);
        let how = match self.house.invoke(invocation, now).await {
            Ok(Reply { answer, .. }) => {
                match answer.outputs.first().and_then(|tensor| tensor.data.first_chunk::<8>()) {
                    Some(bytes) if u64::from_le_bytes(*bytes) == number => How::Done,
                    other => How::Wrong(other.map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))),
                }
            }
            Err(refusal) => How::Refused(refusal),
        };
        End { number, came, ended: self.cloud.now(), how }
    }
}

fn invocation(function: &Function, number: u64, timeout: Option<Duration>, now: Instant) -> Invocation {
    let tensor = Tensor {
        name: "number".into(),
        datatype: Datatype::Uint64,
        shape: [1].as_slice().into(),
        data: Bytes::copy_from_slice(&number.to_le_bytes()),
    };
    Invocation {
        function: function.name.clone(),
        qualifier: Qualifier::Unnamed,
        id: String::new(),
        parameters: Vec::new(),
        inputs: vec![tensor],
        outputs: Vec::new(),
        deadline: timeout.map(|timeout| now.into_std() + timeout),
        priority: 0,
        caller: None,
        splittable: false,
    }
}

/// What is unique in this process, and never the same twice.
fn token() -> io::Result<String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    Ok(format!("token-{}", NEXT.fetch_add(1, Ordering::Relaxed)))
}

async fn open(script: &Script, plant: Option<Plant>, budget: &ByteBudget) -> (Arc<World>, tokio::task::JoinHandle<()>) {
    let net = Arc::<Net>::default();
    let of = |function: &Function| (function.name.as_str().to_owned(), (function.clone(), specification(function)));
    let specifications: Specifications = Arc::new(script.functions.iter().map(of).collect());
    let cloud = Cloud::new(script, net.clone(), specifications.clone(), plant);
    let options = FleetOptions {
        name: "simulated".into(),
        rules: Rules {
            vcpu_max: script.vcpu_max * if plant == Some(Plant::WrongLimit) { 2 } else { 1 },
            allowed: Vec::new(),
            excluded: Vec::new(),
            zones: script.zones.clone(),
            start_timeout: script.start_timeout,
            empty_after: script.empty_after * if plant == Some(Plant::KeepsEmpty) { 1000 } else { 1 },
        },
        types: script.types.clone(),
        deadlines: script.deadlines,
        folder: "/nowhere".into(),
        listen: Listen::Wires(net),
        disk: None,
        token,
    };
    let provider = Arc::new(OfCloud(cloud.clone()));
    let fleet = Fleet::open(options, provider, CancellationToken::new()).expect("nobody listens there yet");
    let house = house(script, fleet.clone(), specifications, budget);
    let sources = script.functions.iter().map(source).collect();
    let starting = tokio::spawn({
        let house = house.clone();
        async move { house.start_with(sources).await }
    });
    match script.is_gentle {
        true => drop(starting.await),
        // Callers do not wait for it.
        false => sleep(Duration::from_millis(1)).await,
    }
    let resolve = |function: &Function| house.resolve(function.name.as_str(), &Qualifier::Unnamed);
    let versions = script.functions.iter().map(|function| resolve(function).expect("the house was opened with it"));
    let versions = versions.collect();
    let policy = ScalingPolicy {
        down_after: script.down_after,
        down_every: Duration::from_secs(1),
        idle_after: script.idle_after,
        ..ScalingPolicy::default()
    };
    let following = tokio::spawn(house.clone().follow_load(policy, SCALE));
    (Arc::new(World { script: script.clone(), cloud, fleet, house, versions, plant }), following)
}

fn specification(function: &Function) -> Specification {
    let variables = Variables([(FUNCTION.into(), function.name.as_str().into())].into());
    Specification {
        function: function.name.as_str().into(),
        version: 1,
        runtime: serde_json::Value::Null,
        batching: BatchingPolicy {
            dynamic: true,
            max_tokens: 1,
            run_timeout_us: 10_000_000,
            ..BatchingPolicy::default()
        },
        queue: QueueLimits { requests: function.slots, ..QueueLimits::default() },
        workers: 1,
        preparation_threads: 1,
        isolation: IsolationPolicy { variables, ..IsolationPolicy::default() },
        device: None,
        accelerator: None,
        provider: None,
        architecture: Architecture::OWN,
        cores: function.vcpu,
        memory_bytes: function.memory_mib << 20,
        body_bytes_max: 1 << 20,
    }
}

fn source(function: &Function) -> FunctionSource {
    let mut settings = VersionSettings::default();
    (settings.penstock.environments, settings.penstock.environments_max) = (Some(function.min), Some(function.max));
    let version = VersionSource {
        number: VersionNumber(1),
        directory: "/nowhere".into(),
        runtime: RuntimeSource::Identity { delays: IdentityDelays::default() },
        settings: Arc::new(settings),
        revision: ContentRevision(1),
        config: None,
        linked_paths: Vec::new(),
    };
    FunctionSource {
        name: function.name.clone(),
        origin: penstock_repository::Origin::Repository,
        reserved_concurrency: None,
        directory: "/nowhere".into(),
        config: Arc::default(),
        versions: vec![version],
        unavailable_versions: Vec::new(),
        unavailable: None,
    }
}

fn house(script: &Script, fleet: Arc<Fleet>, specifications: Specifications, budget: &ByteBudget) -> Arc<House> {
    let by_name: BTreeMap<FunctionName, Specification> =
        specifications.values().map(|(function, told)| (function.name.clone(), told.clone())).collect();
    House::new(HouseOptions {
        repositories: Vec::new(),
        control: ControlMode::None,
        load_at_start: Vec::new(),
        launcher: Arc::new(OnInstances(fleet)),
        specify: Box::new(move |function, _| by_name.get(&function.name).cloned().ok_or_else(|| "unknown".to_owned())),
        placement: None,
        device_busy: Box::new(|_| None),
        concurrency: 1 << 20,
        function_concurrency: 4096,
        caller_concurrency: 0,
        function_timeout: None,
        environments: 1,
        waiting: 1024,
        instance_timeout: Duration::ZERO,
        load_timeout: Duration::from_secs(30),
        drain_timeout: Duration::from_secs(10),
        budget: budget.clone(),
        seed: script.seed,
    })
}
