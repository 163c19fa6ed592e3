//! What came of a run, in numbers that people and programs read.
//!
//! Made from the world's books and bills. Times are in the units that their names end with, money is in US dollars.

use crate::books::{Shed, Times};
use crate::ceilings::{Ceilings, ceilings};
use crate::load::{Load, Source};
use crate::machines::Bill;
use crate::scenario::Scenario;
use crate::series::Series;
use crate::trace::Format;
use crate::world::Outcome;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

/// What came of a run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Report {
    /// Over the whole run.
    pub totals: Totals,
    /// What it cost.
    pub cost: Cost,
    /// What that is held against.
    pub ceilings: Ceilings,
    /// What is to be known beside the numbers.
    pub notes: Vec<String>,
    /// What happened over time.
    pub series: Series,
}

/// Over the whole run.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Totals {
    /// From the first request until all had ended, in seconds.
    pub seconds: f64,
    /// Requests that came. All of them were done, refused, or expired.
    pub requests: u64,
    /// Requests that were done in time.
    pub done: u64,
    /// Requests that were refused.
    pub shed: u64,
    /// These by reason: `environment_concurrency` where every slot was taken; where no environment was ready
    /// `no_capacity_line_full`, `no_capacity_start_too_long` (longer than the deadline leaves) and `no_capacity_patience`.
    pub shed_by_reason: BTreeMap<&'static str, u64>,
    /// Requests whose deadline passed.
    pub expired: u64,
    /// Of these, those that had not begun to run.
    pub expired_waiting: u64,
    /// How long those waited that began to run.
    pub wait: Wait,
    /// From coming to being done, of those that were done.
    pub response: Wait,
    /// Time that slots were taken, of the time of all slots that fit on the instances that were paid for.
    pub utilisation_of_paid: f64,
    /// Time that slots were taken, of the time that environments had them.
    pub utilisation_of_ready: f64,
    /// The most requests that would have been there at once if each had been taken at once.
    pub offered_most: u64,
    /// Environments that took requests; mean.
    pub environments_mean: f64,
    /// The most of them.
    pub environments_most: u64,
    /// The most that the scaler wanted.
    pub environments_wanted_most: u64,
    /// Environments that were wanted and for which no instance could be had; the most.
    pub unmet_most: u64,
    /// How many for how long, in environment-seconds.
    pub unmet_seconds: f64,
    /// Why: `vcpu_max`, `no_type` or `unavailable`.
    pub unmet_why: Vec<&'static str>,
    /// Instances; mean.
    pub instances_mean: f64,
    /// The most of them.
    pub instances_most: u64,
    /// The most cores that they had together.
    pub vcpu_most: u32,
    /// Instances by type, those that were ever bought.
    pub by_type: Vec<OfType>,
    /// How often level one wanted another number of environments, by reason.
    pub steps: BTreeMap<&'static str, Steps>,
}

/// Percentiles of times, in milliseconds, to three digits.
#[derive(Clone, Copy, PartialEq, Debug, Serialize)]
pub struct Wait {
    /// Half took no longer.
    pub p50_ms: f64,
    /// 99 in 100 took no longer.
    pub p99_ms: f64,
    /// None took longer.
    pub most_ms: f64,
}

/// Instances of one type.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct OfType {
    /// The type.
    pub name: String,
    /// Mean.
    pub mean: f64,
    /// The most.
    pub most: u64,
    /// How many were bought.
    pub launched: u64,
    /// Hours that were paid for.
    pub hours: f64,
    /// What these cost, fees left out.
    pub usd: f64,
}

/// How often level one wanted more, and fewer.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Steps {
    /// More environments.
    pub more: u64,
    /// Fewer.
    pub fewer: u64,
}

/// What a run cost.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Cost {
    /// The rate that was paid.
    pub rate: &'static str,
    /// Days of the prices, the first and the last.
    pub prices_of: Option<(String, String)>,
    /// Instances.
    pub instances_usd: f64,
    /// The management fee.
    pub management_fee_usd: f64,
    /// The fee for requests.
    pub request_fee_usd: f64,
    /// All of it.
    pub total_usd: f64,
    /// An hour of the run, on average.
    pub usd_per_hour: f64,
    /// A million requests that were done; `None` if none was.
    pub usd_per_million_done: Option<f64>,
}

pub(crate) fn report(load: &Load, scenario: &Scenario, outcome: Outcome, origin: Instant) -> Report {
    let cost = cost(scenario, &outcome);
    let Outcome { books, bills, end_ns, .. } = &outcome;
    let ceilings = ceilings(scenario, books, bills, *end_ns, cost.request_fee_usd, origin);
    let totals = totals(scenario, &outcome);
    let notes = notes(load, scenario, &totals);
    Report { totals, cost, ceilings, notes, series: outcome.series }
}

