//! The control plane: what it stands on, and how it reads and writes records.
//!
//! Opened by the composition root. The operations are in the other files of this crate, by what they are on.

use crate::code::TAKEN_AT_ONCE;
use crate::due::Due;
use crate::elsewhere::Elsewhere;
use crate::error::{ControlError, ErrorKind};
use crate::names::Account;
use crate::sources::Fetching;
use crate::uploads::Uploads;
use penstock_dispatch::House;
use penstock_instances::Fleets;
use penstock_packages::ContentStore;
use penstock_registry::store::{Commit, Entry, Expect, Leadership, Store};
use penstock_registry::{AliasRecord, FunctionRecord, VersionRecord, keys};
use penstock_remote::Remote;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::SystemTime;
use time::OffsetDateTime;
use time::macros::format_description;
use tokio::sync::{Semaphore, watch};

/// Entries read from the store at once.
const PAGE: usize = 512;

/// How a control plane is set up.
pub struct ControlOptions {
    /// What ARNs say.
    pub account: Account,
    /// The folder of the files where ends of asynchronous invocations are told.
    pub destinations: PathBuf,
    /// Other services: where code may lie, and ends of invocations may be told.
    pub remote: Remote,
    /// Most bytes of a package that does not come in a request, as an archive and unpacked.
    pub package_bytes_max: u64,
    /// Of this machine, or of all instances that there may be: environments that follow their load without a stated maximum have so many together, each its own.
    pub cores: u32,
    /// GPUs of this machine, or parts of them: as many environments on one may a version have without a stated maximum.
    pub gpus: u32,
    /// The instances that environments run on.
    pub fleets: Arc<Fleets>,
    /// Invocations in flight in one environment, where nothing is said.
    pub environment_concurrency: u32,
    /// All of the account's, as its settings tell.
    pub concurrency: u32,
    /// The wall clock.
    pub clock: fn() -> SystemTime,
}

/// The control plane of one server.
pub struct ControlPlane {
    pub(crate) this: Weak<ControlPlane>,
    pub(crate) options: ControlOptions,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) content: Arc<ContentStore>,
    pub(crate) house: Arc<House>,
    /// Whether this server leads, where several share the state.
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Whose turn it is to change records.
    pub(crate) writes: tokio::sync::Mutex<()>,
    /// Held from reading what is to be served to telling the house.
    pub(crate) serving: tokio::sync::Mutex<()>,
    /// Folders of packages whose contents were verified since the start, by manifest.
    pub(crate) verified: parking_lot::Mutex<HashMap<String, PathBuf>>,
    /// Packages that are being fetched.
    pub(crate) fetching: Fetching,
    /// The term in which this server runs asynchronous invocations.
    pub(crate) events_term: AtomicU64,
    /// Asynchronous invocations that wait.
    pub(crate) due: Due,
    /// Those that have ended, whose end is to be told.
    pub(crate) ends: Due,
    /// Records of ends that do not fit into the store, by their events.
    pub(crate) unkept: parking_lot::Mutex<HashMap<String, serde_json::Value>>,
    /// Places for packages that are being taken in.
    pub(crate) taking: Semaphore,
    /// Packages that are being sent.
    pub(crate) uploads: Uploads,
    /// Destinations outside this machine that are being told, or have failed.
    pub(crate) elsewhere: Elsewhere,
    /// Capacity providers whose instances are being ended.
    pub(crate) ending: parking_lot::Mutex<HashSet<String>>,
    /// A removal of unused packages is about to begin.
    pub(crate) cleaning: AtomicBool,
    /// A package could not be fetched, and perhaps can be later.
    pub(crate) unreachable: AtomicBool,
}

/// A record and the revision that wrote it.
pub(crate) type Known<T> = (T, u64);

impl ControlPlane {
    /// A control plane on a store, a content store and a house. Call [`ControlPlane::restore`] to serve what they hold.
    pub fn new(
        options: ControlOptions,
        store: Arc<dyn Store>,
        content: Arc<ContentStore>,
        house: Arc<House>,
    ) -> Arc<Self> {
        let leadership = store.leadership();
        Arc::new_cyclic(|this| Self {
            this: this.clone(),
            options,
            store,
            content,
            house,
            leadership,
            writes: tokio::sync::Mutex::default(),
            serving: tokio::sync::Mutex::default(),
            verified: parking_lot::Mutex::default(),
            fetching: Fetching::default(),
            events_term: AtomicU64::new(0),
            due: Due::default(),
            ends: Due::default(),
            unkept: parking_lot::Mutex::default(),
            taking: Semaphore::new(TAKEN_AT_ONCE),
            uploads: Uploads::default(),
            elsewhere: Elsewhere::default(),
            ending: parking_lot::Mutex::default(),
            cleaning: AtomicBool::new(false),
            unreachable: AtomicBool::new(false),
        })
    }

    /// What ARNs say.
    pub fn account(&self) -> &Account {
        &self.options.account
    }

    /// Ends the store, so that the last change is on disk. What is being brought up is brought up again at the next start.
    pub async fn close(&self) -> Result<(), ControlError> {
        Ok(self.store.close().await?)
    }

    /// Now, as Lambda writes it.
    pub(crate) fn now_text(&self) -> String {
        as_text((self.options.clock)())
    }

