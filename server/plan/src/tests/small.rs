//! Cases that are small enough to be computed by hand.

use super::{SECOND, near, recorded, run, scenario, synthetic};
use crate::{Fees, Scenario, Spread};
use penstock_scaler::{Bounds, TypePattern};
use std::time::Duration;

/// One environment, or none while nobody asks; on small instances.
fn few(min: u32) -> Scenario {
    let mut scenario = scenario();
    scenario.environments.bounds = Bounds { min, max: 1 };
    scenario.rules.allowed = vec![TypePattern::new("small.*")];
    scenario
}

#[test]
fn a_small_case_is_counted_and_paid_as_by_hand() {
    let load = recorded("0,10000\n1,10000\n2,10000\n100,1000\n");
    let scenario = Scenario { fees: Fees { management: 0.15, usd_per_million: 1000.0 }, ..few(1) };
    let report = run(&load, &scenario);
    let totals = &report.totals;
    assert_eq!((totals.requests, totals.done, totals.shed, totals.expired), (4, 3, 1, 0));
    assert_eq!(totals.shed_by_reason["environment_concurrency"], 1, "both slots were taken");
    assert_eq!(totals.wait.most_ms, 0.0);
    assert_eq!(totals.seconds, 101.0, "the last is done at 101 s");
    // One instance for 101 s at $0.0001; 15 % of it; three requests at $0.001.
    let cost = &report.cost;
    assert!(near(cost.instances_usd, 0.0101) && near(cost.management_fee_usd, 0.001515), "{cost:?}");
    assert!(near(cost.request_fee_usd, 0.003) && near(cost.total_usd, 0.014615), "{cost:?}");
    assert!(near(cost.usd_per_million_done.unwrap(), 0.014615 / 3.0 * 1e6));
    assert!(near(totals.utilisation_of_paid, 21.0 / 202.0) && near(totals.utilisation_of_ready, 21.0 / 202.0));
    let ceilings = &report.ceilings;
    assert!(near(ceilings.run_peak.total_usd, cost.total_usd), "it had one all the time");
    // Three at once: two environments.
    let fixed = ceilings.load_peak.as_ref().unwrap();
    assert_eq!((fixed.environments, fixed.instances), (2, 2));
    assert!(near(fixed.total_usd, 2.0 * 0.0101 * 1.15 + 0.003), "{fixed:?}");
    // 21 s of one of two workers.
    assert!(near(ceilings.least.total_usd, 21.0 / 2.0 * 0.0001 * 1.15 + 0.003), "{:?}", ceilings.least);
}

#[test]
fn what_is_asked_seldom_starts_for_each_and_is_paid_a_minute_at_least() {
    let load = recorded("0,1000\n1000,1000\n");
    let report = run(&load, &few(0));
    let totals = &report.totals;
    assert_eq!((totals.done, totals.seconds), (2, 1013.0));
    assert_eq!(
        totals.wait.most_ms.round(),
        12_000.0 + (totals.wait.most_ms.round() - 12_000.0),
        "an instance and an environment"
    );
    assert_eq!(totals.wait.most_ms, 12_000.0, "10 s for an instance and 2 s for an environment");
    // The first runs until 13 s, is seen last at 12.5 s, is wanted for 300 s more, and its instance goes 60 s later: 372.5 s,
    // billed as 373. The second is there for 13 s and billed for 60.
    assert!(near(report.cost.instances_usd, (373.0 + 60.0) * 0.0001), "{:?}", report.cost);
    assert_eq!((totals.by_type.len(), totals.by_type[0].launched, totals.instances_most), (1, 2, 1));
    assert_eq!((totals.steps["waiting"].more, totals.steps["idle"].fewer), (2, 1));
}

#[test]
fn a_run_of_no_time_and_one_of_no_request_are_runs() {
    let report = run(&recorded("0,0\n"), &few(1));
    assert_eq!((report.totals.done, report.series.points.len(), report.series.points[0].done), (1, 1, 1));
    assert!(near(report.cost.total_usd, 60.0 * 0.0001), "{:?}", report.cost);
    let none = crate::Load { scale: 1e-9, ..recorded("0,1\n5,1\n") };
    let report = run(&none, &few(0));
    assert_eq!((report.totals.requests, report.cost.total_usd, report.cost.usd_per_million_done), (0, 0.0, None));
    assert!(near(report.totals.seconds, 5.0));
}

