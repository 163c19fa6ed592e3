//! Permits are never over-given and always come back.

use crate::*;
use penstock_domain::CallerId;
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

/// A steady model: `fixed` and `per_unit` milliseconds.
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
fn learned(fixed: f64, per_unit: f64, sizes: &[u64]) -> (ServiceTime, Instant) {
    let (mut service, now) = (ServiceTime::default(), Instant::now());
    for size in sizes.iter().cycle().take(100) {
        service.observe(*size, Duration::from_secs_f64((fixed + per_unit * *size as f64) / 1e3), now);
    }
    (service, now)
}

fn millis(service: &ServiceTime, size: u64, now: Instant) -> f64 {
    service.predict(size, now).unwrap().as_secs_f64() * 1e3
}

#[test]
fn the_time_of_a_batch_is_learned_from_its_size() {
    let (service, now) = learned(10.0, 2.0, &[1, 4, 8]);
    for size in [1, 8, 16] {
        assert!((millis(&service, size, now) - (10.0 + 2.0 * size as f64)).abs() < 0.1, "{service:?}");
    }
    let (fixed, now) = learned(10.0, 0.0, &[1, 8]);
    assert!((millis(&fixed, 64, now) - 10.0).abs() < 0.1);
    // Of one size alone nothing is known of others: what is assumed lets them be tried.
    let (alike, now) = learned(0.0, 2.0, &[8]);
    assert!((millis(&alike, 4, now) - 8.0).abs() < 0.1 && (millis(&alike, 16, now) - 16.0).abs() < 0.1);
    // It never shrinks with size, and is never negative.
    let (mut odd, now) = learned(0.0, 1.0, &[100]);
    (0..50).for_each(|_| odd.observe(1, Duration::from_millis(500), now));
    assert!(millis(&odd, 1000, now) >= millis(&odd, 1, now) && millis(&odd, 0, now) >= 0.0);
}

#[test]
fn a_promise_allows_for_what_varies_and_ages() {
    let (mut service, now) = learned(10.0, 0.0, &[1, 8]);
    for n in 0..100u64 {
        service.observe(1 + n % 8, Duration::from_millis(if n % 2 == 0 { 5 } else { 15 }), now);
    }
    assert!(millis(&service, 4, now) > 15.0, "as long as the longest");
    let mean = service.expect(4, now).unwrap().as_secs_f64() * 1e3;
    assert!((9.0..11.0).contains(&mean), "{mean}");
    assert_eq!(service.predict(4, now + Duration::from_secs(2)), None, "after a while it is tried again");
    assert_eq!(ServiceTime::default().predict(1, now), None);
    // What takes long is remembered long.
    let (slow, now) = learned(5000.0, 0.0, &[1, 8]);
    assert!(slow.predict(1, now + Duration::from_secs(15)).is_some());
}

#[test]
fn one_hiccup_says_little_and_what_was_learned_long_ago_nothing() {
    let (mut service, now) = learned(5.0, 0.0, &[1, 8]);
    service.observe(1, Duration::from_secs(10), now);
    assert!(millis(&service, 8, now) < 15.0, "{}", millis(&service, 8, now));
    (0..5).for_each(|_| service.observe(1, Duration::from_secs(10), now));
    assert!(millis(&service, 1, now) > 20.0, "that is no hiccup any more");
    let later = now + Duration::from_secs(3600);
    service.observe(1, Duration::from_millis(2), later);
    assert!((millis(&service, 1, later) - 2.0).abs() < 0.1, "it begins anew");
    let (mut service, now) = learned(10.0, 2.0, &[1, 8]);
    let later = now + Duration::from_secs(30);
    service.observe(1, Duration::from_millis(13), later);
    assert!((millis(&service, 8, later) - 29.0).abs() < 2.0, "{service:?}: as before, how time grows is not forgotten");
}

#[test]
fn a_margin_that_is_told_is_taken_as_far_as_it_makes_sense() {
    assert_eq!(Caution::with_margin(Caution::default().margin()), Caution::default());
    assert_eq!([-1.0, 9.0, f64::NAN].map(|m| Caution::with_margin(m).margin()), [0.0, 1.0, 0.2]);
    assert_eq!(Caution::NONE.gone_in(Duration::MAX), Duration::MAX, "whatever an environment tells");
}

