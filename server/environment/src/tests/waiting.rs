//! Waiting in a room: how many requests may, for how long, in whose company, and what is done for those that left.

use super::rooms::{Gated, World, invocation, now, refused, world, world_of};
use crate::handle::{CallEnd, LoadReport};
use crate::specification::{QueueTimeout, Specification, TimeoutAction};
use parking_lot::Mutex;
use penstock_domain::{ErrorCode, Invocation, ShedReason, Signature};
use penstock_executor::{ExecError, Executor, LoadError, Model, Prepared, Work};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(60);

/// One request a batch, so that the order is seen.
fn one_by_one(specification: &mut Specification) {
    specification.batching.dynamic = false;
}

fn timeout(specification: &mut Specification, action: TimeoutAction) {
    one_by_one(specification);
    specification.queue.timeout = Some(QueueTimeout { after_us: PATIENCE.as_micros() as u64, action });
}

impl World {
    fn open_for(&self, batches: usize) {
        (0..batches).for_each(|_| self.open.send(()).unwrap());
    }

    /// The process dies: which of the calls had begun.
    async fn begun(&self, calls: Vec<super::rooms::Sent>) -> Vec<bool> {
        self.settle().await;
        self.handle.cut();
        let mut begun = Vec::new();
        for call in calls {
            match call.await.unwrap() {
                Err(CallEnd::Lost { begun: had }) => begun.push(had),
                other => panic!("expected a loss, got {other:?}"),
            }
        }
        // Lets the worker threads end; the last one that does takes the gate with it.
        (0..8).for_each(|_| {
            let _ = self.open.send(());
        });
        begun
    }
}

