//! Rooms that share a device: one batch at a time on all of them, and a turn for whoever asks.

use super::rooms::{World, invocation, world};
use crate::device::Device;
use crate::specification::DeviceShare;

async fn sharing(device: &Device) -> World {
    sharing_with(device, 1).await
}

async fn sharing_with(device: &Device, weight: u32) -> World {
    let world = world(|s| {
        s.batching.dynamic = false;
        s.device = Some(DeviceShare { name: "d".into(), weight });
    })
    .await;
    world.handle.take_turns(device, weight);
    world
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
    let device = Device::default();
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
    let device = Device::default();
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
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
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
    let device = Device::default();
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
