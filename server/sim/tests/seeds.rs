//! Runs of many seeds, and bugs put in on purpose. A failure prints its seed: `penstock-sim show SEED` tells the rest.
#![allow(clippy::unwrap_used)] // helpers of tests

use penstock_sim::checkers::check;
use penstock_sim::script::Script;
use penstock_sim::world::{Plant, run};
use std::sync::atomic::{AtomicU64, Ordering};

const SEEDS: u64 = 2000;

#[test]
fn every_seed_holds() {
    let next = AtomicU64::new(0);
    let runner = || {
        let mut failures = Vec::new();
        while let seed @ 0..SEEDS = next.fetch_add(1, Ordering::Relaxed) {
            let script = Script::draw(seed, None);
            let broken = check(&script, &run(&script, None));
            if !broken.is_empty() {
                failures.push(format!("seed {seed}: {}", broken.join("; ")));
            }
        }
        failures
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let failures: Vec<String> = std::thread::scope(|scope| {
        let runners: Vec<_> = (0..threads).map(|_| scope.spawn(runner)).collect();
        runners.into_iter().flat_map(|runner| runner.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "{} of {SEEDS} seeds:\n{}", failures.len(), failures.join("\n"));
}

#[test]
fn a_seed_says_the_same_each_time() {
    for seed in 0..40 {
        let script = Script::draw(seed, None);
        assert!(run(&script, None) == run(&script, None), "seed {seed}");
    }
}

/// How many of a hundred seeds show that the house has this bug, by a word of what is broken.
fn caught(plant: Plant, word: &str) -> usize {
    let shows = |seed: &u64| {
        let script = Script::draw(*seed, None);
        check(&script, &run(&script, Some(plant))).iter().any(|broken| broken.contains(word))
    };
    (0..100).filter(shows).count()
}

#[test]
fn planted_bugs_are_caught() {
    assert!(caught(Plant::LeakedSlot, "still held") > 40);
    assert!(caught(Plant::LostCancels, "after its end") > 5);
    assert!(caught(Plant::UncountedRefusal, "the books say") > 90);
}
