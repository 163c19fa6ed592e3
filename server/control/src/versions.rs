//! Operations on versions: publish, list, delete; and how a published version comes up.
//!
//! Called by the front end, and at start for what was not finished. A version that does not come up never disturbs one
//! that serves.

use crate::error::{ControlError, ErrorKind};
use crate::functions::{PAGE_MAX, check_revision};
use crate::names::provider_name;
use crate::plane::{ControlPlane, Writing};
use crate::requests::{Page, Publish};
use crate::sources::{Reach, Unread};
use crate::unreachable::pauses;
use crate::view::{self, Object};
use penstock_dispatch::{Cause, Unavailable};
use penstock_domain::{FunctionName, VersionNumber};
use penstock_registry::store::{Commit, Expect};
use penstock_registry::{Content, Reason, Scaling, Standing, State, UpdateStatus, VersionRecord, keys};
use serde_json::Value;
use std::sync::Weak;

/// Lambda's own: versions of functions on one capacity provider.
const VERSIONS_PER_PROVIDER_MAX: usize = 100;
const LATEST_PUBLISHED: u64 = VersionNumber::LATEST_PUBLISHED.0;

impl ControlPlane {
    /// PublishVersion: a new number, or `$LATEST.PUBLISHED`. What has not changed since the last number is not published
    /// again. Answers at once; the version comes up after.
    pub async fn publish_version(&self, name: &str, request: Publish) -> Result<Object, ControlError> {
        let account = &self.options.account;
        check_publish_to(request.publish_to.as_deref())?;
        let to_latest = request.publish_to.is_some();
        let turn = self.turn().await?;
        let (mut function, revision) = self.own_function(name).await?;
        check_revision(request.revision_id.as_deref(), &function.standing.revision_id)?;
        if function.standing.state != State::ActiveNonInvocable {
            return Err(ControlError::conflict(format!(
                "The operation cannot be performed at this time. The function is currently in the following state: {}",
                function.standing.state.name()
            )));
        }
        let found = &function.latest.code.code_sha256;
        if let Some(given) = request.code_sha256.filter(|given| given != found) {
            return Err(ControlError::invalid(format!(
                "CodeSHA256 ({given}) is different from current CodeSHA256 in $LATEST ({found}). Please try again with the \
                 CodeSHA256 in $LATEST."
            )));
        }
        let mut content = function.latest.clone();
        if let Some(description) = request.description {
            crate::check::check_description(&description)?;
            content.configuration.description = description;
        }
        self.check_architecture(&content.configuration).await?;
        let versions = self.versions(name).await?;
        let number = if to_latest { LATEST_PUBLISHED } else { function.last_number + 1 };
        if !to_latest
            && function.last_number > 0
            && let Some((last, _)) =
                versions.last().filter(|(last, _)| last.number == function.last_number && is_there(last))
            && last.content == content
        {
            return view::of_version(last, account);
        }
        let before = versions.into_iter().find(|(version, _)| version.number == number);
        if before.is_none() {
            self.check_room(&content).await?;
        }
        let fresh = self.fresh_standing(name, &VersionNumber(number).to_string(), &content);
        let (record, before) = match before {
            None => (self.new_version(name, number, content, fresh), None),
            Some((old, revision)) => {
                let arn = account.qualified_arn(name, &VersionNumber(number).to_string());
                (replaced(old, content, fresh, &arn)?, Some(revision))
            }
        };
        let key = keys::version(name, number);
        let mut commit = match before {
            None => Commit::new().create(key, &record)?,
            Some(revision) => Commit::new().replace(key, &record, revision)?,
        };
        if !to_latest {
            function.last_number = number;
            commit = commit.replace(keys::function(name), &function, revision)?;
        }
        turn.commit(commit).await?;
        tracing::info!(function = name, version = %VersionNumber(number), "a version was published");
        if record.standing.state != State::Deactivated {
            self.spawn_bring_up(name.to_owned(), number);
        }
        view::of_version(&record, account)
    }

