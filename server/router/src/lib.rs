//! The router: which environment takes a request, whether one that was refused may try another, and which is passed over
//! because it fails again and again. Pure: loads and times in, an index out.
//!
//! Called by the dispatch room with the environments of one version. Never talks to one, never waits.

mod breaker;
mod route;

pub use breaker::Breaker;
pub use route::Route;

use std::sync::atomic::{AtomicU32, Ordering};

/// What a request pays in for second tries, in thousandths of one: a fifth.
const DEPOSIT: u32 = 200;
/// What a second try costs.
const PRICE: u32 = 1000;
/// Most that is saved: so many second tries at once after a quiet time.
const SAVED_MAX: u32 = 20 * PRICE;

/// Second tries that a version's requests may have among them: one for every five requests. When all environments refuse,
/// what is refused does not come twice, so that no storm can grow of itself.
#[derive(Debug)]
pub struct RetryBudget(AtomicU32);

impl Default for RetryBudget {
    /// Full.
    fn default() -> Self {
        Self(AtomicU32::new(SAVED_MAX))
    }
}

impl RetryBudget {
    /// A request came.
    pub fn request(&self) {
        let paid = |saved: u32| (saved < SAVED_MAX).then(|| (saved + DEPOSIT).min(SAVED_MAX));
        // Full is as good as paid.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, paid);
    }

    /// Whether one that was refused may try another environment.
    pub fn try_retry(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| saved.checked_sub(PRICE)).is_ok()
    }
}

/// What the router knows of one environment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// Requests in flight there.
    pub load: u32,
    /// Whether it takes new requests: ready, not draining, not refused by it already, a slot free.
    pub open: bool,
}

/// Power of two choices: of two open environments drawn at random the less loaded one, which keeps the maximum load
/// within O(log log n) of the mean (Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001)
/// without every front end running to the one idle environment. `random` is a uniform draw. `None` if none is open.
pub fn choose(candidates: impl Iterator<Item = Candidate> + Clone, random: u64) -> Option<usize> {
    let open = || candidates.clone().enumerate().filter(|(_, candidate)| candidate.open);
    let count = open().count() as u64;
    match count {
        0 => None,
        1 => open().next().map(|(index, _)| index),
        _ => {
            let first = random % count;
            // A draw among the others, so that the two are never the same.
            let second = (first + 1 + (random / count) % (count - 1)) % count;
            let at = |position: u64| open().nth(position as usize);
            let (a, b) = (at(first)?, at(second)?);
            Some(if b.1.load < a.1.load { b.0 } else { a.0 })
        }
    }
}

#[cfg(test)]
mod tests;
