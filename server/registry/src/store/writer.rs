//! The store's thread: makes commits durable, several at once where several wait, and reads blobs.
//!
//! Started by [`super::LocalStore`], which ends it. All use of the file is here. It never shows a reader, or tells a
//! caller, what is not durable.

use super::error::OpenError;
use super::file::StateFile;
use super::image::Draft;
use super::local::{LocalStoreOptions, Step};
use super::view::View;
use super::{Commit, Entry, StoreError};
use parking_lot::RwLock;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Commits of a group, the most: beyond it, what a flush costs each is small.
const GROUP_COMMITS: usize = 64;
/// Bytes of a group, the most, but for its last commit: until it is durable, they are in memory three times.
const GROUP_BYTES: usize = 8 << 20;

type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What is asked of the thread. Who asked may be gone when it answers.
pub(super) enum Request {
    Commit(Commit, Reply<u64>),
    Blob(String, Reply<Option<Entry>>),
    Close(Reply<()>),
}

/// Opens the file with `open` and serves it until nobody can ask any more. What `opened` gets comes first.
pub(super) fn run(
    open: impl FnOnce() -> Result<(StateFile, View), OpenError>,
    opened: impl FnOnce(Result<Arc<RwLock<View>>, OpenError>),
    damaged: impl FnOnce(String) -> OpenError,
    mut requests: mpsc::Receiver<Request>,
    options: &LocalStoreOptions,
) {
    // redb says that it does not panic on a damaged file. That it does nowhere is much to say.
    let (file, view) = match catch_unwind(AssertUnwindSafe(open)).unwrap_or_else(|panic| Err(damaged(text(&*panic)))) {
        Ok((file, view)) => (file, Arc::new(RwLock::new(view))),
        Err(error) => return opened(Err(error)),
    };
    opened(Ok(view.clone()));
    let mut writer = Writer { file, view: view.clone(), options, failed: None };
    let served = catch_unwind(AssertUnwindSafe(|| writer.serve(&mut requests)));
    let closing = served.unwrap_or_else(|panic| {
        writer.fail(&text(&*panic));
        writer.refuse(&mut requests)
    });
    // Closed to readers first: who is told that it is closed may rely on it.
    view.write().close();
    let Writer { file, .. } = writer;
    match catch_unwind(AssertUnwindSafe(|| file.close())) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the store's file was not closed in order; the next opening checks it")
        }
        Err(panic) => {
            tracing::warn!(error = text(&*panic), "closing the store's file failed; the next opening checks it")
        }
    }
    for reply in closing {
        let _ = reply.send(Ok(()));
    }
}

struct Writer<'a> {
    file: StateFile,
    view: Arc<RwLock<View>>,
    options: &'a LocalStoreOptions,
    /// Why nothing is written any more. What a failed commit left is known again when the file is opened anew.
    failed: Option<String>,
}

impl Writer<'_> {
    /// Until nobody can ask any more. Gives those who want to know when the file is closed.
    fn serve(&mut self, requests: &mut mpsc::Receiver<Request>) -> Vec<Reply<()>> {
        let mut closing = Vec::new();
        while let Some(first) = requests.blocking_recv() {
            let (mut group, mut bytes) = (Vec::new(), 0);
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Commit(commit, reply) => {
                        bytes += commit.bytes();
                        group.push((commit, reply));
                    }
                    // Need not wait for the group: what its caller may rely on has been answered, so it is in the file.
                    Request::Blob(key, reply) => {
                        let _ = reply.send(self.blob(&key));
                    }
                    Request::Close(reply) => {
                        requests.close();
                        closing.push(reply);
                    }
                }
                let room = group.len() < GROUP_COMMITS && bytes < GROUP_BYTES;
                next = room.then(|| requests.try_recv().ok()).flatten();
            }
            if !group.is_empty() {
                self.commit(group);
            }
        }
        closing
    }

    fn blob(&self, key: &str) -> Result<Option<Entry>, StoreError> {
        self.file.blob(key).map_err(StoreError::file)
    }

    /// Decides each commit of a group, makes durable what they change, shows it to readers, and answers: in this order.
    fn commit(&mut self, group: Vec<(Commit, Reply<u64>)>) {
        self.step(Step::Collected);
        let (draft, decided) = self.decide(group);
        let done = match &self.failed {
            Some(why) => Err(why.clone()),
            None if draft.changes() => self.write(&draft),
            None => Ok(()),
        };
        match done {
            Ok(()) if draft.changes() => {
                self.view.write().publish(draft);
                self.step(Step::Visible);
            }
            Ok(()) => {}
            Err(why) => return self.refuse_all(&why, decided),
        }
        for (verdict, reply) in decided {
            let _ = reply.send(verdict);
        }
        self.step(Step::Answered);
    }

    #[expect(clippy::type_complexity, reason = "named once, used once")]
    fn decide(&self, group: Vec<(Commit, Reply<u64>)>) -> (Draft, Vec<(Result<u64, StoreError>, Reply<u64>)>) {
        let view = self.view.read();
        let mut draft = Draft::of(view.image());
        let decide = |(commit, reply)| (draft.add(view.image(), commit, &self.options.limits), reply);
        let decided = group.into_iter().map(decide).collect();
        (draft, decided)
    }

    fn write(&self, draft: &Draft) -> Result<(), String> {
        let filled = self.file.fill(draft).map_err(|error| error.to_string())?;
        self.step(Step::Filled);
        filled.commit().map_err(|error| error.to_string())?;
        self.step(Step::Durable);
        Ok(())
    }

    /// Even a conflict is not told: it may be with what did not happen.
    fn refuse_all(&mut self, why: &str, decided: Vec<(Result<u64, StoreError>, Reply<u64>)>) {
        self.fail(why);
        for (_, reply) in decided {
            let _ = reply.send(Err(StoreError::file(why)));
        }
    }

    fn fail(&mut self, why: &str) {
        if self.failed.is_none() {
            tracing::error!(
                error = why,
                "the store's file could not be written; the state cannot change until a restart"
            );
            self.failed = Some(why.to_owned());
        }
    }

    /// Instead of serving, after a panic: nothing is known of the file any more.
    fn refuse(&self, requests: &mut mpsc::Receiver<Request>) -> Vec<Reply<()>> {
        let failed = || StoreError::file(self.failed.as_deref().unwrap_or_default());
        let mut closing = Vec::new();
        while let Some(request) = requests.blocking_recv() {
            match request {
                Request::Commit(_, reply) => drop(reply.send(Err(failed()))),
                Request::Blob(_, reply) => drop(reply.send(Err(failed()))),
                Request::Close(reply) => {
                    requests.close();
                    closing.push(reply);
                }
            }
        }
        closing
    }

    fn step(&self, step: Step) {
        if let Some(on_step) = &self.options.on_step {
            on_step(step);
        }
    }
}

fn text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("redb panicked: {}", text.unwrap_or("without a word"))
}
