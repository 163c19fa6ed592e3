//! The store under the control plane's state: small values by key, each with the revision that wrote it, changed by
//! commits that happen whole or not at all.
//!
//! Called by the records of this crate and by the control plane. It knows nothing of what the values mean, never waits
//! for a clock, and never shows a reader what is not yet durable.
//!
//! [`LocalStore`] keeps it in one file, [`MemoryStore`] nowhere, `penstock-etcd` in etcd, which several servers share: one
//! of them leads and changes it, the others read and follow it. A revision is etcd's revision there, an expectation a
//! comparison of `mod_revision` or `create_revision`, a commit one transaction (its other branch reads the expected keys,
//! to tell which of them failed), `watch` a watch of the whole prefix. The limits of a commit are within etcd's, but for its
//! `--max-request-bytes`, which is 1.5 MiB if nothing is said, and best above [`MAX_COMMIT_BYTES`].

mod commit;
mod error;
mod file;
mod image;
mod leadership;
mod local;
mod memory;
mod view;
mod writer;

#[cfg(test)]
mod power_tests;

use bytes::Bytes;
use std::pin::Pin;
use tokio::sync::watch;

pub use commit::{Commit, Expect, MAX_COMMIT_BYTES, MAX_KEY_BYTES, MAX_LARGE_BYTES, MAX_OPERATIONS, MAX_VALUE_BYTES};
pub use error::{OpenError, StoreError};
pub use image::Limits;
pub use leadership::Leadership;
pub use local::{LocalStore, LocalStoreOptions, OnStep, Step};
pub use memory::MemoryStore;

/// A value and when it was last written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// As it was put.
    pub value: Bytes,
    /// The revision of the commit that put it.
    pub revision: u64,
}

/// What an operation of a store gives, later. All of them may be dropped at any time: a commit whose caller left may
/// still happen, and is never half done.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Keys and values, changed by compare-and-set.
///
/// Revisions grow by at least one with each commit that changes something, and are never used twice. There are two
/// name spaces: entries, which are small, read often, and can be expected something of; and blobs, which are large, read
/// once or twice, and are changed by the same commits ([`Commit::put_large`]).
pub trait Store: Send + Sync + 'static {
    /// The entry of this key. It is at least as new as all commits that were answered before the call.
    ///
    /// Errors: [`StoreError::Closed`]; [`StoreError::Away`] and [`StoreError::Failed`] where reading needs more than memory.
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>>;

    /// Up to `limit` entries whose keys begin with `prefix` and come after `after`, ordered by the bytes of the key. A
    /// page shorter than `limit` is the last; the next one begins after the last key of this one. A page is of one
    /// moment, two pages may not be.
    ///
    /// Errors: as of [`Store::get`].
    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>, limit: usize) -> Answer<'a, Vec<(String, Entry)>>;

    /// Makes all changes of a commit, durably, if all that it expects holds, and none otherwise. Gives its revision, or
    /// the newest one if there was nothing to change. Waits while many others wait.
    ///
    /// Errors: [`StoreError::Conflict`] when an expectation did not hold, [`StoreError::TooLarge`],
    /// [`StoreError::Invalid`], [`StoreError::Full`], [`StoreError::NotLeading`], [`StoreError::Away`] and
    /// [`StoreError::Closed`], all without effect; and [`StoreError::Failed`] when it may or may not have happened.
    fn commit(&self, commit: Commit) -> Answer<'_, u64>;

    /// The blob of this key. It is at least as new as all commits that were answered before the call.
    ///
    /// Errors: [`StoreError::Closed`], [`StoreError::Away`], and [`StoreError::Failed`] when the disk cannot be read.
    fn get_blob<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>>;

    /// Keys of blobs and the revisions that put them, in pages as of [`Store::list`].
    ///
    /// Errors: as of [`Store::get`].
    fn list_blobs<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<(String, u64)>>;

    /// The newest revision, and a wake-up for each newer one (one for several, when they come fast). Whoever follows
    /// something reads it again when it wakes. The sender is gone once the store is closed.
    fn watch(&self) -> watch::Receiver<u64>;

    /// Whether this server makes the changes, and a wake-up whenever that changes. Of a store that one server has for
    /// itself it does, from the first to the last.
    fn leadership(&self) -> watch::Receiver<Leadership> {
        watch::channel(Leadership::Held { term: 0 }).1
    }

    /// Several servers may have it open: what is read may have been changed by another.
    fn is_shared(&self) -> bool {
        false
    }

    /// Ends it: what waits already is still done, everything later is refused with [`StoreError::Closed`]. Closing
    /// twice is the same as once.
    fn close(&self) -> Answer<'_, ()>;

    /// A commit of this blob alone.
    ///
    /// Errors: as of [`Store::commit`].
    fn put_blob(&self, key: &str, value: Bytes) -> Answer<'_, u64> {
        self.commit(Commit::new().put_large(key, value))
    }
}
