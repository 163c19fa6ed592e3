//! The store in one file of this machine.
//!
//! Made by the composition root. Reads are answered from an image in memory; commits go to the store's own thread,
//! which makes them durable. It never blocks a caller's thread, but for opening and dropping.

use super::file::StateFile;
use super::image::Image;
use super::view::View;
use super::writer::{self, Request};
use super::{Answer, Commit, Entry, Limits, OpenError, Store, StoreError};
use parking_lot::RwLock;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use tokio::sync::{mpsc, oneshot, watch};

/// Requests that wait for the thread, the most: four full groups. Whoever comes then waits for a place.
const WAITING_REQUESTS: usize = 256;

/// Where the thread is with a group of commits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// It has the group.
    Collected,
    /// A transaction has all changes, and nothing of it is durable.
    Filled,
    /// It is durable, and no reader sees it yet.
    Durable,
    /// Readers see it, and no caller knows.
    Visible,
    /// All callers of the group have been answered.
    Answered,
}

/// Called on the store's thread at each step. For tests: one that blocks there holds the store there.
pub type OnStep = Arc<dyn Fn(Step) + Send + Sync>;

/// How a store is opened.
#[derive(Clone, Default)]
pub struct LocalStoreOptions {
    /// What it may hold.
    pub limits: Limits,
    /// For tests.
    pub on_step: Option<OnStep>,
}

/// A [`Store`] in the file `state.redb` of a folder, which only one process has open.
///
/// When its disk fails, commits are refused from then on and reads go on. The file does not become smaller; what is
/// deleted is used again. It may come to four times what it holds, as a blob's place on the disk is a power of two and
/// what is replaced stays until what replaces it is durable. Dropping the store finishes what waits, which blocks for a
/// few flushes of the disk; after [`Store::close`] it does not.
pub struct LocalStore {
    view: Arc<RwLock<View>>,
    /// None while it is being dropped.
    requests: Option<mpsc::Sender<Request>>,
    thread: Option<JoinHandle<()>>,
}

impl LocalStore {
    /// Opens the state in this folder, or begins one; makes the folder (for this user alone) if it is not there. Blocks
    /// until all is read and verified: about a second for each GiB of the file, and what its disk needs to read it.
    ///
    /// Errors: see [`OpenError`]. A file that was not closed in order is repaired here; no answered commit is lost by it.
    pub fn open(folder: &Path, options: LocalStoreOptions) -> Result<Self, OpenError> {
        let (path, folder) = (folder.join("state.redb"), folder.to_owned());
        Self::start(move || StateFile::open(&folder), &path, options)
    }

    pub(super) fn start(
        open: impl FnOnce() -> Result<(StateFile, Image), OpenError> + Send + 'static,
        path: &Path,
        options: LocalStoreOptions,
    ) -> Result<Self, OpenError> {
        let (requests, asked) = mpsc::channel(WAITING_REQUESTS);
        let (tell, opened) = std::sync::mpsc::sync_channel(1);
        let (file, limits) = (path.to_owned(), options.limits);
        let view = move || {
            let (state, image) = open()?;
            match image.held().over(&limits) {
                Some((limit, found, max)) => Err(OpenError::OverLimit { file, limit, found, max }),
                None => Ok((state, View::new(image))),
            }
        };
        let tell = move |opened| tell.send(opened).expect("the opener waits for this");
        let file = path.to_owned();
        let damaged = move |what| OpenError::Damaged { file, what };
        let thread = std::thread::Builder::new()
            .name("store".into())
            .spawn(move || writer::run(view, tell, damaged, asked, &options))
            .map_err(|error| OpenError::Access { path: path.to_owned(), source: error.into() })?;
        let view = opened.recv().expect("the thread tells before it serves, whatever opening does")?;
        Ok(Self { view, requests: Some(requests), thread: Some(thread) })
    }

    /// Asks the thread and waits for its answer, both where it waits for a place and afterwards.
    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Request,
    ) -> Result<T, StoreError> {
        let (reply, answer) = oneshot::channel();
        let requests = self.requests.as_ref().expect("taken only when it is dropped, and then nobody asks");
        requests.send(request(reply)).await.map_err(|_| StoreError::Closed)?;
        // The thread answers whatever it took, unless it panicked just then.
        answer.await.unwrap_or_else(|_| Err(StoreError::file("its thread panicked")))
    }
}

impl Store for LocalStore {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move { self.view.read().get(key) })
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>, limit: usize) -> Answer<'a, Vec<(String, Entry)>> {
        Box::pin(async move { self.view.read().list(prefix, after, limit) })
    }

    fn commit(&self, commit: Commit) -> Answer<'_, u64> {
        Box::pin(async move {
            commit.check()?;
            self.ask(|reply| Request::Commit(commit, reply)).await
        })
    }

    fn get_blob<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(async move {
            if !self.view.read().has_blob(key)? {
                return Ok(None);
            }
            self.ask(|reply| Request::Blob(key.to_owned(), reply)).await
        })
    }

    fn list_blobs<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<(String, u64)>> {
        Box::pin(async move { self.view.read().list_blobs(prefix, after, limit) })
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.view.read().watch()
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            match self.ask(Request::Close).await {
                Err(StoreError::Closed) => Ok(()),
                closed => closed,
            }
        })
    }
}

impl Drop for LocalStore {
    fn drop(&mut self) {
        // Nobody can ask any more: the thread does what waits and ends.
        self.requests = None;
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the store's thread panicked");
        }
    }
}
