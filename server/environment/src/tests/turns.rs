//! Rooms that share a device: no more batches at a time than its depth on all of them, and a turn for whoever asks.

use super::rooms::{World, gated, invocation, now, specification, world};
use crate::device::Device;
use crate::handle::EnvironmentHandle;
use crate::rehearsal::{Act, Play, rehearse};
use crate::specification::{DeviceShare, Specification};
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

async fn sharing(device: &Device) -> World {
    sharing_with(device, 1).await
}

async fn sharing_with(device: &Device, weight: u32) -> World {
    let world = world(|s| shares(s, weight, 1)).await;
    world.handle.take_turns(device, weight);
    world
}

/// One request a batch.
fn shares(specification: &mut Specification, weight: u32, depth: u32) {
    specification.batching.dynamic = false;
    specification.device = Some(DeviceShare { name: "d".into(), weight, depth });
}

/// What a batch takes, where there are no threads.
const BATCH: Duration = Duration::from_millis(100);

/// When each batch started there.
type Starts = Arc<Mutex<Vec<Instant>>>;

/// An environment without threads.
async fn rehearsed(device: &Device, depth: u32, workers: usize) -> (World, Starts) {
    let specification = specification(|s| {
        shares(s, 1, depth);
        s.workers = workers;
    });
    let (model, open, log) = gated();
    // The model needs no time of its own.
    (0..10_000).for_each(|_| open.send(()).unwrap());
    let starts = Starts::default();
    let started = starts.clone();
    let play: Play = Arc::new(move |_| {
        started.lock().push(now());
        Act::Takes(BATCH)
    });
    let (near, far) = tokio::io::duplex(64 * 1024);
    let ((from, to), (from_near, to_near)) = (tokio::io::split(far), tokio::io::split(near));
    tokio::spawn(rehearse(from, to, specification.clone(), Arc::new(model), play));
    let handle = EnvironmentHandle::start(from_near, to_near, &specification, None, Box::new(|_| {})).await.unwrap();
    handle.take_turns(device, 1);
    (World { handle, open, log }, starts)
}

/// In which batch time from `began` each batch started.
fn rounds(starts: &Starts, began: Instant) -> Vec<u32> {
    starts.lock().iter().map(|at| ((*at - began).as_secs_f64() / BATCH.as_secs_f64()).round() as u32).collect()
}

fn ran(world: &World) -> usize {
    world.log.lock().len()
}

/// Until so many batches have run there.
async fn until_ran(world: &World, batches: usize) {
    for _ in 0..10_000 {
        if ran(world) >= batches {
            break;
        }
        world.settle().await;
    }
    assert!(ran(world) >= batches);
    world.settle().await;
}

