//! The options of `penstock plan`, and what they say to `penstock-plan`.
//!
//! Read by clap, asked by `plan`. Bounds are checked there; here only what a number cannot be.

use super::PlanError;
use clap::{ArgGroup, Args, ValueEnum};
use penstock_plan::{
    Environments, Fees, Load, LoadShape, Market, Prices, Rate, Requests, Service, ServiceTimes, Source, Spread,
    Synthetic, Trace, WrongOption,
};
use penstock_scaler::{Architecture, Bounds, Needs, Policy, Rules, TypePattern};
use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::time::Duration;

const SECONDS_RIGHT: &str = "a number of seconds, at least 0";
/// An instance comes within this and twice its start, in seconds: simulated ones always come.
const START_TIMEOUT_S: u64 = 60;

fn seconds(field: &'static str, seconds: f64) -> Result<Duration, WrongOption> {
    let wrong = |_| WrongOption { field, found: format!("{seconds:?}"), right: SECONDS_RIGHT };
    Duration::try_from_secs_f64(seconds).map_err(wrong)
}

/// How service times differ.
#[derive(Clone, Copy, ValueEnum)]
enum Distribution {
    /// All alike.
    Fixed,
    /// Many short, few long.
    Exponential,
}

/// What is paid.
#[derive(Clone, Copy, ValueEnum)]
enum RateName {
    OnDemand,
    Spot,
    SavingsPlan,
}

/// A processor.
#[derive(Clone, Copy, ValueEnum)]
enum Processor {
    #[value(name = "x86_64")]
    X86,
    #[value(name = "arm64")]
    Arm,
}

#[derive(Args)]
#[command(next_help_heading = "Load", group(ArgGroup::new("source").required(true).args(["trace", "synthetic"])))]
pub(super) struct LoadOptions {
    /// A recorded load: a CSV file.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// A load that is made up, such as `step:rate=20,to=200,at=300,seconds=900`.
    #[arg(long, value_name = "SHAPE")]
    synthetic: Option<String>,
    /// So many requests for each.
    #[arg(long, value_name = "N", default_value_t = 1.0)]
    scale: f64,
    /// Time runs so many times faster; how long a request runs does not change.
    #[arg(long, value_name = "X", default_value_t = 1.0)]
    speed: f64,
    /// With --scale: copies come up to so much later than the original, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    jitter_ms: u64,
    /// Seed of all that is drawn.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(super) seed: u64,
    /// How long a request runs where the trace does not say, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 100.0)]
    service_ms: f64,
    /// How the service times of a synthetic load differ.
    #[arg(long, value_name = "KIND", value_enum, default_value = "fixed")]
    service_distribution: Distribution,
    /// Tokens of a context that are read in a second, beside as many neighbours as run at once. Measure yours.
    #[arg(long, value_name = "N", default_value_t = 10_000.0)]
    prefill_tokens_per_s: f64,
    /// Tokens that a request generates in a second, beside as many neighbours as run at once. Measure yours.
    #[arg(long, value_name = "N", default_value_t = 50.0)]
    decode_tokens_per_s: f64,
}

impl LoadOptions {
    /// What it is called.
    pub(super) fn name(&self) -> String {
        let file =
            self.trace.as_ref().and_then(|path| path.file_name()).map(|name| name.to_string_lossy().into_owned());
        file.or_else(|| self.synthetic.clone()).unwrap_or_default()
    }

