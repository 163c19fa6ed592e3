//! What readers see of the state, a page at a time, and how they hear of what is newer.
//!
//! Both stores are read by this. It never shows a part of a commit, or anything once it is closed.

use super::image::{Draft, Image};
use super::{Entry, StoreError};
use std::collections::BTreeMap;
use std::ops::Bound;
use tokio::sync::watch;

/// The image as readers have it, until it is closed.
pub(super) struct View {
    image: Image,
    /// None once closed. A receiver then learns that the sender is gone.
    newest: Option<watch::Sender<u64>>,
}

impl View {
    pub(super) fn new(image: Image) -> Self {
        let newest = Some(watch::channel(image.revision).0);
        Self { image, newest }
    }

    pub(super) fn image(&self) -> &Image {
        &self.image
    }

    /// What the draft says is durable: readers see it from now on, all of it at once.
    pub(super) fn publish(&mut self, draft: Draft) {
        self.image.apply(draft);
        if let Some(newest) = &self.newest {
            newest.send_replace(self.image.revision);
        }
    }

    pub(super) fn close(&mut self) {
        self.newest = None;
    }

    pub(super) fn open(&self) -> Result<(), StoreError> {
        self.newest.as_ref().map(|_| ()).ok_or(StoreError::Closed)
    }

    pub(super) fn watch(&self) -> watch::Receiver<u64> {
        self.newest.as_ref().map_or_else(|| watch::channel(self.image.revision).1, watch::Sender::subscribe)
    }

    pub(super) fn get(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.open().map(|()| self.image.entries.get(key).cloned())
    }

    pub(super) fn has_blob(&self, key: &str) -> Result<bool, StoreError> {
        self.open().map(|()| self.image.blobs.contains_key(key))
    }

    pub(super) fn list(&self, prefix: &str, after: Option<&str>, n: usize) -> Result<Vec<(String, Entry)>, StoreError> {
        self.open().map(|()| page(&self.image.entries, prefix, after, n, Entry::clone))
    }

    pub(super) fn list_blobs(
        &self,
        prefix: &str,
        after: Option<&str>,
        n: usize,
    ) -> Result<Vec<(String, u64)>, StoreError> {
        self.open().map(|()| page(&self.image.blobs, prefix, after, n, |stat| stat.revision))
    }
}

fn page<V, T>(
    map: &BTreeMap<String, V>,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
    of: impl Fn(&V) -> T,
) -> Vec<(String, T)> {
    // What comes after a key before the prefix begins with the prefix's first.
    let start = after.filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
    let from = map.range::<str, _>((start, Bound::Unbounded));
    from.take_while(|(key, _)| key.starts_with(prefix))
        .take(limit)
        .map(|(key, value)| (key.clone(), of(value)))
        .collect()
}
