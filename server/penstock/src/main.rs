//! Penstock: GPU inference serving on managed instances. One program, several roles.
//!
//! The composition root: the only place that reads the environment, knows every runtime and wires the rooms together.

mod accelerate;
mod certificates;
mod client;
mod config;
mod control;
mod devices;
mod ec2;
mod fields;
mod gpus;
mod instances;
mod keys;
mod plan;
mod remote;
mod roles;
mod runtime;
mod serve;
#[cfg(feature = "etcd")]
mod servers;
mod state;

use clap::{Args, CommandFactory, Parser, Subcommand};
use config::{Config, ConfigError, Sources};
use std::io::Write;
use std::process::ExitCode;

/// A request makes some thirty small allocations in the protocol stack, freed on another thread than they were made
/// on; the C library's allocator pays for that with locks.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Exit code for a wrong configuration or command line (`EX_USAGE` of sysexits.h).
const EXIT_USAGE: u8 = 64;
/// Exit code when the configuration is right and the machine says no.
const EXIT_FAILED: u8 = 1;

/// GPU inference serving on managed instances.
#[derive(Parser)]
#[command(name = "penstock", version, about)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve models: front end, environments and metrics on this machine.
    Serve {
        #[command(flatten)]
        settings: Settings,
        /// A Triton model repository; may be given more than once.
        #[arg(long, value_name = "DIR")]
        model_repository: Vec<String>,
        /// How the repository is followed: none, explicit or poll.
        #[arg(long, value_name = "MODE")]
        model_control_mode: Option<String>,
        /// In explicit mode: load this function at start; may be given more than once, `*` for all.
        #[arg(long, value_name = "NAME")]
        load_model: Vec<String>,
    },
    /// Print the resolved configuration with meaning and unit of every value.
    Config {
        #[command(flatten)]
        settings: Settings,
    },
    /// Print this machine's devices and which isolation measures hold on it.
    Devices {
        #[command(flatten)]
        settings: Settings,
    },
    #[command(flatten)]
    Client(client::Command),
    /// Replay a load through the scaler, without a server: instances, refusals, waits and cost over time.
    Plan(Box<plan::Plan>),
    /// Print completions for a shell: bash, zsh, fish, elvish or powershell.
    Completions {
        /// The shell.
        shell: clap_complete::Shell,
    },
    /// Be an execution environment on descriptor 0. Started by `serve`, not by people.
    #[command(hide = true)]
    Environment,
    /// Be an instance, whose agent starts environments. Started by its capacity provider, not by people.
    #[command(hide = true)]
    Instance(instances::Options),
}

#[derive(Args)]
struct Settings {
    /// A TOML file; also PENSTOCK_CONFIG.
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// Set one value, such as `listen.http=127.0.0.1:9000`; may be given more than once.
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no mistakes; printing to a closed stream is not worth a message.
            let code = if error.use_stderr() { EXIT_USAGE } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    match cli.command {
        Command::Environment => penstock_runtimes::environment(),
        Command::Instance(options) => instances::run(options, &variable),
        Command::Client(command) => client::run(command, &variable, unix_time_s),
        Command::Plan(options) => plan::run(*options, moment()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "penstock", &mut script);
            // Nobody may be reading any more.
            let _ = std::io::stdout().write_all(&script);
            ExitCode::SUCCESS
        }
        Command::Config { settings } => with_config(&settings, Vec::new(), |config| {
            print!("{}", config.print());
            ExitCode::SUCCESS
        }),
        Command::Devices { settings } => with_config(&settings, Vec::new(), |config| devices::run(&config)),
        Command::Serve { settings, model_repository, model_control_mode, load_model } => {
            let mut options = Vec::new();
            options.extend(model_repository.into_iter().map(|dir| ("models.repository".to_owned(), dir)));
            options.extend(model_control_mode.map(|mode| ("models.control_mode".to_owned(), mode)));
            options.extend(load_model.into_iter().map(|name| ("models.load".to_owned(), name)));
            with_config(&settings, options, serve::run)
        }
    }
}

/// Any moment: a simulated clock counts from there.
#[allow(clippy::disallowed_methods)]
fn moment() -> std::time::Instant {
    std::time::Instant::now()
}

/// The wall clock, in seconds since the epoch.
#[allow(clippy::disallowed_methods)]
fn unix_time_s() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_secs() as i64)
}

fn with_config(settings: &Settings, options: Vec<(String, String)>, then: impl FnOnce(Config) -> ExitCode) -> ExitCode {
    match resolve(settings, options) {
        Ok(config) => then(config),
        Err(error) => {
            eprintln!("penstock: configuration: {error}");
            ExitCode::from(EXIT_USAGE)
        }
    }
}

#[allow(clippy::disallowed_methods)] // the composition root reads the environment
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn resolve(settings: &Settings, mut options: Vec<(String, String)>) -> Result<Config, ConfigError> {
    let path = settings.config.clone().or_else(|| variable("PENSTOCK_CONFIG"));
    let text =
        match &path {
            None => None,
            Some(path) => Some(std::fs::read_to_string(path).map_err(|error| ConfigError::Toml {
                file: path.clone(),
                message: format!("cannot be read: {error}"),
            })?),
        };
    for assignment in &settings.set {
        match assignment.split_once('=') {
            Some((key, value)) => options.push((key.to_owned(), value.to_owned())),
            None => {
                let message = format!("--set takes KEY=VALUE, found '{assignment}'");
                return Err(ConfigError::Toml { file: "option".into(), message });
            }
        }
    }
    let file = path.as_deref().zip(text.as_deref());
    Config::resolve(&Sources { file, variable: &variable, options: &options })
}
