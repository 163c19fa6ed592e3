//! What holds whatever the load and the options.

use super::{SECOND, load, near, origin, run, scenario};
use crate::world::World;
use crate::{Arrival, Fees, Format, Load, Scenario, Source, Trace};
use penstock_scaler::Bounds;
use proptest::prelude::*;
use std::time::Duration;

prop_compose! {
    /// Crowds with pauses between them.
    fn any_load()(
        crowds in prop::collection::vec((0u64..200_000, 1usize..60, 0u64..2_000, 1u64..20_000), 1..12),
        scale in prop::sample::select(vec![1.0, 1.0, 0.7, 2.5]),
        seed in any::<u64>(),
    ) -> Load {
        let (mut arrivals, mut at_ms) = (Vec::new(), 0);
        for (pause_ms, count, apart_ms, service_ms) in crowds {
            at_ms += pause_ms;
            for number in 0..count as u64 {
                let service_ns = (service_ms + number * 37 % 500) * 1_000_000;
                arrivals.push(Arrival { at_ns: at_ms * 1_000_000, service_ns });
                at_ms += apart_ms / 10;
            }
        }
        let first_ns = arrivals[0].at_ns;
        arrivals.iter_mut().for_each(|arrival| arrival.at_ns -= first_ns);
        let trace = Trace { format: Format::Seconds, arrivals, out_of_order: 0 };
        Load { scale, seed, ..load(Source::Recorded(trace)) }
    }
}

prop_compose! {
    fn any_scenario()(
        slots in 1u32..6,
        queued in 0u32..3,
        (min, more) in (0u32..4, 1u32..30),
        (starts_ms, instance_start_ms) in (0u64..20_000, 0u64..60_000),
        waiting in 0u32..20,
        deadline_ms in prop::option::of(1u64..60_000),
        patience_s in 1u64..100,
        vcpu_max in 2u32..120,
        (down_after_s, idle_s, empty_after_s) in (1u64..60, 1u64..60, 0u64..60),
        seed in any::<u64>(),
    ) -> Scenario {
        let mut scenario = scenario();
        scenario.environments.slots = slots + queued;
        scenario.environments.workers = slots;
        scenario.environments.bounds = Bounds { min, max: min + more };
        scenario.environments.start = Duration::from_millis(starts_ms);
        scenario.instance_start = Duration::from_millis(instance_start_ms);
        scenario.requests.waiting = waiting;
        scenario.requests.deadline = deadline_ms.map(Duration::from_millis);
        scenario.requests.patience = Duration::from_secs(patience_s);
        scenario.rules.vcpu_max = vcpu_max;
        scenario.rules.empty_after = Duration::from_secs(empty_after_s);
        scenario.policy.down_after = Duration::from_secs(down_after_s);
        scenario.policy.idle_after = Duration::from_secs(idle_s);
        scenario.policy.down_every = SECOND;
        scenario.fees = Fees { management: 0.15, usd_per_million: 0.2 };
        Scenario { seed, ..scenario }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn books_balance_limits_hold_and_ceilings_bound(load in any_load(), scenario in any_scenario()) {
        let report = run(&load, &scenario);
        let totals = &report.totals;
        prop_assert_eq!(totals.requests, load.arrivals().count() as u64);
        prop_assert_eq!(totals.requests, totals.done + totals.shed + totals.expired);
        prop_assert_eq!(totals.shed, totals.shed_by_reason.values().sum::<u64>());
        prop_assert!(totals.vcpu_most <= scenario.rules.vcpu_max);
        prop_assert!(totals.environments_most <= u64::from(scenario.environments.bounds.max) + 30, "those that drain beside");
        prop_assert!(totals.environments_wanted_most <= u64::from(scenario.environments.bounds.max));
        prop_assert!((0.0..=1.0 + 1e-9).contains(&totals.utilisation_of_paid), "{}", totals.utilisation_of_paid);
        prop_assert!((0.0..=1.0 + 1e-9).contains(&totals.utilisation_of_ready), "{}", totals.utilisation_of_ready);
        let (least, cost, most) = (report.ceilings.least.total_usd, report.cost.total_usd, report.ceilings.run_peak.total_usd);
        prop_assert!(least <= cost + 1e-9 && cost <= most + 1e-9, "{} {} {}", least, cost, most);
        let by_type: f64 = totals.by_type.iter().map(|one| one.usd).sum();
        prop_assert!(near(by_type, report.cost.instances_usd));
        let points = &report.series.points;
        let seconds: f64 = points.iter().map(|point| point.seconds).sum();
        prop_assert!(near(seconds, totals.seconds), "{} {}", seconds, totals.seconds);
        prop_assert_eq!(points.iter().map(|point| point.done).sum::<u64>(), totals.done);
    }

    #[test]
    fn the_same_gives_the_same(load in any_load(), scenario in any_scenario()) {
        prop_assert_eq!(run(&load, &scenario), run(&load, &scenario));
    }

    /// Instances are planned only when something changed: to plan them at every look changes nothing.
    #[test]
    fn a_plan_that_was_carried_out_is_at_rest(load in any_load(), scenario in any_scenario()) {
        let seldom = World::run(&load, &scenario, origin());
        let mut world = World::new(&scenario, origin());
        world.always_replan = true;
        let always = world.live(&load);
        prop_assert_eq!(seldom.books.counts, always.books.counts);
        prop_assert_eq!(seldom.bills, always.bills);
        prop_assert_eq!(seldom.series, always.series);
    }
}
