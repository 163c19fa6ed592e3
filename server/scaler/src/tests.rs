//! Properties of a decision, and loads that are followed over time.

mod instances;

use crate::{Bounds, Plan, Policy, Reason, Scaler, Signals, Version, decide};
use penstock_domain::{FunctionName, VersionNumber};
use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::time::{Duration, Instant};

const LOOK: Duration = Duration::from_millis(500);
const SLOTS_EACH: u32 = 10;

fn version(bounds: (u32, u32), signals: Signals) -> Version {
    let function = FunctionName::new("f").unwrap();
    Version {
        function,
        number: VersionNumber(1),
        bounds: Bounds { min: bounds.0, max: bounds.1 },
        target: None,
        signals,
    }
}

#[allow(clippy::disallowed_methods)]
fn start() -> Instant {
    Instant::now()
}

/// A version under a load, in slots, looked at twice a second. What is planned is ready after a while.
struct Followed {
    scaler: Scaler,
    policy: Policy,
    bounds: (u32, u32),
    target: Option<f64>,
    signals: Signals,
    now: Instant,
    start_time: Duration,
    /// When environments that are starting will be ready.
    coming: Vec<Instant>,
    /// What was changed, and when, in seconds from the start.
    steps: Vec<(f64, u32, Reason)>,
    began: Instant,
}

impl Followed {
    fn new(bounds: (u32, u32), start_time: Duration) -> Self {
        let now = start();
        let signals = Signals { slots_each: SLOTS_EACH, workers_each: 1, ..Signals::default() };
        Self {
            scaler: Scaler::default(),
            policy: Policy::default(),
            bounds,
            target: None,
            signals,
            now,
            start_time,
            coming: Vec::new(),
            steps: Vec::new(),
            began: now,
        }
    }

    fn load(&mut self, wanted: f64) {
        self.now += LOOK;
        let ready = self.coming.iter().filter(|at| **at <= self.now).count() as u32;
        self.coming.retain(|at| *at > self.now);
        let s = &mut self.signals;
        s.ready += ready;
        s.slots = s.ready * SLOTS_EACH;
        let served = wanted.min(f64::from(s.slots));
        s.in_flight = served.round() as u32;
        s.waiting = if s.ready == 0 { wanted.round() as u32 } else { 0 };
        let came = (wanted * 10.0).round() as u64;
        s.received += came;
        let share = if wanted > 0.0 && s.ready > 0 { 1.0 - served / wanted } else { 0.0 };
        s.shed += (came as f64 * share).round() as u64;
        s.done += (came as f64 * (1.0 - share)).round() as u64;
        s.start_time = Some(self.start_time);
        let plan = self.decide();
        for step in plan.steps {
            self.steps.push(((self.now - self.began).as_secs_f64(), step.to, step.reason));
            self.change_to(step.to);
        }
    }

    fn decide(&mut self) -> Plan {
        let version = Version { target: self.target, ..version(self.bounds, self.signals) };
        decide(&[version], &mut self.scaler, &self.policy, self.now)
    }

    fn change_to(&mut self, environments: u32) {
        let s = &mut self.signals;
        for _ in s.environments..environments {
            self.coming.push(self.now + self.start_time);
        }
        for _ in environments..s.environments {
            match self.coming.pop() {
                Some(_) => {}
                None => s.ready -= 1,
            }
        }
        s.environments = environments;
    }

    fn for_seconds(&mut self, seconds: f64, mut load: impl FnMut() -> f64) -> &mut Self {
        for _ in 0..(seconds / LOOK.as_secs_f64()) as u32 {
            let wanted = load();
            self.load(wanted);
        }
        self
    }
}

