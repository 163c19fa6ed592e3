//! Loads that are followed: capacity comes within the time that starting takes, and limits hold on the way.

use super::{SECOND, recorded, run, scenario, synthetic};
use crate::{Load, Report, Scenario, Spread};
use penstock_scaler::Bounds;

fn up_to(max: u32) -> Scenario {
    let mut scenario = scenario();
    scenario.environments.bounds = Bounds { min: 1, max };
    scenario
}

fn balanced(report: &Report) {
    let totals = &report.totals;
    assert_eq!(totals.requests, totals.done + totals.shed + totals.expired, "{totals:?}");
    let sum = |of: fn(&crate::Point) -> u64| report.series.points.iter().map(of).sum::<u64>();
    assert_eq!(sum(|point| point.received), totals.requests);
    assert_eq!(sum(|point| point.done + point.shed + point.expired), totals.requests);
}

#[test]
fn a_step_is_followed_within_the_time_of_two_starts() {
    // 4, then 20 slots.
    let load = synthetic("step:rate=20,to=100,at=120,seconds=400", 200, Spread::Fixed);
    let scenario = up_to(100);
    let report = run(&load, &scenario);
    balanced(&report);
    let starts = (scenario.instance_start + scenario.environments.start).as_secs_f64();
    // Two seconds are averaged before it is decided, and what was refused makes the second decision larger than the first.
    let followed = 120.0 + 2.0 * (starts + 3.0);
    let late: Vec<_> = report.series.points.iter().filter(|point| point.from_s >= followed).collect();
    assert!(late.len() > 100);
    assert!(late.iter().all(|point| point.slots >= point.offered), "{late:?}");
    // Arrivals are Poisson's: 20 slots on average are half as many more now and then, which is all the headroom there is.
    let of = |value: fn(&crate::Point) -> u64| late.iter().map(|point| value(point)).sum::<u64>();
    assert!(1000 * of(|point| point.shed) < of(|point| point.received));
    let before = report.series.points.iter().filter(|point| (60.0..119.0).contains(&point.from_s));
    let (shed, received) = before.fold((0, 0), |(shed, all), point| (shed + point.shed, all + point.received));
    assert!(50 * shed < received, "{shed} of {received}: four slots on average vary more");
    assert!(report.totals.shed > 0, "it is not known beforehand");
    assert!(report.totals.steps["shed"].more > 0, "{:?}", report.totals.steps);
}

#[test]
fn queues_and_busy_workers_are_measured_as_in_the_product() {
    // There are slots for all, but one worker cannot run 1.5 seconds of work in a second.
    let load = synthetic("constant:rate=15,seconds=120", 100, Spread::Fixed);
    let mut scenario = up_to(10);
    (scenario.environments.slots, scenario.environments.workers) = (1_000, 1);
    let report = run(&load, &scenario);
    balanced(&report);
    assert!(report.totals.steps["queue_wait"].more > 0, "{:?}", report.totals.steps);
    let last = report.series.points.last().unwrap();
    assert!(last.wait_mean_ms < 1_000.0 && last.slots >= 2_000.0, "{last:?}");
    scenario.policy.queue_wait = 1000 * SECOND;
    scenario.policy.utilization = Some(0.7);
    let report = run(&load, &scenario);
    assert!(report.totals.steps["utilization"].more > 0, "{:?}", report.totals.steps);
}

#[test]
fn the_limit_on_cores_holds_and_is_told() {
    let mut scenario = up_to(1000);
    scenario.rules.vcpu_max = 37;
    let report = run(&synthetic("constant:rate=400,seconds=60", 500, Spread::Exponential), &scenario);
    balanced(&report);
    let totals = &report.totals;
    assert!((30..=37).contains(&totals.vcpu_most), "{}", totals.vcpu_most);
    assert!(totals.unmet_most > 0 && totals.unmet_why == ["vcpu_max"], "{totals:?}");
    assert!(report.notes.iter().any(|note| note.contains("could not be had: vcpu_max")));
}