    /// Now, in seconds since the epoch.
    pub(crate) fn now_seconds(&self) -> f64 {
        (self.options.clock)().duration_since(SystemTime::UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
    }

    pub(crate) async fn read<T: DeserializeOwned>(&self, key: &str) -> Result<Option<Known<T>>, ControlError> {
        match self.store.get(key).await? {
            None => Ok(None),
            Some(entry) => Ok(Some(parsed(&entry)?)),
        }
    }

    /// All records below a prefix, by key.
    pub(crate) async fn read_all<T: DeserializeOwned>(&self, prefix: &str) -> Result<Vec<Known<T>>, ControlError> {
        let (mut all, mut after): (Vec<Known<T>>, Option<String>) = (Vec::new(), None);
        loop {
            let page = self.store.list(prefix, after.as_deref(), PAGE).await?;
            let last = page.len() < PAGE;
            after = page.last().map(|(key, _)| key.clone());
            for (_, entry) in &page {
                all.push(parsed(entry)?);
            }
            if last {
                return Ok(all);
            }
        }
    }

    /// A function. Errors: there is none.
    pub(crate) async fn function(&self, name: &str) -> Result<Known<FunctionRecord>, ControlError> {
        match self.read(&keys::function(name)).await? {
            Some(known) => Ok(known),
            None => Err(self.function_not_found(name, None)),
        }
    }

    /// A function that may be changed over this API. Errors: there is none, or a model repository has it.
    pub(crate) async fn own_function(&self, name: &str) -> Result<Known<FunctionRecord>, ControlError> {
        match self.read(&keys::function(name)).await? {
            Some(known) => Ok(known),
            None if self.house.is_of_repository(name) => Err(self.of_repository(name)),
            None => Err(self.function_not_found(name, None)),
        }
    }

    /// The record of a function that can be looked at; `None` of one that a model repository has. Errors: there is none.
    pub(crate) async fn readable_function(&self, name: &str) -> Result<Option<FunctionRecord>, ControlError> {
        match self.read(&keys::function(name)).await? {
            Some((record, _)) => Ok(Some(record)),
            None if self.house.is_of_repository(name) => Ok(None),
            None => Err(self.function_not_found(name, None)),
        }
    }

    pub(crate) fn of_repository(&self, name: &str) -> ControlError {
        ControlError::conflict(format!(
            "Function '{name}' belongs to a model repository: it changes only when its files do."
        ))
    }

    pub(crate) fn function_not_found(&self, name: &str, qualifier: Option<&str>) -> ControlError {
        let arn = match qualifier {
            None => self.options.account.function_arn(name),
            Some(qualifier) => self.options.account.qualified_arn(name, qualifier),
        };
        ControlError::not_found(format!("Function not found: {arn}"))
    }

    pub(crate) async fn version(&self, name: &str, number: u64) -> Result<Option<Known<VersionRecord>>, ControlError> {
        self.read(&keys::version(name, number)).await
    }

    pub(crate) async fn versions(&self, name: &str) -> Result<Vec<Known<VersionRecord>>, ControlError> {
        self.read_all(&keys::versions(name)).await
    }

    pub(crate) async fn aliases(&self, name: &str) -> Result<Vec<Known<AliasRecord>>, ControlError> {
        self.read_all(&keys::aliases(name)).await
    }

    /// Changes events, in the term in which this server runs them.
    pub(crate) async fn commit_event(&self, commit: Commit) -> Result<u64, ControlError> {
        Ok(self.store.commit(commit.in_term(self.events_term.load(Ordering::Acquire))).await?)
    }

    /// Runs what blocks.
    pub(crate) async fn blocking<T: Send + 'static, E: Into<ControlError> + Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, E> + Send + 'static,
    ) -> Result<T, ControlError> {
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => done.map_err(Into::into),
            Err(error) => Err(ControlError::new(ErrorKind::Service, error.to_string())),
        }
    }
}

/// A time as Lambda writes it.
pub(crate) fn as_text(time: SystemTime) -> String {
    let format = format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]+0000");
    OffsetDateTime::from(time).format(&format).unwrap_or_default()
}

fn parsed<T: DeserializeOwned>(entry: &Entry) -> Result<Known<T>, ControlError> {
    Ok((serde_json::from_slice(&entry.value)?, entry.revision))
}

/// Writing a record that was read before.
pub(crate) trait Writing: Sized {
    /// Puts `record` if nobody wrote it since.
    fn replace(self, key: String, record: &impl Serialize, revision: u64) -> Result<Self, ControlError>;
    /// Puts `record` if there is none.
    fn create(self, key: String, record: &impl Serialize) -> Result<Self, ControlError>;
}

impl Writing for Commit {
    fn replace(self, key: String, record: &impl Serialize, revision: u64) -> Result<Self, ControlError> {
        Ok(self.expect(key.clone(), Expect::Revision(revision)).put(key, serde_json::to_vec(record)?))
    }

    fn create(self, key: String, record: &impl Serialize) -> Result<Self, ControlError> {
        Ok(self.expect(key.clone(), Expect::Absent).put(key, serde_json::to_vec(record)?))
    }
}

/// A name of one state of a record: 128 bits of a hash of its content and the time, written as a UUID.
pub(crate) fn revision_id(parts: &[&str]) -> String {
    let digest = penstock_packages::ContentSha256::of(parts.join("\n").as_bytes()).to_string();
    let part = |from: usize, to: usize| digest.get(from..to).unwrap_or_default();
    [part(0, 8), part(8, 12), part(12, 16), part(16, 20), part(20, 32)].join("-")
}
