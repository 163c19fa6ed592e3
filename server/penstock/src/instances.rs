//! Instances: the fleets of `penstock serve`, and the role of each instance.
//!
//! Called by `serve` at start, and by `main` for the role.

use crate::accelerate::{self, Accelerators};
use crate::certificates::own_authority;
use crate::config::Config;
use crate::{EXIT_FAILED, EXIT_USAGE};
use clap::Args;
use penstock_ec2::Metadata;
use penstock_environment::Launcher;
use penstock_instances::{
    Deadlines, Fleet, FleetOptions, Hub, Listen, LocalProvider, Told, agent, agent::DeviceOptions,
};
use penstock_packages::ContentSha256;
use penstock_scaler::{Architecture, InstanceType, Rules, Shape};
use penstock_trust::{Authority, FLEET};
use std::ffi::OsString;
use std::io::{self, BufRead, Read};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Signs of life that may be missed, of one a second.
const BEATS_MISSED: u32 = 5;
/// From being told to stop to being gone.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// This machine may have so many times its cores in instances, if nothing is said: they are declared, not had.
const OVERCOMMIT: u32 = 8;
/// Threads of an agent that passes on what comes for its environments: what it has is one core.
const AGENT_THREADS: usize = 2;
/// The one zone there is.
const ZONE: &str = "local";

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)
}

/// Cores that one environment may have: of this machine, or of an instance.
pub(crate) fn environment_cores(config: &Config) -> usize {
    let most = match (vcpu_max(config), config.integer_u32("instances.vcpu")) {
        (None, _) | (_, 0) => cores(),
        (Some(_), vcpu) => cores().min(vcpu.saturating_sub(1)).max(1),
    };
    most as usize
}

/// Most cores of all instances together; `None` without instances.
pub(crate) fn vcpu_max(config: &Config) -> Option<u32> {
    match (config.text("instances.provider"), config.integer_u32("instances.vcpu_max")) {
        ("local", 0) => Some(cores().saturating_mul(OVERCOMMIT).max(cores() + 1)),
        ("local", most) => Some(most),
        _ => None,
    }
}

/// Whether this machine's GPUs are given out with its instances, each its own.
pub(crate) fn have_devices(config: &Config) -> bool {
    config.text("instances.provider") == "local" && config.integer("instances.devices") > 0
}

/// The devices that local instances have: what one with some of them is, if there are such, and all that there are.
fn devices(
    config: &Config,
    accelerators: Option<&Accelerators>,
    shape: Shape,
) -> Result<(Option<Shape>, Vec<String>), String> {
    if !have_devices(config) {
        return Ok((None, Vec::new()));
    }
    let wanted = config.integer_u32("instances.devices");
    let Some(Accelerators { places, program, .. }) = accelerators else {
        return Err(format!("instances.devices is {wanted}, and devices.use is none"));
    };
    if places.len() < wanted as usize {
        let text = format!("instances.devices is {wanted}: this machine has {} GPUs that answer", places.len());
        return Err(text);
    }
    program.as_ref().map_err(|why| format!("instances.devices is {wanted}, and {why}"))?;
    let least = places.iter().map(|place| place.memory_bytes).min().unwrap_or_default();
    let device_memory_mib = least.saturating_sub(config.integer("devices.kept_bytes")) >> 20;
    let uuids = places.iter().map(|place| place.uuid.clone()).collect();
    Ok((Some(Shape { devices: wanted, device_memory_mib, ..shape }), uuids))
}

/// What the agent of a local instance is told on its command line, beside its devices.
fn arguments(config: &Config, accelerated: Option<PathBuf>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["instance".into()];
    if let Some(program) = accelerated {
        arguments.extend(["--accelerated".into(), program.into()]);
    }
    if let Some(library) = config.path("devices.nvml") {
        arguments.extend(["--nvml".into(), library.into()]);
    }
    for folder in config.list("devices.library_path") {
        arguments.extend(["--library-path".into(), folder.into()]);
    }
    arguments.extend(["--kept-bytes".into(), config.text("devices.kept_bytes").into()]);
    arguments
}