#[test]
fn what_waits_makes_batches_by_places_or_by_size() {
    let full = FullBatch { places: 8, size: 100 };
    let queued = |places, size| Queued { places, size };
    assert_eq!(queued(4, 40).batches(full), (0.5, 40.0));
    assert_eq!(queued(12, 40).batches(full), (1.5, 40.0 / 1.5), "short ones: the places run out");
    assert_eq!(queued(4, 250).batches(full), (2.5, 100.0), "long ones: the size does");
    assert_eq!(queued(4, 40).joined_by(30, full), 70);
    assert_eq!(queued(8, 80).joined_by(30, full), 30, "one that is full goes before it");
    assert_eq!(queued(4, 250).joined_by(30, full), 80, "it joins the half that is left");
    assert_eq!(queued(4, 250).joined_by(70, full), 100, "as far as there is room");
    assert_eq!(queued(4, 40).joined_by(500, full), 500, "what is larger than a batch is that large");
    assert_eq!(queued(4, 40).batches(FullBatch::ALONE), (4.0, 10.0));
    assert_eq!(queued(4, 40).joined_by(30, FullBatch::ALONE), 30);
}

#[test]
fn a_request_is_done_after_what_stands_before_it() {
    let (service, now) = learned(10.0, 1.0, &[1, 8]);
    let backlog = Backlog { batches: 4.0, batch_size: 8, workers: 2, free_in: Duration::from_millis(5) };
    let mut caution = Caution::NONE;
    let foretold = |caution| backlog.done_in(2, |size| service.predict(size, now), caution).unwrap();
    let done_in = |caution| foretold(caution).done_in.as_secs_f64() * 1e3;
    let done = done_in(caution);
    assert!((done - (5.0 + 2.0 * 18.0 + 12.0)).abs() < 0.2, "{done}");
    assert_eq!(backlog.done_in(2, |_| None, caution), None);
    // Some were late: more is kept for the wait, at most as much again, and only what comes in time makes it less.
    (0..100).for_each(|_| caution.late());
    let cautious = done_in(caution);
    assert!((cautious - (2.0 * (5.0 + 2.0 * 18.0) + 12.0)).abs() < 0.3, "{cautious}");
    let wait = foretold(caution).in_time_in(Duration::from_millis(54)).as_secs_f64() * 1e3;
    assert!(
        (wait - 20.0).abs() < 0.3,
        "{wait}: when half of what stands before it has gone, its margin has gone with it"
    );
    (0..25_000).for_each(|_| caution.in_time(0.9));
    (0..25_000).for_each(|_| caution.in_time(0.1));
    assert!((done_in(caution) - (done + 0.5 * 41.0)).abs() < 0.3);
    (0..500_000).for_each(|_| caution.in_time(0.9));
    assert_eq!(caution, Caution::NONE);
}

/// Takes places until there is no more.
fn fill<'a>(callers: &'a Callers, caller: u64, held: &mut Vec<CallerSlot<'a>>, now: Instant) -> CallerFull {
    loop {
        if held.len() == 16 {
            return CallerFull::Share(16); // no slot is left
        }
        match callers.try_take(CallerId(caller), held.len() as u32, 16, now) {
            Ok(slot) => held.push(slot),
            Err(full) => return full,
        }
    }
}