#[tokio::test]
async fn the_bound_on_waiting_does_not_count_what_runs() {
    let world = world(|s| {
        one_by_one(s);
        s.queue.waiting = Some(1);
    })
    .await;
    // In one breath: the idle worker is about to take one, one more may wait.
    let calls: Vec<_> = (1..=3).map(|row| world.start(invocation(&[row]), false)).collect();
    world.settle().await;
    let mut ends = calls.into_iter();
    let (first, second) = (ends.next().unwrap(), ends.next().unwrap());
    for third in [ends.next().unwrap(), world.send(invocation(&[4])).await] {
        let refusal = refused(third.await.unwrap());
        assert_eq!((refusal.shed, refusal.code), (Some(ShedReason::QueueRequests), ErrorCode::Exhausted));
        assert!(refusal.message.contains("1 requests wait, at most 1 may"), "{refusal}");
        assert!(refusal.retry_after.is_some());
    }
    world.open_for(1);
    assert_eq!(first.await.unwrap().unwrap(), [1]);
    let next = world.send(invocation(&[5])).await;
    world.open_for(2);
    assert_eq!((second.await.unwrap().unwrap(), next.await.unwrap().unwrap()), (vec![2], vec![5]));
    assert_eq!(*world.log.lock(), [vec![1], vec![2], vec![5]]);
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_for_company_that_would_be_refused() {
    let world = world(|s| {
        s.batching.max_delay_us = PATIENCE.as_micros() as u64;
        s.queue.waiting = Some(1);
    })
    .await;
    let began = now();
    let first = world.send(invocation(&[1])).await;
    let second = world.send(invocation(&[2])).await;
    // By the clock on the wall from here on: a paused one runs ahead of the worker's thread.
    tokio::time::resume();
    world.open_for(1);
    assert_eq!((first.await.unwrap().unwrap(), second.await.unwrap().unwrap()), (vec![1], vec![2]));
    assert_eq!(*world.log.lock(), [vec![1, 2]]);
    assert!(now() - began < PATIENCE);
}

#[tokio::test(start_paused = true)]
async fn the_timeout_of_the_queue_is_not_one_of_the_run() {
    let world = world(|s| timeout(s, TimeoutAction::Refuse)).await;
    let first = world.send(invocation(&[1])).await;
    let sent = now();
    let refusal = refused(world.send(invocation(&[2])).await.await.unwrap());
    let waited = now() - sent;
    assert_eq!((refusal.code, refusal.shed), (ErrorCode::DeadlineExceeded, None));
    assert!(refusal.message.contains("waited 60000000 us in the queue"), "{refusal}");
    assert!((PATIENCE..PATIENCE + Duration::from_millis(2)).contains(&waited), "{waited:?}");
    tokio::time::sleep(PATIENCE * 3).await;
    world.open_for(1);
    assert_eq!(first.await.unwrap().unwrap(), [1], "it runs for as long as it takes");
    assert_eq!(*world.log.lock(), [vec![1]]);
}

#[tokio::test(start_paused = true)]
async fn a_late_one_may_run_behind_those_that_are_not() {
    let world = world(|s| timeout(s, TimeoutAction::SendBehind)).await;
    let first = world.send(invocation(&[1])).await;
    let late = world.send(invocation(&[2])).await;
    tokio::time::sleep(PATIENCE * 2).await;
    // From here on by the clock on the wall: nobody else gets late.
    tokio::time::resume();
    let in_time = world.send(invocation(&[3])).await;
    world.open_for(3);
    for (call, row) in [(first, 1), (late, 2), (in_time, 3)] {
        assert_eq!(call.await.unwrap().unwrap(), [row]);
    }
    assert_eq!(*world.log.lock(), [vec![1], vec![3], vec![2]]);
}

#[tokio::test]
async fn what_runs_alone_has_the_process_to_itself() {
    let two = |s: &mut Specification| s.workers = 2;
    // Without it, two workers run two requests.
    let both = world(two).await;
    let calls = vec![both.send(invocation(&[1])).await, both.send(invocation(&[2])).await];
    assert_eq!(both.begun(calls).await, [true, true]);
    // It waits until nothing runs, and holds back what came after it.
    let waiting = world(two).await;
    let running = waiting.send(invocation(&[1])).await;
    let alone = waiting.start(invocation(&[2]), true);
    waiting.settle().await;
    let after = waiting.send(invocation(&[3])).await;
    assert_eq!(waiting.begun(vec![running, alone, after]).await, [true, false, false]);
    // While it runs nothing starts beside it.
    let busy = world(two).await;
    let alone = busy.start(invocation(&[1]), true);
    busy.settle().await;
    let after = busy.send(invocation(&[2])).await;
    assert_eq!(busy.begun(vec![alone, after]).await, [true, false]);
    // Then all goes on.
    let world = world(two).await;
    let first = world.send(invocation(&[1])).await;
    let alone = world.start(invocation(&[2]), true);
    world.settle().await;
    let last = [world.send(invocation(&[3])).await, world.send(invocation(&[4])).await];
    world.open_for(4);
    assert_eq!((first.await.unwrap().unwrap(), alone.await.unwrap().unwrap()), (vec![1], vec![2]));
    for call in last {
        call.await.unwrap().unwrap();
    }
    assert_eq!(world.log.lock()[..2], [vec![1], vec![2]]);
}

/// Prepares one request for each `()` it is given, on the preparation thread.
struct Slow {
    model: Gated,
    gate: Mutex<Receiver<()>>,
    prepared: Arc<Mutex<Vec<u8>>>,
}

impl Model for Slow {
    fn signature(&self) -> &Signature {
        self.model.signature()
    }

    fn prepare(&self, work: Work) -> Result<Prepared, ExecError> {
        let _ = self.gate.lock().recv();
        self.prepared.lock().push(work.inputs[0].data[0]);
        self.model.prepare(work)
    }

    fn prepares_slowly(&self) -> bool {
        true
    }

    fn warmup(&self) -> Vec<Work> {
        Vec::new()
    }

    fn executor(&self, worker: usize) -> Result<Box<dyn Executor>, LoadError> {
        self.model.executor(worker)
    }
}

async fn slow_world(change: impl FnOnce(&mut Specification)) -> (World, Sender<()>, Arc<Mutex<Vec<u8>>>) {
    let (prepare, gate) = channel();
    let prepared: Arc<Mutex<Vec<u8>>> = Arc::default();
    let log = prepared.clone();
    let world = world_of(|model| Arc::new(Slow { model, gate: Mutex::new(gate), prepared: log }), change).await;
    (world, prepare, prepared)
}

#[tokio::test(start_paused = true)]
async fn who_left_or_is_late_is_not_prepared_any_more() {
    let (world, prepare, prepared) = slow_world(|_| {}).await;
    let first = world.send(invocation(&[1])).await;
    let left = world.send(invocation(&[2])).await;
    let late = Invocation { deadline: Some(now() + PATIENCE), ..invocation(&[3]) };
    let late = world.send(late).await;
    let last = world.send(invocation(&[4])).await;
    left.abort();
    assert_eq!(refused(late.await.unwrap()).code, ErrorCode::DeadlineExceeded);
    (0..4).for_each(|_| prepare.send(()).unwrap());
    world.open_for(2);
    assert_eq!((first.await.unwrap().unwrap(), last.await.unwrap().unwrap()), (vec![1], vec![4]));
    assert_eq!(*prepared.lock(), [1, 4]);
}

#[tokio::test]
async fn what_is_being_prepared_waits_too() {
    let (world, prepare, _) = slow_world(|s| s.queue.waiting = Some(1)).await;
    // One for the idle worker, one that may wait.
    let (first, second) = (world.send(invocation(&[1])).await, world.send(invocation(&[2])).await);
    assert_eq!(refused(world.send(invocation(&[3])).await.await.unwrap()).shed, Some(ShedReason::QueueRequests));
    (0..3).for_each(|_| prepare.send(()).unwrap());
    world.open_for(3);
    assert_eq!((first.await.unwrap().unwrap(), second.await.unwrap().unwrap()), (vec![1], vec![2]));
    assert_eq!(world.send(invocation(&[4])).await.await.unwrap().unwrap(), [4]);
}

/// Asks until the environment has told of this load.
async fn told(world: &World, condition: impl Fn(&LoadReport) -> bool) {
    let asking = async {
        while !condition(&world.handle.load()) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asking).await.expect("the load is told");
}

#[tokio::test]
async fn one_that_got_late_while_it_was_prepared_goes_behind() {
    let (world, prepare, _) = slow_world(|s| timeout(s, TimeoutAction::SendBehind)).await;
    let first = world.send(invocation(&[1])).await;
    prepare.send(()).unwrap();
    told(&world, |load| load.busy_workers == 1).await;
    let late = world.send(invocation(&[2])).await;
    tokio::time::pause();
    tokio::time::sleep(PATIENCE * 2).await;
    tokio::time::resume();
    let in_time = world.send(invocation(&[3])).await;
    (0..2).for_each(|_| prepare.send(()).unwrap());
    told(&world, |load| load.queued_requests == 2 && load.oldest_wait > Duration::ZERO).await;
    assert!(world.handle.queue_age(now()) >= world.handle.load().oldest_wait);
    world.open_for(3);
    for (call, row) in [(first, 1), (late, 2), (in_time, 3)] {
        assert_eq!(call.await.unwrap().unwrap(), [row]);
    }
    assert_eq!(*world.log.lock(), [vec![1], vec![3], vec![2]]);
}
