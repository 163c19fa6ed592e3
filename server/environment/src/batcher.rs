//! The batcher: what runs next. Pure: `now` is an argument.
//!
//! Called by the room only when a runtime worker is idle (late binding): everything that arrived while the worker was
//! busy can be in its next batch. The part whose turn it is always is in the batch, so no length and no size can starve.

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
}

/// The batcher's decision.
#[derive(Debug)]
pub(crate) enum Decision {
    /// Run these together.
    Run(Selection),
    /// Nothing yet: ask again then, or when something arrives.
    WaitUntil(Instant),
    /// Nothing waits.
    Idle,
}

/// Chooses the next batch. `nothing_more` says that no further request can come before one of these is answered, so
/// that waiting for company is in vain. So it is once the batch has no room for one that waits already.
pub(crate) fn choose(
    queue: &Queue,
    policy: &BatchingPolicy,
    shape: &BatchShape,
    nothing_more: bool,
    now: Instant,
) -> Decision {
    let Some((first, oldest)) = queue.first() else {
        return Decision::Idle;
    };
    let due = oldest.ready + Duration::from_micros(policy.max_delay_us);
    let mut selected = select(queue, policy, shape, first, oldest);
    let waits = policy.dynamic && !oldest.alone && !selected.full && !nothing_more && now < due;
    if waits {
        let Some(preferred) = policy.preferred_sizes.iter().rev().find(|size| **size <= selected.items) else {
            return Decision::WaitUntil(due);
        };
        while selected.places.len() > 1
            && selected.items > *preferred
            && let Some((_, items)) = selected.places.pop()
        {
            selected.items -= items;
        }
    }
    Decision::Run(selected)
}

/// What would run now.
#[derive(Debug)]
pub(crate) struct Selection {
    /// Where its parts are and how many items each has, the oldest first.
    places: Vec<(u64, u32)>,
    items: u32,
    /// It takes nothing more: it is at its limit, or something that waits did not fit.
    full: bool,
}

impl Selection {
    /// Takes the batch out of the queue that it was chosen from.
    pub(crate) fn take(self, queue: &mut Queue) -> Vec<Entry> {
        queue.formed();
        self.places.into_iter().filter_map(|(place, _)| queue.take(place)).collect()
    }
}

/// As many as fit, in the order they came; one that does not fit is passed over, not waited for.
fn select(queue: &Queue, policy: &BatchingPolicy, shape: &BatchShape, first: u64, oldest: &Entry) -> Selection {
    let mut selected = Selection { places: vec![(first, oldest.part.items)], items: oldest.part.items, full: true };
    if shape.max_items == 0 {
        return selected;
    }
    let tokens_max = match shape.cost {
        BatchCost::Items => u64::MAX,
        BatchCost::Tokens { .. } => policy.max_tokens,
    };
    let together = |entry: &Entry| {
        entry.part.kind == oldest.part.kind
            && (entry.call == oldest.call || (policy.dynamic && !oldest.alone && !entry.alone))
    };
    let mut tokens = u64::from(oldest.part.tokens);
    selected.full = false;
    let search = (shape.max_items as usize).saturating_mul(SEARCH_FACTOR);
    for (place, entry) in queue.in_order().take(search).filter(|(place, entry)| *place != first && together(entry)) {
        if selected.items >= shape.max_items || tokens >= tokens_max {
            break;
        }
        let part = &entry.part;
        if selected.items + part.items <= shape.max_items && tokens + u64::from(part.tokens) <= tokens_max {
            selected.places.push((place, part.items));
            selected.items += part.items;
            tokens += u64::from(part.tokens);
        } else {
            selected.full = true;
        }
    }
    selected.full |= selected.items >= shape.max_items || tokens >= tokens_max;
    selected
}
