//! Runs of a house on instances: many seeds, and bugs put in on purpose. A failure prints its seed:
//! `penstock-sim show --fleet SEED` tells the rest.
#![allow(clippy::unwrap_used)] // helpers of tests

use penstock_sim::fleet::checkers::check;
use penstock_sim::fleet::script::Script;
use penstock_sim::fleet::world::{Plant, Run, run};
use penstock_sim::world::How;
use std::sync::atomic::{AtomicU64, Ordering};

const SEEDS: u64 = 2000;

/// What the seeds came to.
#[derive(Default)]
struct Reached {
    machines: u64,
    /// That came for nobody.
    orphans: u64,
    losses: u64,
    done: u64,
    refused: u64,
}

impl Reached {
    fn add(&mut self, run: &Run) {
        self.machines += u64::from(run.machines);
        self.orphans += u64::from(run.orphans);
        self.losses += run.losses.len() as u64;
        let done = run.ends.iter().filter(|end| end.how == How::Done).count() as u64;
        self.done += done;
        self.refused += run.ends.len() as u64 - done;
    }
}

#[test]
fn every_seed_holds() {
    let next = AtomicU64::new(0);
    let runner = || {
        let (mut failures, mut reached) = (Vec::new(), Reached::default());
        while let seed @ 0..SEEDS = next.fetch_add(1, Ordering::Relaxed) {
            let script = Script::draw(seed);
            let run = run(&script, None);
            reached.add(&run);
            let broken = check(&script, &run);
            if !broken.is_empty() {
                failures.push(format!("penstock-sim show --fleet {seed}: {}", broken.join("; ")));
            }
        }
        (failures, reached)
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let all: Vec<_> = std::thread::scope(|scope| {
        let runners: Vec<_> = (0..threads).map(|_| scope.spawn(runner)).collect();
        runners.into_iter().map(|runner| runner.join().unwrap()).collect()
    });
    let failures: Vec<&String> = all.iter().flat_map(|(failures, _)| failures).collect();
    let list: Vec<&str> = failures.iter().map(|text| text.as_str()).collect();
    assert!(failures.is_empty(), "{} of {SEEDS} seeds:\n{}", failures.len(), list.join("\n"));
    let sum = |of: fn(&Reached) -> u64| all.iter().map(|(_, reached)| of(reached)).sum::<u64>();
    // What the seeds are for happens in them.
    let (machines, orphans, losses) = (sum(|r| r.machines), sum(|r| r.orphans), sum(|r| r.losses));
    let (done, refused) = (sum(|r| r.done), sum(|r| r.refused));
    let reached = format!("{machines} machines, {orphans} for nobody, {losses} losses, {done} done, {refused} refused");
    assert!(machines > 10_000 && orphans > 500 && losses > 1000 && done > 100_000 && refused > 10_000, "{reached}");
}

#[test]
fn a_seed_says_the_same_each_time() {
    for seed in 0..30 {
        let script = Script::draw(seed);
        assert!(run(&script, None) == run(&script, None), "seed {seed}");
    }
}

/// How many of a hundred seeds show this bug, by a word of what is broken.
fn caught(plant: Plant, word: &str) -> usize {
    let shows = |seed: &u64| {
        let script = Script::draw(*seed);
        check(&script, &run(&script, Some(plant))).iter().any(|broken| broken.contains(word))
    };
    (0..100).filter(shows).count()
}

#[test]
fn planted_bugs_are_caught() {
    for (plant, word, least) in [
        (Plant::WrongLimit, "are allowed", 10),
        (Plant::KeepsEmpty, "has {}", 15),
        (Plant::EndsNothing, "neither knows it nor has it ended", 20),
        (Plant::SmallMachines, "on a machine that has", 40),
        (Plant::EndsAtNotice, "was refused and nothing was lost", 5),
    ] {
        assert!(caught(plant, word) >= least, "{plant:?}");
    }
}

/// A thousand environments are wanted at once, and then a thousand requests come at once.
#[test]
fn a_thousand_at_once() {
    let script = Script::of_a_thousand();
    let run = run(&script, None);
    assert_eq!(check(&script, &run), [""; 0]);
    assert!(run.ends.iter().all(|end| end.how == How::Done) && run.machines == 125, "{} machines", run.machines);
}
