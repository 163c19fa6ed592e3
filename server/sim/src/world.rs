//! A run happens: the house of a script, its callers, its faults, and what came of it all.
//!
//! Called by tests and by the program. One thread, one paused clock: time passes only where nothing is left to do.

use crate::script::{Request, Scaling, Script};
use crate::stage::{Stage, Start, Troupe};
use bytes::{BufMut, BytesMut};
use penstock_admission::ByteBudget;
use penstock_dispatch::{Balance, ControlMode, House, HouseOptions, Reply, ScalingPolicy, ServedVersion};
use penstock_domain::{
    Architecture, CallerId, Datatype, FunctionName, Invocation, Refusal, ShedReason, Tensor, VersionNumber,
};
use penstock_environment::{BatchingPolicy, DeviceShare, IsolationPolicy, QueueLimits, Specification};
use penstock_repository::{
    ContentRevision, FunctionSource, IdentityDelays, RuntimeSource, VersionSettings, VersionSource,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// How long after the last request everybody must have been answered: longer than any batch, restart and silence.
const PATIENCE: Duration = Duration::from_secs(3600);
/// After the faults: longer than the longest pause between two starts of an environment, and a silence noticed.
const RECOVERY: Duration = Duration::from_secs(60);
/// Requests afterwards, one after the other: all must be served.
const PROBES: usize = 3;
/// How often the scaler looks.
const LOOK: Duration = Duration::from_millis(500);
const FUNCTION: &str = "f";
const BUDGET_BYTES: u64 = 64 << 20;

/// A bug put in on purpose, to see that it is caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// A slot is taken and never given back.
    LeakedSlot,
    /// Cancels never reach an environment.
    LostCancels,
    /// A refusal that is in nobody's books.
    UncountedRefusal,
}

/// How a request ended for its caller.
#[derive(Clone, Debug, PartialEq)]
pub enum How {
    /// With its own number.
    Done,
    /// With another.
    Wrong(u64),
    /// With a refusal.
    Refused(Refusal),
    /// It left.
    Left,
}

/// The end of a request.
#[derive(Clone, Debug, PartialEq)]
pub struct End {
    /// Its place in the script; probes follow.
    pub number: u64,
    /// When it came, from the run's start.
    pub came: Duration,
    /// When it ended.
    pub ended: Duration,
    /// And how.
    pub how: How,
}

/// A run that has happened.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// In the order in which they ended.
    pub ends: Vec<End>,
    /// Requests that were never answered.
    pub unanswered: usize,
    /// All starts, in order.
    pub starts: Vec<Start>,
    /// The version's books when all was over.
    pub balance: Balance,
    /// Slots and bytes still taken, and requests still in flight, when all was over.
    pub held: (u32, u64, u64),
    /// Fewest and most environments that were kept at any time.
    pub environments: (u32, u32),
    /// How many probes came, from this number on.
    pub probes_from: u64,
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

async fn happen(script: &Script, plant: Option<Plant>) -> Run {
    let stage = Stage::new(script, plant == Some(Plant::LostCancels));
    let budget = ByteBudget::new(BUDGET_BYTES);
    let house = open(script, &stage, &budget).await;
    let version = house.resolve(FUNCTION, &penstock_domain::Qualifier::Unnamed).expect("the house was opened with it");
    if plant == Some(Plant::LeakedSlot) {
        version.environments().iter().for_each(|environment| std::mem::forget(environment.slots().try_take()));
    }
    let began = Instant::now();
    let following = tokio::spawn(house.clone().follow_load(policy(script), LOOK));
    let seen = watch_environments(version.clone());
    let faults = script.faults.clone();
    let on_stage = stage.clone();
    let fate = tokio::spawn(async move {
        for (at, fault) in faults {
            sleep_until(began + at).await;
            on_stage.befall(fault);
        }
    });
    let mut callers = JoinSet::new();
    for (number, request) in script.requests.iter().cloned().enumerate() {
        let (house, stage) = (house.clone(), stage.clone());
        let swallowed = plant == Some(Plant::UncountedRefusal) && number == script.requests.len() / 2;
        callers.spawn(async move {
            sleep_until(began + request.at).await;
            call(&house, &stage, number as u64, &request, swallowed).await
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
    sleep(RECOVERY).await;
    let probes_from = script.requests.len() as u64;
    for probe in 0..PROBES as u64 {
        let request = Request {
            at: Duration::ZERO,
            items: 1,
            timeout: None,
            leaves: None,
            priority: 0,
            caller: None,
            deadly: false,
        };
        ends.push(call(&house, &stage, probes_from + probe, &request, false).await);
    }
    // A caller that has left is forgotten by the environment a moment later.
    sleep(Duration::from_millis(10)).await;
    let held = (slots_taken(&version), budget.taken(), house.in_flight());
    let balance = version.balance();
    following.abort();
    let environments = seen.await_end().await;
    house.drain().await;
    Run { ends, unanswered, starts: stage.starts(), balance, held, environments, probes_from }
}

fn policy(script: &Script) -> ScalingPolicy {
    match script.scaling {
        None => ScalingPolicy::default(),
        Some(Scaling { down_after, idle_after, .. }) => {
            let down_every = ScalingPolicy::default().down_every.min(down_after);
            ScalingPolicy { down_after, down_every, idle_after, ..ScalingPolicy::default() }
        }
    }
}

/// Looks how many environments are kept, more often than the scaler does.
struct Watching {
    end: oneshot::Sender<()>,
    task: JoinHandle<(u32, u32)>,
}

fn watch_environments(version: Arc<ServedVersion>) -> Watching {
    let (end, mut ended) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut seen = (u32::MAX, 0);
        loop {
            let kept = version.environments_kept();
            seen = (seen.0.min(kept), seen.1.max(kept));
            if timeout(LOOK / 5, &mut ended).await.is_ok() {
                return seen;
            }
        }
    });
    Watching { end, task }
}

impl Watching {
    async fn await_end(self) -> (u32, u32) {
        let _ = self.end.send(());
        self.task.await.expect("it only looks")
    }
}

fn slots_taken(version: &ServedVersion) -> u32 {
    let environments: u32 = version.environments().iter().map(|environment| environment.slots().taken()).sum();
    version.slots().taken() + environments
}

async fn call(house: &House, stage: &Stage, number: u64, request: &Request, swallowed: bool) -> End {
    let (came, now) = (stage.now(), Instant::now());
    let invocation = invocation(number, request, now);
    let answer = async {
        match house.invoke(invocation, now).await {
            Ok(Reply { answer, .. }) => {
                match answer.outputs.first().and_then(|tensor| tensor.data.first_chunk::<8>()) {
                    Some(bytes) if u64::from_le_bytes(*bytes) == number => How::Done,
                    other => How::Wrong(other.map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))),
                }
            }
            Err(refusal) => How::Refused(refusal),
        }
    };
    let how = match (swallowed, request.leaves) {
        (true, _) => How::Refused(Refusal::shed(ShedReason::QueueRequests, "in nobody's books", Some(Duration::ZERO))),
        (false, None) => answer.await,
        (false, Some(after)) => timeout(after, answer).await.unwrap_or(How::Left),
    };
    End { number, came, ended: stage.now(), how }
}