#[test]
fn a_doubled_load_is_decided_on_within_two_seconds() {
    for load in [8.0, 40.0, 300.0] {
        let mut followed = Followed::new((1, 1000), Duration::from_secs(1));
        followed.for_seconds(300.0, || load);
        let (before, at) = (followed.signals.environments, followed.now - followed.began);
        let (enough, most) = ((load * 1.5 / 10.0).ceil() as u32, (load * 1.5 * 1.1 / 10.0).ceil() as u32);
        assert!((enough..=most).contains(&before), "{load}: {before}");
        followed.for_seconds(2.0, || load * 2.0);
        let (when, to, _) = *followed.steps.last().unwrap();
        assert!(when > at.as_secs_f64() && to > before, "{load}: {:?}", followed.steps);
        followed.for_seconds(3.0, || load * 2.0);
        assert!(followed.signals.environments >= (load * 2.0 * 1.5 / 10.0).ceil() as u32);
    }
}

#[test]
fn down_is_slow_and_steady() {
    let mut followed = Followed::new((1, 1000), Duration::from_secs(1));
    followed.for_seconds(200.0, || 200.0);
    let from = followed.now - followed.began;
    followed.for_seconds(600.0, || 20.0);
    let down: Vec<_> = followed.steps.iter().filter(|(at, ..)| *at > from.as_secs_f64()).copied().collect();
    assert!(down[0].0 >= from.as_secs_f64() + followed.policy.down_after.as_secs_f64() - 2.0, "{down:?}");
    for pair in down.windows(2) {
        let ((before, had, _), (after, has, reason)) = (pair[0], pair[1]);
        assert_eq!(reason, Reason::Quiet);
        assert!(after - before >= 15.0 && has < had && has >= had - had.div_ceil(4), "{pair:?}");
    }
    assert_eq!(followed.signals.environments, 4, "20 slots, half as many again, and a tenth against noise: {down:?}");
}

#[test]
fn noise_does_not_make_it_flap() {
    for seed in 0..200 {
        let mut random = SmallRng::seed_from_u64(seed);
        let load: f64 = random.random_range(5.0..400.0);
        let mut followed = Followed::new((1, 1000), Duration::from_secs(2));
        followed.for_seconds(1800.0, || load * random.random_range(0.9..1.1));
        // It may find the highest only after a while; it never goes back.
        let late: Vec<_> = followed.steps.iter().filter(|(at, ..)| *at > 60.0).collect();
        assert!(late.windows(2).all(|pair| pair[1].1 > pair[0].1) && late.len() <= 2, "seed {seed}, {load}: {late:?}");
    }
}

#[test]
fn the_last_goes_when_nobody_has_asked_for_long_and_comes_at_once() {
    let mut followed = Followed::new((0, 10), Duration::from_secs(1));
    followed.for_seconds(10.0, || 3.0);
    assert_eq!((followed.steps[0].1, followed.steps[0].2), (1, Reason::Waiting));
    followed.for_seconds(299.0, || 0.0);
    assert_eq!(followed.signals.environments, 1);
    followed.for_seconds(2.0, || 0.0);
    assert_eq!((followed.signals.environments, followed.steps.last().unwrap().2), (0, Reason::Idle));
    followed.for_seconds(0.5, || 60.0);
    let (_, to, reason) = *followed.steps.last().unwrap();
    assert_eq!((to, reason), (9, Reason::Waiting), "at the first look, and for all that wait");
}

#[test]
fn growth_is_carried_on_as_far_as_a_start_takes() {
    let run = |start_time: u64| {
        let mut followed = Followed::new((1, 1000), Duration::from_secs(start_time));
        followed.for_seconds(120.0, || 50.0);
        let mut load = 50.0;
        followed.for_seconds(25.0, || {
            load *= 1.02;
            load
        });
        followed.signals.environments
    };
    assert!(run(5) > run(0), "{} {}", run(5), run(0));
    assert!(run(60) <= 2 * run(0) + 1, "no more than twice");
}

#[test]
fn a_step_is_not_carried_on() {
    let mut followed = Followed::new((1, 1000), Duration::from_secs(70));
    followed.for_seconds(200.0, || 50.0);
    followed.for_seconds(200.0, || 100.0);
    assert_eq!(followed.signals.environments, 15, "{:?}", followed.steps);
    assert!(followed.steps.iter().all(|(_, _, reason)| *reason != Reason::Growth), "{:?}", followed.steps);
}

