//! The store in etcd: reads and commits, each one request.
//!
//! Made by the composition root. Never waits longer than one request may take.

use crate::connection::{Connection, Trouble, unreachable};
use crate::follow::{self, newest_revision};
use crate::keys::Keys;
use crate::lead::{Candidate, Doubt};
use crate::newest::Newest;
use crate::options::{EtcdError, EtcdOptions};
use crate::transaction;
use bytes::Bytes;
use etcd_client::{Compare, CompareOp, GetOptions, KeyValue, Txn, TxnOp};
use penstock_registry::store::{Answer, Commit, Entry, Leadership, Store, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// A [`Store`] in etcd, which servers with the same prefix share.
///
/// It takes what etcd takes: a commit within its `--max-request-bytes`, all together within its `--quota-backend-bytes`.
pub struct EtcdStore {
    connection: Connection,
    keys: Keys,
    newest: Arc<Newest>,
    leadership: watch::Receiver<Leadership>,
    doubt: Arc<Doubt>,
    stop: CancellationToken,
    tasks: TaskTracker,
    timeout: Duration,
}

impl EtcdStore {
    /// Opens it, in a tokio runtime, which runs what follows the state and renews the lease.
    ///
    /// Errors: an option is wrong, etcd is not there.
    pub async fn open(options: EtcdOptions) -> Result<Self, EtcdError> {
        let (connection, keys) = (Connection::new(&options).await?, Keys::below(&options.prefix));
        let revision = newest_revision(&connection, &keys).await.map_err(|trouble| unreachable(&options, &trouble))?;
        let newest = Arc::new(Newest::new(revision));
        let (told, leadership) = watch::channel(Leadership::Elsewhere { leader: None });
        let (doubt, stop, tasks) = (Arc::<Doubt>::default(), CancellationToken::new(), TaskTracker::new());
        let following = follow::run(connection.clone(), keys.clone(), newest.clone());
        tasks.spawn(stop.clone().run_until_cancelled_owned(following));
        let candidate = Candidate {
            connection: connection.clone(),
            keys: keys.clone(),
            address: options.address,
            time_to_live: options.lease,
            told,
            doubt: doubt.clone(),
            stop: stop.clone(),
        };
        tasks.spawn(candidate.run());
        tasks.close();
        Ok(Self { connection, keys, newest, leadership, doubt, stop, tasks, timeout: options.timeout })
    }

    /// What lies under a name of its own beside the state: `value`, unless somebody was first. It never changes.
    ///
    /// Errors: etcd is away or refuses.
    pub async fn once(&self, name: &str, value: Vec<u8>) -> Result<Bytes, StoreError> {
        let key = self.keys.once(name);
        let is_first = Compare::create_revision(key.clone(), CompareOp::Equal, 0);
        let write = Txn::new().when([is_first]).and_then([TxnOp::put(key.clone(), value, None)]);
        // Whoever has written it, this is what it is then.
        self.connection.transaction(write).await.map_err(away)?;
        let found = self.connection.get(key, GetOptions::new()).await.map_err(away)?;
        let found = found.kvs().first().map(|found| Bytes::copy_from_slice(found.value()));
        found.ok_or_else(|| StoreError::Failed(format!("{name} was taken out of etcd by somebody else")))
    }

    async fn read(&self, is_blob: bool, key: &str) -> Result<Option<Entry>, StoreError> {
        self.newest.open()?;
        let found = self.connection.get(self.keys.of(is_blob, key), GetOptions::new()).await.map_err(away)?;
        Ok(found.kvs().first().map(|found| Entry { value: Bytes::copy_from_slice(found.value()), revision: at(found) }))
    }

    async fn page<T>(
        &self,
        is_blob: bool,
        (prefix, after): (&str, Option<&str>),
        limit: usize,
        of: impl Fn(&KeyValue) -> T,
    ) -> Result<Vec<(String, T)>, StoreError> {
        self.newest.open()?;
        let (start, end) = self.keys.page(is_blob, prefix, after);
        if limit == 0 || start >= end {
            return Ok(Vec::new());
        }
        let mut options = GetOptions::new().with_range(end).with_limit(i64::try_from(limit).unwrap_or(i64::MAX));
        if is_blob {
            options = options.with_keys_only();
        }
        let found = self.connection.get(start, options).await.map_err(away)?;
        let named = |found: &KeyValue| Some((self.keys.name(is_blob, found.key())?.to_owned(), of(found)));
        let page: Option<Vec<_>> = found.kvs().iter().map(named).collect();
        page.ok_or_else(|| StoreError::Failed("a key in etcd is not text: this program did not write it".into()))
    }

    async fn commit_now(&self, commit: Commit) -> Result<u64, StoreError> {
        commit.check()?;
        self.newest.open()?;
        let term = match &*self.leadership.borrow() {
            Leadership::Held { term } => *term,
            Leadership::Elsewhere { leader } => return Err(StoreError::NotLeading { leader: leader.clone() }),
        };
        let term = commit.term().unwrap_or(term);
        if self.doubt.is_over(term) {
            return Err(StoreError::NotLeading { leader: None });
        }
        let outcome = match self.connection.transaction(transaction::of(&self.keys, &commit, term)).await {
            Ok(response) => transaction::outcome(&commit, term, &response),
            Err(trouble) => Err(transaction::refused(&commit, &trouble)),
        };
        match &outcome {
            Ok(revision) => self.newest.tell(*revision),
            Err(StoreError::NotLeading { .. }) => self.doubt.tell(),
            Err(StoreError::Failed(_)) => self.doubt.end(term),
            Err(_) => {}
        }
        outcome
    }
}

fn at(found: &KeyValue) -> u64 {
    u64::try_from(found.mod_revision()).unwrap_or_default()
}

fn away(trouble: Trouble) -> StoreError {
    StoreError::Away(trouble.to_string())
}

impl Store for EtcdStore {
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(self.read(false, key))
    }

    fn list<'a>(&'a self, prefix: &'a str, after: Option<&'a str>, limit: usize) -> Answer<'a, Vec<(String, Entry)>> {
        let entry = |found: &KeyValue| Entry { value: Bytes::copy_from_slice(found.value()), revision: at(found) };
        Box::pin(self.page(false, (prefix, after), limit, entry))
    }

    fn commit(&self, commit: Commit) -> Answer<'_, u64> {
        Box::pin(self.commit_now(commit))
    }

    fn get_blob<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Entry>> {
        Box::pin(self.read(true, key))
    }

    fn list_blobs<'a>(
        &'a self,
        prefix: &'a str,
        after: Option<&'a str>,
        limit: usize,
    ) -> Answer<'a, Vec<(String, u64)>> {
        Box::pin(self.page(true, (prefix, after), limit, at))
    }

    fn watch(&self) -> watch::Receiver<u64> {
        self.newest.watch()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn close(&self) -> Answer<'_, ()> {
        Box::pin(async move {
            self.newest.close();
            self.stop.cancel();
            // The lease is given back; if etcd does not answer, it runs out by itself.
            let _ = tokio::time::timeout(2 * self.timeout, self.tasks.wait()).await;
            Ok(())
        })
    }
}

impl Drop for EtcdStore {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
