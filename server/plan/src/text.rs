//! The report as tables: what happened over time, and the totals.
//!
//! Called by `penstock plan`, which prints them.

use crate::ceilings::Fixed;
use crate::report::{Report, Totals, Wait};
use crate::series::Point;

/// Most rows of the table over time.
const ROWS_MAX: usize = 24;

/// What happened over time: heads, and rows in order of time.
pub fn over_time(report: &Report) -> ([&'static str; 11], Vec<Vec<String>>) {
    let heads = [
        "FROM",
        "REQ/S",
        "OFFERED",
        "IN FLIGHT",
        "SLOTS",
        "SHED",
        "EXPIRED",
        "WAIT MS",
        "LONGEST",
        "INSTANCES",
        "USD/H",
    ];
    (heads, report.series.in_steps(ROWS_MAX).iter().map(row).collect())
}

fn row(point: &Point) -> Vec<String> {
    vec![
        clock(point.from_s),
        number(point.received as f64 / point.seconds),
        number(point.offered),
        number(point.in_flight),
        number(point.slots),
        point.shed.to_string(),
        point.expired.to_string(),
        number(point.wait_mean_ms),
        number(point.wait_most_ms),
        number(point.instances),
        number(point.usd_per_hour),
    ]
}

/// The totals: what, and how much.
pub fn totals(report: &Report) -> Vec<Vec<String>> {
    let Report { totals, cost, ceilings, .. } = report;
    let mut rows = Vec::new();
    let mut say = |what: &str, text: String| rows.push(vec![what.to_owned(), text]);
    say("requests", requests(totals));
    say("refused", counted(totals.shed_by_reason.iter().map(|(reason, count)| (*reason, *count))));
    say("wait", percentiles(&totals.wait));
    say("response", percentiles(&totals.response));
    say("used", used(totals));
    let Totals { environments_most, environments_mean, environments_wanted_most, .. } = totals;
    let wanted = format!("wanted at most {environments_wanted_most}");
    say("environments", format!("{} on average, {environments_most} at most; {wanted}", number(*environments_mean)));
    let Totals { instances_mean, instances_most, vcpu_most, .. } = totals;
    say(
        "instances",
        format!("{} on average, {instances_most} at most, with {vcpu_most} vCPU", number(*instances_mean)),
    );
    for one in &totals.by_type {
        let text = format!(
            "{} on average, {} at most, {} bought, {} h, ${}",
            number(one.mean),
            one.most,
            one.launched,
            number(one.hours),
            number(one.usd)
        );
        say(&format!("  {}", one.name), text);
    }
    say("steps up", counted(totals.steps.iter().map(|(reason, steps)| (*reason, steps.more))));
    say("steps down", counted(totals.steps.iter().map(|(reason, steps)| (*reason, steps.fewer))));
    let million =
        cost.usd_per_million_done.map_or("none was done".into(), |usd| format!("${} a million done", number(usd)));
    let total =
        format!("${}: ${} an hour, {million} ({})", number(cost.total_usd), number(cost.usd_per_hour), cost.rate);
    say("cost", total);
    if cost.total_usd > cost.instances_usd {
        let (management, requests) = (number(cost.management_fee_usd), number(cost.request_fee_usd));
        say(
            "  of it",
            format!("instances ${}, management ${management}, requests ${requests}", number(cost.instances_usd)),
        );
    }
    let times = |usd: f64| if cost.total_usd > 0.0 { usd / cost.total_usd } else { 0.0 };
    let fixed = |fixed: &Fixed| {
        let Fixed { environments, instances, total_usd, .. } = fixed;
        let factor = number(times(*total_usd));
        format!("${}, {factor} × as much: {instances} instances, {environments} environments", number(*total_usd))
    };
    say("fixed, run's peak", fixed(&ceilings.run_peak));
    let none = "no fleet that large can be bought".to_owned();
    say("fixed, load's peak", ceilings.load_peak.as_ref().map_or(none, fixed));
    let least = &ceilings.least;
    let (usd, factor, hours) = (number(least.total_usd), number(times(least.total_usd)), number(least.worker_hours));
    say("least possible", format!("${usd}, {factor} × as much: {hours} worker-hours on full {}", least.instance_type));
    rows
}

fn requests(totals: &Totals) -> String {
    let Totals { requests, done, shed, expired, seconds, .. } = totals;
    format!("{requests} in {}: {done} done, {shed} refused, {expired} expired", clock(*seconds))
}

fn used(totals: &Totals) -> String {
    let (paid, ready) = (totals.utilisation_of_paid * 100.0, totals.utilisation_of_ready * 100.0);
    format!("{} % of the slots that were paid for, {} % of those of environments", number(paid), number(ready))
}

fn percentiles(wait: &Wait) -> String {
    format!("p50 {} ms, p99 {} ms, at most {} ms", number(wait.p50_ms), number(wait.p99_ms), number(wait.most_ms))
}

fn counted(counts: impl Iterator<Item = (&'static str, u64)>) -> String {
    let some: Vec<String> =
        counts.filter(|(_, count)| *count > 0).map(|(name, count)| format!("{count} {name}")).collect();
    if some.is_empty() { "none".into() } else { some.join(", ") }
}

/// `1:02:03`, from seconds.
fn clock(seconds: f64) -> String {
    let whole = seconds as u64;
    format!("{}:{:02}:{:02}", whole / 3600, whole / 60 % 60, whole % 60)
}

/// With as many decimals as say something.
pub(crate) fn number(value: f64) -> String {
    let decimals = match value.abs() {
        value if value >= 1000.0 || value == 0.0 => 0,
        value if value >= 100.0 => 1,
        value if value >= 1.0 => 2,
        value if value >= 0.01 => 3,
        _ => 5,
    };
    format!("{value:.decimals$}")
}