    fn new_version(&self, name: &str, number: u64, content: Content, standing: Standing) -> VersionRecord {
        VersionRecord {
            function: name.to_owned(),
            number,
            content,
            serving: None,
            standing,
            requested_scaling: Scaling::default(),
            applied_scaling: None,
        }
    }

    async fn check_room(&self, content: &Content) -> Result<(), ControlError> {
        let provider = |content: &Content| {
            let instances =
                &content.configuration.capacity_provider_config.lambda_managed_instances_capacity_provider_config;
            provider_name(&instances.capacity_provider_arn).unwrap_or_default().to_owned()
        };
        let (own, versions) = (provider(content), self.read_all::<VersionRecord>(keys::VERSIONS).await?);
        if versions.iter().filter(|(version, _)| provider(&version.content) == own).count() < VERSIONS_PER_PROVIDER_MAX
        {
            return Ok(());
        }
        let text = format!(
            "Capacity provider {own} has {VERSIONS_PER_PROVIDER_MAX} function versions, the most: delete versions that are not \
             needed, or use another provider."
        );
        Err(ControlError::new(ErrorKind::FunctionVersionsPerCapacityProviderLimitExceeded, text))
    }

    /// ListVersionsByFunction: `$LATEST` first, then by number.
    pub async fn list_versions(&self, name: &str, page: &Page) -> Result<Value, ControlError> {
        let account = &self.options.account;
        let mut all: Vec<(String, Value)> = Vec::new();
        if self.house.is_of_repository(name) {
            for (key, told) in self.repository_versions(name)? {
                all.push((key, view::in_list(told)));
            }
        } else {
            let (function, _) = self.function(name).await?;
            all.push(("$LATEST".into(), view::in_list(view::of_function(&function, account, true)?)));
            for (version, _) in self.versions(name).await?.into_iter().filter(|(version, _)| is_there(version)) {
                all.push((format!("{:020}", version.number), view::in_list(view::of_version(&version, account)?)));
            }
        }
        let (items, next) = view::page(all, |(key, _)| key.clone(), page, PAGE_MAX);
        Ok(view::listed("Versions", items.into_iter().map(|(_, told)| told).collect(), next))
    }

    /// Deletes one version that no alias leads to.
    pub(crate) async fn delete_version(&self, name: &str, number: VersionNumber) -> Result<(), ControlError> {
        {
            let turn = self.turn().await?;
            let text = number.to_string();
            let Some((mut version, revision)) = self.version(name, number.0).await? else { return Ok(()) };
            let aliases = self.aliases(name).await?;
            let leads = |version: &str, extra: &Option<(String, f64)>| {
                version == text || extra.as_ref().is_some_and(|(extra, _)| *extra == text)
            };
            if let Some((alias, _)) = aliases.iter().find(|(alias, _)| leads(&alias.version, &alias.extra)) {
                return Err(ControlError::conflict(format!(
                    "Version {text} of function {name} cannot be deleted: alias '{}' points to it.",
                    alias.name
                )));
            }
            version.standing.state = State::Deleting;
            let key = keys::version(name, number.0);
            turn.commit(Commit::new().replace(key, &version, revision)?).await?;
        }
        // It takes nothing new when this is answered; what it has may take its time.
        drop(self.serve_function(name, Reach::Disk).await?);
        // Of a state that is shared, whoever leads does the rest.
        let Some(plane) = self.this.upgrade().filter(|_| !self.is_shared()) else { return Ok(()) };
        let name = name.to_owned();
        tokio::spawn(async move {
            if let Err(error) = plane.finish_version_deletion(&name, number).await {
                tracing::error!(function = name, version = %number, %error, "a version could not be deleted; it is tried again at the next start");
            }
            plane.spawn_clean_up();
        });
        Ok(())
    }

