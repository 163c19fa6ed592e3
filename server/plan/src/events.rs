//! What will happen when, as far as it is known: requests that end, environments and instances that become ready.
//!
//! Kept by the world. What comes first is taken first; of two at the same moment the one that was foretold first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A request ends in its environment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Ended {
    pub(crate) at_ns: u64,
    /// When it began to run.
    pub(crate) started_ns: u64,
    pub(crate) environment: u32,
    /// In time; else its deadline passed.
    pub(crate) done: bool,
}

/// Something becomes ready.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Ready {
    /// An instance, by its number.
    Instance(u32),
    /// An environment, if it is still the one that was started.
    Environment { environment: u32, generation: u32 },
}

/// What will happen.
#[derive(Debug, Default)]
pub(crate) struct Events {
    ended: BinaryHeap<Reverse<Ended>>,
    ready: BinaryHeap<Reverse<(u64, u64, Ready)>>,
    foretold: u64,
}

impl Events {
    pub(crate) fn ends(&mut self, ended: Ended) {
        self.ended.push(Reverse(ended));
    }

    pub(crate) fn ready(&mut self, at_ns: u64, what: Ready) {
        self.ready.push(Reverse((at_ns, self.foretold, what)));
        self.foretold += 1;
    }

    /// When the next request ends.
    pub(crate) fn next_end(&self) -> Option<u64> {
        self.ended.peek().map(|Reverse(ended)| ended.at_ns)
    }

    /// When something next becomes ready.
    pub(crate) fn next_ready(&self) -> Option<u64> {
        self.ready.peek().map(|Reverse((at_ns, ..))| *at_ns)
    }

    pub(crate) fn take_end(&mut self) -> Option<Ended> {
        self.ended.pop().map(|Reverse(ended)| ended)
    }

    pub(crate) fn take_ready(&mut self) -> Option<Ready> {
        self.ready.pop().map(|Reverse((_, _, what))| what)
    }
}
