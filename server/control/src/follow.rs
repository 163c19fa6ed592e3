//! Follows a state that several servers share: serves what another has changed, and begins what the records say is to be
//! done, if this server leads.
//!
//! Begun at start. All servers serve everything: each reads the records again whenever any has changed, and has its house
//! serve what has, in the same way as the server that made the change. A version is brought up by the one that leads: it is
//! Active when the environments there are ready, or Failed with their reason; what goes wrong on another is in its log and
//! its index alone. Deletions and deactivations end when the environments of the one that leads have ended. Of what is begun
//! by a record, nothing is begun by the operation that wrote it: so it is begun once, by whoever leads, also when a server
//! was killed between the two, or did not hear that its change was made.

use crate::error::{ControlError, ErrorKind};
use crate::plane::ControlPlane;
use crate::sources::Reach;
use crate::unreachable::pauses;
use crate::versions::{bring_up_until_settled, is_coming_up};
use parking_lot::Mutex;
use penstock_domain::VersionNumber;
use penstock_registry::{AliasRecord, FunctionRecord, ProviderRecord, State, VersionRecord, keys};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;

/// Changes that come within this are followed together.
const TOGETHER: Duration = Duration::from_millis(50);
/// After a look that found nothing new the next waits longer, up to this: what changes then are events, and not followed.
const IDLE: Duration = Duration::from_secs(1);
/// The pause after the records could not be read, and before what has ended without being finished is begun again.
const PAUSE: Duration = Duration::from_secs(1);
/// Functions that are followed at once, and of those that lack packages how many fetch at once: storage may be slow.
const AT_ONCE: usize = 8;

/// What a function's records were when it was followed last: the revisions of all of them.
type Mark = Vec<u64>;

/// What is to be done because a record says so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Duty {
    term: u64,
    function: String,
    /// Of a version.
    number: Option<u64>,
    state: State,
    /// What it was published as: published again it is another.
    revision_id: String,
}

/// What is known from one look to the next.
struct Followed {
    marks: BTreeMap<String, Mark>,
    providers: BTreeMap<String, u64>,
    term: Option<u64>,
    under_way: Arc<Mutex<HashSet<Duty>>>,
    /// One of them has ended.
    ended: Arc<Notify>,
    following: Arc<Following>,
}

/// Functions that are being followed.
struct Following {
    places: Semaphore,
    fetches: Semaphore,
    /// Those whose packages are being fetched, and whether they are to be looked at once more.
    fetching: Mutex<HashMap<String, bool>>,
}

impl ControlPlane {
    /// Follows what others change, for as long as the store is open. A state that is this server's own is changed by nobody else.
    pub(crate) fn follow_others(&self) {
        if self.is_shared() {
            tokio::spawn(follow(self.this.clone(), self.store.watch(), self.leadership.clone()));
        }
    }

    /// Looks at all records, serves what is new, and begins what is to be done. Gives whether anything was new.
    async fn look(&self, followed: &mut Followed) -> Result<bool, ControlError> {
        let term = self.leadership().term();
        if term != followed.term {
            // What was under way in another term may have been left half told to the house.
            followed.marks.values_mut().for_each(Vec::clear);
            followed.providers.values_mut().for_each(|revision| *revision = 0);
            followed.term = term;
        }
        self.look_at_providers(followed).await?;
        let functions = self.read_all::<FunctionRecord>(keys::FUNCTIONS).await?;
        let versions = self.read_all::<VersionRecord>(keys::VERSIONS).await?;
        let mut marks: BTreeMap<String, Mark> = BTreeMap::new();
        for (function, revision) in &functions {
            marks.entry(function.name.clone()).or_default().push(*revision);
        }
        let others = versions.iter().map(|(version, revision)| (version.function.clone(), *revision));
        let aliases = self.read_all::<AliasRecord>(keys::ALIASES).await?;
        for (function, revision) in
            others.chain(aliases.into_iter().map(|(alias, revision)| (alias.function, revision)))
        {
            // Without its function it is on its way out.
            marks.entry(function).and_modify(|mark| mark.push(revision));
        }
        if let Some(term) = term {
            self.begin_duties(term, followed, &functions, &versions);
        }
        let is_leaving = |function: &FunctionRecord| function.standing.state == State::Deleting;
        for (function, _) in functions.iter().filter(|(function, _)| is_leaving(function)) {
            // Taken down as one that is gone.
            marks.remove(&function.name);
        }
        let gone = followed.marks.keys().filter(|name| !marks.contains_key(*name)).cloned();
        let new =
            marks.iter().filter(|(name, mark)| followed.marks.get(*name) != Some(mark)).map(|(name, _)| name.clone());
        for name in gone.chain(new) {
            tokio::spawn(follow_function(self.this.clone(), name, followed.following.clone()));
        }
        let is_new = followed.marks != marks;
        followed.marks = marks;
        Ok(is_new)
    }