#[tokio::test]
async fn batches_of_neighbours_run_in_turns() {
    let device = Device::new(1);
    let (greedy, modest) = (sharing(&device).await, sharing(&device).await);
    let mut calls = Vec::new();
    for row in 1..=4 {
        calls.push(greedy.send(invocation(&[row])).await);
    }
    calls.push(modest.send(invocation(&[5])).await);
    // The gate of the modest one is open, and still it waits for the one that runs.
    modest.open.send(()).unwrap();
    modest.settle().await;
    assert_eq!((ran(&greedy), ran(&modest)), (0, 0));
    greedy.open.send(()).unwrap();
    until_ran(&modest, 1).await;
    assert_eq!(ran(&greedy), 1, "and for no other");
    (0..3).for_each(|_| greedy.open.send(()).unwrap());
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn whoever_has_more_to_run_asks_again_before_the_next_is_chosen() {
    let device = Device::new(1);
    let (heavy, light) = (sharing_with(&device, 1000).await, sharing_with(&device, 1).await);
    let mut calls = Vec::new();
    for row in 0..6 {
        calls.push(heavy.send(invocation(&[row])).await);
    }
    for row in 0..2 {
        calls.push(light.send(invocation(&[row])).await);
    }
    // The light one has one turn, whose time weighs a thousand times more; then the heavy one goes on.
    heavy.open.send(()).unwrap();
    until_ran(&heavy, 1).await;
    light.settle().await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    light.open.send(()).unwrap();
    until_ran(&light, 1).await;
    light.open.send(()).unwrap();
    for batches in 2..=6 {
        heavy.open.send(()).unwrap();
        until_ran(&heavy, batches).await;
        if batches < 6 {
            assert_eq!(ran(&light), 1, "after {batches}");
        }
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_turn_of_one_that_is_lost_or_whose_callers_left_goes_to_the_next() {
    let device = Device::new(1);
    let (lost, other) = (sharing(&device).await, sharing(&device).await);
    let running = lost.send(invocation(&[1])).await;
    let third = sharing(&device).await;
    // It asks, and has nothing to run when its turn comes.
    let leaves = other.send(invocation(&[3])).await;
    let waiting = third.send(invocation(&[2])).await;
    leaves.abort();
    other.settle().await;
    lost.handle.cut();
    assert!(running.await.unwrap().is_err());
    third.open.send(()).unwrap();
    assert_eq!(waiting.await.unwrap().unwrap(), [2]);
    assert_eq!(ran(&other), 0);
    // With nobody beside it, each of its batches has its turn at once.
    other.open.send(()).unwrap();
    assert_eq!(other.send(invocation(&[4])).await.await.unwrap().unwrap(), [4]);
    lost.open.send(()).unwrap(); // lets its thread end
}

#[tokio::test(start_paused = true)]
async fn an_environment_alone_runs_as_many_batches_at_once_as_its_device_has_depth() {
    for (depth, expected) in [(1, [0, 1, 2, 3, 4]), (2, [0, 0, 1, 1, 2])] {
        let (world, starts) = rehearsed(&Device::new(depth), depth, 2).await;
        let began = now();
        let calls: Vec<_> = (1..=5).map(|row| world.start(invocation(&[row]), false)).collect();
        for call in calls {
            call.await.unwrap().unwrap();
        }
        assert_eq!(rounds(&starts, began), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn neighbours_have_a_turn_each_at_a_device_of_depth_two() {
    let device = Device::new(2);
    let ((one, one_starts), (other, other_starts)) = (rehearsed(&device, 2, 2).await, rehearsed(&device, 2, 2).await);
    let began = now();
    let mut calls: Vec<_> = (1..=8).map(|row| one.start(invocation(&[row]), false)).collect();
    one.settle().await;
    // Both turns are taken; it waits until the first of them is over, and then has one for each of its neighbour's.
    calls.extend((1..=4).map(|row| other.start(invocation(&[row]), false)));
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let (one, other) = (rounds(&one_starts, began), rounds(&other_starts, began));
    assert_eq!(other, [1, 2, 3, 4]);
    for round in 0..6 {
        let at_once = one.iter().chain(&other).filter(|at| **at == round).count();
        assert_eq!(at_once, 2, "in round {round} of {one:?} {other:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_turns_is_foretold_with_them() {
    // How many share a device of depth two, and the workers of each: half of it, with a turn at a time for two workers; or
    // all of it, with two turns for three.
    for (sharing, workers, batches_at_once) in [(2, 2, 1), (1, 3, 2)] {
        let (device, mut worlds) = (Device::new(2), Vec::new());
        for _ in 0..sharing {
            worlds.push(rehearsed(&device, 2, workers).await.0);
        }
        let calls = (0..200 * batches_at_once).flat_map(|_| worlds.iter().map(|w| w.start(invocation(&[1]), false)));
        let calls: Vec<_> = calls.collect();
        tokio::time::sleep(BATCH * 100).await;
        // Of each about half are left. Where one of the workers always waits, batches differ by how long theirs had waited:
        // with what is allowed for that, twice as much is foretold as they take in the mean.
        let right = 100.0 * BATCH.as_secs_f64();
        let most = if workers > 2 { 2.1 } else { 1.05 };
        for world in &worlds {
            let foretold = world.handle.done_in(&invocation(&[1]), now()).unwrap().done_in.as_secs_f64();
            let expected = foretold / 1.2; // a fifth more is reckoned with
            assert!((right..right * most).contains(&expected), "{workers} workers: {expected}");
        }
        let sent = now();
        worlds[0].send(invocation(&[1])).await.await.unwrap().unwrap();
        let took = (now() - sent).as_secs_f64();
        assert!((right..right * 1.05).contains(&took), "{workers} workers: {took}");
        calls.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_comes_while_something_is_to_run_alone_goes_on() {
    let device = Device::new(2);
    let ((one, one_starts), (other, _), (third, starts)) =
        (rehearsed(&device, 2, 2).await, rehearsed(&device, 2, 2).await, rehearsed(&device, 2, 2).await);
    // From now on the others come before the third.
    third.send(invocation(&[1])).await.await.unwrap().unwrap();
    let began = now();
    let first = other.send(invocation(&[2])).await;
    tokio::time::sleep(BATCH / 2).await;
    let second = one.send(invocation(&[3])).await;
    // It asks for a second turn; then the next of it must run alone, and waits until the first has run.
    let leaves = one.send(invocation(&[4])).await;
    let waits = third.send(invocation(&[5])).await;
    leaves.abort();
    let alone = one.start(invocation(&[6]), true);
    for call in [first, waits, second, alone] {
        call.await.unwrap().unwrap();
    }
    let after_ms = |starts: &Starts| starts.lock().iter().map(|at| (*at - began).as_millis()).collect::<Vec<_>>();
    starts.lock().remove(0);
    assert_eq!((after_ms(&one_starts), after_ms(&starts)), (vec![50, 150], vec![100]));
}
