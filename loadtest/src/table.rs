//! A run as text for a terminal. Called by `main`.

use crate::summary::{StepSummary, Summary};
use std::fmt::Write;

/// The whole table, one line a step, and what needs more than a line below it.
pub fn table(summary: &Summary) -> String {
    let mut out = format!("{}\n", summary.name);
    let head = ["load", "ok/s", "good/s", "p50 ms", "p90", "p99", "p99.9", "max", "not ok", "cpu %", "cpu us/req"];
    let _ = writeln!(out, "    {}", head.map(|text| format!("{text:>10}")).join(" "));
    for step in &summary.steps {
        let l = &step.latency;
        let not_ok = step.intended - l.count;
        let _ = writeln!(
            out,
            "  {:>12} {:>10.1} {:>10.1} {:>10.3} {:>10.3} {:>10.3} {:>10.3} {:>10.3} {:>10} {:>10.1} {:>10.2}",
            load(step),
            step.throughput_rps,
            step.goodput_rps,
            l.p50,
            l.p90,
            l.p99,
            l.p999,
            l.max,
            not_ok,
            step.generator_cpu_percent,
            step.generator_cpu_us_per_request
        );
    }
    for step in &summary.steps {
        details(&mut out, step);
    }
    out
}

/// The load of a step in a word.
pub fn load(step: &StepSummary) -> String {
    match (step.offered_rps, step.closed_in_flight) {
        (Some(rps), _) => format!("{rps}/s"),
        (None, Some(count)) => format!("{count} in flight"),
        (None, None) => String::new(),
    }
}

fn details(out: &mut String, step: &StepSummary) {
    let mut line = |name: &str, text: String| {
        if !text.is_empty() {
            let _ = writeln!(out, "  {:>12} {name}: {text}", load(step));
        }
    };
    let list = |items: Vec<String>| items.join(", ");
    let not_ok = step.outcomes.iter().filter(|outcome| outcome.name != "ok");
    line("ended otherwise", list(not_ok.map(|outcome| format!("{} {}", outcome.count, outcome.name)).collect()));
    if step.refusal.count > 0 {
        let wait = match step.retry_after.count {
            0 => String::new(),
            _ => format!("; asked to come back after {} ms at the median", step.retry_after.p50),
        };
        line("refusals", format!("p50 {:.3} p99 {:.3} ms from sending{wait}", step.refusal.p50, step.refusal.p99));
    }
    if step.expiry.count > 0 {
        let text = format!("p50 {:.3} p99 {:.3} ms from sending", step.expiry.p50, step.expiry.p99);
        line("expired, answered", text);
    }
    let stages = step.stages.iter().map(|(name, time)| format!("{name} {:.3}/{:.3}", time.p50, time.p99));
    line("stages, p50/p99 ms", list(stages.collect()));
    let results: u64 = step.batch_sizes.values().sum();
    if results > 0 {
        let sum: u64 = step.batch_sizes.iter().map(|(size, count)| u64::from(*size) * count).sum();
        line("batch a result was in, mean", format!("{:.1}", sum as f64 / results as f64));
    }
    line("CARE", step.marks.join("; "));
}
