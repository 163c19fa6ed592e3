//! The batcher: what runs next. Pure: `now` is an argument.
//!
//! Called by the room only when a runtime worker is idle (late binding): everything that arrived while the worker was
//! busy can be in its next batch. The oldest part is always in the batch, so no length and no size can starve.

use crate::queue::{Entry, Queue};
use crate::specification::BatchingPolicy;
use penstock_executor::BatchCost;
use std::time::{Duration, Instant};

/// How far past the batch's own size the queue is searched for parts that fit: bounds the work per batch when parts
/// of another kind stand in between.
const SEARCH_FACTOR: usize = 8;

/// What the model says about its batches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct BatchShape {
    /// Most items; 0 for a model that does not batch.
    pub(crate) max_items: u32,
    /// How cost grows.
    pub(crate) cost: BatchCost,
    /// The fixed cost of a batch, in tokens. Padding a row is worth it if it costs less than that.
    pub(crate) overhead_tokens: f64,
}

/// The batcher's decision.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Run these together.
    Run(Vec<Entry>),
    /// Nothing yet: ask again then, or when something arrives.
    WaitUntil(Instant),
    /// Nothing waits.
    Idle,
}

/// Forms the next batch. `nothing_more` says that no further request can come before one of these is answered, so
/// that waiting for company is in vain.
pub(crate) fn form(
    queue: &mut Queue,
    policy: &BatchingPolicy,
    shape: &BatchShape,
    nothing_more: bool,
    now: Instant,
) -> Decision {
    let Some((_, oldest)) = queue.oldest() else {
        return Decision::Idle;
    };
    let due = oldest.ready + Duration::from_micros(policy.max_delay_us);
    let mut places = select(queue, policy, shape);
    let items = |places: &[u64], queue: &Queue| -> u32 {
        places.iter().filter_map(|place| queue.entry(*place)).map(|entry| entry.part.items).sum()
    };
    let available = items(&places, queue);
    let waits = policy.dynamic && !oldest.alone && available < shape.max_items && !nothing_more && now < due;
    if waits {
        let Some(preferred) = policy.preferred_sizes.iter().rev().find(|size| **size <= available) else {
            return Decision::WaitUntil(due);
        };
        while places.len() > 1 && items(&places, queue) > *preferred {
            places.pop();
        }
    }
    Decision::Run(places.into_iter().filter_map(|place| queue.take(place)).collect())
}

/// Places of the parts that would run now, the oldest first.
fn select(queue: &Queue, policy: &BatchingPolicy, shape: &BatchShape) -> Vec<u64> {
    let Some((first, oldest)) = queue.oldest() else {
        return Vec::new();
    };
    if shape.max_items == 0 {
        return vec![first];
    }
    let together = |entry: &Entry| {
        entry.part.kind == oldest.part.kind
            && (entry.call == oldest.call || (policy.dynamic && !oldest.alone && !entry.alone))
    };
    match shape.cost {
        BatchCost::PaddedTokens => select_similar(queue, policy, shape, first, oldest, together),
        BatchCost::Items | BatchCost::Tokens => select_in_order(queue, policy, shape, together),
    }
}

/// As many as fit, in the order they came; one that does not fit is passed over, not waited for.
fn select_in_order(
    queue: &Queue,
    policy: &BatchingPolicy,
    shape: &BatchShape,
    together: impl Fn(&Entry) -> bool,
) -> Vec<u64> {
    let mut places = Vec::new();
    let (mut items, mut tokens) = (0u32, 0u64);
    let search = (shape.max_items as usize).saturating_mul(SEARCH_FACTOR);
    for (place, entry) in queue.in_order().take(search) {
        let part = &entry.part;
        let fits = items + part.items <= shape.max_items
            && (shape.cost == BatchCost::Items || tokens + u64::from(part.tokens) <= policy.max_tokens);
        if together(entry) && (places.is_empty() || fits) {
            places.push(place);
            items += part.items;
            tokens += u64::from(part.tokens);
            if items >= shape.max_items {
                break;
            }
        }
    }
    places
}

/// The oldest, and those nearest to it in length, as long as the padding they bring costs less than a batch of their
/// own would: `added padding <= overhead`.
fn select_similar(
    queue: &Queue,
    policy: &BatchingPolicy,
    shape: &BatchShape,
    first: u64,
    oldest: &Entry,
    together: impl Fn(&Entry) -> bool,
) -> Vec<u64> {
    let mut places = vec![first];
    let mut longest = oldest.part.tokens;
    let search = (shape.max_items as usize).saturating_mul(SEARCH_FACTOR);
    let mut longer = queue.longer(longest, first).take(search).filter(|(_, entry)| together(entry)).peekable();
    let mut shorter = queue.shorter(longest, first).take(search).filter(|(_, entry)| together(entry)).peekable();
    while places.len() < shape.max_items as usize {
        let rows = places.len() as u64;
        let up = longer.peek().map(|(_, entry)| u64::from(entry.part.tokens - longest) * rows);
        let down = shorter.peek().map(|(_, entry)| u64::from(longest - entry.part.tokens));
        let (padding, grow) = match (up, down) {
            (Some(up), Some(down)) if up <= down => (up, true),
            (Some(up), None) => (up, true),
            (_, Some(down)) => (down, false),
            (None, None) => break,
        };
        let next_longest = match longer.peek() {
            Some((_, entry)) if grow => entry.part.tokens,
            _ => longest,
        };
        if padding as f64 > shape.overhead_tokens || (rows + 1) * u64::from(next_longest) > policy.max_tokens {
            break;
        }
        longest = next_longest;
        if let Some((place, _)) = if grow { longer.next() } else { shorter.next() } {
            places.push(place);
        }
    }
    places
}