#[test]
fn a_queue_that_is_too_long_wants_more_once_all_are_ready() {
    let mut followed = Followed::new((1, 10), Duration::from_secs(1));
    followed.for_seconds(60.0, || 4.0);
    let s = &mut followed.signals;
    (s.queued, s.done) = (s.queued + Duration::from_secs(40), s.done + 100);
    let plan = followed.decide();
    assert_eq!((plan.steps[0].to, plan.steps[0].reason), (2, Reason::QueueWait));
    followed.signals.ready = 0;
    followed.signals.queued += Duration::from_secs(40);
    followed.signals.done += 100;
    assert_eq!(followed.decide().steps, []);
}

#[test]
fn a_queue_that_stands_wants_more_though_nothing_of_it_is_done() {
    let mut followed = Followed::new((1, 10), Duration::from_secs(1));
    followed.for_seconds(60.0, || 4.0);
    followed.signals.queue_age = Duration::from_secs(5);
    assert_eq!(followed.decide().steps, [], "nobody knows how long a batch takes");
    (followed.signals.batches, followed.signals.busy) = (1, Duration::from_secs(3));
    followed.now += LOOK;
    assert_eq!(followed.decide().steps, [], "less than two batches");
    followed.signals.queue_age = Duration::from_secs(9);
    followed.now += LOOK;
    let plan = followed.decide();
    assert_eq!((plan.steps[0].to, plan.steps[0].reason), (2, Reason::QueueWait));
    // The new one has no queue: one that hangs does not ask for ever more.
    followed.change_to(2);
    followed.signals.queue_age = Duration::ZERO;
    followed.for_seconds(10.0, || 4.0);
    assert_eq!(followed.signals.environments, 2);
}

#[test]
fn busy_workers_count_where_there_is_a_target() {
    let mut followed = Followed::new((1, 10), Duration::from_secs(1));
    followed.for_seconds(60.0, || 2.0);
    followed.policy.utilization = Some(0.5);
    followed.now += Duration::from_secs(2);
    followed.signals.busy += Duration::from_millis(2800);
    let plan = followed.decide();
    assert_eq!((plan.steps[0].to, plan.steps[0].reason), (3, Reason::Utilization));
}

#[test]
fn a_target_that_was_given_is_followed_up_and_down() {
    let followed = |target: Option<f64>, busy: f64| {
        let mut followed = Followed { target, ..Followed::new((1, 20), Duration::from_secs(1)) };
        for _ in 0..2000 {
            followed.signals.busy += LOOK.mul_f64(busy);
            followed.load(30.0);
        }
        let steps = followed.steps.iter().map(|(at, ..)| *at).fold(0.0, f64::max);
        assert!(steps < 500.0, "it comes to rest: {:?}", followed.steps);
        followed.signals.environments
    };
    let auto = (30.0 * 1.5 / 10.0_f64).ceil() as u32;
    assert_eq!(followed(None, 2.0), auto);
    assert_eq!(followed(Some(0.8), 2.0), 3, "fewer than with headroom: 2 of 0.8 each are 2.5");
    assert_eq!(followed(Some(0.2), 2.0), 10, "and more");
    assert_eq!(followed(Some(1.0), 0.1), 3, "never fewer than have slots for what is in flight");
}

