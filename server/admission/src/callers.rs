//! Callers: how many of a version's requests may be one caller's.
//!
//! Called by the dispatch room, where callers are told apart. Nobody is configured: whoever came lately has an even share,
//! and room is kept so that those who hold less than theirs find it at once, however many requests another one sends.

use parking_lot::Mutex;
use penstock_domain::CallerId;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A caller who sent nothing for so long has no share any more.
const FORGET_AFTER: Duration = Duration::from_secs(10);
/// Callers told apart at once; those who come beyond them count as one.
const CALLERS_MAX: usize = 65_536;
/// The one that they count as.
const OTHERS: CallerId = CallerId(0);
/// Of all slots, so many are left to callers who hold less than their share: an eighth.
const KEPT_SHARE: u32 = 8;

/// Requests in flight of each caller of a version.
#[derive(Debug)]
pub struct Callers {
    /// Most of one caller; 0 for no such limit.
    max: u32,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    callers: HashMap<CallerId, Caller>,
    swept: Instant,
}

#[derive(Clone, Copy, Debug)]
struct Caller {
    in_flight: u32,
    seen: Instant,
}

/// A caller's place, given back when dropped.
#[derive(Debug)]
pub struct CallerSlot<'a> {
    callers: &'a Callers,
    caller: CallerId,
}

/// Why a caller may have no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerFull {
    /// It has as many as a caller may have.
    Max(u32),
    /// It has its even share, and what is free is kept for those who have less.
    Share(u32),
}

impl Callers {
    /// `max` requests of each caller; 0 for no such limit.
    pub fn new(max: u32, now: Instant) -> Self {
        Self { max, known: Mutex::new(Known { callers: HashMap::new(), swept: now }) }
    }

    /// A place for one more request of `caller`, where `taken` of `limit` slots are taken by all callers together.
    pub fn try_take(
        &self,
        caller: CallerId,
        taken: u32,
        limit: u32,
        now: Instant,
    ) -> Result<CallerSlot<'_>, CallerFull> {
        let mut known = self.known.lock();
        known.sweep(now);
        let full = known.callers.len() >= CALLERS_MAX && !known.callers.contains_key(&caller);
        let caller = if full { OTHERS } else { caller };
        let own = known.callers.entry(caller).or_insert(Caller { in_flight: 0, seen: now });
        own.seen = now;
        let in_flight = own.in_flight;
        if self.max > 0 && in_flight >= self.max {
            return Err(CallerFull::Max(self.max));
        }
        let share = (limit / u32::try_from(known.callers.len()).unwrap_or(u32::MAX)).max(1);
        let is_alone = known.callers.len() == 1;
        if !is_alone && in_flight >= share && taken.saturating_add(limit.div_ceil(KEPT_SHARE)) >= limit {
            return Err(CallerFull::Share(share));
        }
        known.callers.entry(caller).and_modify(|own| own.in_flight += 1);
        Ok(CallerSlot { callers: self, caller })
    }
}

impl Known {
    fn sweep(&mut self, now: Instant) {
        if now.saturating_duration_since(self.swept) >= FORGET_AFTER {
            let lately = |caller: &Caller| now.saturating_duration_since(caller.seen) < FORGET_AFTER;
            self.callers.retain(|_, caller| caller.in_flight > 0 || lately(caller));
            self.swept = now;
        }
    }
}

impl Drop for CallerSlot<'_> {
    fn drop(&mut self) {
        if let Some(own) = self.callers.known.lock().callers.get_mut(&self.caller) {
            own.in_flight -= 1;
        }
    }
}
