//! The store without a file, for tests and simulation: the same verdicts, the same limits, gone with the process.
//!
//! Called by tests and by `sim`. Every answer is there at once; it never waits and starts no thread.

use super::image::{Draft, Image};
use super::view::View;
use super::{Answer, Commit, Entry, Limits, Store, StoreError};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use tokio::sync::watch;

struct Inner {
    view: View,
    blobs: BTreeMap<String, Entry>,
}

/// A [`Store`] in memory.
pub struct MemoryStore {
    inner: Mutex<Inner>,
    limits: Limits,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Limits::default())
    }
}

impl MemoryStore {
    /// Empty, at revision 0.
    pub fn new(limits: Limits) -> Self {
        Self { inner: Mutex::new(Inner { view: View::new(Image::default()), blobs: BTreeMap::new() }), limits }
    }

    fn commit_now(&self, commit: Commit) -> Result<u64, StoreError> {
        let Inner { view, blobs } = &mut *self.inner.lock();
        view.open()?;
        commit.check()?;
        let mut draft = Draft::of(view.image());
        let revision = draft.add(view.image(), commit, &self.limits)?;
        for (key, blob) in &draft.blobs {
            match blob {
                Some(blob) => blobs.insert(key.clone(), blob.clone()),
                None => blobs.remove(key),
            };
        }
        if draft.changes() {
            view.publish(draft);
        }
        Ok(revision)
    }
}

impl Store for MemoryStore {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move { self.inner.lock().view.get(key) })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>, limit: usize) -> Answer<'a, Vec<(String, Entry)>> {
        Box::pin(async move { self.inner.lock().view.list(prefix, after, limit) })
    }

    fn commit(&self, commit: Commit) -> Answer<'_, u64> {
        Box::pin(async move { self.commit_now(commit) })
    }

    fn get_blob<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move {
            let inner = self.inner.lock();
            inner.view.open().map(|()| inner.blobs.get(key).cloned())
        })
    }

    fn list_blobs<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<(String, u64)>> {
        Box::pin(async move { self.inner.lock().view.list_blobs(prefix, after, limit) })
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.inner.lock().view.watch()
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            self.inner.lock().view.close();
            Ok(())
        })
    }
}