#[test]
fn cores_and_devices_count_where_there_is_a_target() {
    let followed = |target: Option<f64>, cores_busy: f64, device_busy: f64| {
        let mut followed = Followed { target, ..Followed::new((1, 20), Duration::from_secs(1)) };
        followed.signals.cores_each = 2;
        followed.signals.devices_busy = device_busy;
        for _ in 0..2000 {
            followed.signals.busy += LOOK.mul_f64(0.5);
            followed.signals.cpu += LOOK.mul_f64(cores_busy);
            followed.load(3.0);
        }
        let steps = followed.steps.iter().map(|(at, ..)| *at).fold(0.0, f64::max);
        assert!(steps < 500.0, "it comes to rest: {:?}", followed.steps);
        followed.signals.environments
    };
    assert_eq!(followed(Some(0.5), 0.0, 0.0), 1, "half of a worker's time");
    assert_eq!(followed(Some(0.5), 4.0, 0.0), 4, "four cores, of two each, at a half");
    assert_eq!(followed(Some(0.5), 0.0, 1.8), 4, "two devices that are busy nine tenths of the time");
    assert_eq!(followed(Some(1.0), 4.0, 0.0), 2);
    assert_eq!(followed(None, 4.0, 1.8), 1, "nobody has set one");
}

#[test]
fn signs_of_life_keep_nothing_where_a_target_is_given() {
    let mut followed = Followed { target: Some(0.5), ..Followed::new((0, 20), Duration::from_secs(1)) };
    followed.signals.cores_each = 1;
    let mut look = |busy: Duration, wanted: f64| {
        followed.signals.busy += busy;
        followed.signals.cpu += Duration::from_micros(100) + busy;
        // Somebody else's.
        followed.signals.devices_busy = 0.3;
        followed.load(wanted);
        followed.signals.environments
    };
    let busy: Vec<u32> = (0..20).map(|_| look(LOOK / 4, 3.0)).collect();
    assert_eq!(busy.last(), Some(&1));
    let quiet: Vec<u32> = (0..2000).map(|_| look(Duration::ZERO, 0.0)).collect();
    assert_eq!(quiet.last(), Some(&0));
}

#[test]
fn a_lump_right_after_a_target_was_given_is_not_the_rate() {
    let mut followed = Followed::new((1, 20), Duration::from_secs(1));
    followed.signals.cores_each = 1;
    followed.for_seconds(10.0, || 3.0);
    followed.target = Some(0.5);
    // Told at once, of what took a tenth of a second.
    followed.now += Duration::from_millis(5);
    followed.signals.cpu += Duration::from_millis(100);
    followed.signals.received += 1;
    assert_eq!(followed.decide(), Plan::default());
}

#[test]
fn where_nothing_is_batched_workers_leave_a_fifth_of_their_time_and_noise_moves_nothing() {
    let mut followed = Followed::new((1, 10), Duration::from_secs(1));
    followed.signals.is_unbatched = true;
    // Three workers busy, a tenth more or less of each half second.
    let each = LOOK.mul_f64(3.0);
    for look in 0..2000 {
        followed.signals.busy += each.mul_f64(if look % 2 == 0 { 0.9 } else { 1.1 });
        followed.load(3.0);
    }
    assert!(followed.signals.environments >= 4, "{:?}", followed.steps);
    assert!(followed.steps.len() <= 2, "{:?}", followed.steps);
}

prop_compose! {
    fn any_signals()(
        environments in 0u32..50,
        starting in 0u32..50,
        slots_each in 0u32..100,
        in_flight in 0u32..5000,
        waiting in 0u32..2000,
        counts in (0u64..10_000, 0u64..10_000, 0u64..10_000, 0u64..1000),
        times in (0u64..100_000, 0u64..100_000, 0u64..60_000, 0u64..5_000),
        is_unbatched in any::<bool>(),
        hardware in (1u32..8, 0u64..100_000, 0.0..8.0f64),
    ) -> Signals {
        let ready = environments.saturating_sub(starting);
        let (received, shed, done, batches) = counts;
        Signals {
            environments,
            ready,
            slots: ready * slots_each,
            slots_each,
            workers_each: 1,
            is_unbatched,
            in_flight,
            waiting,
            received,
            shed: shed.min(received),
            done: done.min(received),
            queued: Duration::from_millis(times.0),
            queue_age: Duration::from_millis(times.3),
            batches,
            busy: Duration::from_millis(times.1),
            cores_each: hardware.0,
            cpu: Duration::from_millis(hardware.1),
            devices_busy: hardware.2,
            start_time: Some(Duration::from_millis(times.2)),
        }
    }
}

