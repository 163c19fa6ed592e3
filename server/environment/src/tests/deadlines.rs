//! Deadlines in a room that has learned how long a batch takes, and what becomes of a batch that never ends.

use super::rooms::{World, invocation, now, refused, world};
use crate::handle::CallEnd;
use crate::specification::Specification;
use penstock_domain::{ErrorCode, Invocation, Refusal, ShedReason};
use std::time::Duration;

const BATCH: Duration = Duration::from_secs(10);

fn one_by_one(specification: &mut Specification) {
    specification.batching.dynamic = false;
}

fn within(row: u8, timeout: Duration) -> Invocation {
    Invocation { deadline: Some(now() + timeout), ..invocation(&[row]) }
}

/// Lets the batch that runs end after it has run for `time`.
async fn ends_after(world: &World, time: Duration) {
    tokio::time::sleep(time).await;
    // Else the clock would jump to the next deadline while the worker's thread works.
    tokio::time::resume();
    let before = world.log.lock().len();
    world.open.send(()).unwrap();
    while world.log.lock().len() == before {
        world.settle().await;
    }
    world.settle().await;
    tokio::time::pause();
}

/// A room in which a batch has taken ten seconds, twice.
async fn learned() -> World {
    learned_with(|_| {}).await
}

async fn learned_with(change: impl FnOnce(&mut Specification)) -> World {
    let world = world(|s| {
        one_by_one(s);
        change(s);
    })
    .await;
    for _ in 0..2 {
        let call = world.send(invocation(&[1])).await;
        ends_after(&world, BATCH).await;
        call.await.unwrap().unwrap();
    }
    world
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_in_time_is_refused_when_it_comes() {
    let world = learned().await;
    let began = now();
    let refusal = refused(world.send(within(2, BATCH / 2)).await.await.unwrap());
    assert_eq!((refusal.code, refusal.shed), (ErrorCode::DeadlineExceeded, Some(ShedReason::DeadlineUnmeetable)));
    let wait = refusal.retry_after.unwrap().as_secs_f64();
    assert!((5.4..5.6).contains(&wait), "no wait is enough: what it lacks, of nine tenths of its time: {wait}");
    let running = world.send(within(3, BATCH * 2)).await;
    tokio::time::sleep(BATCH / 2).await;
    // What runs has five seconds to go, so another would be done in fifteen.
    let refusal = refused(world.send(within(4, BATCH)).await.await.unwrap());
    assert_eq!(refusal.shed, Some(ShedReason::DeadlineUnmeetable), "{refusal}");
    assert!(now() - began < BATCH, "nobody waited for it");
    let waiting = world.send(within(5, BATCH * 2)).await;
    ends_after(&world, BATCH / 2).await;
    ends_after(&world, BATCH).await;
    assert_eq!((running.await.unwrap().unwrap(), waiting.await.unwrap().unwrap()), (vec![3], vec![5]));
    assert_eq!(*world.log.lock(), [vec![1], vec![1], vec![3], vec![5]]);
}

#[tokio::test(start_paused = true)]
async fn the_front_end_foretells_what_the_environment_would() {
    let told = |world: &World| world.handle.done_in(&invocation(&[2]), now());
    let seconds = |world: &World| (told(world).unwrap().done_in.as_secs_f64() * 10.0).round() / 10.0;
    let fresh = world(one_by_one).await;
    assert_eq!(told(&fresh), None, "nobody knows");
    let world = learned().await;
    assert_eq!(seconds(&world), 10.0);
    let calls = [world.send(invocation(&[3])).await, world.send(invocation(&[4])).await];
    tokio::time::sleep(BATCH / 2).await;
    assert_eq!(seconds(&world), 1.2 * 15.0 + 10.0, "five seconds, a whole batch, a fifth more for both, and its own");
    // It was asked all the same: where the environment refuses, the front end reckons with a little more.
    let before = told(&world).unwrap().done_in;
    refused(world.send(within(5, before * 10 / 9 - Duration::from_millis(10))).await.await.unwrap());
    let more = told(&world).unwrap().done_in - before;
    assert_eq!((more.as_secs_f64() * 1e3).round(), 75.0, "0.005 of the wait of fifteen seconds");
    ends_after(&world, BATCH / 2).await;
    ends_after(&world, BATCH).await;
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert_eq!(seconds(&world), 10.0);
}

#[tokio::test(start_paused = true)]
async fn a_full_room_says_when_there_will_be_room() {
    let wait = |refusal: Refusal| refusal.retry_after.unwrap().as_secs_f64();
    let world = learned_with(|s| s.queue.requests = 2).await;
    let calls = [world.send(invocation(&[2])).await, world.send(invocation(&[3])).await];
    tokio::time::sleep(BATCH * 3 / 10).await;
    let told = wait(refused(world.send(invocation(&[4])).await.await.unwrap()));
    assert!((6.9..7.1).contains(&told), "seven seconds until what runs has ended: {told}");
    ends_after(&world, BATCH * 7 / 10).await;
    let after = world.send(invocation(&[5])).await;
    ends_after(&world, BATCH).await;
    ends_after(&world, BATCH).await;
    for (call, row) in calls.into_iter().chain([after]).zip([2, 3, 5]) {
        assert_eq!(call.await.unwrap().unwrap(), [row]);
    }
    // Where items are bounded, as many must leave as there are too many.
    let world = learned_with(|s| s.queue.items = 2).await;
    let mut calls = Vec::new();
    for row in 2..5 {
        calls.push(world.send(invocation(&[row])).await);
    }
    let one = wait(refused(world.send(invocation(&[5])).await.await.unwrap()));
    let two = wait(refused(world.send(invocation(&[6, 7])).await.await.unwrap()));
    assert!((9.9..10.1).contains(&one) && (19.9..20.1).contains(&two), "{one} {two}");
    for _ in 0..3 {
        ends_after(&world, BATCH).await;
    }
    for call in calls {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_become_late_does_not_run() {
    let world = learned().await;
    let running = world.send(invocation(&[2])).await;
    let (late, in_time) = (world.send(within(3, BATCH * 5 / 2)).await, world.send(within(4, BATCH * 10)).await);
    // Five seconds longer than ever: the first could start now, and would end ten seconds late.
    let sent = now();
    ends_after(&world, BATCH * 2).await;
    let refusal = refused(late.await.unwrap());
    assert_eq!(refusal.shed, Some(ShedReason::DeadlineUnmeetable), "{refusal}");
    assert!(now() - sent < BATCH * 5 / 2, "it is told before its deadline");
    ends_after(&world, BATCH).await;
    assert_eq!((running.await.unwrap().unwrap(), in_time.await.unwrap().unwrap()), (vec![2], vec![4]));
    assert_eq!(*world.log.lock(), [vec![1], vec![1], vec![2], vec![4]]);
}

#[tokio::test(start_paused = true)]
async fn what_was_learned_long_ago_refuses_nobody() {
    let world = learned().await;
    tokio::time::sleep(BATCH * 100).await;
    let call = world.send(within(2, BATCH / 2)).await;
    ends_after(&world, Duration::ZERO).await;
    assert_eq!(call.await.unwrap().unwrap(), [2]);
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_never_ends_ends_the_environment() {
    let world = world(|s| {
        one_by_one(s);
        s.batching.run_timeout_us = BATCH.as_micros() as u64;
    })
    .await;
    let began = now();
    let (running, waiting) = (world.send(invocation(&[1])).await, world.send(invocation(&[2])).await);
    assert!(matches!(running.await.unwrap(), Err(CallEnd::Lost { begun: true })));
    assert!(matches!(waiting.await.unwrap(), Err(CallEnd::Lost { begun: false })));
    assert!((BATCH..BATCH + Duration::from_millis(20)).contains(&(now() - began)));
    world.open.send(()).unwrap(); // lets its thread end
}
