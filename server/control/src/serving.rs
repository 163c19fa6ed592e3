//! From records to what the house serves: which versions, with how many environments, and where aliases lead.
//!
//! Called whenever what is to be served has changed, and at start. Never inside a request.

use crate::error::{ControlError, ErrorKind};
use crate::plane::ControlPlane;
use crate::sources::{Reach, Unread};
use crate::versions::{BroughtUp, is_coming_up};
use penstock_dispatch::{Bounds, Deployment};
use penstock_domain::{FunctionName, VersionNumber};
use penstock_registry::{Configuration, Content, FunctionRecord, Scaling, State, VersionRecord, keys};
use penstock_repository::{FunctionSource, Origin, UnavailableVersion, VersionSource};
use penstock_router::Route;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

impl ControlPlane {
    /// Begins to serve what the store holds: called once, before model repositories are read, so that a name that was deployed
    /// stays what it is. Nothing that is wrong with one function keeps the others from being served.
    pub async fn restore(&self) -> Result<Restored, ControlError> {
        let mut restored = Restored::default();
        self.tell_leadership();
        self.restore_providers().await?;
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            let name = function.name.clone();
            if let Err(error) = self.restore_function(function, &mut restored).await {
                tracing::error!(function = name, %error, "a function was not restored as it was");
            }
        }
        self.clean_up_later();
        self.follow_others();
        Ok(restored)
    }

    async fn restore_function(&self, function: FunctionRecord, restored: &mut Restored) -> Result<(), ControlError> {
        let name = function.name;
        if function.standing.state == State::Deleting {
            return if self.is_shared() { Ok(()) } else { self.finish_deletion(&name).await };
        }
        // What served goes on; what was to take its place is brought up after.
        let serving: ContentOf = |version| version.serving.as_ref().unwrap_or(&version.content);
        let deployment = self.serve_content(&name, serving, Reach::Disk).await;
        // What was not finished is begun by whoever leads, where several share the state.
        let versions = if self.is_shared() { Vec::new() } else { self.versions(&name).await? };
        for (version, _) in versions {
            let number = version.number;
            match version.standing.state {
                State::Deleting => self.finish_version_deletion(&name, VersionNumber(number)).await?,
                State::Deactivating => self.finish_deactivation(&name, number).await?,
                _ if is_coming_up(&version) => {
                    let is_on_disk = self.is_on_disk(&version.content).await;
                    restored.coming_up.push(ComingUp { function: name.clone(), number, is_on_disk });
                }
                _ => {}
            }
        }
        restored.deployments.push(deployment?);
        Ok(())
    }

    /// Waits until each restored version is ready or known not to be, and brings up what had not come up. What is not on disk
    /// is fetched; if the storage is away, that is left to later.
    pub async fn restored(&self, restored: Restored) -> Result<(), ControlError> {
        for deployment in restored.deployments {
            deployment.all_settled().await;
        }
        for deployment in self.fetch_unread().await? {
            deployment.all_settled().await;
        }
        self.follow_unreachable();
        for coming in restored.coming_up {
            match coming.is_on_disk {
                true => match self.bring_up(&coming.function, coming.number).await {
                    Ok(BroughtUp::Settled) => {}
                    Ok(BroughtUp::Waits) => self.spawn_bring_up(coming.function, coming.number),
                    Err(error) => {
                        let (function, version) = (coming.function, VersionNumber(coming.number));
                        tracing::error!(function, %version, %error, "bringing a version up");
                    }
                },
                // It may take long to fetch, and nobody waits for it to serve the others.
                false => self.spawn_bring_up(coming.function, coming.number),
            }
        }
        Ok(())
    }

    /// Tells the house what is to be served of a function now, and where its aliases lead. Where it waits for nothing but that
    /// something is taken down, no further than the disk: what serves has been read.
    pub(crate) async fn serve_function(&self, name: &str, reach: Reach) -> Result<Deployment, ControlError> {
        self.serve_content(name, |version| &version.content, reach).await
    }

    async fn serve_content(&self, name: &str, content_of: ContentOf, reach: Reach) -> Result<Deployment, ControlError> {
        let function_name = FunctionName::new(name).map_err(|error| ControlError::invalid(error.to_string()))?;
        loop {
            // Before the lock, behind which all changes wait: storage may be slow, or not answer.
            let mut read = self.read_versions(name, content_of, reach).await?;
            let _serving = self.serving.lock().await;
            let function = self.read::<FunctionRecord>(&keys::function(name)).await?;
            let Some((function, _)) = function.filter(|(function, _)| function.standing.state != State::Deleting)
            else {
                return Ok(Deployment::default());
            };
            let versions = self.versions_to_serve(name).await?;
            let is_read = |version: &VersionRecord| {
                read.iter().any(|read| read.number == version.number && read.content == *content_of(version))
            };
            let has_come = |read: &Read| read.lacked.iter().any(|content| self.is_verified(content));
            if !versions.iter().all(is_read) || read.iter().any(has_come) {
                // Somebody published meanwhile, or had a package fetched or sent: it may serve already.
                continue;
            }
            read.retain(|read| versions.iter().any(|version| version.number == read.number));
            let bounds = |number: u64| {
                let version = versions.iter().find(|version| version.number == number)?;
                Some(self.bounds(version, &content_of(version).configuration))
            };
            let has_served = |number: u64| {
                let version = versions.iter().find(|version| version.number == number);
                version.is_some_and(|version| {
                    let is_served = version.serving.as_ref().is_some_and(|serving| serving == content_of(version));
                    version.standing.state == State::Active && (is_served || !is_coming_up(version))
                })
            };
            let waits = read.iter().any(|read| read.waits);
            let source = function_source(&function_name, &function, (bounds, has_served), read);
            let deployment = self.house.deploy(source).await?;
            if waits {
                // Whoever was asked to see to it may have done so before this.
                self.unreachable.store(true, Ordering::Release);
            }
            self.house.set_aliases(&function_name, self.routes(name).await?).await;
            return Ok(deployment);
        }
    }

    pub(crate) async fn versions_to_serve(&self, name: &str) -> Result<Vec<VersionRecord>, ControlError> {
        let all = self.versions(name).await?.into_iter().map(|(version, _)| version);
        Ok(all.filter(|version| matches!(version.standing.state, State::Pending | State::Active)).collect())
    }

    /// Reads what is to be served of a function. Content that cannot be read leaves its place to that which serves.
    async fn read_versions(
        &self,
        name: &str,
        content_of: ContentOf,
        mut reach: Reach,
    ) -> Result<Vec<Read>, ControlError> {
        let mut all = Vec::new();
        for version in self.versions_to_serve(name).await? {
            let (content, number) = (content_of(&version).clone(), VersionNumber(version.number));
            let mut source = self.version_source(&content, number, reach).await;
            let (mut waits, mut lacked) = (false, Vec::new());
            let mut note = |unread: &Unread, content: &Content| {
                waits |= unread.may_pass;
                lacked.extend(unread.lacks_package.then(|| content.clone()));
            };
            if let Err(unread) = &source {
                note(unread, &content);
                if unread.is_late {
                    // It would be for the next, too.
                    reach = Reach::Disk;
                }
                // One that cannot be read does not take the others with it: `bring_up` finds it missing.
                tracing::error!(function = name, version = %number, reason = unread.reason, "a version cannot be read");
                if let Some(serving) = version.serving.filter(|serving| *serving != content) {
                    source = self.version_source(&serving, number, reach).await;
                    if let Err(unread) = &source {
                        note(unread, &serving);
                    }
                }
            }
            all.push(Read { number: number.0, content, waits, lacked, source });
        }
        Ok(all)
    }

    /// Where the aliases of a function lead.
    async fn routes(&self, name: &str) -> Result<BTreeMap<String, Route>, ControlError> {
        let route = |version: &str, extra: Option<&(String, f64)>| {
            let extra = extra.and_then(|(version, share)| Some((VersionNumber::parse(version)?, *share)));
            Some(Route { main: VersionNumber::parse(version)?, extra })
        };
        let aliases = self.aliases(name).await?;
        Ok(aliases
            .into_iter()
            .filter_map(|(alias, _)| Some((alias.name, route(&alias.version, alias.extra.as_ref())?)))
            .collect())
    }

    /// Tells the house where the aliases of a function lead now.
    pub(crate) async fn lead(&self, name: &str) -> Result<(), ControlError> {
        let _serving = self.serving.lock().await;
        let function = FunctionName::new(name).map_err(|error| ControlError::invalid(error.to_string()))?;
        self.house.set_aliases(&function, self.routes(name).await?).await;
        Ok(())
    }

    /// How many environments a version may have.
    fn bounds(&self, version: &VersionRecord, configuration: &Configuration) -> Bounds {
        let Scaling { min_execution_environments: min, max_execution_environments: max } = version.requested_scaling;
        let (usual, most) = self.room_of(configuration);
        Bounds { min, max: max.unwrap_or(usual).min(most).max(min) }
    }

    /// [`ControlPlane::apply_scaling`] of a version that may not be served here, for instance because its package is not.
    pub(crate) async fn scale_if_served(&self, version: &VersionRecord) -> Result<(), ControlError> {
        if version.standing.state != State::Active {
            return Ok(());
        }
        match self.apply_scaling(&version.function, version.number).await {
            Err(error) if error.kind == ErrorKind::ResourceNotFound => Ok(()),
            applied => applied,
        }
    }

    /// Has the house keep as many environments of a version as its record asks for, if it serves.
    pub(crate) async fn apply_scaling(&self, name: &str, number: u64) -> Result<(), ControlError> {
        let _serving = self.serving.lock().await;
        let function = FunctionName::new(name).map_err(|error| ControlError::invalid(error.to_string()))?;
        match self.version(name, number).await? {
            Some((version, _)) if version.standing.state == State::Active => {
                let bounds = self.bounds(&version, &version.content.configuration);
                Ok(self.house.set_bounds(&function, VersionNumber(number), bounds).await?)
            }
            _ => Ok(()),
        }
    }
}

