//! From records to figures: a pure function, and the JSON they are kept in. Called by `run`; read by `table`, `report`.

use crate::drive::Run;
use crate::record::{Class, Record, add, histogram};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A generator above this share of its core may itself be the queue.
const BUSY_PERCENT: f64 = 70.0;
/// Requests that left later than this after their time, at the 99th percentile, mark a run.
const LATE_MS: f64 = 5.0;

/// One run of the generator: a file of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Summary {
    /// Always `penstock-loadtest run`.
    pub kind: String,
    /// What to call it in a report.
    pub name: String,
    /// The command's settings, in words.
    pub config: BTreeMap<String, String>,
    /// One entry a step.
    pub steps: Vec<StepSummary>,
}

/// Latencies in milliseconds, and what their names say.
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Percentiles {
    pub count: u64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// One second of a step, by intended time; latencies in milliseconds.
#[allow(missing_docs)]
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Second {
    pub offered: u64,
    pub ok: u64,
    pub shed: u64,
    pub other: u64,
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

/// How often one end came up.
#[allow(missing_docs)]
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct OutcomeCount {
    pub class: Class,
    pub name: String,
    pub count: u64,
}

/// One step.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StepSummary {
    /// Intended requests a second; `None` in a closed loop.
    pub offered_rps: Option<f64>,
    /// Requests kept in flight, in a closed loop.
    pub closed_in_flight: Option<usize>,
    /// Length of sending.
    pub seconds: f64,
    /// Requests that were due.
    pub intended: u64,
    /// Results that came within the step, a second.
    pub throughput_rps: f64,
    /// Results within `goodput_limit_ms` of their intended time, a second; all results if there is no limit.
    pub goodput_rps: f64,
    /// The deadline or the objective.
    pub goodput_limit_ms: Option<u32>,
    /// Results, from the intended time.
    pub latency: Percentiles,
    /// Results, from the time of sending: what a closed view would have shown.
    pub service: Percentiles,
    /// Sheds, from the time of sending.
    pub refusal: Percentiles,
    /// Answers that a deadline had passed, from the time of sending.
    #[serde(default)]
    pub expiry: Percentiles,
    /// From the intended time to sending.
    pub lateness: Percentiles,
    /// Ends by kind, most frequent first.
    pub outcomes: Vec<OutcomeCount>,
    /// Stage times as the server told them.
    pub stages: BTreeMap<String, Percentiles>,
    /// How long sheds asked to wait, in milliseconds.
    pub retry_after: Percentiles,
    /// Batch size to number of results that were in one.
    pub batch_sizes: BTreeMap<u16, u64>,
    /// Second by second.
    pub series: Vec<Second>,
    /// The generator's processor use, in percent of its one core.
    pub generator_cpu_percent: f64,
    /// The same for each request sent.
    pub generator_cpu_us_per_request: f64,
    /// Requests that waited in the generator for a free connection.
    pub waited_for_connection: u64,
    /// Why the figures need care; empty if they do not.
    pub marks: Vec<String>,
}

impl Percentiles {
    /// From microseconds, in milliseconds.
    pub fn of_us(us: &Histogram<u64>) -> Self {
        Self::scaled(us, 1000.0)
    }

    /// From any unit, divided by `scale`.
    pub fn scaled(values: &Histogram<u64>, scale: f64) -> Self {
        let at = |quantile| values.value_at_quantile(quantile) as f64 / scale;
        if values.is_empty() {
            return Self::default();
        }
        Self {
            count: values.len(),
            mean: values.mean() / scale,
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            max: values.max() as f64 / scale,
        }
    }
}

fn distribution<'a>(records: impl Iterator<Item = &'a Record>, us: impl Fn(&Record) -> u32) -> Histogram<u64> {
    let mut all = histogram();
    records.for_each(|record| add(&mut all, u64::from(us(record))));
    all
}

