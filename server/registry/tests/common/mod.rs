//! What the tests of the stores share: one of each kind, and a store whose thread stops where the test says.

#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used)] // helpers of tests

use penstock_registry::store::{Limits, LocalStore, LocalStoreOptions, MemoryStore, Step, Store};
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use tempfile::TempDir;

/// A store, and what it takes to open it again.
pub(crate) struct Kept {
    store: Option<Arc<dyn Store>>,
    folder: Option<TempDir>,
    limits: Limits,
}

impl Kept {
    pub(crate) fn memory(limits: Limits) -> Self {
        Self { store: Some(Arc::new(MemoryStore::new(limits))), folder: None, limits }
    }

    pub(crate) fn local(limits: Limits) -> Self {
        let folder = TempDir::new().unwrap();
        let store: Arc<dyn Store> = Arc::new(open(folder.path(), limits));
        Self { store: Some(store), folder: Some(folder), limits }
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        self.store.as_ref().unwrap()
    }

    /// What is in a file is read again; memory has nothing else to be.
    pub(crate) fn reopen(&mut self) {
        if let Some(folder) = &self.folder {
            self.store = None;
            self.store = Some(Arc::new(open(folder.path(), self.limits)));
        }
    }
}

pub(crate) fn open(folder: &Path, limits: Limits) -> LocalStore {
    LocalStore::open(folder, LocalStoreOptions { limits, on_step: None }).unwrap()
}

/// Runs a test on one store of each kind.
pub(crate) async fn both(limits: Limits, test: impl AsyncFn(&Kept)) {
    test(&Kept::memory(limits)).await;
    test(&Kept::local(limits)).await;
}

/// Holds a store's thread at one step, each time, until the test lets it go on.
pub(crate) struct Held {
    // Before the store, which waits for its thread when it is dropped.
    go_on: SyncSender<()>,
    arrived: Receiver<()>,
    pub(crate) store: Arc<LocalStore>,
}

impl Held {
    pub(crate) fn at(folder: &Path, at: Step) -> Self {
        let (arrive, arrived) = sync_channel(1000);
        let (go_on, told) = sync_channel(1000);
        let told = Mutex::new(told);
        let on_step = move |step| {
            if step == at && arrive.send(()).is_ok() {
                // Once the test is over, nobody is held.
                let _ = told.lock().unwrap().recv();
            }
        };
        let options = LocalStoreOptions { on_step: Some(Arc::new(on_step)), ..Default::default() };
        Self { go_on, arrived, store: Arc::new(LocalStore::open(folder, options).unwrap()) }
    }

    /// Waits until the thread is there.
    pub(crate) fn arrived(&self) {
        self.arrived.recv().unwrap();
    }

    /// Lets it pass that step so many times.
    pub(crate) fn go_on(&self, times: usize) {
        (0..times).for_each(|_| self.go_on.send(()).unwrap());
    }
}