    pub(super) fn load(&self) -> Result<Load, PlanError> {
        let mean = seconds("service-ms", self.service_ms / 1e3)?;
        let source = match (&self.trace, &self.synthetic) {
            (Some(path), _) => {
                let wrong = |text: String| PlanError::Usage(format!("--trace {}: {text}", path.display()));
                let file = File::open(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
                let trace = Trace::read(BufReader::new(file), &self.times(mean)?);
                Source::Recorded(trace.map_err(|error| wrong(error.to_string()))?)
            }
            (None, shape) => {
                let spread = match self.service_distribution {
                    Distribution::Fixed => Spread::Fixed,
                    Distribution::Exponential => Spread::Exponential,
                };
                let shape = LoadShape::parse(shape.as_deref().unwrap_or_default())?;
                Source::Synthetic(Synthetic { shape, service: Service { mean, spread } })
            }
        };
        let jitter = Duration::from_millis(self.jitter_ms);
        Ok(Load { source, scale: self.scale, speed: self.speed, jitter, seed: self.seed })
    }

    fn times(&self, other: Duration) -> Result<ServiceTimes, WrongOption> {
        let rate = |field, rate: f64| match rate > 0.0 {
            true => Ok(rate),
            false => Err(WrongOption { field, found: format!("{rate:?}"), right: "a number of tokens above 0" }),
        };
        Ok(ServiceTimes {
            prefill_tokens_per_s: rate("prefill-tokens-per-s", self.prefill_tokens_per_s)?,
            decode_tokens_per_s: rate("decode-tokens-per-s", self.decode_tokens_per_s)?,
            other,
        })
    }
}

#[derive(Args)]
#[command(next_help_heading = "Version")]
pub(super) struct VersionOptions {
    /// Requests that an environment takes at once, waiting or running.
    #[arg(long, value_name = "N", default_value_t = 16)]
    slots: u32,
    /// Requests that it runs at once; all that it takes, if left out.
    #[arg(long, value_name = "N")]
    workers: Option<u32>,
    /// Environments that there are at least. They are ready when the load begins.
    #[arg(long, value_name = "N", default_value_t = 1)]
    environments_min: u32,
    /// Environments that there are at most.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    environments_max: u32,
    /// From having a place on an instance to being ready, in seconds.
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    environment_start_s: f64,
    /// Requests that wait while no environment is ready; more are refused.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    waiting: u32,
    /// How long each of these waits at most, in seconds.
    #[arg(long, value_name = "S", default_value_t = 300.0)]
    patience_s: f64,
    /// When a request expires, in milliseconds after it came; never, if left out.
    #[arg(long, value_name = "MS")]
    deadline_ms: Option<u64>,
}

impl VersionOptions {
    pub(super) fn environments(&self, needs: Needs) -> Result<Environments, WrongOption> {
        Ok(Environments {
            slots: self.slots,
            workers: self.workers.unwrap_or(self.slots),
            needs,
            bounds: Bounds { min: self.environments_min, max: self.environments_max },
            start: seconds("environment-start-s", self.environment_start_s)?,
        })
    }

    pub(super) fn requests(&self) -> Result<Requests, WrongOption> {
        let patience = seconds("patience-s", self.patience_s)?;
        Ok(Requests { waiting: self.waiting, deadline: self.deadline_ms.map(Duration::from_millis), patience })
    }
}

#[derive(Args)]
#[command(next_help_heading = "Scaler, as scaling.* of the configuration")]
pub(super) struct PolicyOptions {
    /// How often the load is looked at, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 500)]
    interval_ms: u64,
    /// Slots that are kept free, of those in use, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 50.0)]
    headroom_percent: f64,
    /// How long fewer must be enough before there are fewer, in seconds.
    #[arg(long, value_name = "S", default_value_t = 120.0)]
    down_after_s: f64,
    /// Between two steps down, in seconds.
    #[arg(long, value_name = "S", default_value_t = 15.0)]
    down_every_s: f64,
    /// How long nobody must have asked before the last environment goes, in seconds; with --environments-min 0.
    #[arg(long, value_name = "S", default_value_t = 300.0)]
    idle_s: f64,
    /// Mean wait in queues above which there are to be more environments, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 250)]
    queue_wait_ms: u64,
    /// Share of the time that workers run above which there are to be more, in percent; not looked at, if left out.
    #[arg(long, value_name = "PERCENT")]
    utilization_percent: Option<f64>,
}

impl PolicyOptions {
    pub(super) fn policy(&self) -> Result<Policy, WrongOption> {
        Ok(Policy {
            headroom: self.headroom_percent / 100.0,
            queue_wait: Duration::from_millis(self.queue_wait_ms),
            utilization: self.utilization_percent.map(|percent| percent / 100.0),
            down_after: seconds("down-after-s", self.down_after_s)?,
            down_every: seconds("down-every-s", self.down_every_s)?,
            idle_after: seconds("idle-s", self.idle_s)?,
        })
    }