#[test]
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
fn each_caller_finds_its_share_however_much_another_asks_for() {
    let now = Instant::now();
    let (callers, mut held) = (Callers::new(0, now), Vec::new());
    assert_eq!(fill(&callers, 1, &mut held, now), CallerFull::Share(16), "alone it may have all");
    held.truncate(14);
    drop(callers.try_take(CallerId(2), 14, 16, now));
    assert_eq!(fill(&callers, 1, &mut held, now), CallerFull::Share(8), "an eighth is left to the other");
    assert_eq!(held.len(), 14);
    fill(&callers, 2, &mut held, now);
    assert_eq!(held.len(), 16);
    // What the greedy one gives back goes to the other, until both have half.
    for _ in 0..6 {
        held.remove(0);
        assert_eq!(fill(&callers, 1, &mut held, now), CallerFull::Share(8));
        fill(&callers, 2, &mut held, now);
        assert_eq!(held.len(), 16);
    }
    held.remove(0);
    assert!(callers.try_take(CallerId(1), 15, 16, now).is_ok(), "now it has less than its share");
    drop(held);
    // Who has not come for long has no share.
    let later = now + Duration::from_secs(30);
    let mut held = Vec::new();
    assert_eq!(fill(&callers, 3, &mut held, later), CallerFull::Share(16));
    let (limited, mut held) = (Callers::new(3, now), Vec::new());
    assert_eq!(fill(&limited, 1, &mut held, now), CallerFull::Max(3));
}

const TURN: Duration = Duration::from_millis(10);

/// A turn of `member` is over, a while later.
fn ends(turns: &mut Turns, now: &mut Instant, member: u64, again: bool) -> Option<u64> {
    *now += TURN;
    turns.done(member, again, *now)
}

#[test]
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
fn whoever_uses_less_than_its_share_waits_for_one_turn_of_each_other_at_most() {
    let (mut turns, mut now) = (Turns::default(), Instant::now());
    (1..=3).for_each(|member| turns.join(member, 1));
    assert_eq!(turns.wanted(1, now), Some(1));
    assert_eq!(turns.wanted(2, now), None, "one at a time");
    assert_eq!(ends(&mut turns, &mut now, 1, true), Some(2));
    assert_eq!(ends(&mut turns, &mut now, 1, false), None, "it has none to give back");
    // Both ask again and again; 3 comes now and then, and neither has two turns before it.
    let mut holder = 2;
    for _ in 0..20 {
        for _ in 0..3 {
            holder = ends(&mut turns, &mut now, holder, true).unwrap();
        }
        assert_eq!(turns.wanted(3, now), None);
        let mut next = ends(&mut turns, &mut now, holder, true).unwrap();
        if next != 3 {
            assert_ne!(next, holder);
            next = ends(&mut turns, &mut now, next, true).unwrap();
        }
        assert_eq!(next, 3);
        holder = ends(&mut turns, &mut now, 3, false).unwrap();
    }
    // What is lost gives its turn back, and does not get another.
    let others = turns.leave(holder, now);
    assert!(others.len() == 1 && others[0] != holder);
    assert_eq!((turns.wanted(holder, now), ends(&mut turns, &mut now, others[0], false)), (None, None));
    assert_eq!(turns.wanted(3, now), Some(3));
}

#[test]
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
fn a_deep_device_gives_as_many_turns_at_once_to_one_or_to_several() {
    let (mut turns, now) = (Turns::new(2), Instant::now());
    (1..=3).for_each(|member| turns.join(member, 1));
    assert_eq!((turns.wanted(1, now), turns.wanted(1, now)), (Some(1), Some(1)), "nobody else asks");
    assert_eq!(turns.wanted(1, now), None, "two are taken");
    assert_eq!((turns.wanted(2, now), turns.wanted(3, now)), (None, None));
    // With it both its turns are gone, and what it asked for.
    assert_eq!(turns.leave(1, now), [2, 3], "one each");
    assert_eq!((turns.wanted(2, now), turns.wanted(3, now)), (None, None));
    assert_eq!(turns.done(2, false, now + TURN), Some(2), "3 has used as much and asked later");
    assert_eq!(turns.done(2, false, now + TURN), Some(3), "that has two now");
}

