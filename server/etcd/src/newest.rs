//! The newest revision that this server has heard of, for those who follow it.
//!
//! Told by commits and by the watch. Never goes back.

use parking_lot::Mutex;
use penstock_registry::store::StoreError;
use tokio::sync::watch;

/// It, until the store is closed.
pub(crate) struct Newest(Mutex<Option<watch::Sender<u64>>>);

impl Newest {
    pub(crate) fn new(revision: u64) -> Self {
        Self(Mutex::new(Some(watch::channel(revision).0)))
    }

    /// There is this one. Whoever reads from now on reads it, or what is newer.
    pub(crate) fn tell(&self, revision: u64) {
        if let Some(newest) = &*self.0.lock() {
            newest.send_if_modified(|known| {
                let newer = revision > *known;
                *known = revision.max(*known);
                newer
            });
        }
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.0.lock().as_ref().map_or_else(|| watch::channel(0).1, watch::Sender::subscribe)
    }

    pub(crate) fn close(&self) {
        *self.0.lock() = None;
    }

    pub(crate) fn open(&self) -> Result<(), StoreError> {
        self.0.lock().as_ref().map(|_| ()).ok_or(StoreError::Closed)
    }
}
