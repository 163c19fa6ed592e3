//! What a commit is, and what is wrong with one before anybody looks at the state.
//!
//! Built by whoever changes the state, checked by the stores. It never touches a store.

use super::StoreError;
use bytes::Bytes;
use std::collections::HashSet;

/// Bytes of a key, the most: keys are kept in memory, twice where something is being changed.
pub const MAX_KEY_BYTES: usize = 512;
/// Bytes of an entry's value, the most: all of them are kept in memory.
pub const MAX_VALUE_BYTES: usize = 256 << 10;
/// Bytes of a blob, the most: an event of 1 MB, the most that Lambda takes asynchronously, and as much beside it.
pub const MAX_LARGE_BYTES: usize = 2 << 20;
/// Expectations of a commit, the most, and changes of a commit, the most: what etcd takes by default (`--max-txn-ops`), less
/// the expectation that this server leads.
pub const MAX_OPERATIONS: usize = 127;
/// Bytes of a commit, keys and values, the most: three of the largest blobs and what belongs to them.
pub const MAX_COMMIT_BYTES: usize = 8 << 20;

/// What must be true of an entry for a commit to happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is none.
    Absent,
    /// It was last written by this revision.
    Revision(u64),
    /// There is one, whoever wrote it.
    Present,
}

impl Expect {
    /// Whether it is true of an entry that was last written by this revision, or of none.
    pub fn holds(self, found: Option<u64>) -> bool {
        match self {
            Expect::Absent => found.is_none(),
            Expect::Revision(revision) => found == Some(revision),
            Expect::Present => found.is_some(),
        }
    }
}

/// Changes that happen together, if all that is expected holds. No key may be changed twice in one commit.
#[derive(Clone, Debug, Default)]
pub struct Commit {
    pub(super) expect: Vec<(String, Expect)>,
    pub(super) put: Vec<(String, Bytes)>,
    pub(super) delete: Vec<String>,
    pub(super) put_large: Vec<(String, Bytes)>,
    pub(super) delete_large: Vec<String>,
    pub(super) term: Option<u64>,
}

impl Commit {
    /// Expects and changes nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Happens only if this is true of the entry `key`, which it need not change.
    pub fn expect(mut self, key: impl Into<String>, expect: Expect) -> Self {
        self.expect.push((key.into(), expect));
        self
    }

    /// Writes an entry: at most [`MAX_VALUE_BYTES`] bytes.
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.put.push((key.into(), value.into()));
        self
    }

    /// Removes an entry; no error if there is none.
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.delete.push(key.into());
        self
    }

    /// Writes a blob: at most [`MAX_LARGE_BYTES`] bytes. Its keys are apart from those of entries.
    pub fn put_large(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.put_large.push((key.into(), value.into()));
        self
    }

    /// Removes a blob; no error if there is none.
    pub fn delete_large(mut self, key: impl Into<String>) -> Self {
        self.delete_large.push(key.into());
        self
    }

    /// Happens only if this server still leads, and has done so all the time since that term began: what was read in it
    /// was changed by nobody else. Stores that one server has for itself do not ask.
    pub fn in_term(mut self, term: u64) -> Self {
        self.term = Some(term);
        self
    }

    /// The term it must happen in, if one was named.
    pub fn term(&self) -> Option<u64> {
        self.term
    }

    /// What must be true, in order.
    pub fn expectations(&self) -> &[(String, Expect)] {
        &self.expect
    }

    /// What it writes, and whether that is a blob.
    pub fn puts(&self) -> impl Iterator<Item = (bool, &str, &Bytes)> {
        let entries = self.put.iter().map(|(key, value)| (false, key.as_str(), value));
        entries.chain(self.put_large.iter().map(|(key, value)| (true, key.as_str(), value)))
    }

    /// What it removes, and whether that is a blob.
    pub fn deletes(&self) -> impl Iterator<Item = (bool, &str)> {
        let entries = self.delete.iter().map(|key| (false, key.as_str()));
        entries.chain(self.delete_large.iter().map(|key| (true, key.as_str())))
    }

    /// Entries and blobs that it writes or removes.
    pub fn changes(&self) -> usize {
        self.put.len() + self.delete.len() + self.put_large.len() + self.delete_large.len()
    }

    /// Bytes of all its keys and values.
    pub fn bytes(&self) -> usize {
        let values = self.put.iter().chain(&self.put_large).map(|(_, value)| value.len()).sum::<usize>();
        values + self.keys().map(|(_, key)| key.len()).sum::<usize>()
    }

    /// Whether it is within the limits that hold for every store.
    ///
    /// Errors: [`StoreError::Invalid`], [`StoreError::TooLarge`].
    pub fn check(&self) -> Result<(), StoreError> {
        if self.changes() > MAX_OPERATIONS || self.expect.len() > MAX_OPERATIONS {
            let (changes, expected) = (self.changes(), self.expect.len());
            let what = format!(
                "changes {changes} keys and expects something of {expected}, and the most is {MAX_OPERATIONS} of each: \
                 split it"
            );
            return Err(StoreError::Invalid { what });
        }
        for (_, key) in self.keys() {
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                let what = format!("has a key of {} bytes, and a key has 1 to {MAX_KEY_BYTES}: `{key}`", key.len());
                return Err(StoreError::Invalid { what });
            }
        }
        for (values, max) in [(&self.put, MAX_VALUE_BYTES), (&self.put_large, MAX_LARGE_BYTES)] {
            if let Some((key, value)) = values.iter().find(|(_, value)| value.len() > max) {
                return Err(StoreError::TooLarge { key: key.clone(), bytes: value.len(), max });
            }
        }
        if self.bytes() > MAX_COMMIT_BYTES {
            let what = format!("has {} bytes, and the most is {MAX_COMMIT_BYTES}: split it", self.bytes());
            return Err(StoreError::Invalid { what });
        }
        let mut seen = HashSet::new();
        if let Some((_, key)) = self.changed().find(|change| !seen.insert(*change)) {
            return Err(StoreError::Invalid { what: format!("changes `{key}` twice: keep the last change only") });
        }
        Ok(())
    }

    /// What it changes, and whether that is a blob.
    fn changed(&self) -> impl Iterator<Item = (bool, &str)> {
        let entries = self.put.iter().map(|(key, _)| key).chain(&self.delete).map(|key| (false, key.as_str()));
        let large = self.put_large.iter().map(|(key, _)| key).chain(&self.delete_large).map(|key| (true, key.as_str()));
        entries.chain(large)
    }

    fn keys(&self) -> impl Iterator<Item = (bool, &str)> {
        self.changed().chain(self.expect.iter().map(|(key, _)| (false, key.as_str())))
    }
}