    /// Forgets a version that is being deleted, once its processes are gone.
    pub(crate) async fn finish_version_deletion(&self, name: &str, number: VersionNumber) -> Result<(), ControlError> {
        if let Ok(function) = FunctionName::new(name) {
            self.house.ended(&function, number).await;
        }
        let turn = self.turn().await?;
        match self.version(name, number.0).await? {
            Some((version, revision)) if version.standing.state == State::Deleting => {
                let key = keys::version(name, number.0);
                let commit = Commit::new().expect(key.clone(), Expect::Revision(revision)).delete(key);
                turn.commit(commit).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Brings a version up, in the background; one whose package cannot be fetched is tried until it can.
    pub(crate) fn spawn_bring_up(&self, name: String, number: u64) {
        if self.is_shared() {
            // Whoever leads does it.
            return;
        }
        let weak = self.this.clone();
        tokio::spawn(bring_up_until_settled(weak, name, number));
    }

    /// Starts the version's environments and writes down whether they came up.
    pub(crate) async fn bring_up(&self, name: &str, number: u64) -> Result<BroughtUp, ControlError> {
        let attempt = self.version(name, number).await?.map(|(version, _)| version);
        let Some(attempt) = attempt.filter(is_coming_up) else { return Ok(BroughtUp::Settled) };
        let outcome = match self.version_source(&attempt.content, VersionNumber(number), Reach::Anywhere).await {
            // It has been read.
            Ok(_) => match self.serve_function(name, Reach::Disk).await {
                Ok(deployment) => deployment.ready(VersionNumber(number)).await,
                Err(error) => Err(Unavailable { cause: Cause::Configuration, reason: error.message }),
            },
            Err(Unread { reason, may_pass: true, .. }) => {
                tracing::warn!(function = name, version = %VersionNumber(number), reason, "a version's package is asked for again");
                if let Err(error) = self.note_wait(&attempt, &reason).await {
                    tracing::error!(function = name, version = %VersionNumber(number), %error, "what a version waits for is not told");
                }
                return Ok(BroughtUp::Waits);
            }
            Err(Unread { reason, .. }) => Err(Unavailable { cause: Cause::Configuration, reason }),
        };
        if matches!(&outcome, Err(Unavailable { cause: Cause::Unloaded, .. })) {
            // The server ends, or somebody else took it down: nothing is known of this content.
            return Ok(BroughtUp::Settled);
        }
        let failed = {
            let turn = self.turn().await?;
            let Some((mut version, revision)) = self.version(name, number).await? else {
                return Ok(BroughtUp::Settled);
            };
            if !is_coming_up(&version) || version.standing.revision_id != attempt.standing.revision_id {
                // Deleted, put to rest or published again meanwhile: then it is another's to write down.
                return Ok(BroughtUp::Settled);
            }
            let failed = outcome.is_err();
            settle(&mut version, outcome.map_err(|why| self.reason_of(why, &attempt.content)));
            let key = keys::version(name, number);
            turn.commit(Commit::new().replace(key, &version, revision)?).await?;
            failed
        };
        self.spawn_clean_up();
        match failed {
            // Out of the house, so that nothing tries again what was told to have failed.
            true => drop(self.serve_function(name, Reach::Disk).await?),
            // It may have been set while it loaded.
            false => self.apply_scaling(name, number).await?,
        }
        Ok(BroughtUp::Settled)
    }

    /// Why content did not come up, as clients are told: without where it lies.
    fn reason_of(&self, why: Unavailable, content: &Content) -> Reason {
        let folder = self.verified.lock().get(&content.code.manifest_sha256).map(|folder| folder.display().to_string());
        let text = match folder {
            Some(folder) => why.reason.replace(&format!("{folder}/"), "").replace(&folder, "the package"),
            None => why.reason,
        };
        let code = match why.cause {
            Cause::Configuration if content.configuration.accelerator_config.is_some() => Cause::NoDevice,
            cause => cause,
        };
        Reason::new(reason_code(code), text)
    }
}

/// Brings a version up; one whose package cannot be fetched is tried until it can.
pub(crate) async fn bring_up_until_settled(weak: Weak<ControlPlane>, name: String, number: u64) {
    for pause in pauses() {
        let Some(plane) = weak.upgrade() else { return };
        match plane.bring_up(&name, number).await {
            Ok(BroughtUp::Settled) => return,
            Ok(BroughtUp::Waits) => {}
            Err(error) => {
                tracing::error!(function = name, version = %VersionNumber(number), %error, "bringing a version up");
                return;
            }
        }
        drop(plane);
        tokio::time::sleep(pause).await;
    }
}

/// How far a version has come.
#[must_use]
pub(crate) enum BroughtUp {
    /// It is written down whether it came up, or that is another's to do.
    Settled,
    /// Its package cannot be fetched now.
    Waits,
}

/// Where a version may be published to.
pub(crate) fn check_publish_to(given: Option<&str>) -> Result<(), ControlError> {
    match given {
        None | Some("LATEST_PUBLISHED") => Ok(()),
        Some(other) => {
            let constraint = "Member must satisfy enum value set: [LATEST_PUBLISHED]";
            Err(ControlError::validation(other, "publishTo", constraint))
        }
    }
}

/// `$LATEST.PUBLISHED` with new content: what serves goes on until the new does.
fn replaced(
    mut old: VersionRecord,
    content: Content,
    fresh: Standing,
    arn: &str,
) -> Result<VersionRecord, ControlError> {
    match old.standing.state {
        State::Deleting | State::Deactivating => {
            return Err(ControlError::conflict(format!(
                "The operation cannot be performed at this time. The function is currently in the following state: {}",
                old.standing.state.name()
            )));
        }
        _ if old.standing.update == Some(UpdateStatus::InProgress) => {
            let text = "The operation cannot be performed at this time. An update is in progress for resource: ";
            return Err(ControlError::conflict(format!("{text}{arn}")));
        }
        State::Active => {
            old.serving = Some(std::mem::replace(&mut old.content, content));
            old.standing.update = Some(UpdateStatus::InProgress);
            old.standing.update_reason = Some(Reason::creating());
        }
        // It stays at rest until its scaling says otherwise.
        State::Deactivated => {
            old.content = content;
            old.standing.update = Some(UpdateStatus::Successful);
        }
        _ => {
            old.content = content;
            old.standing.state = State::Pending;
            old.standing.reason = Some(Reason::creating());
            old.standing.update = None;
        }
    }
    old.standing.last_modified = fresh.last_modified;
    old.standing.revision_id = fresh.revision_id;
    Ok(old)
}

/// Writes down how a version came up.
fn settle(version: &mut VersionRecord, outcome: Result<(), Reason>) {
    let was_serving = version.serving.take();
    let standing = &mut version.standing;
    match outcome {
        Ok(()) => {
            if standing.state.may_become(State::Active) {
                standing.state = State::Active;
            }
            standing.reason = None;
            standing.update = Some(UpdateStatus::Successful);
            standing.update_reason = None;
            version.applied_scaling = Some(version.requested_scaling);
        }
        Err(reason) => {
            standing.update = Some(UpdateStatus::Failed);
            standing.update_reason = Some(reason.clone());
            match was_serving {
                // What served goes on.
                Some(serving) => version.content = serving,
                None => {
                    standing.state = State::Failed;
                    standing.reason = Some(reason);
                }
            }
        }
    }
}

/// Lambda's code for a reason of the house.
fn reason_code(cause: Cause) -> &'static str {
    match cause {
        Cause::Configuration => "InvalidConfiguration",
        Cause::Load => "FunctionError.RuntimeInitError",
        Cause::LoadTimeout => "FunctionError.InitTimeout",
        Cause::Ended => "FunctionError.InitResourceExhausted",
        Cause::NoRoom => "InsufficientCapacity",
        Cause::NoDevice => "IncompatibleAcceleratorInstanceTypes",
        Cause::Unloaded => "InternalError",
    }
}

/// It is being brought up, beside what serves of it or alone.
pub(crate) fn is_coming_up(version: &VersionRecord) -> bool {
    match version.standing.state {
        State::Pending => true,
        State::Active => version.standing.update == Some(UpdateStatus::InProgress),
        _ => false,
    }
}

/// One that is on its way out is gone for those who look.
pub(crate) fn is_there(version: &VersionRecord) -> bool {
    version.standing.state != State::Deleting
}
