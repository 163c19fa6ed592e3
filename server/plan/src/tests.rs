//! What a run must hold, whatever the load: cases computed by hand, loads that are followed, properties, files.

mod files;
mod follow;
mod properties;
mod small;

use crate::{
    Environments, Fees, Load, LoadShape, Prices, Rate, Report, Requests, Scenario, Service, ServiceTimes, Source,
    Spread, Synthetic, Trace, plan,
};
use penstock_scaler::{Architecture, Bounds, Needs, Policy, Rules};
use std::time::{Duration, Instant};

/// One environment on each of the small ones, 1,000 millionths of a dollar in ten seconds; 15 on the large one.
const TABLE: &str = r#"
    region = "nowhere"
    [[types]]
    name = "small.1"
    vcpu = 2
    memory_mib = 4096
    architecture = "x86_64"
    on_demand_usd_per_hour = 0.36
    spot_usd_per_hour = 0.18
    source = "made up"
    date = "2026-01-01"
    [[types]]
    name = "large.15"
    vcpu = 16
    memory_mib = 65536
    architecture = "x86_64"
    on_demand_usd_per_hour = 3.6
    source = "made up"
    date = "2026-01-02"
"#;

const SECOND: Duration = Duration::from_secs(1);

#[allow(clippy::disallowed_methods)] // any moment will do
fn origin() -> Instant {
    Instant::now()
}

/// Two slots each, one to ten environments; ten seconds for an instance, two for an environment.
fn scenario() -> Scenario {
    let zones = ["a", "b"].map(String::from).to_vec();
    Scenario {
        environments: Environments {
            slots: 2,
            workers: 2,
            needs: Needs { vcpu: 1, memory_mib: 1024, device_memory_mib: 0, architecture: Architecture::X86 },
            bounds: Bounds { min: 1, max: 10 },
            start: 2 * SECOND,
        },
        requests: Requests { waiting: 100, deadline: None, patience: 300 * SECOND },
        policy: Policy::default(),
        interval: Duration::from_millis(500),
        rules: Rules {
            vcpu_max: 400,
            allowed: Vec::new(),
            excluded: Vec::new(),
            zones: zones.clone(),
            start_timeout: 300 * SECOND,
            empty_after: 60 * SECOND,
        },
        instance_start: 10 * SECOND,
        market: Prices::parse(TABLE).unwrap().at(Rate::OnDemand, &zones),
        fees: Fees::default(),
        seed: 1,
    }
}

fn times() -> ServiceTimes {
    ServiceTimes { prefill_tokens_per_s: 10_000.0, decode_tokens_per_s: 50.0, other: SECOND }
}

fn load(source: Source) -> Load {
    Load { source, scale: 1.0, speed: 1.0, jitter: SECOND, seed: 1 }
}

/// Rows of `seconds,service_ms`.
fn recorded(rows: &str) -> Load {
    load(Source::Recorded(Trace::read(rows.as_bytes(), &times()).unwrap()))
}

fn synthetic(shape: &str, service_ms: u64, spread: Spread) -> Load {
    let service = Service { mean: Duration::from_millis(service_ms), spread };
    load(Source::Synthetic(Synthetic { shape: LoadShape::parse(shape).unwrap(), service }))
}

fn run(load: &Load, scenario: &Scenario) -> Report {
    plan(load, scenario, origin()).unwrap()
}

fn near(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * a.abs().max(b.abs()).max(1.0)
}