    /// Follows capacity providers that are new, changed or gone.
    async fn look_at_providers(&self, followed: &mut Followed) -> Result<(), ControlError> {
        let providers = self.read_all::<ProviderRecord>(keys::PROVIDERS).await?;
        let known = std::mem::take(&mut followed.providers);
        for (provider, revision) in &providers {
            if known.get(&provider.name) != Some(revision) {
                self.follow_provider(provider);
            }
        }
        followed.providers = providers.into_iter().map(|(provider, revision)| (provider.name, revision)).collect();
        for name in known.into_keys().filter(|name| !followed.providers.contains_key(name)) {
            // If it is not being ended yet: this server did not see that it was to be.
            if let Some(settings) = self.options.fleets.settings(&name) {
                self.spawn_provider_end(name, Some(settings));
            }
        }
        Ok(())
    }

    /// Begins what the records say is to be done, each once.
    fn begin_duties(
        &self,
        term: u64,
        followed: &Followed,
        functions: &[(FunctionRecord, u64)],
        versions: &[(VersionRecord, u64)],
    ) {
        let of_functions = functions.iter().filter(|(function, _)| function.standing.state == State::Deleting);
        let of_functions = of_functions.map(|(function, _)| (&function.name, None, &function.standing));
        let is_due = |version: &VersionRecord| {
            is_coming_up(version) || matches!(version.standing.state, State::Deleting | State::Deactivating)
        };
        let of_versions = versions.iter().filter(|(version, _)| is_due(version));
        let of_versions = of_versions.map(|(version, _)| (&version.function, Some(version.number), &version.standing));
        for (function, number, standing) in of_functions.chain(of_versions) {
            let (function, revision_id) = (function.clone(), standing.revision_id.clone());
            let duty = Duty { term, function, number, state: standing.state, revision_id };
            if followed.under_way.lock().insert(duty.clone()) {
                let (under_way, ended) = (followed.under_way.clone(), followed.ended.clone());
                let weak = self.this.clone();
                tokio::spawn(async move {
                    carry_out(weak, &duty).await;
                    // If the records still say so then, it is begun again.
                    tokio::time::sleep(PAUSE).await;
                    under_way.lock().remove(&duty);
                    ended.notify_one();
                });
            }
        }
    }