#[test]
fn a_line_has_an_end_and_a_deadline() {
    let mut scenario = few(0);
    scenario.requests.waiting = 3;
    let report = run(&recorded("0,1000\n1,1000\n2,1000\n3,1000\n4,1000\n"), &scenario);
    let totals = &report.totals;
    assert_eq!((totals.done, totals.shed_by_reason["no_capacity_line_full"]), (3, 2), "two run, then the third");
    scenario.requests.deadline = Some(5 * SECOND);
    let totals = run(&recorded("0,1000\n1,1000\n"), &scenario).totals;
    assert_eq!(totals.shed_by_reason["no_capacity_start_too_long"], 2, "12 s are more than they have");
    scenario.requests.deadline = Some(Duration::from_millis(11_900));
    let totals = run(&recorded("0,50\n0.2,50\n"), &scenario).totals;
    assert_eq!((totals.done, totals.shed), (1, 1), "who comes later knows that one is starting: {totals:?}");
    scenario.requests.deadline = None;
    scenario.requests.patience = 4 * SECOND;
    let totals = run(&recorded("0,1000\n"), &scenario).totals;
    assert_eq!(totals.shed_by_reason["no_capacity_patience"], 1);
}

#[test]
fn a_queue_is_waited_in_and_left_at_the_deadline() {
    let mut scenario = few(1);
    (scenario.environments.slots, scenario.environments.workers) = (4, 1);
    let load = recorded("0,2000\n0,2000\n0,2000\n0,2000\n0,2000\n");
    let totals = run(&load, &scenario).totals;
    assert_eq!((totals.done, totals.shed, totals.seconds), (4, 1, 8.0));
    assert_eq!((totals.wait.most_ms, totals.response.most_ms), (6_000.0, 8_000.0));
    scenario.requests.deadline = Some(5 * SECOND);
    let totals = run(&load, &scenario).totals;
    // Done at 2 and 4 s; the third runs from 4 s and is late at 5 s, when the fourth is in the queue.
    assert_eq!((totals.done, totals.expired, totals.expired_waiting, totals.shed), (2, 2, 1, 1));
    assert_eq!(totals.seconds, 5.0);
}

#[test]
fn an_environment_goes_when_what_it_has_is_done() {
    // Two are needed once, then one: the second is taken away while it runs something long.
    let mut scenario = scenario();
    scenario.environments.bounds = Bounds { min: 1, max: 2 };
    scenario.rules.allowed = vec![TypePattern::new("small.*")];
    let mut rows = String::from("0,1000000\n0,20000\n");
    for second in 15..25 {
        rows.push_str(&format!("{second},400000\n"));
    }
    rows.push_str("1000,100\n");
    let report = run(&recorded(&rows), &scenario);
    let totals = &report.totals;
    assert_eq!(totals.done + totals.shed, totals.requests);
    assert_eq!((totals.environments_most, totals.instances_most, totals.expired), (2, 2, 0), "{totals:?}");
    assert!(totals.steps["quiet"].fewer >= 1, "{:?}", totals.steps);
    assert!(totals.utilisation_of_ready <= 1.0);
}

#[test]
fn one_that_drains_has_its_place_until_it_is_gone() {
    let mut scenario = few(1);
    scenario.environments.bounds.max = 2;
    scenario.rules.vcpu_max = 4;
    (scenario.policy.down_after, scenario.policy.idle_after) = (5 * SECOND, 5 * SECOND);
    // Two for a short while; the first then drains, with a request of ten minutes. What comes at 100 s wants two again, and the
    // place of the second is where the first still is.
    let load = recorded("0,600000\n1,20000\n100,400000\n100,400000\n300,1000\n590,1000\n700,1000\n");
    let totals = run(&load, &scenario).totals;
    assert_eq!((totals.steps["quiet"].fewer > 0, totals.environments_most), (true, 2), "{totals:?}");
    assert_eq!(
        (totals.done, totals.shed),
        (6, 1),
        "at 300 s there is no slot; at 590 s the two of 100 s are done: {totals:?}"
    );
}

