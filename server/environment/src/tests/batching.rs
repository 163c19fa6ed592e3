//! What the batcher chooses, and that it starves nothing.

use crate::batcher::{BatchShape, Decision, choose};
use crate::queue::Queue;
use crate::specification::{BatchingPolicy, QueueLimits};
use penstock_executor::{BatchCost, Part, PartInput};
use proptest::prelude::*;
use std::time::{Duration, Instant};

fn part(items: u32, tokens: u32) -> Part {
    Part { input: PartInput::Tokens(Vec::new()), items, tokens, kind: 0 }
}

#[allow(clippy::disallowed_methods)] // a test needs some instant to start from
fn start() -> Instant {
    Instant::now()
}

fn items(max_items: u32) -> BatchShape {
    BatchShape { max_items, cost: BatchCost::Items }
}

fn tokens(max_items: u32) -> BatchShape {
    BatchShape { max_items, cost: BatchCost::Tokens { longest: 512 } }
}

fn policy() -> BatchingPolicy {
    BatchingPolicy { dynamic: true, max_tokens: 1 << 20, ..BatchingPolicy::default() }
}

/// The calls in the batch formed, or `None` if nothing runs now.
fn run(queue: &mut Queue, policy: &BatchingPolicy, shape: &BatchShape, now: Instant) -> Option<Vec<u64>> {
    match choose(queue, policy, shape, false, now) {
        Decision::Run(selected) => Some(selected.take(queue).iter().map(|entry| entry.call).collect()),
        Decision::WaitUntil(_) | Decision::Idle => None,
    }
}

#[test]
fn an_idle_worker_takes_all_that_waits_up_to_the_maximum() {
    let (mut queue, now) = (Queue::default(), start());
    for call in 0..5 {
        queue.push(call, vec![part(1, 0)], now, false, 0);
    }
    assert_eq!(run(&mut queue, &policy(), &items(4), now), Some(vec![0, 1, 2, 3]));
    assert_eq!(run(&mut queue, &policy(), &items(4), now), Some(vec![4]), "no wait when the worker is idle");
    assert_eq!(run(&mut queue, &policy(), &items(4), now), None);
}

#[test]
fn a_delay_waits_for_a_preferred_size_and_no_longer() {
    let (mut queue, now) = (Queue::default(), start());
    let policy = BatchingPolicy { preferred_sizes: vec![2, 4], max_delay_us: 1000, ..policy() };
    queue.push(0, vec![part(1, 0)], now, false, 0);
    assert!(
        matches!(choose(&queue, &policy, &items(8), false, now), Decision::WaitUntil(at) if at == now + Duration::from_millis(1))
    );
    queue.push(1, vec![part(1, 0)], now, false, 0);
    queue.push(2, vec![part(1, 0)], now, false, 0);
    assert_eq!(run(&mut queue, &policy, &items(8), now), Some(vec![0, 1]), "the largest preferred size that is there");
    assert_eq!(run(&mut queue, &policy, &items(8), now), None, "one is left and waits");
    assert_eq!(run(&mut queue, &policy, &items(8), now + Duration::from_millis(1)), Some(vec![2]));
    queue.push(3, vec![part(1, 0)], now, false, 0);
    assert!(matches!(choose(&queue, &policy, &items(8), true, now), Decision::Run(_)), "nothing more can come");
}

#[test]
fn strangers_share_only_with_dynamic_batching_and_not_with_one_that_runs_alone() {
    let (mut queue, now) = (Queue::default(), start());
    queue.push(0, vec![part(1, 5), part(1, 5)], now, false, 0);
    queue.push(1, vec![part(1, 5)], now, false, 0);
    let fixed = BatchingPolicy { dynamic: false, ..policy() };
    assert_eq!(run(&mut queue, &fixed, &items(8), now), Some(vec![0, 0]));
    queue.push(2, vec![part(1, 5)], now, true, 0);
    queue.push(3, vec![part(1, 5)], now, false, 0);
    assert_eq!(run(&mut queue, &policy(), &items(8), now), Some(vec![1, 3]));
    assert_eq!(run(&mut queue, &policy(), &tokens(8), now), Some(vec![2]));
}

#[test]
fn kinds_do_not_mix() {
    let (mut queue, now) = (Queue::default(), start());
    for (call, kind) in [(0, 7), (1, 8), (2, 7)] {
        queue.push(call, vec![Part { kind, ..part(1, 0) }], now, false, 0);
    }
    assert_eq!(run(&mut queue, &policy(), &items(8), now), Some(vec![0, 2]));
    assert_eq!(run(&mut queue, &policy(), &items(8), now), Some(vec![1]));
}