    pub(super) fn interval(&self) -> Duration {
        Duration::from_millis(self.interval_ms)
    }
}

#[derive(Args)]
#[command(next_help_heading = "Instances")]
pub(super) struct PlacementOptions {
    /// Cores that an environment takes. Each instance keeps one core and 1 GiB for its agent.
    #[arg(long, value_name = "N", default_value_t = 1)]
    vcpu: u32,
    /// Host memory that it takes, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 2048)]
    memory_mib: u64,
    /// Memory of a device that it takes, in MiB; 0 for no device.
    #[arg(long, value_name = "MIB", default_value_t = 0)]
    device_memory_mib: u64,
    /// What it is built for.
    #[arg(long, value_name = "NAME", value_enum, default_value = "x86_64")]
    arch: Processor,
    /// Cores of all instances together at most.
    #[arg(long, value_name = "N", default_value_t = 400)]
    vcpu_max: u32,
    /// Types that may be bought, such as `g6.*`, separated by commas; all, if left out.
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    allow: Vec<String>,
    /// Types that may not.
    #[arg(long, value_name = "TYPES", value_delimiter = ',')]
    exclude: Vec<String>,
    /// Where instances may be, separated by commas.
    #[arg(long, value_name = "ZONES", value_delimiter = ',', default_value = "us-east-1a,us-east-1b,us-east-1c")]
    pub(super) zones: Vec<String>,
    /// From asking for an instance to its taking environments, in seconds.
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    instance_start_s: f64,
    /// How long an instance is empty before it is given back, in seconds.
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    empty_after_s: f64,
}

impl PlacementOptions {
    pub(super) fn needs(&self) -> Needs {
        let architecture = match self.arch {
            Processor::X86 => Architecture::X86,
            Processor::Arm => Architecture::Arm,
        };
        let Self { vcpu, memory_mib, device_memory_mib, .. } = *self;
        Needs { vcpu, memory_mib, device_memory_mib, architecture }
    }

    pub(super) fn instance_start(&self) -> Result<Duration, WrongOption> {
        seconds("instance-start-s", self.instance_start_s)
    }

    pub(super) fn rules(&self, instance_start: Duration) -> Result<Rules, WrongOption> {
        Ok(Rules {
            vcpu_max: self.vcpu_max,
            allowed: patterns("allow", &self.allow)?,
            excluded: patterns("exclude", &self.exclude)?,
            zones: self.zones.clone(),
            start_timeout: instance_start.saturating_mul(2).saturating_add(Duration::from_secs(START_TIMEOUT_S)),
            empty_after: seconds("empty-after-s", self.empty_after_s)?,
        })
    }
}

fn patterns(field: &'static str, texts: &[String]) -> Result<Vec<TypePattern>, WrongOption> {
    let sound = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '*'));
    let read = |text: &String| match !text.is_empty() && sound(text) {
        true => Ok(TypePattern::new(text)),
        false => {
            Err(WrongOption { field, found: format!("{text:?}"), right: "types such as g6.xlarge, g6.* or *.xlarge" })
        }
    };
    texts.iter().map(read).collect()
}

#[derive(Args)]
#[command(next_help_heading = "Prices")]
pub(super) struct PriceOptions {
    /// A table of prices in place of the one that is built in: a TOML file.
    #[arg(long, value_name = "FILE")]
    prices: Option<PathBuf>,
    /// The price that is paid. Types that have none are not bought.
    #[arg(long, value_name = "RATE", value_enum, default_value = "on-demand")]
    rate: RateName,
    /// Of the instances' On-Demand price, whatever rate is paid, in percent. Lambda's Managed Instances: 15.
    #[arg(long, value_name = "PERCENT", default_value_t = 0.0)]
    management_fee_percent: f64,
    /// For a million requests that environments took, in US dollars. Lambda's Managed Instances: 0.20.
    #[arg(long, value_name = "USD", default_value_t = 0.0)]
    fee_per_million: f64,
}

impl PriceOptions {
    pub(super) fn market(&self, zones: &[String]) -> Result<Market, PlanError> {
        let prices = match &self.prices {
            None => Prices::built_in(),
            Some(path) => {
                let wrong = |text: String| PlanError::Usage(format!("--prices {}: {text}", path.display()));
                let text = std::fs::read_to_string(path).map_err(|error| wrong(format!("cannot be read: {error}")))?;
                Prices::parse(&text).map_err(|error| wrong(error.to_string()))?
            }
        };
        let rate = match self.rate {
            RateName::OnDemand => Rate::OnDemand,
            RateName::Spot => Rate::Spot,
            RateName::SavingsPlan => Rate::SavingsPlan,
        };
        Ok(prices.at(rate, zones))
    }

    pub(super) fn fees(&self) -> Fees {
        Fees { management: self.management_fee_percent / 100.0, usd_per_million: self.fee_per_million }
    }
}
