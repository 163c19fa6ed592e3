//! Who needs which content right now, so that `retain` does not remove it.
//!
//! Taken by every ingestion before it looks whether a content is here, and by callers for uploads of many requests. In
//! memory only: after a restart nothing is held, and nothing is being ingested. Never touches a disk.

use crate::ContentSha256;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keeps contents and a manifest from [`ContentStore::retain`](crate::ContentStore::retain) until its last clone is
/// dropped: drop it when what refers to the package has been written down.
#[derive(Clone)]
pub struct Hold(Arc<Numbered>);

struct Numbered {
    holds: Holds,
    number: u64,
}

/// All holds of a store. Its lock is the store's one lock: under it is decided what is here and what goes.
#[derive(Clone, Default)]
pub(crate) struct Holds(Arc<Mutex<Held>>);

/// What is held.
#[derive(Default)]
pub(crate) struct Held {
    next: u64,
    by_hold: BTreeMap<u64, BTreeSet<ContentSha256>>,
    /// Contents that came one by one since the last removal, which a client that is still sending will name.
    pub(crate) recent: BTreeSet<ContentSha256>,
    /// Contents that came one by one to an earlier process and were in no package yet.
    pub(crate) loose: BTreeSet<ContentSha256>,
}

impl Holds {
    /// A hold of nothing yet.
    pub(crate) fn hold(&self) -> Hold {
        let mut held = self.lock();
        let number = held.next;
        held.next += 1;
        held.by_hold.insert(number, BTreeSet::new());
        Hold(Arc::new(Numbered { holds: self.clone(), number }))
    }

    /// The sets stay true if a thread panics: each change of them is one call.
    pub(crate) fn lock(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Hold {
    /// Adds to it, and looks at the disk by `look` before anything can be removed.
    pub(crate) fn add<T>(&self, wanted: impl IntoIterator<Item = ContentSha256>, look: impl FnOnce() -> T) -> T {
        let mut held = self.0.holds.lock();
        held.by_hold.entry(self.0.number).or_default().extend(wanted);
        look()
    }
}

impl Held {
    /// All that is held.
    pub(crate) fn all(&self) -> BTreeSet<ContentSha256> {
        self.by_hold.values().flatten().copied().collect()
    }
}

impl Drop for Numbered {
    fn drop(&mut self) {
        self.holds.lock().by_hold.remove(&self.number);
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hold({})", self.0.number)
    }
}
