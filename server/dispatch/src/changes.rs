//! Changes to what is served: versions opened, switched once their new content is ready, and stopped.
//!
//! Called by the house under its control lock; never inside a request. A request sees one snapshot or the next.

use crate::function::{Cause, Concurrency, ServedFunction, ServedVersion, Shared, VersionState};
use crate::house::House;
use crate::supervisor::Supervisor;
use penstock_domain::{FunctionName, VersionNumber};
use penstock_environment::Specification;
use penstock_repository::{Change, FunctionSource, Origin, VersionSource};
use penstock_scaler::Bounds;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// What a change has set going.
#[derive(Default)]
pub(crate) struct Changed {
    /// Versions whose environments were started; they are loading.
    pub(crate) opened: Vec<Arc<ServedVersion>>,
    /// Those of them that take the place of old content once they are ready.
    pub(crate) switches: Vec<Arc<ServedVersion>>,
}

/// Waits until none of these is loading any more; bounded by how long an instance and then loading may take.
pub(crate) async fn settled(versions: &[Arc<ServedVersion>]) {
    for version in versions {
        let mut state = version.state.subscribe();
        // The sender lives in the version, so the only end of the wait is the value.
        let _ = state.wait_for(|state| !matches!(state, VersionState::Loading)).await;
    }
}

impl House {
    /// Makes what is served what is wanted. `control` is the locked list of what is served by source.
    pub(crate) fn change(&self, control: &mut Vec<FunctionSource>, wanted: Vec<FunctionSource>) -> Changed {
        let changes = penstock_repository::plan(control, &wanted);
        let settled = penstock_repository::settle(control, &wanted);
        let mut versions: BTreeMap<(FunctionName, VersionNumber), Arc<ServedVersion>> = BTreeMap::new();
        for function in self.functions.load().values() {
            for (number, version) in &function.versions {
                versions.insert((function.name.clone(), *number), version.clone());
            }
        }
        self.reserve(&settled);
        let mut changed = Changed::default();
        for change in changes {
            match change {
                Change::Load { function, version } => {
                    let Some(source) = settled.iter().find(|source| source.name == function) else { continue };
                    let new = self.open(source, version, 0);
                    versions.insert((function, new.number), new.clone());
                    changed.opened.push(new);
                }
                Change::Replace { function, version, .. } => {
                    let Some(source) = settled.iter().find(|source| source.name == function) else { continue };
                    // It takes over what the old one has under its load.
                    let old = versions.get(&(function, version.number));
                    let has = old.map_or(0, |old| old.environments_kept());
                    let new = self.open(source, version, has);
                    // The old content serves until the new one is ready, and stays if it never is.
                    if let Some(house) = self.this.upgrade() {
                        self.switching.lock().push(new.clone());
                        self.tasks.spawn(house.switch(new.clone()));
                    }
                    changed.switches.push(new.clone());
                    changed.opened.push(new);
                }
                Change::Unload { function, number } => {
                    if let Some(old) = versions.get(&(function, number)) {
                        old.stop.cancel();
                        if old.supervisors.load(Ordering::Acquire) == 0 {
                            // Nobody else will say so: it never had an environment.
                            old.state.send_replace(VersionState::Unavailable(Cause::Unloaded.because("unloaded")));
                        }
                    }
                }
            }
        }
        let mut functions = BTreeMap::new();
        // A function that is no longer wanted stays in the index, with its reason.
        let gone: Vec<Arc<FunctionSource>> = self
            .functions
            .load()
            .values()
            .filter(|old| !settled.iter().any(|source| source.name == old.name))
            .map(|old| old.source.clone())
            .collect();
        // What was deployed and has ended is in nobody's index.
        let deployed = |name: &FunctionName| settled.iter().any(|f| f.name == *name && f.origin == Origin::Deployed);
        versions.retain(|(name, _), version| !(deployed(name) && version.has_ended()));
        for source in settled.iter().cloned().map(Arc::new).chain(gone) {
            let of = |number: &VersionNumber| versions.get(&(source.name.clone(), *number)).cloned();
            let all = versions.keys().filter(|(name, _)| *name == source.name).map(|(_, number)| *number);
            let versions = all.filter_map(|number| Some((number, of(&number)?))).collect();
            let before = self.functions.load().get(source.name.as_str()).cloned();
            let aliases = before.map(|before| before.aliases.clone()).unwrap_or_default();
            let served = ServedFunction { name: source.name.clone(), source: source.clone(), versions, aliases };
            functions.insert(source.name.as_str().to_owned(), Arc::new(served));
        }
        for version in versions.values() {
            version.shared.store(self.pool(version));
        }
        self.functions.store(Arc::new(functions));
        *control = settled;
        self.changed.send_modify(|count| *count += 1);
        changed
    }