#[test]
fn a_batch_that_takes_nothing_more_of_what_waits_runs_now() {
    let policy = BatchingPolicy { max_delay_us: 1000, max_tokens: 100, ..policy() };
    // Parts as (items, tokens), in batches of at most 8 items and 100 tokens; how many run at once, `None` for a wait.
    let table = [
        (vec![(1, 10)], tokens(8), None),
        (vec![(1, 10), (1, 89)], tokens(8), None),
        (vec![(1, 10), (1, 90)], tokens(8), Some(2)),
        (vec![(1, 100)], tokens(8), Some(1)),
        (vec![(1, 999)], tokens(8), Some(1)),
        (vec![(1, 10), (1, 91)], tokens(8), Some(1)),
        (vec![(1, 60), (1, 60), (1, 40)], tokens(8), Some(2)),
        (vec![(1, 10), (1, 91)], items(8), None),
        (vec![(5, 0), (4, 0)], items(8), Some(1)),
        (vec![(5, 0), (4, 0), (3, 0)], items(8), Some(2)),
    ];
    for (parts, shape, expected) in table {
        let (mut queue, now) = (Queue::default(), start());
        for (call, (items, tokens)) in parts.iter().enumerate() {
            queue.push(call as u64, vec![part(*items, *tokens)], now, false, 0);
        }
        let found = run(&mut queue, &policy, &shape, now).map(|calls| calls.len());
        assert_eq!(found, expected, "{parts:?} in {shape:?}");
    }
    let (mut queue, now) = (Queue::default(), start());
    let preferring = BatchingPolicy { preferred_sizes: vec![1], ..policy };
    [60, 30, 60].into_iter().enumerate().for_each(|(n, t)| queue.push(n as u64, vec![part(1, t)], now, false, 0));
    assert_eq!(run(&mut queue, &preferring, &tokens(8), now), Some(vec![0, 1]), "a full batch is not cut");
}

#[test]
fn what_is_sent_behind_runs_after_all_others_whenever_they_come() {
    let (mut queue, now) = (Queue::default(), start());
    queue.push(0, vec![part(1, 5), part(2, 6)], now, false, 0);
    queue.push(1, vec![part(1, 5)], now, false, 0);
    queue.send_behind(0);
    queue.send_behind(7); // is not here
    queue.push(2, vec![part(1, 5)], now, false, 0);
    queue.push_behind(3, vec![part(1, 5)], now, false, 0);
    assert_eq!((queue.requests(), queue.items(), queue.tokens()), (4, 6, 26));
    let order: Vec<(u64, u32)> = queue.in_order().map(|(_, entry)| (entry.call, entry.row)).collect();
    assert_eq!(order, [(1, 0), (2, 0), (0, 0), (0, 1), (3, 0)]);
    assert_eq!((queue.remove(0), queue.remove(3), queue.requests()), (2, 1, 2));
}

#[test]
fn a_full_queue_says_how_much_of_it_must_leave_and_takes_nothing_of_the_request() {
    let (mut queue, now) = (Queue::default(), start());
    let limits = QueueLimits { items: 10, tokens: 100, ..QueueLimits::default() };
    assert_eq!(queue.fits(&[part(99, 999)], &limits), Ok(()), "an empty queue takes any size");
    queue.push(0, vec![part(4, 40)], now, false, 0);
    assert_eq!(queue.fits(&[part(4, 40), part(4, 0)], &limits), Err(0.5), "2 items of 4");
    assert_eq!(queue.fits(&[part(1, 70)], &limits), Err(0.25), "10 tokens of 40");
    assert_eq!(queue.fits(&[part(99, 70)], &limits), Err(1.0), "all must leave before a large one");
    assert_eq!(queue.fits(&[part(1, 60)], &limits), Ok(()));
    queue.push(1, vec![part(1, 1)], now, false, 0);
    assert_eq!((queue.items(), queue.tokens(), queue.requests()), (5, 41, 2));
}

