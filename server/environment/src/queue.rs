//! The queue of an environment: parts of requests that wait for a runtime worker. Pure: `now` is an argument.
//!
//! Called by the room. Bounded in items and tokens (and, by the room, in requests); a request enters whole or not at
//! all, and leaves whole when its caller does. A lower level of priority waits for the higher ones, but for one batch in
//! eight, which begins with whoever has waited longest. What runs together is [`crate::batcher`]'s business.

use crate::specification::QueueLimits;
use penstock_executor::Part;
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Instant;

/// One part in the queue.
#[derive(Debug)]
pub(crate) struct Entry {
    /// The request it belongs to.
    pub(crate) call: u64,
    /// Its place among the request's parts.
    pub(crate) row: u32,
    pub(crate) part: Part,
    /// When it became ready to run.
    pub(crate) ready: Instant,
    /// Runs without strangers.
    pub(crate) alone: bool,
}

/// Places from here on are behind all others, whenever those came.
const BEHIND: u64 = 1 << 63;
/// Below it, a place begins with its level, which leaves room for 2⁵⁶ parts.
const LEVEL_SHIFT: u32 = 56;
/// Levels that are told apart; lower ones count as the lowest.
pub(crate) const LEVELS_MAX: u8 = 100;
/// Every so many batches one begins with the part that came first, whatever its level.
const FAIR_EVERY: u64 = 8;

/// What waits at a level.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    pub(crate) requests: u64,
    pub(crate) items: u64,
    pub(crate) tokens: u64,
}

/// Parts by level, and in each in the order they came; those sent behind follow all others.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: BTreeMap<u64, Entry>,
    calls: HashMap<u64, Range<u64>>,
    next: u64,
    items: u64,
    tokens: u64,
    levels: Vec<Waiting>,
    batches: u64,
}

impl Queue {
    /// Items waiting.
    pub(crate) fn items(&self) -> u64 {
        self.items
    }

    /// Tokens waiting.
    pub(crate) fn tokens(&self) -> u64 {
        self.tokens
    }