fn cost(scenario: &Scenario, outcome: &Outcome) -> Cost {
    let offers = &scenario.market.offers;
    let paid = |price: fn(&crate::prices::Offer) -> u64| {
        let micro_usd_s: u128 =
            outcome.bills.iter().map(|bill| u128::from(price(&offers[bill.offer])) * u128::from(bill.seconds)).sum();
        micro_usd_s as f64 / 1e6 / 3600.0
    };
    let instances_usd = paid(|offer| offer.micro_usd_per_hour);
    let management_fee_usd = paid(|offer| offer.on_demand_micro_usd_per_hour) * scenario.fees.management;
    let counts = &outcome.books.counts;
    let request_fee_usd = counts.taken() as f64 / 1e6 * scenario.fees.usd_per_million;
    let total_usd = instances_usd + management_fee_usd + request_fee_usd;
    let hours = outcome.end_ns as f64 / 1e9 / 3600.0;
    Cost {
        rate: scenario.market.rate.name(),
        prices_of: scenario.market.dates.clone(),
        instances_usd,
        management_fee_usd,
        request_fee_usd,
        total_usd,
        usd_per_hour: if hours > 0.0 { total_usd / hours } else { 0.0 },
        usd_per_million_done: (counts.done > 0).then(|| total_usd / counts.done as f64 * 1e6),
    }
}

fn totals(scenario: &Scenario, outcome: &Outcome) -> Totals {
    let Outcome { books, bills, end_ns, .. } = outcome;
    let (end_ns, counts) = (*end_ns, &books.counts);
    let mean = |sum: u128| if end_ns > 0 { sum as f64 / end_ns as f64 } else { 0.0 };
    let share = |part: u128, whole: u128| if whole > 0 { part as f64 / whole as f64 } else { 0.0 };
    let taken = books.taken.until(end_ns);
    let paid: u128 = bills.iter().map(|bill| u128::from(bill.slots) * u128::from(bill.seconds) * 1_000_000_000).sum();
    let reasons = [
        ("environment_concurrency", Shed::NoSlot),
        ("no_capacity_line_full", Shed::LineFull),
        ("no_capacity_start_too_long", Shed::StartTooLong),
        ("no_capacity_patience", Shed::OutOfPatience),
    ];
    let steps = outcome.steps.iter().map(|(reason, (more, fewer))| (*reason, Steps { more: *more, fewer: *fewer }));
    Totals {
        seconds: end_ns as f64 / 1e9,
        requests: counts.received,
        done: counts.done,
        shed: counts.shed_all(),
        shed_by_reason: reasons.into_iter().map(|(name, why)| (name, counts.shed[why as usize])).collect(),
        expired: counts.expired_all(),
        expired_waiting: counts.expired_waiting,
        wait: percentiles(&books.waits),
        response: percentiles(&books.responses),
        utilisation_of_paid: share(taken, paid),
        utilisation_of_ready: share(taken, books.slots_kept.until(end_ns)),
        offered_most: books.offered_most(),
        environments_mean: mean(books.ready.until(end_ns)),
        environments_most: books.ready.most(),
        environments_wanted_most: books.wanted.most(),
        unmet_most: books.unmet.most(),
        unmet_seconds: books.unmet.until(end_ns) as f64 / 1e9,
        unmet_why: outcome.unmet_why.iter().copied().collect(),
        instances_mean: mean(books.instances.until(end_ns)),
        instances_most: books.instances.most(),
        vcpu_most: outcome.vcpu_most,
        by_type: by_type(scenario, outcome),
        steps: steps.collect(),
    }
}

fn percentiles(times: &Times) -> Wait {
    Wait { p50_ms: times.quantile_ms(0.5), p99_ms: times.quantile_ms(0.99), most_ms: times.most_ms() }
}

fn by_type(scenario: &Scenario, outcome: &Outcome) -> Vec<OfType> {
    let end_ns = outcome.end_ns;
    let of = |index: usize| {
        let offer = &scenario.market.offers[index];
        let own = || outcome.bills.iter().filter(move |bill: &&Bill| bill.offer == index);
        let seconds: u64 = own().map(|bill| bill.seconds).sum();
        let level = &outcome.by_offer[index];
        OfType {
            name: offer.instance_type.name.clone(),
            mean: if end_ns > 0 { level.until(end_ns) as f64 / end_ns as f64 } else { 0.0 },
            most: level.most(),
            launched: own().count() as u64,
            hours: seconds as f64 / 3600.0,
            usd: seconds as f64 * offer.micro_usd_per_hour as f64 / 1e6 / 3600.0,
        }
    };
    (0..scenario.market.offers.len()).map(of).filter(|one| one.launched > 0).collect()
}

fn notes(load: &Load, scenario: &Scenario, totals: &Totals) -> Vec<String> {
    let mut notes = Vec::new();
    if let Source::Recorded(trace) = &load.source {
        if trace.out_of_order > 0 {
            let rows = trace.out_of_order;
            notes.push(format!("the trace was sorted by time: {rows} rows came earlier than the row before them"));
        }
        if trace.format == Format::Tokens {
            notes.push("if this trace is AzurePublicDataset's (CC BY 4.0), credit it wherever this is shown".into());
        }
    }
    if !scenario.market.without_rate.is_empty() {
        let (count, rate) = (scenario.market.without_rate.len(), scenario.market.rate.name());
        notes.push(format!("types of the table of prices that have no {rate} rate, and are not bought: {count}"));
    }
    if totals.unmet_most > 0 {
        notes.push(format!(
            "the scaler wanted up to {} environments that could not be had: {}",
            totals.unmet_most,
            totals.unmet_why.join(", ")
        ));
    }
    if totals.environments_wanted_most >= u64::from(scenario.environments.bounds.max) {
        notes.push(format!(
            "the most environments that there may be, {}, were reached",
            scenario.environments.bounds.max
        ));
    }
    notes
}
