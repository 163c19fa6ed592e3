//! What environments said last, and what became of them: the end of each function's log, for people.
//!
//! Written by the supervisors, read by the control plane. Never on an invocation's way. Old lines go when new ones come, and all of
//! a function's when it is forgotten.

use crate::accounting::epoch_ms;
use parking_lot::Mutex;
use penstock_domain::{FunctionName, VersionNumber};
use std::collections::{BTreeMap, VecDeque};

/// Lines kept of one function.
const LINES_MAX: usize = 1000;
/// Bytes of text kept of one function.
const BYTES_MAX: usize = 256 << 10;
/// Functions whose lines are kept; the one that has been silent for longest goes first.
const FUNCTIONS_MAX: usize = 1024;

/// A line of a function's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogLine {
    /// Ascending in the whole house, from 1.
    pub number: u64,
    /// Milliseconds since the epoch.
    pub at_ms: u64,
    /// Whose environment it is about.
    pub version: VersionNumber,
    /// In words.
    pub text: String,
}

/// The logs of a house.
#[derive(Default)]
pub(crate) struct Journals(Mutex<Kept>);

#[derive(Default)]
struct Kept {
    last: u64,
    functions: BTreeMap<FunctionName, Journal>,
}

#[derive(Default)]
struct Journal {
    lines: VecDeque<LogLine>,
    bytes: usize,
}

impl Journals {
    pub(crate) fn add(&self, function: &FunctionName, version: VersionNumber, text: impl Into<String>) {
        let (text, at_ms) = (text.into(), epoch_ms());
        let mut kept = self.0.lock();
        kept.last += 1;
        let line = LogLine { number: kept.last, at_ms, version, text };
        if !kept.functions.contains_key(function) && kept.functions.len() >= FUNCTIONS_MAX {
            let last = |journal: &Journal| journal.lines.back().map_or(0, |line| line.number);
            let silent = kept.functions.iter().min_by_key(|(_, journal)| last(journal)).map(|(name, _)| name.clone());
            silent.and_then(|name| kept.functions.remove(&name));
        }
        let journal = kept.functions.entry(function.clone()).or_default();
        journal.bytes += line.text.len();
        journal.lines.push_back(line);
        while journal.lines.len() > LINES_MAX || (journal.bytes > BYTES_MAX && journal.lines.len() > 1) {
            let gone = journal.lines.pop_front().map_or(0, |line| line.text.len());
            journal.bytes -= gone;
        }
    }

    /// The lines after number `after`, oldest first, and the number of the last of all.
    pub(crate) fn after(&self, function: &FunctionName, after: u64) -> (Vec<LogLine>, u64) {
        let kept = self.0.lock();
        let lines = kept.functions.get(function).into_iter().flat_map(|journal| &journal.lines);
        (lines.filter(|line| line.number > after).cloned().collect(), kept.last)
    }

    pub(crate) fn forget(&self, function: &FunctionName) {
        self.0.lock().functions.remove(function);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_each_log_is_kept_and_no_more() {
        let (journals, version) = (Journals::default(), VersionNumber(1));
        let [a, b] = ["a", "b"].map(|name| FunctionName::new(name).unwrap());
        journals.add(&b, version, "first");
        for number in 0..LINES_MAX + 5 {
            journals.add(&a, version, number.to_string());
        }
        let (lines, last) = journals.after(&a, 0);
        assert_eq!((lines.len(), &*lines[0].text, last), (LINES_MAX, "5", LINES_MAX as u64 + 6));
        assert_eq!(journals.after(&a, last - 1).0.len(), 1);
        assert_eq!(journals.after(&b, 0).0.len(), 1);
        journals.add(&b, version, "x".repeat(BYTES_MAX));
        assert_eq!(journals.after(&b, 0).0.len(), 1, "a long line takes the place of others");
        journals.forget(&b);
        assert!(journals.after(&b, 0).0.is_empty());
        for number in 0..FUNCTIONS_MAX {
            journals.add(&FunctionName::new(&format!("f{number}")).unwrap(), version, "x");
        }
        assert!(journals.after(&a, 0).0.is_empty(), "it was silent for longest");
    }
}