/// What was restored and has not settled yet.
#[derive(Default)]
pub struct Restored {
    deployments: Vec<Deployment>,
    coming_up: Vec<ComingUp>,
}

/// A version that had not come up when the server ended.
struct ComingUp {
    function: String,
    number: u64,
    is_on_disk: bool,
}

/// Which content of a version is to serve.
type ContentOf = fn(&VersionRecord) -> &Content;

/// A version whose content has been read, or could not be.
struct Read {
    number: u64,
    content: Content,
    /// It could not be, and may be later.
    waits: bool,
    /// Those whose package could not be had, of this content and of that which serves in its place.
    lacked: Vec<Content>,
    /// Of this content, or of that which serves in its place.
    source: Result<VersionSource, Unread>,
}

/// A function as the house takes it.
fn function_source(
    name: &FunctionName,
    function: &FunctionRecord,
    (bounds, has_served): (impl Fn(u64) -> Option<Bounds>, impl Fn(u64) -> bool),
    read: Vec<Read>,
) -> FunctionSource {
    let mut source = FunctionSource {
        name: name.clone(),
        origin: Origin::Deployed,
        reserved_concurrency: function.reserved_concurrency,
        directory: PathBuf::new(),
        config: Arc::default(),
        versions: Vec::new(),
        unavailable_versions: Vec::new(),
        unavailable: None,
    };
    for read in read {
        match read.source {
            Ok(mut version) => {
                let bounds = bounds(read.number);
                let settings = Arc::make_mut(&mut version.settings);
                settings.has_served = has_served(read.number);
                let own = &mut settings.penstock;
                (own.environments, own.environments_max) = (bounds.map(|b| b.min), bounds.map(|b| b.max));
                source.config = version.config.clone().unwrap_or(source.config);
                source.versions.push(version);
            }
            Err(Unread { reason, .. }) => {
                let number = VersionNumber(read.number);
                source.unavailable_versions.push(UnavailableVersion { number, reason });
            }
        }
    }
    source
}
