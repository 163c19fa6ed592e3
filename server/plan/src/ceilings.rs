//! What the cost is held against, from the same run: fixed fleets that are there all the time, and the least that the work could
//! cost.
//!
//! Called by the report. The first of the fixed fleets bounds the cost from above and the least from below, whatever happens.

use crate::books::Books;
use crate::machines::Bill;
use crate::prices::Offer;
use crate::scenario::Scenario;
use penstock_scaler::{Rules, Unavailable, Wish, plan_instances};
use serde::Serialize;
use std::time::Instant;

const SECOND_NS: u64 = 1_000_000_000;
/// Micro-dollars × seconds in a dollar-hour.
const MICRO_USD_S_PER_USD_HOUR: f64 = 1e6 * 3600.0;

/// What the cost is held against. All with the same fees.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Ceilings {
    /// The instances of the run's dearest moment, from its beginning until the last is paid. No run costs more.
    pub run_peak: Fixed,
    /// Environments for the most requests that would have been there at once, bought at once and kept all the time: with as many
    /// workers as slots none is ever refused, and none waits. `None` if no fleet can be bought that is large enough.
    pub load_peak: Option<Fixed>,
    /// The time that workers ran requests, on instances that are full and paid for that time only. No run costs less.
    pub least: Least,
}

/// A fleet that is there all the time.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Fixed {
    /// Environments that it has.
    pub environments: u64,
    /// Instances.
    pub instances: u64,
    /// What it costs, fees for requests left out, in US dollars an hour.
    pub usd_per_hour: f64,
    /// What it costs over the run, in US dollars.
    pub total_usd: f64,
}

/// The least possible.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Least {
    /// Time that workers ran requests, all together, in hours.
    pub worker_hours: f64,
    /// The type of instance that does it for the least.
    pub instance_type: String,
    /// What it costs, in US dollars.
    pub total_usd: f64,
}

/// What an hour of a type costs, with the management fee, in millionths of a US dollar.
pub(crate) fn with_fee(offer: &Offer, scenario: &Scenario) -> f64 {
    offer.micro_usd_per_hour as f64 + scenario.fees.management * offer.on_demand_micro_usd_per_hour as f64
}

/// The ceilings of a run that ended at `end_ns` and whose requests cost `request_fee_usd`.
pub(crate) fn ceilings(
    scenario: &Scenario,
    books: &Books,
    bills: &[Bill],
    end_ns: u64,
    request_fee_usd: f64,
    origin: Instant,
) -> Ceilings {
    Ceilings {
        run_peak: run_peak(scenario, books, bills, request_fee_usd),
        load_peak: load_peak(scenario, books, end_ns, request_fee_usd, origin),
        least: least(scenario, books, end_ns, request_fee_usd),
    }
}

fn run_peak(scenario: &Scenario, books: &Books, bills: &[Bill], request_fee_usd: f64) -> Fixed {
    let until_ns = |bill: &Bill| bill.from_ns + bill.seconds * SECOND_NS;
    // What ends at a moment ends before what begins then.
    let begin = bills.iter().map(|bill| (bill.from_ns, true, bill.offer));
    let mut changes: Vec<_> = begin.chain(bills.iter().map(|bill| (until_ns(bill), false, bill.offer))).collect();
    changes.sort_unstable();
    let offers = &scenario.market.offers;
    let mut counts = vec![0u64; offers.len()];
    let price =
        |counts: &[u64]| offers.iter().zip(counts).map(|(offer, n)| with_fee(offer, scenario) * *n as f64).sum();
    let (mut most, mut instances): (f64, u64) = (0.0, 0);
    for (index, (at_ns, begins, offer)) in changes.iter().enumerate() {
        if *begins {
            counts[*offer] += 1
        } else {
            counts[*offer] -= 1
        }
        // It is the most only where nothing more begins at the same moment.
        let more = changes.get(index + 1).is_some_and(|(next_ns, begins, _)| next_ns == at_ns && *begins);
        if more || !begins {
            continue;
        }
        let now: f64 = price(&counts);
        if now > most {
            (most, instances) = (now, counts.iter().sum());
        }
    }
    let seconds = bills.iter().map(until_ns).max().unwrap_or(0) as f64 / 1e9;
    Fixed {
        environments: books.ready.most(),
        instances,
        usd_per_hour: most / 1e6,
        total_usd: most * seconds / MICRO_USD_S_PER_USD_HOUR + request_fee_usd,
    }
}

fn load_peak(scenario: &Scenario, books: &Books, end_ns: u64, request_fee_usd: f64, origin: Instant) -> Option<Fixed> {
    let environments = books.offered_most().div_ceil(u64::from(scenario.environments.workers)).max(1);
    let wish = Wish {
        version: "plan:1".into(),
        environments: u32::try_from(environments).ok()?,
        needs: scenario.environments.needs,
    };
    let types: Vec<_> = scenario.market.offers.iter().map(|offer| offer.instance_type.clone()).collect();
    let rules = Rules { vcpu_max: u32::MAX, ..scenario.rules.clone() };
    let fleet = plan_instances(&[wish], &[], &types, &rules, &Unavailable::new(), origin);
    if !fleet.unmet.is_empty() {
        return None;
    }
    let offer = |name: &str| scenario.market.offers.iter().find(|offer| offer.instance_type.name == name);
    let offers = fleet.launch.iter().filter_map(|launch| offer(&launch.instance_type));
    let micro_usd_per_hour: f64 = offers.map(|offer| with_fee(offer, scenario)).sum();
    let seconds = end_ns.div_ceil(SECOND_NS).max(60) as f64;
    Some(Fixed {
        environments,
        instances: fleet.launch.len() as u64,
        usd_per_hour: micro_usd_per_hour / 1e6,
        total_usd: micro_usd_per_hour * seconds / MICRO_USD_S_PER_USD_HOUR + request_fee_usd,
    })
}

fn least(scenario: &Scenario, books: &Books, end_ns: u64, request_fee_usd: f64) -> Least {
    let worker_hours = books.running.until(end_ns) as f64 / 1e9 / 3600.0;
    let holds = |offer: &Offer| offer.instance_type.shape.holds(&scenario.environments.needs);
    let per_worker = |offer: &Offer| {
        let workers = f64::from(holds(offer)) * f64::from(scenario.environments.workers);
        with_fee(offer, scenario) / 1e6 / workers
    };
    let may = |offer: &&Offer| scenario.rules.may_buy(&offer.instance_type.name) && holds(offer) > 0;
    let best = scenario.market.offers.iter().filter(may).min_by(|a, b| per_worker(a).total_cmp(&per_worker(b)));
    let usd = best.map_or(0.0, |offer| worker_hours * per_worker(offer));
    let instance_type = best.map(|offer| offer.instance_type.name.clone()).unwrap_or_default();
    Least { worker_hours, instance_type, total_usd: usd + request_fee_usd }
}