#[test]
fn a_fleet_for_the_peak_of_the_load_refuses_nobody() {
    let load = synthetic("spikes:rate=5,to=60,every=60,for=10,seconds=200", 700, Spread::Exponential);
    let fixed = run(&load, &up_to(100)).ceilings.load_peak.unwrap();
    let mut scenario = up_to(100);
    let environments = u32::try_from(fixed.environments).unwrap();
    scenario.environments.bounds = Bounds { min: environments, max: environments };
    let report = run(&load, &scenario);
    assert_eq!((report.totals.shed, report.totals.wait.most_ms), (0, 0.0));
    let cost = report.cost.total_usd;
    assert!((cost - fixed.total_usd).abs() < 0.01 * cost, "{cost} {fixed:?}");
}

#[test]
fn a_day_has_more_instances_at_noon_than_at_night() {
    let load = synthetic("diurnal:rate=20,swing=0.9,period=3600,seconds=3600", 500, Spread::Exponential);
    let mut scenario = up_to(100);
    scenario.policy.headroom = 0.3;
    let report = run(&load, &scenario);
    balanced(&report);
    assert_eq!(report.series.width_s, 10, "as many steps as a picture can show");
    let at = |second: f64| report.series.points.iter().find(|point| point.from_s >= second).unwrap().slots;
    assert!(at(1800.0) > 2.0 * at(30.0), "{} {}", at(1800.0), at(30.0));
    assert!(at(3590.0) < at(1800.0) / 2.0, "{} {}", at(3590.0), at(1800.0));
    assert!(report.cost.total_usd < report.ceilings.run_peak.total_usd);
}

#[test]
fn copies_come_after_their_originals_and_time_is_compressed() {
    let original = recorded("0,100\n10,200\n20,300\n");
    let load = Load { scale: 50.0, speed: 2.0, ..original.clone() };
    let arrivals: Vec<_> = load.arrivals().collect();
    assert_eq!(arrivals.len(), 150);
    assert!(arrivals.is_sorted_by_key(|arrival| arrival.at_ns));
    for (row, service_ms) in [100, 200, 300].into_iter().enumerate() {
        let own: Vec<_> = arrivals.iter().filter(|arrival| arrival.service_ns == service_ms * 1_000_000).collect();
        let from = row as u64 * 5_000_000_000;
        assert_eq!((own.len(), own[0].at_ns), (50, from), "the first copy is the original");
        assert!(own.iter().all(|arrival| (from..=from + SECOND.as_nanos() as u64).contains(&arrival.at_ns)));
    }
    let half = Load { scale: 0.5, ..synthetic("constant:rate=1000,seconds=10", 1, Spread::Fixed) };
    let count = half.arrivals().count();
    assert!((4_700..5_300).contains(&count), "{count}");
    assert_eq!(Load { seed: 2, ..load.clone() }.arrivals().count(), 150);
    assert_ne!(Load { seed: 2, ..load.clone() }.arrivals().collect::<Vec<_>>(), arrivals);
}

#[test]
fn rates_are_what_was_asked_for() {
    for (shape, expected) in [
        ("constant:rate=100,seconds=100", 10_000.0),
        ("step:rate=10,to=90,at=50,seconds=100", 5_000.0),
        ("diurnal:rate=50,swing=0.8,period=100,seconds=200", 10_000.0),
        ("spikes:rate=10,to=500,every=50,for=5,seconds=100", 900.0 + 5_000.0),
    ] {
        let load = synthetic(shape, 10, Spread::Exponential);
        let (mut count, mut service_ns) = (0.0f64, 0);
        for arrival in load.arrivals() {
            (count, service_ns) = (count + 1.0, service_ns + arrival.service_ns);
        }
        assert!((count - expected).abs() < 4.0 * f64::sqrt(expected), "{shape}: {count}");
        let mean_ms = service_ns as f64 / count / 1e6;
        assert!((9.0..11.0).contains(&mean_ms), "{shape}: {mean_ms}");
    }
}
