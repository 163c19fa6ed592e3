//! The section of one run: how it answered step by step, and second by second. Called by `page`.

use super::chart::{Labels, Series, columns, curves, escape, short};
use super::page::mark;
use crate::record::Class;
use crate::summary::{Second, StepSummary, Summary};
use crate::table::load;

/// Steps beyond this many are shown in the sweep's charts and the table only.
const DETAILED_STEPS: usize = 6;

pub(super) fn section(summary: &Summary) -> String {
    let config: String = summary
        .config
        .iter()
        .map(|(name, value)| format!("<span>{} <b>{}</b></span>", escape(name), escape(value)))
        .collect();
    let mut out = format!("<h2>{}</h2><div class=\"config\">{config}</div>", escape(&summary.name));
    if summary.steps.len() > 1 {
        out += &sweep(&summary.steps);
    }
    for step in summary.steps.iter().take(DETAILED_STEPS) {
        if summary.steps.len() > 1 {
            out += &format!("<h3>{} {}</h3>", load(step), mark(step));
        }
        if !step.marks.is_empty() {
            out += &format!("<div class=\"mark\">With care: {}.</div>", escape(&step.marks.join("; ")));
        }
        out += &detail(step);
    }
    out
}

fn curve<'a>(name: &'a str, colour: &'a str, points: Vec<(f64, f64)>) -> Series<'a> {
    Series { name, colour, dashed: false, points }
}

/// Figures over the load of each step.
fn sweep(steps: &[StepSummary]) -> String {
    let open = steps.iter().all(|step| step.offered_rps.is_some());
    let x = |step: &StepSummary| step.offered_rps.or(step.closed_in_flight.map(|n| n as f64)).unwrap_or(0.0);
    let over = |figure: fn(&StepSummary) -> f64| steps.iter().map(|step| (x(step), figure(step))).collect::<Vec<_>>();
    let axis = if open { "requests offered a second" } else { "requests in flight" };
    let mut answered = vec![curve("results", "c1", over(|step| step.throughput_rps))];
    if steps.iter().any(|step| step.goodput_limit_ms.is_some()) {
        answered.push(curve("goodput", "ok", over(|step| step.goodput_rps)));
    }
    if open {
        answered.push(Series {
            name: "offered",
            colour: "soft",
            dashed: true,
            points: over(|step| step.offered_rps.unwrap_or(0.0)),
        });
    }
    let mut latencies = vec![
        curve("p50", "c1", over(|step| step.latency.p50)),
        curve("p99", "c2", over(|step| step.latency.p99)),
        curve("p99.9", "c3", over(|step| step.latency.p999)),
    ];
    if steps.iter().any(|step| step.refusal.count > 0) {
        latencies.push(curve("refusal p99", "shed", over(|step| step.refusal.p99)));
    }
    let throughput = curves(&Labels { title: "Throughput", x: axis, y: "a second" }, &answered, false);
    let latency = curves(&Labels { title: "Latency", x: axis, y: "milliseconds" }, &latencies, true);
    format!("<div class=\"grid\">{throughput}{latency}</div>")
}

fn detail(step: &StepSummary) -> String {
    let at = |figure: fn(&Second) -> f64| {
        step.series.iter().enumerate().map(|(second, s)| (second as f64 + 1.0, figure(s))).collect::<Vec<_>>()
    };
    let latencies =
        [curve("p50", "c1", at(|s| s.p50)), curve("p99", "c2", at(|s| s.p99)), curve("max", "c3", at(|s| s.max))];
    let latency = curves(&Labels { title: "Latency over time", x: "second", y: "milliseconds" }, &latencies, true);
    let layers = [
        curve("ok", "ok", at(|s| s.ok as f64)),
        curve("shed", "shed", at(|s| s.shed as f64)),
        curve("other", "bad", at(|s| s.other as f64)),
    ];
    let seconds: Vec<String> = (1..=step.series.len()).map(|second| second.to_string()).collect();
    let labels = Labels { title: "Requests by when they were due", x: "second", y: "requests" };
    let mut figures = latency + &columns(&labels, &seconds, &layers);
    if !step.batch_sizes.is_empty() {
        let sizes: Vec<String> = step.batch_sizes.keys().map(u16::to_string).collect();
        let counts = step.batch_sizes.values().enumerate().map(|(at, count)| (at as f64, *count as f64)).collect();
        let labels = Labels { title: "Batch a result was in", x: "size of the batch", y: "results" };
        figures += &columns(&labels, &sizes, &[curve("results", "c1", counts)]);
    }
    format!("<div class=\"grid\">{figures}</div>{}{}", outcomes(step), stages(step))
}

fn outcomes(step: &StepSummary) -> String {
    if step.outcomes.iter().all(|outcome| outcome.class == Class::Ok) {
        return String::new();
    }
    let class = |class| match class {
        Class::Ok => ("good", "ok"),
        Class::Shed => ("care", "shed"),
        Class::Expired => ("care", "expired"),
        Class::Failed => ("bad", "failed"),
        Class::Lost => ("bad", "no answer"),
        Class::NotSent => ("bad", "not sent"),
    };
    let rows: String = step
        .outcomes
        .iter()
        .map(|outcome| {
            let (style, word) = class(outcome.class);
            let share = 100.0 * outcome.count as f64 / step.intended.max(1) as f64;
            let name = escape(&outcome.name);
            format!("<tr><td class=\"{style}\">{word}</td><td class=\"text\">{name}</td><td>{}</td><td>{share:.2} %</td></tr>", outcome.count)
        })
        .collect();
    let r = &step.refusal;
    let refusals = match (r.count, step.retry_after.count) {
        (0, _) => String::new(),
        (_, 0) => format!("<p>Refusals took p50 {}, p99 {}, from sending.</p>", short(r.p50), short(r.p99)),
        _ => format!(
            "<p>Refusals took p50 {}, p99 {}, from sending, and asked to come back after {} at the median.</p>",
            short(r.p50),
            short(r.p99),
            short(step.retry_after.p50)
        ),
    };
    format!(
        "<h3>How requests ended</h3>{refusals}<div class=\"scroll\"><table><tr><th>end</th><th class=\"text\">reason or \
         code</th><th>requests</th><th>share</th></tr>{rows}</table></div>"
    )
}

fn stages(step: &StepSummary) -> String {
    if step.stages.is_empty() {
        return String::new();
    }
    let rows: String = step
        .stages
        .iter()
        .map(|(name, time)| {
            let cells: String = [time.mean, time.p50, time.p90, time.p99, time.max]
                .iter()
                .map(|ms| format!("<td>{}</td>", short(*ms)))
                .collect();
            format!("<tr><td>{}</td>{cells}</tr>", escape(name))
        })
        .collect();
    format!(
        "<h3>Stages, as the server told them</h3><div class=\"scroll\"><table><tr><th>stage</th><th>mean</th><th>p50</th>\
         <th>p90</th><th>p99</th><th>max</th></tr>{rows}</table></div>"
    )
}
