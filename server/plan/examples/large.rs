//! How long a large plan takes: ten million requests on ten thousand instances, on one thread. Prints the totals, what it took,
//! its memory, and what the scaler takes for one decision there; fails if the plan was longer than a minute.
//!
//! Run by hand: `cargo run --release -p penstock-plan --example large`.

use penstock_domain::{FunctionName, VersionNumber};
use penstock_plan::{
    Environments, Fees, Load, LoadShape, Prices, Rate, Requests, Scenario, Service, Source, Spread, Synthetic, plan,
    totals,
};
use penstock_scaler::{
    Architecture, Bounds, Held, Instance, InstanceType, Needs, Policy, Rules, Scaler, Signals, Stage, TypePattern,
    Unavailable, Version, Wish, decide, plan_instances,
};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A day of twenty minutes, of which a third is steep enough that most looks want another number of environments.
const SHAPE: &str = "diurnal:rate=8450,swing=0.85,period=1200,seconds=1200";
/// What it may take.
const MOST: Duration = Duration::from_secs(60);

fn scenario() -> Scenario {
    let zones: Vec<String> = ["us-east-1a", "us-east-1b", "us-east-1c"].map(String::from).to_vec();
    Scenario {
        environments: Environments {
            slots: 4,
            workers: 4,
            // Most of a device: one environment on each.
            needs: Needs { vcpu: 2, memory_mib: 8_192, device_memory_mib: 20_000, architecture: Architecture::X86 },
            bounds: Bounds { min: 1, max: 20_000 },
            start: Duration::from_secs(10),
        },
        requests: Requests { waiting: 1024, deadline: None, patience: Duration::from_secs(300) },
        policy: Policy::default(),
        interval: Duration::from_millis(500),
        rules: Rules {
            vcpu_max: 80_000,
            allowed: vec![TypePattern::new("g6.xlarge")],
            excluded: Vec::new(),
            zones: zones.clone(),
            start_timeout: Duration::from_secs(600),
            empty_after: Duration::from_secs(60),
        },
        instance_start: Duration::from_secs(60),
        market: Prices::built_in().at(Rate::OnDemand, &zones),
        fees: Fees::default(),
        seed: 1,
    }
}

#[allow(clippy::disallowed_methods)] // it is the clock that is asked about
fn main() -> ExitCode {
    let Ok(shape) = LoadShape::parse(SHAPE) else { return ExitCode::FAILURE };
    let service = Service { mean: Duration::from_millis(1_800), spread: Spread::Exponential };
    let source = Source::Synthetic(Synthetic { shape, service });
    let load = Load { source, scale: 1.0, speed: 1.0, jitter: Duration::from_secs(1), seed: 1 };
    let began = Instant::now();
    let report = match plan(&load, &scenario(), began) {
        Ok(report) => report,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::FAILURE;
        }
    };
    let took = began.elapsed();
    for row in totals(&report) {
        println!("{:<20}  {}", row[0], row[1]);
    }
    let (requests, instances) = (report.totals.requests, report.totals.instances_most);
    println!("{requests} requests on up to {instances} instances took {:.1} s; {}", took.as_secs_f64(), memory());
    decisions(&scenario(), began);
    let large = requests >= 10_000_000 && instances >= 10_000;
    if large && took <= MOST { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What one decision of each level takes with ten thousand environments on as many instances, where nothing is to be done.
#[allow(clippy::disallowed_methods)] // it is the clock that is asked about
fn decisions(scenario: &Scenario, now: Instant) {
    const CALLS: u32 = 20;
    let types: Vec<InstanceType> = scenario.market.offers.iter().map(|offer| offer.instance_type.clone()).collect();
    let Some(one) = types.iter().find(|one| one.name == "g6.xlarge") else { return };
    let needs = scenario.environments.needs;
    let instance = |number: u32| Instance {
        id: format!("i-{number}"),
        shape: one.shape,
        zone: scenario.rules.zones[number as usize % scenario.rules.zones.len()].clone(),
        stage: Stage::Ready,
        since: now,
        empty_since: None,
        devices_left: None,
        environments: [("plan:1".to_owned(), Held { count: 1, needs })].into(),
    };
    let instances: Vec<Instance> = (0..10_000).map(instance).collect();
    let wish = [Wish { version: "plan:1".into(), environments: 10_000, needs }];
    let began = Instant::now();
    for _ in 0..CALLS {
        let fleet = plan_instances(&wish, &instances, &types, &scenario.rules, &Unavailable::new(), now);
        assert!(fleet.is_at_rest(), "{fleet:?}");
    }
    let level_two = began.elapsed() / CALLS;
    let Ok(function) = FunctionName::new("plan") else { return };
    let signals =
        Signals { environments: 10_000, ready: 10_000, slots: 40_000, in_flight: 26_000, ..Signals::default() };
    let bounds = scenario.environments.bounds;
    let version = [Version { function, number: VersionNumber(1), bounds, target: None, signals }];
    let (mut scaler, began) = (Scaler::default(), Instant::now());
    for look in 0..CALLS * 100 {
        decide(&version, &mut scaler, &scenario.policy, now + scenario.interval * look);
    }
    let level_one = began.elapsed() / (CALLS * 100);
    println!("one decision with 10000 instances: decide {level_one:.1?}, plan_instances {level_two:.1?}");
}

/// The most memory that was resident, where the system tells it.
fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    most.map_or("memory unknown".into(), |most| format!("at most {} resident", most.trim()))
}
