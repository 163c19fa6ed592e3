//! `penstock serve`: everything on one machine. Opens the doors, loads the functions, says when it is ready, drains.

use crate::accelerate::Accelerators;
use crate::config::Config;
use crate::ec2::{self, OfEc2};
use crate::gpus::Gpus;
use crate::remote::Services;
use crate::roles::Roles;
use crate::state::{self, State};
use crate::{EXIT_FAILED, EXIT_USAGE, control, instances, keys, remote, runtime};
use penstock_admission::ByteBudget;
use penstock_control::ControlPlane;
use penstock_dispatch::{ControlMode, House, HouseOptions, ScalingPolicy};
use penstock_environment::Launcher;
use penstock_frontend::grpc_service;
use penstock_frontend::guard::Guard;
use penstock_frontend::host::{self, HostLimits};
use penstock_frontend::http::{HttpOptions, http_router};
use penstock_frontend::lambda::Lambda;
use penstock_frontend::metrics::metrics_router;
use penstock_frontend::options::{FrontendOptions, MESSAGE_HEAD_BYTES, header_name};
use penstock_frontend::request_id::RequestIds;
use penstock_frontend::status::OverloadCodes;
use penstock_instances::{ByProvider, Fleets, OnInstances, OpenFleet};
use penstock_telemetry::{LogFormat, Scrape};
use penstock_trust::Authority;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long connections may take to close once everything is answered.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often the metrics' histograms are folded.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Why the server did not come up.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{key}: cannot listen on {address}: {source}")]
    Listen { key: &'static str, address: std::net::SocketAddr, source: io::Error },
    #[error("{0}")]
    Telemetry(#[from] penstock_telemetry::TelemetryError),
    #[error("{0}")]
    Load(#[from] penstock_domain::Refusal),
    #[error("{0}")]
    ControlPlane(#[from] control::ControlPlaneError),
    #[error("{0}")]
    Control(#[from] penstock_control::ControlError),
}

/// Serves until a signal; the exit code is 0 after a drain.
pub(crate) fn run(config: Config) -> ExitCode {
    let format = match config.text("log.format") {
        "human" => LogFormat::Human,
        "json" => LogFormat::Json,
        _ => LogFormat::Auto,
    };
    let checked = keys::authoriser(&config).and_then(|authoriser| {
        if config.text("instances.provider") == "ec2" {
            ec2::check(&config)?;
        }
        Ok((authoriser, Roles::new(&config)?, remote::open(&config)?, state::settings(&config)?))
    });
    let (authoriser, roles, services, state) = match checked {
        Ok(checked) => checked,
        Err(error) => {
            say(&mut io::stderr(), &format!("penstock: configuration: {error}"));
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let guard = authoriser.map(|authoriser| Guard::new(authoriser, epoch));
    penstock_telemetry::init_logs(format, config.text("log.filter"));
    let served = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(ServeError::from).and_then(
        |runtime| {
            let served = runtime.block_on(serve(config, guard, roles, services, state));
            // What still reads or writes a package then is as it would be after a kill.
            runtime.shutdown_timeout(CLOSE_TIMEOUT);
            served
        },
    );
    match served {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&mut io::stderr(), &format!("penstock: {error}"));
            ExitCode::from(EXIT_FAILED)
        }
    }
}

/// One line for whoever watches. Where it cannot be written (a full disk, a closed pipe) the server goes on without.
fn say(to: &mut dyn io::Write, line: &str) {
    let _ = writeln!(to, "{line}").and_then(|()| to.flush());
}

/// Starts environments as this same program in its other role.
pub(crate) fn launcher() -> io::Result<Launcher> {
    Ok(Launcher { program: std::env::current_exe()?, accelerated: None, arguments: vec!["environment".into()] })
}

async fn serve(
    config: Config,
    guard: Option<Guard>,
    roles: Roles,
    services: Services,
    state: State,
) -> Result<(), ServeError> {
    let config = Arc::new(config);
    let scrape = Arc::new(penstock_telemetry::install()?);
    let http = listen(&config, "listen.http").await?;
    let grpc = listen(&config, "listen.grpc").await?;
    let metrics = listen(&config, "listen.metrics").await?;
    let others = match state.is_shared() {
        true => Some(listen(&config, "state.listen").await?),
        false => None,
    };
    let others_at = others.as_ref().map(TcpListener::local_addr).transpose()?;
    let addresses = (http.local_addr()?, grpc.local_addr()?, metrics.local_addr()?);

    let own = std::env::current_exe()?;
    let accelerators = {
        let config = config.clone();
        // The driver may take its time.
        tokio::task::spawn_blocking(move || {
            let gpus = Gpus::look(&config, |error| tracing::warn!("{error}"));
            let accelerators = Accelerators::new(&config, gpus.as_ref(), &own);
            let used =
                accelerators.as_ref().map(|accelerators| (accelerators.placement.clone(), accelerators.busy.clone()));
            if let Some(gpus) = gpus {
                let (placement, busy) = used.unwrap_or_default();
                gpus.follow(Duration::from_millis(config.integer("devices.interval_ms")), placement, busy);
            }
            accelerators
        })
        .await
        .map_err(io::Error::other)?
    };
    let budget = ByteBudget::new(config.integer("limits.memory_budget_bytes"));
    let instances = CancellationToken::new();
    let fleets = open_fleets(&config, accelerators.as_ref(), &instances)?;
    let _ends_with_this = instances.drop_guard();
    let gpus = accelerators.as_ref().map_or(0, |accelerators| accelerators.places.len() as u32);
    let house = House::new(house_options(config.clone(), budget.clone(), accelerators, roles, &fleets)?);
    let (control, servers) = {
        let (config, house) = (config.clone(), house.clone());
        let fleets = fleets.clone();
        tokio::task::spawn_blocking(move || control::open(&config, (state, others_at), services, house, (fleets, gpus)))
            .await
            .map_err(io::Error::other)??
    };
    let lambda = Lambda::new(control.clone(), servers.clone());
    let others = others.zip(servers);
    let doors = Doors::open(&config, &house, &scrape, budget, (lambda, guard), (http, grpc, metrics, others));
    let mut stop = Stop::new()?;
    tokio::select! {
        started = start(&house, &control) => if let Err(error) = started {
            fleets.close().await;
            return Err(error);
        },
        () = stop.requested() => {
            say(&mut io::stderr(), "penstock: stopped while loading");
            house.drain().await;
            fleets.close().await;
            return Ok(());
        }
    }
    let interval = Duration::from_millis(config.integer("scaling.interval_ms"));
    tokio::spawn(house.clone().follow_load(scaling_policy(&config), interval));
    let (http, grpc, metrics) = addresses;
    say(&mut io::stdout(), &format!("penstock ready http={http} grpc={grpc} metrics={metrics}"));
    if house.control() == ControlMode::Poll {
        tokio::spawn(follow(house.clone(), Duration::from_secs(config.integer("models.poll_secs"))));
    }
    stop.requested().await;
    let in_flight = house.in_flight();
    say(&mut io::stderr(), &format!("penstock: draining {in_flight} requests; interrupt again to stop at once"));
    tokio::select! {
        closed = async {
            house.drain().await;
            doors.close().await;
            fleets.close().await;
            control.close().await
        } => closed?,
        () = stop.requested() => say(&mut io::stderr(), "penstock: stopped at once"),
    }
    Ok(())
}

/// The instances that the settings ask for.
fn open_fleets(
    config: &Arc<Config>,
    accelerators: Option<&Accelerators>,
    stop: &CancellationToken,
) -> io::Result<Arc<Fleets>> {
    let local = instances::open(config, accelerators, stop.clone())?;
    let opener = match config.text("instances.provider") {
        "ec2" => Some(Arc::new(OfEc2::open(config.clone(), stop.clone())?) as Arc<dyn OpenFleet>),
        _ => None,
    };
    Ok(Fleets::new(local, opener))
}

fn house_options(
    config: Arc<Config>,
    budget: ByteBudget,
    accelerators: Option<Accelerators>,
    roles: Roles,
    fleets: &Arc<Fleets>,
) -> io::Result<HouseOptions> {
    let mut repositories: Vec<PathBuf> = config.list("models.repository").iter().map(PathBuf::from).collect();
    if repositories.is_empty() {
        repositories.push(PathBuf::from(config.text("cache_dir")).join("models"));
    }
    let cores = instances::environment_cores(&config);
    let (control, load_at_start) = (config.text("models.control_mode"), config.list("models.load").to_vec());
    let seconds = |key| Duration::from_secs(config.integer(key));
    Ok(HouseOptions {
        repositories,
        control: ControlMode::parse(control).unwrap_or_default(),
        load_at_start,
        launcher: Arc::new(ByProvider {
            fleets: fleets.clone(),
            here: match fleets.local() {
                Some(fleet) => Arc::new(OnInstances(fleet.clone())),
                None => {
                    let accelerated = accelerators.as_ref().and_then(Accelerators::program);
                    Arc::new(Launcher { accelerated, ..launcher()? })
                }
            },
        }),
        placement: accelerators.as_ref().and_then(|accelerators| accelerators.placement.clone()),
        device_busy: {
            let (here, fleets) = (accelerators.as_ref().map(|accelerators| accelerators.busy.clone()), fleets.clone());
            Box::new(move |uuid| {
                let here = here.as_ref().and_then(|busy| busy.lock().get(uuid).copied());
                here.or_else(|| fleets.device_busy(uuid))
            })
        },
        concurrency: config.integer_u32("limits.concurrency"),
        function_concurrency: config.integer_u32("functions.concurrency"),
        caller_concurrency: config.integer_u32("callers.concurrency"),
        function_timeout: Some(Duration::from_millis(config.integer("functions.timeout_ms"))).filter(|t| !t.is_zero()),
        environments: config.integer_u32("environments.per_version"),
        waiting: config.integer_u32("environments.waiting_requests"),
        instance_timeout: match config.text("instances.provider") {
            "ec2" => seconds("ec2.start_timeout_s"),
            "local" => seconds("instances.start_timeout_s"),
            _ => Duration::ZERO,
        },
        load_timeout: seconds("models.load_timeout_s"),
        drain_timeout: seconds("drain_timeout_s"),
        budget,
        seed: u64::from(std::process::id()),
        specify: {
            let config = config.clone();
            Box::new(move |function, version| {
                runtime::specify(&config, cores, accelerators.as_ref(), &roles, function, version)
            })
        },
    })
}

fn scaling_policy(config: &Config) -> ScalingPolicy {
    let seconds = |key| Duration::from_secs(config.integer(key));
    let (known, down_after) = (ScalingPolicy::default(), seconds("scaling.down_after_s"));
    ScalingPolicy {
        headroom: config.integer("scaling.headroom_percent") as f64 / 100.0,
        down_after,
        down_every: known.down_every.min(down_after),
        idle_after: seconds("scaling.idle_s"),
        ..known
    }
}

async fn listen(config: &Config, key: &'static str) -> Result<TcpListener, ServeError> {
    let address = config.address(key);
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { key, address, source })
}

/// The ports, served.
struct Doors {
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Doors {
    fn open(
        config: &Config,
        house: &Arc<House>,
        scrape: &Arc<Scrape>,
        budget: ByteBudget,
        (lambda, guard): (Lambda, Option<Guard>),
        (http, grpc, metrics, others): (TcpListener, TcpListener, TcpListener, Option<(TcpListener, Arc<Authority>)>),
    ) -> Self {
        let codes = match config.text("overload_codes") {
            "triton" => OverloadCodes::Triton,
            _ => OverloadCodes::Lambda,
        };
        let message_bytes = config.integer("limits.message_bytes") as usize;
        let body_stall = Duration::from_secs(config.integer("limits.body_stall_s"));
        let caller_header = header_name(config.text("callers.header"));
        let seed = std::process::id();
        let request_ids = Arc::new(RequestIds::new(seed));
        let http_options = HttpOptions {
            overload: codes,
            body_bytes_max: message_bytes,
            body_stall_max: body_stall,
            caller_header: caller_header.clone(),
            guard: guard.clone(),
            ..HttpOptions::new(budget.clone(), request_ids, epoch_seconds())
        };
        let grpc_options = FrontendOptions {
            overload_codes: codes,
            message_bytes_max: message_bytes.saturating_sub(MESSAGE_HEAD_BYTES),
            message_stall_timeout: body_stall,
            request_id_seed: seed,
            caller_header,
            guard: guard.clone(),
            ..FrontendOptions::new(budget)
        };
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let answer_stall = Duration::from_secs(config.integer("limits.answer_stall_s"));
        let limits = HostLimits { write_stall_timeout: answer_stall, ..HostLimits::default() };
        let http_door = http_router(house.clone(), http_options, Some(lambda));
        let grpc_door = grpc_service(house.clone(), grpc_options);
        let metrics_door = metrics_router(scrape.clone(), guard);
        if let Some((others, authority)) = others {
            let served = host::serve_servers(others, http_door.clone(), limits.clone(), shutdown.clone(), authority);
            tasks.spawn(served);
        }
        tasks.spawn(host::serve(http, http_door, limits.clone(), shutdown.clone()));
        tasks.spawn(host::serve(grpc, grpc_door, limits.clone(), shutdown.clone()));
        tasks.spawn(host::serve(metrics, metrics_door, limits, shutdown.clone()));
        let scrape = scrape.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP_INTERVAL).await;
                scrape.upkeep();
            }
        });
        Self { tasks, shutdown }
    }

    /// Everything is answered: lets connections close.
    async fn close(self) {
        self.shutdown.cancel();
        self.tasks.close();
        // A client that keeps its connection open does not keep the server.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.tasks.wait()).await;
    }
}

/// Serves what was deployed and what the repositories hold, and waits until all of it is ready or known not to be.
async fn start(house: &House, control: &ControlPlane) -> Result<(), ServeError> {
    let restored = control.restore().await?;
    let (started, restored) = tokio::join!(house.start(), control.restored(restored));
    started?;
    restored?;
    house.all_loaded();
    Ok(())
}

/// Poll mode: looks at the repository again and again. One bad look is logged and the next is tried.
async fn follow(house: Arc<House>, interval: Duration) {
    loop {
        tokio::time::sleep(interval).await;
        if let Err(error) = house.poll().await {
            tracing::warn!(%error, "the model repository could not be read");
        }
    }
}

/// The wall clock, in seconds since the epoch.
#[allow(clippy::disallowed_methods)]
fn epoch_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The same, signed, as signatures are held against it.
fn epoch() -> i64 {
    i64::try_from(epoch_seconds()).unwrap_or(i64::MAX)
}

/// Interrupt or terminate.
struct Stop {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stop {
    fn new() -> io::Result<Self> {
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn requested(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