proptest! {
    #[test]
    fn everything_runs_once_within_the_limits_and_the_oldest_first(
        parts in prop::collection::vec((1u32..5, 1u32..300), 1..60),
        cost in prop::sample::select(vec![BatchCost::Items, BatchCost::Tokens { longest: 512 }]),
    ) {
        let (mut queue, now) = (Queue::default(), start());
        let policy = BatchingPolicy { max_tokens: 600, ..policy() };
        let shape = BatchShape { max_items: 8, cost };
        for (call, (items, tokens)) in parts.iter().enumerate() {
            queue.push(call as u64, vec![part(*items, *tokens)], now, false, 0);
        }
        let mut left: std::collections::BTreeSet<u64> = (0..parts.len() as u64).collect();
        while let Decision::Run(selected) = choose(&queue, &policy, &shape, false, now) {
            let entries = selected.take(&mut queue);
            prop_assert!(entries.iter().any(|entry| Some(&entry.call) == left.first()), "the oldest is in the batch");
            prop_assert!(entries.iter().map(|entry| entry.part.items).sum::<u32>() <= 8);
            let tokens: u32 = match cost {
                BatchCost::Items => 0,
                BatchCost::Tokens { .. } => entries.iter().map(|entry| entry.part.tokens).sum(),
            };
            prop_assert!(tokens <= 600 || entries.len() == 1);
            for entry in entries {
                prop_assert!(left.remove(&entry.call), "nothing runs twice");
            }
        }
        prop_assert!(left.is_empty());
        prop_assert_eq!((queue.items(), queue.tokens(), queue.requests()), (0, 0, 0));
    }

    /// Within the delay it waits if, and only if, all that waits goes into one batch and leaves room.
    #[test]
    fn it_waits_only_for_what_could_still_join(
        parts in prop::collection::vec((1u32..4, 1u32..200), 1..12),
        cost in prop::sample::select(vec![BatchCost::Items, BatchCost::Tokens { longest: 512 }]),
    ) {
        let (mut queue, now) = (Queue::default(), start());
        let policy = BatchingPolicy { max_delay_us: 1000, max_tokens: 600, ..policy() };
        let shape = BatchShape { max_items: 8, cost };
        for (call, (items, tokens)) in parts.iter().enumerate() {
            queue.push(call as u64, vec![part(*items, *tokens)], now, false, 0);
        }
        let room = queue.items() < 8 && (cost == BatchCost::Items || queue.tokens() < 600);
        let waits = matches!(choose(&queue, &policy, &shape, false, now), Decision::WaitUntil(_));
        prop_assert_eq!(waits, room);
    }

    #[test]
    fn a_removed_request_leaves_nothing_behind(rows in prop::collection::vec(1usize..4, 1..10), gone in 0usize..10) {
        let (mut queue, now) = (Queue::default(), start());
        for (call, rows) in rows.iter().enumerate() {
            queue.push(call as u64, vec![part(2, 3); *rows], now, false, 0);
        }
        let gone = gone % rows.len();
        prop_assert_eq!(queue.remove(gone as u64), rows[gone]);
        prop_assert_eq!(queue.remove(gone as u64), 0);
        let left = (rows.iter().sum::<usize>() - rows[gone]) as u64;
        prop_assert_eq!((queue.items(), queue.tokens()), (left * 2, left * 3));
        prop_assert!(queue.in_order().all(|(_, entry)| entry.call != gone as u64));
    }
}

#[test]
fn a_lower_level_waits_and_does_not_starve() {
    let (mut queue, now) = (Queue::default(), start());
    let (high, low) = (0, 2);
    queue.push(0, vec![part(1, 3)], now, false, low);
    assert_eq!((queue.ahead(high).requests, queue.ahead(low).tokens), (0, 3));
    let mut order = Vec::new();
    for call in 1..20 {
        // Two of the highest come for each one that runs.
        queue.push(2 * call, vec![part(1, 1)], now, false, high);
        queue.push(2 * call + 1, vec![part(1, 1)], now, false, high);
        order.extend(run(&mut queue, &policy(), &items(1), now).unwrap());
    }
    assert_eq!(order[..7], [2, 3, 4, 5, 6, 7, 8], "the highest in the order they came");
    assert_eq!(order[7], 0, "but for one batch in eight, which is of whoever came first");
    assert_eq!(queue.ahead(low).requests, queue.requests() as u64);
    // Together with others it does not push anybody out of the batch.
    queue.push(100, vec![part(1, 1)], now, false, low);
    let together = run(&mut queue, &policy(), &items(4), now).unwrap();
    assert_eq!(together.len(), 4);
    queue.send_behind(100);
    (0..20).for_each(|_| drop(run(&mut queue, &policy(), &items(8), now)));
    assert_eq!((queue.is_empty(), queue.ahead(low)), (true, Default::default()));
}

#[test]
fn a_priority_that_there_is_not_is_the_default_one() {
    let policy = BatchingPolicy { priority_levels: 3, default_priority: 2, ..policy() };
    assert_eq!([0, 1, 2, 3, 4, 99].map(|priority| policy.level(priority)), [1, 0, 1, 2, 1, 1]);
    assert_eq!(BatchingPolicy::default().level(5), 0);
}
