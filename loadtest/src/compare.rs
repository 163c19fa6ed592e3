//! Two targets in turn, slice by slice (A B B A), so that a machine that warms, throttles or shares its cores does so to
//! both alike. Called by `main`.

use crate::clock::{Clock, cpu_us_of};
use crate::drive::{Pace, Run, Step, run};
use crate::fleet::{Fleet, FleetError};
use crate::options::RequestOptions;
use crate::payload::Payloads;
use crate::summary::{StepSummary, summarize};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Options of `compare`.
#[derive(Args, Clone, Debug)]
pub struct CompareOptions {
    /// The target that is judged, written as for `run`
    #[arg(long)]
    pub a: String,
    /// The target it is compared with
    #[arg(long)]
    pub b: String,
    #[command(flatten)]
    #[allow(missing_docs)]
    pub request: RequestOptions,
    /// Requests in flight
    #[arg(long, default_value_t = 64)]
    pub closed: usize,
    /// Length of a slice, in seconds
    #[arg(long, default_value_t = 1.0)]
    pub slice: f64,
    /// Rounds of two slices each
    #[arg(long, default_value_t = 8)]
    pub rounds: usize,
    /// Process id of A's server, to print its processor time for each request
    #[arg(long)]
    pub pid_a: Option<u32>,
    /// Process id of B's server
    #[arg(long)]
    pub pid_b: Option<u32>,
    /// What to call the comparison in reports
    #[arg(long)]
    pub name: Option<String>,
    /// Write the figures here
    #[arg(long)]
    pub json: Option<PathBuf>,
}

/// A median and how far the values lie apart.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Spread {
    pub median: f64,
    pub lowest: f64,
    pub highest: f64,
}

impl Spread {
    /// Of any number of values; all 0 if there is none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (Some(&lowest), Some(&highest)) = (values.first(), values.last()) else { return Self::default() };
        let middle = values.len() / 2;
        let median =
            if values.len().is_multiple_of(2) { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] };
        Self { median, lowest, highest }
    }
}

/// One side.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Side {
    pub url: String,
    /// Results a second.
    pub throughput_rps: Spread,
    pub p50_ms: Spread,
    pub p99_ms: Spread,
    /// The server's own processor time for each result, if its process is known, in microseconds.
    pub server_cpu_us: Option<f64>,
    pub generator_cpu_us: f64,
    /// Requests that had no result.
    pub not_ok: u64,
}

/// The result: a file of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Comparison {
    /// Always `penstock-loadtest compare`.
    pub kind: String,
    pub name: String,
    pub closed: usize,
    pub a: Side,
    pub b: Side,
    /// A's throughput over B's, round by round.
    pub ratio: Spread,
    pub rounds: Vec<f64>,
}

struct Lane {
    url: String,
    fleet: Fleet,
    payloads: Payloads,
    pid: Option<u32>,
    cpu_us: u64,
    slices: Vec<(StepSummary, u64)>,
}

impl Lane {
    fn slice(&mut self, step: Step, clock: Clock) -> Result<(), FleetError> {
        let cpu = self.pid.and_then(cpu_us_of);
        let run: Run = run(&mut self.fleet, &mut self.payloads, step, clock)?;
        let after = self.pid.and_then(cpu_us_of);
        self.cpu_us += cpu.zip(after).map_or(0, |(before, after)| after - before);
        let summary = summarize(&run, (None, Some(0)), None);
        let results = summary.latency.count;
        self.slices.push((summary, results));
        Ok(())
    }

    fn side(&self) -> Side {
        let of = |figure: fn(&StepSummary) -> f64| Spread::of(self.slices.iter().map(|(slice, _)| figure(slice)));
        let results: u64 = self.slices.iter().map(|(_, results)| results).sum();
        Side {
            url: self.url.clone(),
            throughput_rps: of(|slice| slice.throughput_rps),
            p50_ms: of(|slice| slice.latency.p50),
            p99_ms: of(|slice| slice.latency.p99),
            server_cpu_us: self.pid.map(|_| self.cpu_us as f64 / results.max(1) as f64),
            generator_cpu_us: of(|slice| slice.generator_cpu_us_per_request).median,
            not_ok: self.slices.iter().map(|(slice, results)| slice.intended - results).sum(),
        }
    }
}

/// Compares two targets.
pub fn compare(options: &CompareOptions, clock: Clock) -> Result<Comparison, crate::options::OptionsError> {
    let lane = |url: &str, pid| -> Result<Lane, crate::options::OptionsError> {
        let (fleet, payloads) = options.request.open(url, Some(options.closed), clock)?;
        Ok(Lane { url: url.to_owned(), fleet, payloads, pid, cpu_us: 0, slices: Vec::new() })
    };
    let mut lanes = [lane(&options.a, options.pid_a)?, lane(&options.b, options.pid_b)?];
    let pace = Pace::Closed { in_flight: options.closed };
    let step = Step { pace, seconds: options.slice, max_in_flight: usize::MAX, drain_seconds: 5.0 };
    for lane in &mut lanes {
        // Warms both up, and is forgotten.
        run(&mut lane.fleet, &mut lane.payloads, step, clock)?;
    }
    for round in 0..options.rounds {
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for at in order {
            lanes[at].slice(step, clock)?;
        }
    }
    let [a, b] = &lanes;
    let ratio =
        |((a, _), (b, _)): (&(StepSummary, u64), &(StepSummary, u64))| a.throughput_rps / b.throughput_rps.max(1e-9);
    let rounds: Vec<f64> = a.slices.iter().zip(&b.slices).map(ratio).collect();
    Ok(Comparison {
        kind: "penstock-loadtest compare".to_owned(),
        name: options.name.clone().unwrap_or_else(|| format!("{} against {}", options.a, options.b)),
        closed: options.closed,
        a: a.side(),
        b: b.side(),
        ratio: Spread::of(rounds.iter().copied()),
        rounds,
    })
}

/// The comparison as text for a terminal.
pub fn text(comparison: &Comparison) -> String {
    let spread =
        |s: &Spread, digits: usize| format!("{:.digits$} ({:.digits$} to {:.digits$})", s.median, s.lowest, s.highest);
    let mut out = format!("{}, {} in flight, {} rounds\n", comparison.name, comparison.closed, comparison.rounds.len());
    for (name, side) in [("A", &comparison.a), ("B", &comparison.b)] {
        let server = side.server_cpu_us.map(|us| format!(", server CPU {us:.1} us/request")).unwrap_or_default();
        out += &format!(
            "  {name} {}: {} ok/s, p50 {} ms, p99 {} ms, generator CPU {:.2} us/request{server}, {} not ok\n",
            side.url,
            spread(&side.throughput_rps, 0),
            spread(&side.p50_ms, 3),
            spread(&side.p99_ms, 3),
            side.generator_cpu_us,
            side.not_ok
        );
    }
    out + &format!("  A/B: {}\n", spread(&comparison.ratio, 3))
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn medians() {
        assert_eq!(Spread::of([3.0, 1.0, 2.0]), Spread { median: 2.0, lowest: 1.0, highest: 3.0 });
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 3.0]).median, 2.5);
        assert_eq!(Spread::of([]), Spread::default());
    }
}