#[test]
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
fn whoever_comes_now_and_then_waits_for_one_end_of_a_turn_however_many_another_has() {
    let (mut turns, mut now) = (Turns::new(2), Instant::now());
    turns.join(1, 1);
    turns.join(2, 1);
    assert_eq!((turns.wanted(1, now), turns.wanted(1, now)), (Some(1), Some(1)));
    assert_eq!(turns.wanted(1, now), None);
    for _ in 0..20 {
        for _ in 0..3 {
            assert_eq!(ends(&mut turns, &mut now, 1, true), Some(1));
            assert_eq!(turns.wanted(1, now), None);
        }
        assert_eq!(turns.wanted(2, now), None);
        assert_eq!(ends(&mut turns, &mut now, 1, true), Some(2));
        // And has a second before the other has its next, if it is that quick.
        assert_eq!(turns.wanted(2, now), None);
        now += TURN / 10;
        assert_eq!(turns.done(1, true, now), Some(2));
        assert_eq!((turns.done(2, false, now), turns.done(2, false, now)), (Some(1), None));
        assert_eq!(turns.wanted(1, now), Some(1));
        assert_eq!(turns.wanted(1, now), None);
    }
}

#[test]
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
fn turns_that_overlap_are_charged_whole() {
    let (mut turns, start) = (Turns::new(2), Instant::now());
    turns.join(1, 1);
    turns.join(2, 1);
    assert_eq!((turns.wanted(1, start), turns.wanted(1, start)), (Some(1), Some(1)));
    assert_eq!(turns.wanted(2, start), None);
    // Twice ten milliseconds at once.
    let now = start + TURN;
    assert_eq!((turns.done(1, true, now), turns.wanted(2, now)), (Some(2), None));
    assert_eq!(turns.done(1, false, now), Some(2));
    // The other has both, and a third before it has used as much.
    assert_eq!(turns.done(2, true, now + TURN / 2), Some(2), "it has used ten, of twenty");
    assert_eq!(turns.done(2, true, now + TURN), Some(1));
}

/// Members of a device of some depth, that all ask all the time, and the turns that they have.
struct Busy {
    turns: Turns,
    now: Instant,
    /// When each ends, and whose it is.
    taken: Vec<(Instant, u64)>,
    /// What the turns of each have taken, those that are not over counted whole.
    used: Vec<Duration>,
}

impl Busy {
    #[allow(clippy::disallowed_methods)] // a test needs some instant to start from
    fn new(depth: u32, weights: &[u32]) -> Self {
        let (mut turns, now) = (Turns::new(depth), Instant::now());
        (0..).zip(weights).for_each(|(member, weight)| turns.join(member, *weight));
        Self { turns, now, taken: Vec::new(), used: vec![Duration::ZERO; weights.len()] }
    }

    /// Everybody asks, until nobody is given a turn.
    fn ask(&mut self, takes: &mut impl FnMut(u64) -> Duration) {
        let mut given = true;
        while std::mem::take(&mut given) {
            for member in 0..self.used.len() as u64 {
                let next = self.turns.wanted(member, self.now);
                given |= next.is_some();
                self.given(next, takes);
            }
        }
    }

    fn given(&mut self, member: Option<u64>, takes: &mut impl FnMut(u64) -> Duration) {
        if let Some(member) = member {
            let took = takes(member);
            self.used[member as usize] += took;
            self.taken.push((self.now + took, member));
        }
    }

    /// The turn that ends first ends.
    fn step(&mut self, takes: &mut impl FnMut(u64) -> Duration) {
        let first = (0..self.taken.len()).min_by_key(|index| self.taken[*index].0).unwrap();
        let (at, member) = self.taken.swap_remove(first);
        self.now = at;
        let next = self.turns.done(member, true, self.now);
        self.given(next, takes);
        self.ask(takes);
    }

    fn has(&self, member: u64) -> usize {
        self.taken.iter().filter(|(_, holder)| *holder == member).count()
    }
}

#[test]
fn one_with_long_turns_does_not_take_all_of_them_while_it_has_used_as_much_as_others() {
    let mut busy = Busy::new(2, &[1, 1]);
    let mut takes = |member| if member == 0 { 10 * TURN } else { TURN };
    busy.ask(&mut takes);
    for step in 0..2000 {
        busy.step(&mut takes);
        assert!(step < 100 || busy.has(0) < 2, "at {step}");
    }
}