#[test]
fn an_instance_that_is_not_needed_any_more_when_it_is_ready_is_given_back() {
    let mut scenario = few(1);
    scenario.environments.bounds.max = 2;
    scenario.policy.down_after = 5 * SECOND;
    scenario.instance_start = 100 * SECOND;
    let report = run(&recorded("0,3000\n0,3000\n500,10\n"), &scenario);
    let one = &report.totals.by_type[0];
    assert_eq!((one.launched, one.most, report.totals.environments_most), (2, 2, 1), "{:?}", report.totals);
    // One for 501 s, and one that is given back as soon as it is ready, having been empty for 60 s before.
    assert!((601.0..604.0).contains(&(one.hours * 3600.0)), "{} s", one.hours * 3600.0);
}

#[test]
fn prices_are_those_of_the_rate() {
    let zones = scenario().rules.zones;
    let market = crate::Prices::parse(super::TABLE).unwrap().at(crate::Rate::Spot, &zones);
    let scenario = Scenario { market, fees: Fees { management: 0.15, usd_per_million: 0.0 }, ..few(1) };
    let report = run(&recorded("0,1000\n100,1000\n"), &scenario);
    assert!(near(report.cost.instances_usd, 0.0101 / 2.0), "{:?}", report.cost);
    assert!(near(report.cost.management_fee_usd, 0.0101 * 0.15), "on the On-Demand price");
    assert!(report.notes.iter().any(|note| note.contains("not bought: 1")), "{:?}", report.notes);
    let none = crate::Prices::parse(super::TABLE).unwrap().at(crate::Rate::SavingsPlan, &zones);
    let wrong = crate::plan(&recorded("0,1\n"), &Scenario { market: none, ..few(1) }, super::origin()).unwrap_err();
    assert_eq!((wrong.field, wrong.found.as_str()), ("rate", "savings-plan"));
}

#[test]
fn options_that_are_wrong_are_named() {
    let wrong = |change: fn(&mut Scenario)| {
        let mut scenario = scenario();
        change(&mut scenario);
        crate::plan(&recorded("0,1\n"), &scenario, super::origin()).unwrap_err().field
    };
    assert_eq!(wrong(|scenario| scenario.environments.slots = 0), "slots");
    assert_eq!(wrong(|scenario| scenario.environments.workers = 3), "workers");
    assert_eq!(wrong(|scenario| scenario.environments.bounds.min = 11), "environments-min");
    assert_eq!(wrong(|scenario| scenario.requests.deadline = Some(Duration::MAX)), "deadline-ms");
    assert_eq!(wrong(|scenario| scenario.rules.empty_after = Duration::MAX), "empty-after-s");
    assert_eq!(wrong(|scenario| scenario.interval = Duration::from_millis(1)), "interval-ms");
    assert_eq!(wrong(|scenario| scenario.environments.needs.device_memory_mib = 1), "allow");
    assert_eq!(wrong(|scenario| scenario.rules.allowed = vec![TypePattern::new("g6.*")]), "allow");
    assert_eq!(wrong(|scenario| scenario.rules.zones = vec!["elsewhere".into()]), "zones");
    assert_eq!(wrong(|scenario| scenario.fees.management = f64::NAN), "management-fee-percent");
    let wrong = |load: crate::Load| crate::plan(&load, &scenario(), super::origin()).unwrap_err().field;
    assert_eq!(wrong(crate::Load { scale: 0.0, ..recorded("0,1\n") }), "scale");
    assert_eq!(wrong(crate::Load { speed: 1e-6, ..recorded("0,1\n1000,1\n") }), "speed");
    let many = synthetic("constant:rate=1e6,seconds=1e6", 1, Spread::Fixed);
    assert_eq!(wrong(many), "scale");
    assert_eq!(wrong(synthetic("constant:rate=1,seconds=1", 100_000_000, Spread::Fixed)), "service-ms");
}