prop_compose! {
    /// A version's first looks, some time apart.
    fn any_looks()(
        looks in prop::collection::vec((any_signals(), 0u64..30_000), 1..8),
        least in 0u32..20,
        more in 0u32..60,
        utilization in prop::option::of(0.1..1.0f64),
        target in prop::option::of(0.1..1.0f64),
    ) -> (Vec<(Signals, Duration)>, Limits, Policy) {
        let looks = looks.into_iter().map(|(signals, ms)| (signals, Duration::from_millis(ms))).collect();
        let limits = Limits { bounds: (least, least + more), target };
        (looks, limits, Policy { utilization, ..Policy::default() })
    }
}

/// What somebody has said of a version.
#[derive(Clone, Copy, Debug)]
struct Limits {
    bounds: (u32, u32),
    target: Option<f64>,
}

impl Limits {
    fn version(self, signals: Signals) -> Version {
        Version { target: self.target, ..version(self.bounds, signals) }
    }
}

fn seen(looks: &[(Signals, Duration)], limits: Limits, policy: &Policy) -> (Scaler, Plan, Instant) {
    let (mut scaler, mut plan, mut now) = (Scaler::default(), Plan::default(), start());
    for (signals, pause) in looks {
        now += *pause;
        plan = decide(&[limits.version(*signals)], &mut scaler, policy, now);
    }
    (scaler, plan, now)
}

fn environments(plan: &Plan, signals: &Signals) -> u32 {
    plan.steps.first().map_or(signals.environments, |step| step.to)
}

proptest! {
    #[test]
    fn it_stays_within_bounds(
        (looks, limits, policy) in any_looks(),
    ) {
        let (_, plan, _) = seen(&looks, limits, &policy);
        let to = environments(&plan, &looks.last().unwrap().0);
        prop_assert!((limits.bounds.0..=limits.bounds.1).contains(&to), "{to} {limits:?}");
    }

    #[test]
    fn what_it_decided_stays_decided(
        (looks, limits, policy) in any_looks(),
    ) {
        let (mut scaler, plan, now) = seen(&looks, limits, &policy);
        let last = looks.last().unwrap().0;
        let done = Signals { environments: environments(&plan, &last), ..last };
        for _ in 0..3 {
            let again = decide(&[limits.version(done)], &mut scaler, &policy, now);
            prop_assert_eq!(again.steps, vec![]);
        }
    }

    #[test]
    fn more_load_never_means_fewer(
        (looks, limits, policy) in any_looks(),
        more in (0u32..1000, 0u32..1000, 0u64..1000),
    ) {
        let (mut scaler, _, now) = seen(&looks[..looks.len() - 1], limits, &policy);
        let (less, pause) = *looks.last().unwrap();
        let more = Signals { in_flight: less.in_flight + more.0, waiting: less.waiting + more.1, received: less.received + more.2, shed: less.shed + more.2, ..less };
        let one = decide(&[limits.version(less)], &mut scaler.clone(), &policy, now + pause);
        let other = decide(&[limits.version(more)], &mut scaler, &policy, now + pause);
        prop_assert!(environments(&other, &more) >= environments(&one, &less));
    }

    #[test]
    fn a_steady_load_comes_to_rest(load in 0.0..900.0f64, start_ms in 0u64..20_000, least in 0u32..5) {
        let mut followed = Followed::new((least, 200), Duration::from_millis(start_ms));
        followed.for_seconds(1200.0, || load);
        let steps = followed.steps.len();
        followed.for_seconds(600.0, || load);
        prop_assert_eq!(followed.steps.len(), steps, "{:?}", followed.steps);
        let enough = (load.round() * 1.5 / 10.0).ceil() as u32;
        prop_assert!(followed.signals.environments >= enough.min(200).max(least), "{:?}", followed.steps);
    }
}