    /// Requests of which a part waits.
    pub(crate) fn requests(&self) -> usize {
        self.calls.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether a request of these items and tokens fits; if not, the share of what waits that must leave before it does. An
    /// empty queue takes a request of any size, else a large one could never run.
    pub(crate) fn fits(&self, parts: &[Part], limits: &QueueLimits) -> Result<(), f64> {
        let items: u64 = parts.iter().map(|part| u64::from(part.items)).sum();
        let tokens: u64 = parts.iter().map(|part| u64::from(part.tokens)).sum();
        let over = |waiting: u64, more: u64, limit: u64| {
            (waiting + more).saturating_sub(limit) as f64 / waiting.max(1) as f64 // of none waiting there is no share
        };
        let share = over(self.items, items, limits.items).max(over(self.tokens, tokens, limits.tokens));
        if share > 0.0 && !self.is_empty() { Err(share.min(1.0)) } else { Ok(()) }
    }

    /// Takes all parts of a request. `level` 0 is the highest.
    pub(crate) fn push(&mut self, call: u64, parts: Vec<Part>, ready: Instant, alone: bool, level: u8) {
        self.insert(call, parts, ready, alone, place_of(level));
    }

    /// The same, behind all that wait and all that will come.
    pub(crate) fn push_behind(&mut self, call: u64, parts: Vec<Part>, ready: Instant, alone: bool, level: u8) {
        self.insert(call, parts, ready, alone, BEHIND | place_of(level));
    }

    /// What waits at this level or a higher one.
    pub(crate) fn ahead(&self, level: u8) -> Waiting {
        let mut sum = Waiting::default();
        for waiting in self.levels.iter().take(usize::from(level) + 1) {
            sum.requests += waiting.requests;
            sum.items += waiting.items;
            sum.tokens += waiting.tokens;
        }
        sum
    }

    fn level(&mut self, place: u64) -> &mut Waiting {
        let level = usize::from(level_of(place));
        if self.levels.len() <= level {
            self.levels.resize(level + 1, Waiting::default());
        }
        &mut self.levels[level]
    }

    /// Moves a request of which nothing has run behind all that wait and all that will come.
    pub(crate) fn send_behind(&mut self, call: u64) {
        let level = self.calls.get(&call).map_or(0, |places| level_of(places.start));
        let entries = self.take_all(call);
        if let Some(Entry { ready, alone, .. }) = entries.first() {
            let (ready, alone) = (*ready, *alone);
            self.push_behind(call, entries.into_iter().map(|entry| entry.part).collect(), ready, alone, level);
        }
    }

    fn insert(&mut self, call: u64, parts: Vec<Part>, ready: Instant, alone: bool, offset: u64) {
        let first = self.next;
        for (row, part) in parts.into_iter().enumerate() {
            self.items += u64::from(part.items);
            self.tokens += u64::from(part.tokens);
            let waiting = self.level(offset);
            waiting.items += u64::from(part.items);
            waiting.tokens += u64::from(part.tokens);
            self.entries.insert(offset | self.next, Entry { call, row: row as u32, part, ready, alone });
            self.next += 1;
        }
        if self.next > first {
            self.level(offset).requests += 1;
            self.calls.insert(call, offset | first..offset | self.next);
        }
    }

    /// The part whose turn it is, with its place: of those not sent behind, of the highest level, the one that came
    /// first; or, in its turn, the one that came first of all.
    pub(crate) fn first(&self) -> Option<(u64, &Entry)> {
        let entry = |(place, entry): (&u64, _)| (*place, entry);
        if self.levels.len() > 1
            && self.batches % FAIR_EVERY == FAIR_EVERY - 1
            && let Some(oldest) = self.heads().min_by_key(|(place, _)| *place & (place_of(1) - 1))
        {
            return Some(entry(oldest));
        }
        self.entries.first_key_value().map(entry)
    }

    /// When what has waited longest became ready to run; what was sent behind all others aside.
    pub(crate) fn oldest(&self) -> Option<Instant> {
        self.heads().map(|(_, entry)| entry.ready).min()
    }

    /// What came first at each level.
    fn heads(&self) -> impl Iterator<Item = (&u64, &Entry)> {
        (0..self.levels.len() as u8).filter_map(|level| {
            let (from, to) = (place_of(level), place_of(level + 1));
            self.entries.range(from..to).next()
        })
    }

    /// A batch was formed: the next turn begins.
    pub(crate) fn formed(&mut self) {
        self.batches += 1;
    }

    /// All parts in the order in which their turn comes.
    pub(crate) fn in_order(&self) -> impl Iterator<Item = (u64, &Entry)> {
        self.entries.iter().map(|(place, entry)| (*place, entry))
    }

    /// Takes a part out.
    pub(crate) fn take(&mut self, place: u64) -> Option<Entry> {
        let entry = self.entries.remove(&place)?;
        self.items -= u64::from(entry.part.items);
        self.tokens -= u64::from(entry.part.tokens);
        let waiting = self.level(place);
        waiting.items -= u64::from(entry.part.items);
        waiting.tokens -= u64::from(entry.part.tokens);
        if let Some(range) = self.calls.get(&entry.call).cloned()
            && self.entries.range(range).next().is_none()
        {
            self.calls.remove(&entry.call);
            self.level(place).requests -= 1;
        }
        Some(entry)
    }

    /// Takes out everything of a request that still waits; how many parts that was.
    pub(crate) fn remove(&mut self, call: u64) -> usize {
        self.take_all(call).len()
    }

    fn take_all(&mut self, call: u64) -> Vec<Entry> {
        let Some(range) = self.calls.get(&call).cloned() else {
            return Vec::new();
        };
        let places: Vec<u64> = self.entries.range(range).map(|(place, _)| *place).collect();
        places.into_iter().filter_map(|place| self.take(place)).collect()
    }
}

/// The first place of a level, 0 the highest.
fn place_of(level: u8) -> u64 {
    u64::from(level.min(LEVELS_MAX)) << LEVEL_SHIFT
}

fn level_of(place: u64) -> u8 {
    ((place & !BEHIND) >> LEVEL_SHIFT) as u8
}