/// The fleet that `instances.provider` asks for, if it does.
pub(crate) fn open(
    config: &Config,
    accelerators: Option<&Accelerators>,
    stop: CancellationToken,
) -> io::Result<Option<Arc<Fleet>>> {
    let Some(vcpu_max) = vcpu_max(config) else { return Ok(None) };
    let seconds = |key| Duration::from_secs(config.integer(key));
    // What is not said is this machine's, and the agent's beside it.
    let shape = Shape {
        vcpu: match config.integer_u32("instances.vcpu") {
            0 => cores() + 1,
            vcpu => vcpu,
        },
        memory_mib: match config.integer("instances.memory_bytes") >> 20 {
            0 => agent::machine_memory_mib() + 1024,
            memory => memory,
        },
        devices: 0,
        device_memory_mib: 0,
        architecture: Architecture::OWN,
    };
    if vcpu_max < shape.vcpu {
        let vcpu = shape.vcpu;
        let text = format!("instances.vcpu_max is {vcpu_max}: expected at least the {vcpu} vCPU of one instance");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let folder = folder(config, "")?;
    let (with_devices, uuids) =
        devices(config, accelerators, shape).map_err(|text| io::Error::new(io::ErrorKind::InvalidInput, text))?;
    let of = |name: &str, shape| InstanceType {
        name: name.into(),
        shape,
        usd_per_hour: config.integer("instances.microusd_per_hour") as f64 / 1e6,
        zones: vec![ZONE.into()],
    };
    // What needs no device leaves them to others.
    let types = std::iter::once(of("local", shape)).chain(with_devices.map(|shape| of("local-gpu", shape))).collect();
    let start_timeout = seconds("instances.start_timeout_s");
    let listen = match config.text("instances.transport") {
        "unix" => Listen::Folder,
        _ => Listen::Tcp(hub(config, stop.clone())?),
    };
    let options = FleetOptions {
        name: "local".into(),
        rules: Rules {
            vcpu_max,
            allowed: Vec::new(),
            excluded: Vec::new(),
            zones: vec![ZONE.into()],
            start_timeout,
            empty_after: seconds("instances.empty_s"),
        },
        types,
        deadlines: deadlines(config, start_timeout),
        listen,
        // One that is shared is not looked at: another instance would have no other.
        disk: (config.text("instances.disk") == "own").then(|| folder.join("disks")),
        folder,
        token,
    };
    let arguments = arguments(config, accelerators.and_then(Accelerators::program));
    let provider = LocalProvider::new(std::env::current_exe()?, arguments, uuids);
    Fleet::open(options, Arc::new(provider), stop).map(Some)
}

/// A folder for a fleet's sockets: they have short names only, and one server has this data directory.
pub(crate) fn folder(config: &Config, provider: &str) -> io::Result<PathBuf> {
    let data = config.path("data_dir").unwrap_or_else(|| PathBuf::from("."));
    std::fs::create_dir_all(&data)?;
    let of = |text: &[u8]| ContentSha256::of(text).to_string()[..8].to_owned();
    let mut name = of(data.canonicalize()?.as_os_str().as_encoded_bytes());
    if !provider.is_empty() {
        name = format!("{name}-{}", of(provider.as_bytes()));
    }
    Ok(PathBuf::from(config.text("cache_dir")).join("instances").join(name))
}

pub(crate) fn deadlines(config: &Config, start_timeout: Duration) -> Deadlines {
    let seconds = |key| Duration::from_secs(config.integer(key));
    Deadlines {
        beat: agent::BEAT * BEATS_MISSED,
        // What is there drains; what takes its place starts first, perhaps on a new instance.
        drain: seconds("drain_timeout_s") + seconds("models.load_timeout_s") + start_timeout,
        stop: STOP_TIMEOUT,
        age: Some(seconds("instances.max_age_s")).filter(|age| !age.is_zero()),
    }
}

/// Where instances come over TCP, by the settings. Errors: nobody can listen there, or the authority's files are wrong.
pub(crate) fn hub(config: &Config, stop: CancellationToken) -> io::Result<Arc<Hub>> {
    let life = Duration::from_secs(config.integer("instances.certificate_s"));
    let authority = match own_authority(config, ["instances.ca_file", "instances.ca_key_file"], FLEET, life)? {
        Some(own) => own,
        None => Authority::embedded(FLEET, life, time::OffsetDateTime::now_utc)?,
    };
    let address = config.address("instances.listen");
    let listener = TcpListener::bind(address)
        .map_err(|error| io::Error::new(error.kind(), format!("instances.listen: {address}: {error}")))?;
    let advertise = Some(config.text("instances.advertise")).filter(|host| !host.is_empty());
    if listener.local_addr()?.ip().is_unspecified() && advertise.is_none() {
        let text =
            "instances.advertise is missing: instances.listen is all addresses, of which instances have to know one";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Hub::open(listener, advertise, config.text("instances.agent_listen").to_owned(), Arc::new(authority), stop)
}

/// 256 bits that nobody can guess.
pub(crate) fn token() -> io::Result<String> {
    let mut bytes = [0; 32];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(ContentSha256::of(&bytes).to_string())
}

/// What an agent is told on its command line.
#[derive(Args)]
pub(crate) struct Options {
    /// The executable for environments on a GPU.
    #[arg(long, value_name = "FILE")]
    accelerated: Option<PathBuf>,
    /// NVIDIA's management library, if it is not the driver's own.
    #[arg(long, value_name = "FILE")]
    nvml: Option<PathBuf>,
    /// The devices that are this instance's: all that its machine has, none, or UUIDs with commas between them.
    #[arg(long, value_name = "UUIDS", default_value = "all")]
    devices: String,
    /// Memory of each device that no environment gets.
    #[arg(long, value_name = "BYTES", default_value_t = 512 << 20)]
    kept_bytes: u64,
    /// A folder of CUDA's libraries, where the system's loader does not find them; may be given more than once.
    #[arg(long, value_name = "DIR")]
    library_path: Vec<PathBuf>,
    /// This machine is one of EC2, whose metadata say what it is called.
    #[arg(long)]
    ec2: bool,
}

/// `penstock instance`: the agent. What it is told comes on standard input, in one line.
pub(crate) fn run(options: Options, variable: &dyn Fn(&str) -> Option<String>) -> ExitCode {
    let mut line = String::new();
    let told = io::stdin().lock().read_line(&mut line).and_then(|_| Ok(serde_json::from_str::<Told>(&line)?));
    let told = match told {
        Ok(told) => told,
        Err(error) => {
            eprintln!("penstock: an instance is started by its capacity provider, which tells it who it is: {error}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let Options { accelerated, nvml, devices, kept_bytes, library_path, ec2 } = options;
    let only = match devices.as_str() {
        "all" => None,
        "none" => Some(Vec::new()),
        uuids => Some(uuids.split(',').map(str::to_owned).collect()),
    };
    let devices = DeviceOptions { nvml, only, kept_bytes, access: accelerate::access(library_path) };
    let metadata = ec2.then(|| Metadata::new(variable("AWS_EC2_METADATA_SERVICE_ENDPOINT").as_deref())).transpose();
    let ended = metadata.and_then(|metadata| {
        let launcher = crate::serve::launcher()?;
        // That of another machine comes with the program.
        let beside = launcher.program.with_file_name("penstock-environment-cuda");
        let accelerated = accelerated.or_else(|| Some(beside).filter(|beside| ec2 && beside.is_file()));
        let launcher = Launcher { accelerated, ..launcher };
        // Over TCP it passes on what comes, for all of its environments.
        let mut runtime = match ec2 {
            true => tokio::runtime::Builder::new_multi_thread(),
            false => tokio::runtime::Builder::new_current_thread(),
        };
        let runtime = runtime.enable_all().worker_threads(AGENT_THREADS).build()?;
        let ended = runtime.block_on(be_instance(told, launcher, devices, metadata));
        // A driver that does not answer is not waited for.
        runtime.shutdown_background();
        ended
    });
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("penstock: instance: {error}");
            ExitCode::from(EXIT_FAILED)
        }
    }
}

async fn be_instance(
    told: Told,
    launcher: Launcher,
    devices: DeviceOptions,
    metadata: Option<Metadata>,
) -> io::Result<()> {
    let Some(metadata) = metadata else { return agent::run(told, launcher, devices, std::future::pending()).await };
    let name = match told.name {
        Some(name) => name,
        None => metadata.identity().await.map_err(io::Error::other)?.instance_id,
    };
    agent::run(Told { name: Some(name), ..told }, launcher, devices, metadata.interruption()).await
}