/// Each row begins with the request's number.
fn invocation(number: u64, request: &Request, now: Instant) -> Invocation {
    let mut data = BytesMut::new();
    (0..request.items).for_each(|_| data.put_u64_le(number));
    let tensor = Tensor {
        name: "number".into(),
        datatype: Datatype::Uint64,
        shape: [i64::from(request.items)].as_slice().into(),
        data: data.freeze(),
    };
    Invocation {
        function: FunctionName::new(FUNCTION).expect("a plain name"),
        qualifier: penstock_domain::Qualifier::Unnamed,
        id: String::new(),
        parameters: Vec::new(),
        inputs: vec![tensor],
        outputs: Vec::new(),
        deadline: request.timeout.map(|timeout| now.into_std() + timeout),
        priority: request.priority,
        caller: request.caller.map(CallerId),
        splittable: false,
    }
}

fn settings(script: &Script) -> VersionSettings {
    let mut settings = VersionSettings::default();
    if let Some(Scaling { min, max, .. }) = script.scaling {
        (settings.penstock.environments, settings.penstock.environments_max) = (Some(min), Some(max));
    }
    settings
}

async fn open(script: &Script, stage: &Arc<Stage>, budget: &ByteBudget) -> Arc<House> {
    let specification = Specification {
        function: FUNCTION.into(),
        version: 1,
        runtime: serde_json::Value::Null,
        batching: BatchingPolicy {
            dynamic: script.dynamic,
            max_delay_us: script.max_delay.as_micros() as u64,
            max_tokens: 1,
            priority_levels: script.priority_levels,
            default_priority: script.priority_levels.div_ceil(2),
            run_timeout_us: script.run_timeout.as_micros() as u64,
            ..BatchingPolicy::default()
        },
        queue: QueueLimits {
            requests: script.slots,
            standing_wait_us: script.standing_wait.as_micros() as u64,
            ..QueueLimits::default()
        },
        workers: script.workers as usize,
        preparation_threads: 1,
        isolation: IsolationPolicy::default(),
        device: script.one_device.then(|| DeviceShare { name: "one".into(), weight: 1, depth: script.device_depth }),
        accelerator: None,
        provider: None,
        architecture: Architecture::OWN,
        cores: 1,
        memory_bytes: 0,
        body_bytes_max: 1 << 20,
    };
    let house = House::new(HouseOptions {
        repositories: Vec::new(),
        control: ControlMode::None,
        load_at_start: Vec::new(),
        launcher: Arc::new(Troupe(stage.clone())),
        specify: Box::new(move |_, _| Ok(specification.clone())),
        placement: None,
        device_busy: Box::new(|_| None),
        concurrency: script.concurrency,
        function_concurrency: 4096,
        caller_concurrency: 0,
        function_timeout: None,
        environments: script.environments,
        waiting: 1024,
        instance_timeout: Duration::ZERO,
        load_timeout: Duration::from_secs(10),
        drain_timeout: Duration::from_secs(10),
        budget: budget.clone(),
        seed: script.seed,
    });
    let version = VersionSource {
        number: VersionNumber(1),
        directory: "/nowhere".into(),
        runtime: RuntimeSource::Identity { delays: IdentityDelays::default() },
        settings: Arc::new(settings(script)),
        revision: ContentRevision(1),
        config: None,
        linked_paths: Vec::new(),
    };
    let function = FunctionSource {
        name: FunctionName::new(FUNCTION).expect("a plain name"),
        origin: penstock_repository::Origin::Repository,
        reserved_concurrency: None,
        directory: "/nowhere".into(),
        config: Arc::default(),
        versions: vec![version],
        unavailable_versions: Vec::new(),
        unavailable: None,
    };
    house.start_with(vec![function]).await;
    // All of them, not only the first that is ready.
    sleep(Duration::from_millis(10)).await;
    house
}