proptest! {
    #[test]
    fn time_goes_by_weight_whatever_a_turn_takes(
        depth in 1u32..4, weights in prop::collection::vec(1u32..5, 2..5), took in prop::collection::vec(1u64..20, 2..9)
    ) {
        let mut busy = Busy::new(depth, &weights);
        let mut turn = 0;
        // No two are alike, and they end in any order.
        let mut takes = |member: u64| {
            turn += 1;
            Duration::from_millis(took[member as usize % 2] + took[(turn + member as usize) % took.len()])
        };
        busy.ask(&mut takes);
        for _ in 0..6000 {
            busy.step(&mut takes);
            prop_assert_eq!(busy.taken.len(), depth as usize);
        }
        let used = busy.used.iter().map(Duration::as_secs_f64);
        let (whole, parts): (f64, u32) = (used.clone().sum(), weights.iter().sum());
        for (member, (used, weight)) in used.zip(&weights).enumerate() {
            let (share, right) = (used / whole, f64::from(*weight) / f64::from(parts));
            prop_assert!((share - right).abs() < 0.02, "{member}: {share} for {right}");
        }
    }
}

const TARGET: Duration = Duration::from_millis(50);

/// A hundred windows of ten ends each, that waited so many milliseconds and fewer; `refused` in each or not.
fn windows(limit: &mut AdaptiveLimit, from: &mut Instant, least_ms: u64, refused: bool) {
    for _ in 0..100 {
        for n in 0..10 {
            *from += Duration::from_millis(10);
            if refused {
                limit.refused();
            }
            limit.ended(Duration::from_millis(least_ms + 100 * (n % 3)), *from);
        }
    }
}

#[test]
#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
fn a_standing_queue_lowers_the_limit_to_its_floor_and_a_burst_does_not() {
    let mut now = Instant::now();
    let mut limit = AdaptiveLimit::new(16, 512, TARGET, now);
    windows(&mut limit, &mut now, 10, false);
    assert_eq!(limit.limit(), 512, "some waited long, and some did not");
    windows(&mut limit, &mut now, 60, false);
    assert_eq!(limit.limit(), 16);
    windows(&mut limit, &mut now, 10, false);
    assert_eq!(limit.limit(), 16, "nobody asked for more");
    windows(&mut limit, &mut now, 10, true);
    assert_eq!(limit.limit(), 16 + 4 * 100);
    windows(&mut limit, &mut now, 10, true);
    assert_eq!(limit.limit(), 512);
    let mut off = AdaptiveLimit::new(16, 512, Duration::ZERO, now);
    windows(&mut off, &mut now, 60, false);
    assert_eq!(off.limit(), 512);
    assert_eq!(AdaptiveLimit::new(64, 8, TARGET, now).limit(), 8, "the configured limit is below the floor");
}

proptest! {
    #[test]
    fn the_limit_stays_between_floor_and_maximum(
        floor in 1u32..50, max in 1u32..500, ends in prop::collection::vec((0u64..200, any::<bool>()), 0..400)
    ) {
        #[allow(clippy::disallowed_methods)] // a test needs some instant to start from
        let mut now = Instant::now();
        let mut limit = AdaptiveLimit::new(floor, max, TARGET, now);
        for (waited, refused) in ends {
            now += Duration::from_millis(20);
            if refused {
                limit.refused();
            }
            if let Some(told) = limit.ended(Duration::from_millis(waited), now) {
                prop_assert_eq!(told, limit.limit());
            }
            prop_assert!((floor.min(max)..=max).contains(&limit.limit()));
        }
    }

    #[test]
    fn a_bigger_batch_never_takes_less(seen in prop::collection::vec((1u64..100, 0u64..100_000), 1..60), size in 0u64..200) {
        #[allow(clippy::disallowed_methods)] // a test needs some instant to start from
        let now = Instant::now();
        let mut service = ServiceTime::default();
        for (size, us) in &seen {
            service.observe(*size, Duration::from_micros(*us), now);
        }
        let (less, more) = (service.predict(size, now).unwrap(), service.predict(size + 1, now).unwrap());
        prop_assert!(less <= more + Duration::from_nanos(2));
    }

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