    /// What functions reserve is taken from what the others share.
    fn reserve(&self, wanted: &[FunctionSource]) {
        let of = |version: &VersionSource| version.settings.penstock.reserved_concurrency;
        let each = wanted.iter().flat_map(|function| &function.versions).filter_map(of);
        let each = each.chain(wanted.iter().filter_map(|function| function.reserved_concurrency));
        let (reserved, concurrency) = (each.fold(0u32, u32::saturating_add), self.options.concurrency);
        if reserved >= concurrency {
            tracing::warn!(
                reserved,
                concurrency,
                "functions reserve as much as the whole server may have in flight, or more: those that reserve nothing are \
                 refused; raise limits.concurrency or lower penstock.reserved_concurrency"
            );
        }
        self.unreserved.slots.set_limit(concurrency.saturating_sub(reserved));
        let mut pools = self.reserved.lock();
        pools.retain(|name, _| wanted.iter().any(|function| function.name == *name));
        for function in wanted {
            match function.reserved_concurrency {
                None => drop(pools.remove(&function.name)),
                Some(slots) => {
                    let pool = || Shared::new(slots, Some(function.name.clone()));
                    pools.entry(function.name.clone()).or_insert_with(pool).slots.set_limit(slots);
                }
            }
        }
    }

    /// The slots that a version shares with others; `None` where its own are reserved.
    fn pool(&self, version: &ServedVersion) -> Option<Arc<Shared>> {
        let own = version.source.settings.penstock.reserved_concurrency;
        let reserved = self.reserved.lock().get(&version.function).cloned();
        reserved.or_else(|| own.is_none().then(|| self.unreserved.clone()))
    }

    /// Starts a version's environments: as many as it is to have at least, or `started` if that is more and may be.
    fn open(&self, function: &FunctionSource, version: VersionSource, started: u32) -> Arc<ServedVersion> {
        let specification = (self.options.specify)(function, &version);
        let reserved = version.settings.penstock.reserved_concurrency;
        let concurrency = Concurrency {
            slots: reserved.unwrap_or(self.options.function_concurrency),
            shared: None,
            caller: self.options.caller_concurrency,
            waiting: self.options.waiting,
            patience: self.options.instance_timeout + self.options.load_timeout,
            demanded: self.demanded.clone(),
        };
        let served = Arc::new(ServedVersion::new(function.name.clone(), version, concurrency, self.stop.child_token()));
        served.shared.store(self.pool(&served));
        let specification = match specification {
            Ok(specification) => specification,
            Err(reason) => {
                tracing::warn!(function = %served.function, version = served.number.0, reason, "a version cannot run here");
                self.journals.add(&served.function, served.number, format!("it cannot run here: {reason}"));
                served.state.send_replace(VersionState::Unavailable(Cause::Configuration.because(reason)));
                return served;
            }
        };
        let own = &served.source.settings.penstock;
        let min = own.environments.unwrap_or(self.options.environments);
        let bounds = Bounds { min, max: own.environments_max.unwrap_or(min).max(min) };
        *served.bounds.lock() = bounds;
        // One at least, to see that it can be served, and how long a start takes.
        self.scale(&served, &specification, bounds.min.max(started).max(1).min(bounds.max.max(1)));
        served
    }

