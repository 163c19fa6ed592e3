//! The queue of an environment: parts of requests that wait for a runtime worker. Pure: `now` is an argument.
//!
//! Called by the room. Bounded in items and tokens (and, by the room, in requests); a request enters whole or not at
//! all, and leaves whole when its caller does. What runs next is [`crate::batcher`]'s business.

use crate::specification::QueueLimits;
use penstock_domain::ShedReason;
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

/// Parts in the order they came; those sent behind follow all others.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    entries: BTreeMap<u64, Entry>,
    calls: HashMap<u64, Range<u64>>,
    next: u64,
    items: u64,
    tokens: u64,
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

    /// Whether a request of these items and tokens fits; the reason if not. An empty queue takes a request of any
    /// size, else a large one could never run.
    pub(crate) fn fits(&self, parts: &[Part], limits: &QueueLimits) -> Result<(), ShedReason> {
        let items: u64 = parts.iter().map(|part| u64::from(part.items)).sum();
        let tokens: u64 = parts.iter().map(|part| u64::from(part.tokens)).sum();
        let over = self.items + items > limits.items || self.tokens + tokens > limits.tokens;
        if over && !self.is_empty() {
            return Err(ShedReason::QueueItems);
        }
        Ok(())
    }

    /// Takes all parts of a request.
    pub(crate) fn push(&mut self, call: u64, parts: Vec<Part>, ready: Instant, alone: bool) {
        self.insert(call, parts, ready, alone, 0);
    }

    /// The same, behind all that wait and all that will come.
    pub(crate) fn push_behind(&mut self, call: u64, parts: Vec<Part>, ready: Instant, alone: bool) {
        self.insert(call, parts, ready, alone, BEHIND);
    }

    /// Moves a request of which nothing has run behind all that wait and all that will come.
    pub(crate) fn send_behind(&mut self, call: u64) {
        let entries = self.take_all(call);
        if let Some(Entry { ready, alone, .. }) = entries.first() {
            let (ready, alone) = (*ready, *alone);
            self.push_behind(call, entries.into_iter().map(|entry| entry.part).collect(), ready, alone);
        }
    }

    fn insert(&mut self, call: u64, parts: Vec<Part>, ready: Instant, alone: bool, offset: u64) {
        let first = self.next;
        for (row, part) in parts.into_iter().enumerate() {
            self.items += u64::from(part.items);
            self.tokens += u64::from(part.tokens);
            self.entries.insert(offset | self.next, Entry { call, row: row as u32, part, ready, alone });
            self.next += 1;
        }
        if self.next > first {
            self.calls.insert(call, offset | first..offset | self.next);
        }
    }

    /// The part whose turn it is, with its place: of those not sent behind the one that has waited longest.
    pub(crate) fn oldest(&self) -> Option<(u64, &Entry)> {
        self.entries.first_key_value().map(|(place, entry)| (*place, entry))
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
        if let Some(range) = self.calls.get(&entry.call).cloned()
            && self.entries.range(range).next().is_none()
        {
            self.calls.remove(&entry.call);
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
