//! The router takes an open environment if there is one, and keeps the load even.

use crate::{Breaker, Candidate, RetryBudget, choose};
use proptest::prelude::*;
use std::time::{Duration, Instant};

proptest! {
    #[test]
    fn only_open_environments_are_chosen(loads in prop::collection::vec((0u32..100, any::<bool>()), 0..12), random: u64) {
        let candidates: Vec<_> = loads.iter().map(|&(load, open)| Candidate { load, open }).collect();
        match choose(candidates.iter().copied(), random) {
            Some(index) => prop_assert!(candidates[index].open),
            None => prop_assert!(candidates.iter().all(|c| !c.open)),
        }
    }

    #[test]
    fn of_two_the_less_loaded_is_chosen(a in 0u32..100, b in 0u32..100, random: u64) {
        let candidates = [Candidate { load: a, open: true }, Candidate { load: b, open: true }];
        let index = choose(candidates.into_iter(), random).unwrap();
        prop_assert_eq!(candidates[index].load, a.min(b));
    }
}

#[test]
fn ten_thousand_requests_spread_evenly() {
    let mut loads = [0u32; 10];
    let mut random = 7u64;
    for _ in 0..10_000 {
        random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        let candidates = loads.map(|load| Candidate { load, open: true });
        loads[choose(candidates.into_iter(), random >> 20).unwrap()] += 1;
    }
    assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 12, "{loads:?}");
}

#[test]
fn second_tries_are_a_fifth_of_the_requests() {
    let budget = RetryBudget::default();
    let tried = (0..10_000).filter(|_| {
        budget.request();
        budget.try_retry()
    });
    assert_eq!(tried.count(), 20 - 1 + 2000, "what was saved, and a fifth");
    let quiet = RetryBudget::default();
    (0..1000).for_each(|_| quiet.request());
    assert_eq!((0..100).filter(|_| quiet.try_retry()).count(), 20);
}

#[test]
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
fn what_fails_again_and_again_is_tried_now_and_then() {
    let (breaker, start) = (Breaker::default(), Instant::now());
    let at = |ms: u64| start + Duration::from_millis(ms);
    (0..4).for_each(|_| breaker.failed(start));
    breaker.succeeded();
    (0..4).for_each(|_| breaker.failed(start));
    assert!(breaker.lets_through(start), "never five in a row");
    breaker.failed(start);
    assert!(!breaker.lets_through(at(499)) && breaker.lets_through(at(500)));
    (0..20).for_each(|_| breaker.sent(at(100))); // for want of another
    assert!(breaker.lets_through(at(500)));
    breaker.sent(at(500));
    breaker.failed(at(510));
    assert!(!breaker.lets_through(at(1499)) && breaker.lets_through(at(1500)), "the pause doubles");
    let mut now = 1500;
    for _ in 0..20 {
        breaker.sent(at(now));
        breaker.failed(at(now));
        now += 30_000;
        assert!(breaker.lets_through(at(now)), "it never exceeds half a minute");
    }
    breaker.sent(at(now));
    breaker.succeeded();
    assert!(breaker.lets_through(at(now)));
    (0..5).for_each(|_| breaker.failed(at(now)));
    assert!(!breaker.lets_through(at(now + 499)) && breaker.lets_through(at(now + 500)), "and begins anew");
}