    /// Starts or stops environments of a version until there are so many; the youngest go first.
    pub(crate) fn scale(&self, version: &Arc<ServedVersion>, specification: &Specification, environments: u32) {
        let mut stops = version.environment_stops.lock();
        if version.stop.is_cancelled() {
            return;
        }
        if stops.is_empty() && environments > 0 {
            version.starts.lock().since = Some(Instant::now());
        }
        while stops.len() > environments as usize {
            if let Some(stop) = stops.pop() {
                stop.cancel();
            }
        }
        while stops.len() < environments as usize {
            let stop = version.stop.child_token();
            stops.push(stop.clone());
            version.supervisors.fetch_add(1, Ordering::AcqRel);
            let supervisor = Supervisor {
                version: version.clone(),
                specification: specification.clone(),
                launcher: self.options.launcher.clone(),
                load_timeout: self.options.load_timeout,
                drain_timeout: self.options.drain_timeout,
                budget: self.options.budget.clone(),
                devices: self.devices.clone(),
                placement: self.options.placement.clone(),
                tries_elsewhere: 0,
                grant: None,
                leaving: None,
                stop,
                changed: self.changed.clone(),
                journals: self.journals.clone(),
            };
            self.tasks.spawn(supervisor.run());
        }
    }

    /// Serves with what there is until `new` is ready, and tells whether it took its place.
    async fn switch(self: Arc<Self>, new: Arc<ServedVersion>) {
        settled(std::slice::from_ref(&new)).await;
        let mut control = self.control.lock().await;
        let of_version =
            |version: &VersionSource| version.number == new.number && version.revision == new.source.revision;
        let mut wanted = control.iter().filter(|source| source.name == new.function);
        let old = self.functions.load().get(new.function.as_str()).cloned();
        let old = old.and_then(|function| function.versions.get(&new.number).cloned());
        let switched = match new.state() {
            _ if !wanted.any(|source| source.versions.iter().any(of_version)) => {
                tracing::info!(function = %new.function, "new content was unloaded or replaced before it was ready");
                Err(Cause::Unloaded.because("it was unloaded or replaced before it was ready"))
            }
            VersionState::Ready => {
                self.put(new.clone());
                if let Some(old) = old {
                    old.stop.cancel();
                }
                Ok(())
            }
            state => {
                tracing::warn!(function = %new.function, reason = state.reason(), "new content is not served");
                if let Some(old) = old {
                    keep(&mut control, &old);
                }
                Err(match state {
                    VersionState::Unavailable(why) | VersionState::Restarting(why) => why,
                    other => Cause::Load.because(other.reason()),
                })
            }
        };
        if switched.is_err() {
            new.stop.cancel();
        }
        self.switching.lock().retain(|other| !Arc::ptr_eq(other, &new));
        new.switched.send_replace(Some(switched));
        self.changed.send_modify(|count| *count += 1);
    }

    /// Puts one version into the snapshot.
    fn put(&self, version: Arc<ServedVersion>) {
        self.functions.rcu(|functions| {
            let mut functions = BTreeMap::clone(functions);
            if let Some(served) = functions.get(version.function.as_str()) {
                let mut versions = served.versions.clone();
                versions.insert(version.number, version.clone());
                let (source, aliases) = (served.source.clone(), served.aliases.clone());
                let served = ServedFunction { name: served.name.clone(), source, versions, aliases };
                functions.insert(version.function.as_str().to_owned(), Arc::new(served));
            }
            functions
        });
    }
}

/// Makes `control` say that the old content of a deployed version is what is wanted, so that it is not loaded once more. (A
/// repository's files go on saying otherwise: they are not tried again until they change.)
fn keep(control: &mut [FunctionSource], old: &ServedVersion) {
    let function = control.iter_mut().find(|f| f.name == old.function && f.origin == Origin::Deployed);
    let versions = function.into_iter().flat_map(|function| &mut function.versions);
    versions.filter(|version| version.number == old.number).for_each(|version| version.clone_from(&old.source));
}
