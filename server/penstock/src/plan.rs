//! `penstock plan`: what a load would take, and what that would cost, without a server or a machine.
//!
//! Called by `main`. Reads a trace and a table of prices, has `penstock-plan` run the load through the scaler, and prints what
//! came of it: tables on standard output, or JSON; a picture into a file.

mod options;

use crate::client::show;
use crate::{EXIT_FAILED, EXIT_USAGE};
use clap::Args;
use options::{LoadOptions, PlacementOptions, PolicyOptions, PriceOptions, VersionOptions};
use penstock_plan::{Report, Scenario, WrongOption, over_time, plan, svg, totals};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

/// What is said beside the options: formats of files, and what is simulated.
const FORMATS: &str = "\
Synthetic loads (rates in requests/s, times in seconds, requests independent of each other):
  constant:rate=R,seconds=S                      always the same rate
  step:rate=R,to=R2,at=T,seconds=S               R, from second T on R2
  diurnal:rate=R,swing=W,period=P,seconds=S      from R(1-W) at the start to R(1+W) after half a period P, and back
  spikes:rate=R,to=R2,every=E,for=F,seconds=S    R, but R2 for the last F seconds of every E

Traces are CSV files of one of these kinds:
  TIMESTAMP,ContextTokens,GeneratedTokens        as AzurePublicDataset has them; YYYY-MM-DD hh:mm:ss.fraction in UTC; a
                                                 request runs ContextTokens / --prefill-tokens-per-s
                                                 + GeneratedTokens / --decode-tokens-per-s seconds
  seconds[,service_ms]                           with or without a header; where there is no service_ms, --service-ms
Rows out of order are sorted, which is said. The first request is the start of time.

A table of prices is a TOML file with region = \"...\" and [[types]], each with name, vcpu, memory_mib, devices,
device_memory_mib and device (where there are any), architecture (\"x86_64\" or \"arm64\"), zones (left out: all),
on_demand_usd_per_hour, spot_usd_per_hour and savings_plan_usd_per_hour (where there are any), source, and date (YYYY-MM-DD).
The one that is built in is server/plan/prices.toml: it says where its prices are from, of which day, and how to refresh it.
Instances are paid from launch to end, by the second, a minute at least. Lambda's Managed Instances add a management fee of
15 % of the On-Demand price and $0.20 per million requests: --management-fee-percent 15 --fee-per-million 0.20.

Every request is simulated. What is not: batches (a request's time is that beside as many as run at once), failures, and types
that cannot be had.";

/// Replay a load through the scaler, without a server: instances, refusals, waits and cost over time.
#[derive(Args)]
#[command(after_long_help = FORMATS)]
pub(crate) struct Plan {
    #[command(flatten)]
    load: LoadOptions,
    #[command(flatten)]
    version: VersionOptions,
    #[command(flatten)]
    policy: PolicyOptions,
    #[command(flatten)]
    placement: PlacementOptions,
    #[command(flatten)]
    prices: PriceOptions,
    /// Print JSON.
    #[arg(long)]
    json: bool,
    /// Draw load, capacity, refusals, instances and waits over time: an SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
}

/// Why there is no plan.
#[derive(Debug, thiserror::Error)]
enum PlanError {
    /// An option, a trace or a table of prices is wrong.
    #[error("{0}")]
    Usage(String),
    /// The picture cannot be written.
    #[error("--plot: {0}: {1}")]
    Plot(String, std::io::Error),
}

impl From<WrongOption> for PlanError {
    fn from(wrong: WrongOption) -> Self {
        PlanError::Usage(wrong.to_string())
    }
}

/// Does it. `origin` is the moment at which the simulated load begins: any.
pub(crate) fn run(options: Plan, origin: Instant) -> ExitCode {
    let json = options.json;
    match options.run(origin) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let (code, exit) = match &error {
                PlanError::Usage(_) => ("Usage", EXIT_USAGE),
                PlanError::Plot(..) => ("Local", EXIT_FAILED),
            };
            match json {
                true => show::tell(&json!({ "error": { "code": code, "message": error.to_string() } }).to_string()),
                false => show::tell(&format!("penstock: {error}")),
            }
            ExitCode::from(exit)
        }
    }
}

impl Plan {
    fn run(self, origin: Instant) -> Result<(), PlanError> {
        let load = self.load.load()?;
        let market = self.prices.market(&self.placement.zones)?;
        let instance_start = self.placement.instance_start()?;
        let scenario = Scenario {
            environments: self.version.environments(self.placement.needs())?,
            requests: self.version.requests()?,
            policy: self.policy.policy()?,
            interval: self.policy.interval(),
            rules: self.placement.rules(instance_start)?,
            instance_start,
            market,
            fees: self.prices.fees(),
            seed: self.load.seed,
        };
        let report = plan(&load, &scenario, origin)?;
        if let Some(path) = &self.plot {
            let picture = svg(&report, &format!("{}: {}", self.load.name(), cost(&report)));
            std::fs::write(path, picture).map_err(|error| PlanError::Plot(path.display().to_string(), error))?;
        }
        match self.json {
            true => print_json(&report),
            false => print(&report),
        }
        Ok(())
    }
}

fn cost(report: &Report) -> String {
    let (cost, most) = (&report.cost, report.totals.instances_most);
    format!("${:.2} ({}), at most {most} instances (simulated)", cost.total_usd, cost.rate)
}

fn print_json(report: &Report) {
    match serde_json::to_string(report) {
        Ok(text) => show::say(&text),
        // A number that is none: the report has none.
        Err(error) => show::say(&json!({ "error": { "code": "Local", "message": error.to_string() } }).to_string()),
    };
}

fn print(report: &Report) {
    let (heads, rows) = over_time(report);
    show::table(&heads, &rows);
    show::say("");
    show::table(&["WHAT", "HOW MUCH"], &totals(report));
    for note in &report.notes {
        show::tell(&format!("penstock: {note}"));
    }
}