/// Sums a step up.
pub fn summarize(run: &Run, pace: (Option<f64>, Option<usize>), limit_ms: Option<u32>) -> StepSummary {
    let (tally, (began, end)) = (&run.tally, run.span_us);
    let seconds = (end - began) as f64 / 1e6;
    let of = |class: Class| tally.records.iter().filter(move |record| tally.class(record) == class);
    let sent = || tally.records.iter().filter(|record| tally.class(record) != Class::NotSent);
    let latency = |record: &Record| record.done_us - record.intended_us;
    let service = |record: &Record| record.done_us - record.sent_us;
    let in_time =
        of(Class::Ok).filter(|r| limit_ms.is_none_or(|ms| u64::from(latency(r)) <= u64::from(ms) * 1000)).count();
    let within = of(Class::Ok).filter(|record| u64::from(record.done_us) <= end).count();
    let mut counts = vec![0u64; tally.outcomes.len()];
    let mut batch_sizes = BTreeMap::new();
    for record in &tally.records {
        counts[usize::from(record.outcome)] += 1;
        if record.batch > 0 {
            *batch_sizes.entry(record.batch).or_default() += 1;
        }
    }
    let mut outcomes: Vec<OutcomeCount> = tally
        .outcomes
        .iter()
        .zip(counts)
        .map(|((class, name), count)| OutcomeCount { class: *class, name: name.clone(), count })
        .collect();
    outcomes.sort_by_key(|outcome| std::cmp::Reverse(outcome.count));
    let sent_count = sent().count();
    let mut step = StepSummary {
        offered_rps: pace.0,
        closed_in_flight: pace.1,
        seconds,
        intended: tally.records.len() as u64,
        throughput_rps: within as f64 / seconds,
        goodput_rps: if limit_ms.is_some() { in_time } else { within } as f64 / seconds,
        goodput_limit_ms: limit_ms,
        latency: Percentiles::of_us(&distribution(of(Class::Ok), latency)),
        service: Percentiles::of_us(&distribution(of(Class::Ok), service)),
        refusal: Percentiles::of_us(&distribution(of(Class::Shed), service)),
        expiry: Percentiles::of_us(&distribution(of(Class::Expired), service)),
        lateness: Percentiles::of_us(&distribution(sent(), |record| record.sent_us - record.intended_us)),
        outcomes,
        stages: tally.stages.iter().map(|(name, us)| (name.clone(), Percentiles::of_us(us))).collect(),
        retry_after: Percentiles::scaled(&tally.retry_after_ms, 1.0),
        batch_sizes,
        series: series(run),
        generator_cpu_percent: 100.0 * run.cpu_us as f64 / run.wall_us.max(1) as f64,
        generator_cpu_us_per_request: run.cpu_us as f64 / sent_count.max(1) as f64,
        waited_for_connection: run.waited_for_connection,
        marks: Vec::new(),
    };
    step.marks = marks(&step, run);
    step
}

fn series(run: &Run) -> Vec<Second> {
    let (began, end) = run.span_us;
    let count = (end - began).div_ceil(1_000_000) as usize;
    let mut seconds = vec![(Second::default(), histogram()); count];
    for record in &run.tally.records {
        let at = (u64::from(record.intended_us).saturating_sub(began) / 1_000_000) as usize;
        let (second, latencies) = &mut seconds[at.min(count - 1)];
        second.offered += 1;
        match run.tally.class(record) {
            Class::Ok => {
                second.ok += 1;
                add(latencies, u64::from(record.done_us - record.intended_us));
            }
            Class::Shed => second.shed += 1,
            Class::Expired | Class::Failed | Class::Lost | Class::NotSent => second.other += 1,
        }
    }
    let filled = |(second, latencies): (Second, Histogram<u64>)| {
        let Percentiles { p50, p99, max, .. } = Percentiles::of_us(&latencies);
        Second { p50, p99, max, ..second }
    };
    seconds.into_iter().map(filled).collect()
}

/// What makes the figures doubtful.
fn marks(step: &StepSummary, run: &Run) -> Vec<String> {
    let mut marks = Vec::new();
    let total = |class| step.outcomes.iter().filter(|o| o.class == class).map(|o| o.count).sum::<u64>();
    if total(Class::NotSent) > 0 {
        marks.push(format!("{} requests not sent: generator saturated", total(Class::NotSent)));
    }
    if total(Class::Lost) > 0 {
        marks.push(format!("{} requests without an answer: percentiles leave them out", total(Class::Lost)));
    }
    if step.generator_cpu_percent > BUSY_PERCENT {
        marks.push(format!(
            "the generator used {:.0} % of its core: it may itself be the limit",
            step.generator_cpu_percent
        ));
    }
    if step.lateness.p99 > LATE_MS {
        let reason = if step.waited_for_connection > 0 { " (for want of free connections)" } else { "" };
        marks.push(format!("requests left late{reason}: p99 {:.1} ms after their time", step.lateness.p99));
    }
    if run.lost_connections > 0 {
        marks.push(format!("{} connections broke", run.lost_connections));
    }
    marks
}

#[cfg(test)]
mod tests;
