//! Permits are never over-given and always come back.

use crate::*;
use proptest::prelude::*;
use std::time::{Duration, Instant};

#[test]
fn a_full_house_refuses_and_a_returned_slot_is_taken_again() {
    let slots = Slots::new(2);
    let first = slots.try_take().unwrap();
    let _second = slots.try_take().unwrap();
    assert!(slots.try_take().is_none());
    drop(first);
    assert!(slots.try_take().is_some());
    slots.set_limit(0);
    assert!(slots.try_take().is_none());
}

#[test]
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
fn the_wait_follows_the_measured_rate() {
    let start = Instant::now();
    let mut rate = DrainRate::new(start);
    assert_eq!(rate.wait(10), Duration::from_secs(1), "nothing measured yet");
    for n in 1..=1000u64 {
        rate.finished(start + Duration::from_millis(10 * n), true);
    }
    let wait = rate.wait(50).as_secs_f64();
    assert!((0.45..0.55).contains(&wait), "100 per second drain 50 in half a second, not {wait}");
    assert_eq!(rate.wait(u64::MAX), Duration::from_secs(30));
}

#[test]
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
fn time_without_work_is_not_measured() {
    let start = Instant::now();
    let mut rate = DrainRate::new(start);
    let at = |second: u64, ms: u64| start + Duration::from_millis(1000 * second + ms);
    // A burst of ten, 100 ms each, after a minute of nothing; and another after an hour.
    for burst in [60, 3600] {
        for n in 1..=10 {
            rate.finished(at(burst, 100 * n), n < 10);
        }
        let wait = rate.wait(1).as_secs_f64();
        assert!((0.09..0.11).contains(&wait), "one every 100 ms, not every {wait} s");
    }
    // One at a time, far apart: the rate of the client, which says nothing.
    for second in 4000..4010 {
        rate.finished(at(second, 0), false);
    }
    assert!(rate.wait(1).as_secs_f64() < 0.11);
}

proptest! {
    #[test]
    fn shares_never_exceed_the_budget_and_all_return(limit in 0u64..1000, takes in prop::collection::vec((0u64..400, 0u64..400), 0..40)) {
        let budget = ByteBudget::new(limit);
        let mut held = Vec::new();
        for (bytes, more) in takes {
            if let Some(mut share) = budget.try_take(bytes) {
                share.try_grow(more);
                held.push(share);
            }
            prop_assert_eq!(budget.taken(), held.iter().map(ByteShare::bytes).sum::<u64>());
            prop_assert!(budget.taken() <= limit);
        }
        let taken = budget.taken();
        let joined = held.into_iter().reduce(|mut all, share| {
            all.join(share);
            all
        });
        prop_assert_eq!((joined.as_ref().map_or(0, ByteShare::bytes), budget.taken()), (taken, taken));
        drop(joined);
        prop_assert_eq!(budget.taken(), 0);
    }
}