    /// Whether a function is to serve something that is not on disk.
    async fn lacks_packages(&self, name: &str) -> Result<bool, ControlError> {
        let function = self.read::<FunctionRecord>(&keys::function(name)).await?;
        if function.is_none_or(|(function, _)| function.standing.state == State::Deleting) {
            return Ok(false);
        }
        for version in self.versions_to_serve(name).await? {
            if !self.is_verified(&version.content) && !self.is_on_disk(&version.content).await {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Has the house serve a function as its records say. What served goes on until that is read.
    async fn serve_as_told(&self, name: &str) -> Result<(), ControlError> {
        let function = self.read::<FunctionRecord>(&keys::function(name)).await?;
        if function.is_none_or(|(function, _)| function.standing.state == State::Deleting) {
            self.take_down(name).await?;
            self.spawn_clean_up();
            return Ok(());
        }
        drop(self.serve_function(name, Reach::Anywhere).await?);
        for (version, _) in self.versions(name).await? {
            self.scale_if_served(&version).await?;
        }
        self.spawn_clean_up();
        Ok(())
    }
}

async fn follow(
    plane: Weak<ControlPlane>,
    mut newest: watch::Receiver<u64>,
    mut leadership: watch::Receiver<penstock_registry::store::Leadership>,
) {
    let Some(strong) = plane.upgrade() else { return };
    // What is served from the start may be gone by now.
    let served = strong.house.functions();
    let deployed = served.keys().filter(|name| !strong.house.is_of_repository(name));
    let mut followed = Followed {
        marks: deployed.map(|name| (name.clone(), Mark::new())).collect(),
        providers: BTreeMap::new(),
        term: None,
        under_way: Arc::default(),
        ended: Arc::default(),
        following: Arc::new(Following {
            places: Semaphore::new(AT_ONCE),
            fetches: Semaphore::new(AT_ONCE),
            fetching: Mutex::default(),
        }),
    };
    drop((strong, served));
    let (mut failures, mut pause) = (0, TOGETHER);
    loop {
        newest.mark_unchanged();
        leadership.mark_unchanged();
        let Some(strong) = plane.upgrade() else { return };
        let looked = strong.look(&mut followed).await;
        drop(strong);
        match looked {
            Ok(true) => pause = TOGETHER,
            Ok(false) => pause = (2 * pause).min(IDLE),
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(%error, "what other servers have changed is not known for now");
                }
                failures += 1;
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        }
        if std::mem::take(&mut failures) > 0 {
            tracing::info!("what other servers have changed is known again");
        }
        let looked_at = Instant::now();
        let changed = tokio::select! {
            changed = newest.changed() => changed,
            changed = leadership.changed() => changed,
            () = followed.ended.notified() => Ok(()),
        };
        if changed.is_err() {
            // The store is closed.
            return;
        }
        let now = Instant::now();
        tokio::time::sleep_until((looked_at + pause).max(now + TOGETHER)).await;
    }
}

/// Serves a function as its records say: what lacks packages waits for storage among its like, and keeps no other waiting.
async fn follow_function(weak: Weak<ControlPlane>, name: String, following: Arc<Following>) {
    let lacks = match weak.upgrade() {
        Some(plane) => plane.lacks_packages(&name).await,
        None => return,
    };
    // What cannot be read now is asked for again below.
    if !lacks.unwrap_or(false) {
        let Ok(_place) = following.places.acquire().await else { return };
        return serve_until_known(&weak, &name).await;
    }
    if following.fetching.lock().insert(name.clone(), true).is_some() {
        // Whoever is at it looks once more.
        return;
    }
    let Ok(_place) = following.fetches.acquire().await else { return };
    loop {
        following.fetching.lock().insert(name.clone(), false);
        serve_until_known(&weak, &name).await;
        let mut fetching = following.fetching.lock();
        if !fetching.get(&name).is_some_and(|again| *again) {
            fetching.remove(&name);
            return;
        }
    }
}

/// Serves a function as its records say; if they cannot be read, until they can.
async fn serve_until_known(weak: &Weak<ControlPlane>, name: &str) {
    for pause in pauses() {
        let Some(plane) = weak.upgrade() else { return };
        match plane.serve_as_told(name).await {
            Ok(()) => return,
            Err(error) if error.kind == ErrorKind::Unavailable => {
                tracing::debug!(function = name, %error, "what is to be served of a function is not known for now");
            }
            Err(error) => {
                tracing::error!(function = name, %error, "a function is not served as it is to be");
                return;
            }
        }
        drop(plane);
        tokio::time::sleep(pause.min(PAUSE)).await;
    }
}

/// Does what is to be done, as far as that goes in its term.
async fn carry_out(weak: Weak<ControlPlane>, duty: &Duty) {
    let Some(plane) = weak.upgrade() else { return };
    let (name, text) =
        (&duty.function, duty.number.map(|number| VersionNumber(number).to_string()).unwrap_or_default());
    let work = async {
        match (duty.number, duty.state) {
            (None, _) => plane.finish_deletion(name).await,
            (Some(number), State::Deleting) => {
                drop(plane.serve_function(name, Reach::Disk).await?);
                plane.finish_version_deletion(name, VersionNumber(number)).await
            }
            (Some(number), State::Deactivating) => plane.finish_deactivation(name, number).await,
            (Some(number), _) => {
                bring_up_until_settled(weak.clone(), name.clone(), number).await;
                Ok(())
            }
        }
    };
    tokio::select! {
        done = work => match done {
            Ok(()) => plane.spawn_clean_up(),
            Err(error) if error.kind == ErrorKind::Unavailable => {
                tracing::info!(function = name, version = text, %error, "what was begun is another's to finish");
            }
            Err(error) => {
                tracing::error!(function = name, version = text, %error, "what was begun is not finished; it is tried again");
            }
        },
        () = plane.term_over(duty.term) => {}
    }
}
