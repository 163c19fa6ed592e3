//! The state in memory: all entries, and of the blobs what must be known to bound them. And what a group of commits
//! would make of it, each with its own verdict.
//!
//! Both stores decide by this, so that they cannot differ. It never touches a disk, and never waits.

use super::{Commit, Entry, StoreError};
use bytes::Bytes;
use std::collections::BTreeMap;

/// What an entry costs beside its key and its value: its places in the tree, its allocations.
const ENTRY_OVERHEAD_BYTES: u64 = 128;

/// How much a store may hold. What would exceed it is refused; what makes it less never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory for all entries: keys, values and 128 bytes for each.
    pub entry_bytes: u64,
    /// Blobs. Their keys are in memory.
    pub blob_count: u64,
    /// Bytes of all blobs' values.
    pub blob_bytes: u64,
}

impl Default for Limits {
    /// 256 MiB of entries, and 100,000 blobs of 1 GiB together.
    fn default() -> Self {
        Self { entry_bytes: 256 << 20, blob_count: 100_000, blob_bytes: 1 << 30 }
    }
}

/// How much there is, in the units of [`Limits`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Held {
    entry_bytes: u64,
    blob_count: u64,
    blob_bytes: u64,
}

impl Held {
    /// The first limit that this exceeds: its name, what this is and what it may be.
    pub(super) fn over(&self, limits: &Limits) -> Option<(&'static str, u64, u64)> {
        self.grown_over(&Held::default(), limits)
    }

    fn grown_over(&self, before: &Held, limits: &Limits) -> Option<(&'static str, u64, u64)> {
        let rows = [
            ("entry_bytes", before.entry_bytes, self.entry_bytes, limits.entry_bytes),
            ("blob_count", before.blob_count, self.blob_count, limits.blob_count),
            ("blob_bytes", before.blob_bytes, self.blob_bytes, limits.blob_bytes),
        ];
        let over = rows.into_iter().find(|(_, before, now, max)| now > max && now > before);
        over.map(|(limit, _, now, max)| (limit, now, max))
    }
}

/// Of a blob, what is kept in memory.
#[derive(Clone, Copy, Debug)]
pub(super) struct BlobStat {
    pub(super) revision: u64,
    pub(super) bytes: u64,
}

fn weight(key: &str, value: &Bytes) -> u64 {
    (key.len() + value.len()) as u64 + ENTRY_OVERHEAD_BYTES
}

/// The state as of one revision.
#[derive(Debug, Default)]
pub(super) struct Image {
    pub(super) entries: BTreeMap<String, Entry>,
    pub(super) blobs: BTreeMap<String, BlobStat>,
    pub(super) revision: u64,
    held: Held,
}

impl Image {
    /// An image without entries, to be filled from a file of this revision.
    pub(super) fn at(revision: u64) -> Self {
        Self { revision, ..Self::default() }
    }

    pub(super) fn load_entry(&mut self, key: String, entry: Entry) {
        self.held.entry_bytes += weight(&key, &entry.value);
        self.entries.insert(key, entry);
    }

    pub(super) fn load_blob(&mut self, key: String, stat: BlobStat) {
        self.held.blob_count += 1;
        self.held.blob_bytes += stat.bytes;
        self.blobs.insert(key, stat);
    }

    pub(super) fn held(&self) -> &Held {
        &self.held
    }

    /// What the draft says has become so.
    pub(super) fn apply(&mut self, draft: Draft) {
        for (key, entry) in draft.entries {
            match entry {
                Some(entry) => self.entries.insert(key, entry),
                None => self.entries.remove(&key),
            };
        }
        for (key, blob) in draft.blobs {
            match blob {
                Some(Entry { value, revision }) => {
                    self.blobs.insert(key, BlobStat { revision, bytes: value.len() as u64 })
                }
                None => self.blobs.remove(&key),
            };
        }
        self.revision = draft.revision;
        self.held = draft.held;
    }
}

/// What commits that are decided, and not yet durable, make of an image. A later commit sees the earlier ones.
pub(super) struct Draft {
    pub(super) entries: BTreeMap<String, Option<Entry>>,
    pub(super) blobs: BTreeMap<String, Option<Entry>>,
    pub(super) revision: u64,
    held: Held,
}

impl Draft {
    /// Changes nothing yet.
    pub(super) fn of(image: &Image) -> Self {
        Self { entries: BTreeMap::new(), blobs: BTreeMap::new(), revision: image.revision, held: image.held }
    }

    /// Whether a commit has changed something.
    pub(super) fn changes(&self) -> bool {
        !self.entries.is_empty() || !self.blobs.is_empty()
    }

    /// Decides a commit, which is within the limits of every store, and adds what it changes. Gives its revision.
    pub(super) fn add(&mut self, image: &Image, commit: Commit, limits: &Limits) -> Result<u64, StoreError> {
        for (key, expect) in &commit.expect {
            let found = self.entry(image, key).map(|entry| entry.revision);
            if !expect.holds(found) {
                return Err(StoreError::Conflict { key: key.clone(), found });
            }
        }
        let (held, changes) = self.would_hold(image, &commit);
        if let Some((limit, would, max)) = held.grown_over(&self.held, limits) {
            return Err(StoreError::Full { limit, would, max });
        }
        if !changes {
            return Ok(self.revision);
        }
        self.held = held;
        self.revision += 1;
        let revision = self.revision;
        let put = |(key, value)| (key, Some(Entry { value, revision }));
        self.entries.extend(commit.put.into_iter().map(put));
        self.entries.extend(commit.delete.into_iter().map(|key| (key, None)));
        self.blobs.extend(commit.put_large.into_iter().map(put));
        self.blobs.extend(commit.delete_large.into_iter().map(|key| (key, None)));
        Ok(revision)
    }

    /// How much there would be, and whether anything would change: a key that is not there can be deleted in vain.
    fn would_hold(&self, image: &Image, commit: &Commit) -> (Held, bool) {
        let mut held = self.held;
        let mut changes = !commit.put.is_empty() || !commit.put_large.is_empty();
        for key in commit.put.iter().map(|(key, _)| key).chain(&commit.delete) {
            if let Some(entry) = self.entry(image, key) {
                held.entry_bytes -= weight(key, &entry.value);
                changes = true;
            }
        }
        for key in commit.put_large.iter().map(|(key, _)| key).chain(&commit.delete_large) {
            if let Some(bytes) = self.blob_bytes(image, key) {
                held.blob_count -= 1;
                held.blob_bytes -= bytes;
                changes = true;
            }
        }
        held.entry_bytes += commit.put.iter().map(|(key, value)| weight(key, value)).sum::<u64>();
        held.blob_count += commit.put_large.len() as u64;
        held.blob_bytes += commit.put_large.iter().map(|(_, value)| value.len() as u64).sum::<u64>();
        (held, changes)
    }

    fn entry<'a>(&'a self, image: &'a Image, key: &str) -> Option<&'a Entry> {
        self.entries.get(key).map_or_else(|| image.entries.get(key), Option::as_ref)
    }

    fn blob_bytes(&self, image: &Image, key: &str) -> Option<u64> {
        let drafted = |blob: &Option<Entry>| blob.as_ref().map(|blob| blob.value.len() as u64);
        self.blobs.get(key).map_or_else(|| image.blobs.get(key).map(|stat| stat.bytes), drafted)
    }
}
