//! Operations on functions: create, look up, update, list, delete.
//!
//! Called by the front end. What serves is changed by `versions` and `serving` alone: `$LATEST` never does.

use crate::check::{architecture, changed_configuration, new_configuration};
use crate::error::{ControlError, ErrorKind};
use crate::names::{FunctionRef, Which, check_new_name, provider_name};
use crate::plane::{ControlPlane, Known, Writing, revision_id};
use crate::providers::is_to_stay;
use crate::requests::{CreateFunction, Page, Publish, UpdateCode, UpdateConfiguration};
use crate::versions::{check_publish_to, is_there};
use crate::view::{self, Object};
use penstock_domain::{FunctionName, Qualifier, VersionNumber};
use penstock_registry::store::Commit;
use penstock_registry::{
    Configuration, Content, FunctionRecord, ProviderRecord, Reason, Standing, State, UpdateStatus, keys,
};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most entries of one page of functions, versions or aliases.
pub(crate) const PAGE_MAX: usize = 50;

impl ControlPlane {
    /// CreateFunction: `FunctionConfiguration` of `$LATEST`, or of the version where one was published at once.
    pub async fn create_function(&self, request: CreateFunction) -> Result<Object, ControlError> {
        let name = FunctionRef::parse(&request.function_name, None, self.account())?.unqualified()?;
        check_new_name(&name)?;
        package_type(request.package_type.as_deref())?;
        check_publish_to(request.publish_to.as_deref())?;
        if request.code_signing_config_arn.is_some() {
            return Err(ControlError::invalid("Not supported here: CodeSigningConfigArn."));
        }
        let tags = request.tags.unwrap_or_default();
        crate::tags::check(&tags)?;
        let configuration = new_configuration(request.settings, &name, request.architectures, &self.options.account)?;
        self.check_provider(&configuration).await?;
        self.check_architecture(&configuration).await?;
        self.check_free(&name).await?;
        let (code, _package) = self.take_code(request.code, &configuration).await?;

        let latest = Content { configuration, code };
        let record = {
            let turn = self.turn().await?;
            self.check_free(&name).await?;
            // It may have gone while the package was read.
            self.check_provider(&latest.configuration).await?;
            let standing = Standing {
                state: State::ActiveNonInvocable,
                reason: None,
                update: Some(UpdateStatus::Successful),
                update_reason: None,
                ..self.fresh_standing(&name, "$LATEST", &latest)
            };
            let record = FunctionRecord {
                name: name.clone(),
                latest,
                standing,
                last_number: 0,
                tags,
                reserved_concurrency: None,
                event_invoke: BTreeMap::new(),
            };
            turn.commit(Commit::new().create(keys::function(&name), &record)?).await?;
            record
        };
        tracing::info!(function = name, "a function was created");
        if request.publish || request.publish_to.is_some() {
            let publish = Publish { publish_to: request.publish_to, ..Publish::default() };
            return self.publish_version(&name, publish).await;
        }
        // It is complete before this answer is read; clients expect to see it being made.
        let mut told = record.clone();
        told.standing =
            Standing { state: State::Pending, reason: Some(Reason::creating()), update: None, ..told.standing };
        view::of_function(&told, &self.options.account, false)
    }

    /// GetFunctionConfiguration.
    pub async fn get_configuration(&self, named: &FunctionRef) -> Result<Object, ControlError> {
        let account = &self.options.account;
        if self.house.is_of_repository(&named.name) {
            return self.repository_view(named);
        }
        let (function, _) = self.function(&named.name).await.map_err(|error| match error.kind {
            ErrorKind::ResourceNotFound => self.function_not_found(&named.name, named.qualifier.as_deref()),
            _ => error,
        })?;
        let Some(qualifier) = &named.qualifier else { return view::of_function(&function, account, false) };
        let not_found = || self.function_not_found(&named.name, Some(qualifier));
        let number = match crate::names::which(qualifier) {
            Which::Latest => return view::of_function(&function, account, true),
            Which::Published(Qualifier::Version(number)) => number,
            Which::Published(_) => {
                let alias = self.alias(&named.name, qualifier).await?.ok_or_else(not_found)?.0;
                let version = VersionNumber::parse(&alias.version).ok_or_else(not_found)?;
                let version = self.version(&named.name, version.0).await?.map(|(version, _)| version).filter(is_there);
                let version = version.ok_or_else(not_found)?;
                let mut told = view::of_version(&version, account)?;
                told.insert("FunctionArn".into(), account.qualified_arn(&named.name, qualifier).into());
                return Ok(told);
            }
        };
        let version = self.version(&named.name, number.0).await?.map(|(version, _)| version).filter(is_there);
        let version = version.ok_or_else(not_found)?;
        view::of_version(&version, account)
    }

    /// GetFunction; `location` says where the package can be had.
    pub async fn get_function(&self, named: &FunctionRef, location: &str) -> Result<Value, ControlError> {
        let configuration = self.get_configuration(named).await?;
        let mut told = json!({
            "Configuration": configuration,
            "Code": { "RepositoryType": "S3", "Location": location },
        });
        if let Some((function, _)) = self.read::<FunctionRecord>(&keys::function(&named.name)).await? {
            if !function.tags.is_empty() {
                told["Tags"] = json!(function.tags);
            }
            if let Some(reserved) = function.reserved_concurrency {
                told["Concurrency"] = json!({ "ReservedConcurrentExecutions": reserved });
            }
        }
        Ok(told)
    }

    /// ListFunctions: of each its `$LATEST`, or all its versions too.
    pub async fn list_functions(&self, page: &Page, all_versions: bool) -> Result<Value, ControlError> {
        let account = &self.options.account;
        let mut all: BTreeMap<String, Object> = BTreeMap::new();
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            if all_versions {
                for (version, _) in self.versions(&function.name).await?.into_iter().filter(|(v, _)| is_there(v)) {
                    let key = format!("{}:{:020}", function.name, version.number);
                    all.insert(key, view::of_version(&version, account)?);
                }
            }
            all.insert(function.name.clone(), view::of_function(&function, account, all_versions)?);
        }
        for served in self.house.functions().values().filter(|served| self.house.is_of_repository(served.name.as_str()))
        {
            let named = FunctionRef { name: served.name.to_string(), qualifier: None };
            all.entry(named.name.clone()).or_insert(self.repository_view(&named)?);
        }
        let (items, next) = view::page(all.into_iter().collect(), |(key, _)| key.clone(), page, PAGE_MAX);
        Ok(view::listed("Functions", items.into_iter().map(|(_, told)| view::in_list(told)).collect(), next))
    }

    /// UpdateFunctionCode.
    pub async fn update_code(&self, name: &str, request: UpdateCode) -> Result<Object, ControlError> {
        check_publish_to(request.publish_to.as_deref())?;
        let (function, _) = self.own_function(name).await?;
        if request.code.image_uri.is_some() {
            return Err(ControlError::invalid("ImageUri is not supported here: functions are packages of type Zip."));
        }
        let architectures = architecture(request.architectures)?;
        if request.publish || request.publish_to.is_some() || request.dry_run {
            // What would not be published is not changed either.
            let mut configuration = function.latest.configuration.clone();
            configuration.architectures = architectures.clone().unwrap_or(configuration.architectures);
            self.check_architecture(&configuration).await?;
        }
        let (code, _package) = self.take_code(request.code, &function.latest.configuration).await?;
        let dry_run = request.dry_run;
        let update = |function: &mut FunctionRecord| {
            function.latest.code = code;
            if let Some(architectures) = architectures {
                function.latest.configuration.architectures = architectures;
            }
            Ok(())
        };
        let function = self.update(name, request.revision_id.as_deref(), dry_run, update).await?;
        // What was there before may be nobody's now.
        self.spawn_clean_up();
        if (request.publish || request.publish_to.is_some()) && !dry_run {
            // This update, not one that came between.
            let revision_id = Some(function.standing.revision_id);
            return self
                .publish_version(name, Publish { publish_to: request.publish_to, revision_id, ..Publish::default() })
                .await;
        }
        view::of_function(&function, &self.options.account, false)
    }

    /// UpdateFunctionConfiguration.
    pub async fn update_configuration(&self, name: &str, request: UpdateConfiguration) -> Result<Object, ControlError> {
        let update = |function: &mut FunctionRecord| {
            function.latest.configuration =
                changed_configuration(request.settings, function.latest.configuration.clone())?;
            Ok(())
        };
        let function = self.update(name, request.revision_id.as_deref(), false, update).await?;
        view::of_function(&function, &self.options.account, false)
    }

    /// DeleteFunction: the whole function, or one version. Its environments end after the answer.
    pub async fn delete_function(&self, named: &FunctionRef) -> Result<(), ControlError> {
        self.own_function(&named.name).await?;
        match named.which() {
            None => {
                let turn = self.turn().await?;
                let (mut function, revision) = self.own_function(&named.name).await?;
                if function.standing.state == State::Deleting {
                    return Ok(());
                }
                function.standing.state = State::Deleting;
                let key = keys::function(&named.name);
                turn.commit(Commit::new().replace(key, &function, revision)?).await?;
            }
            Some(Which::Latest) => {
                let text = "$LATEST version cannot be deleted without deleting the function.";
                return Err(ControlError::invalid(text));
            }
            Some(Which::Published(Qualifier::Version(number))) => {
                return self.delete_version(&named.name, number).await;
            }
            Some(Which::Published(_)) => {
                return Err(ControlError::invalid(
                    "An alias is deleted with DeleteAlias; here a version's number is right.",
                ));
            }
        }
        self.spawn_deletion(named.name.clone());
        Ok(())
    }

    /// Serves a function no more, unless somebody has made it anew; ends when its processes have.
    pub(crate) async fn take_down(&self, name: &str) -> Result<(), ControlError> {
        let function = FunctionName::new(name).map_err(|error| ControlError::invalid(error.to_string()))?;
        let leaving = {
            // Not between somebody's reading of what is to be served and the telling.
            let _serving = self.serving.lock().await;
            let known = self.read::<FunctionRecord>(&keys::function(name)).await?;
            if known.is_some_and(|(function, _)| function.standing.state != State::Deleting) {
                return Ok(());
            }
            self.house.withdraw(&function).await
        };
        leaving.ended().await;
        self.house.forget(&function).await;
        Ok(())
    }

    /// Ends a function that is being deleted: its environments, then its records, then what only it had.
    pub(crate) async fn finish_deletion(&self, name: &str) -> Result<(), ControlError> {
        self.take_down(name).await?;
        let turn = self.turn().await?;
        // Another server may have led meanwhile, and somebody may have made it anew.
        let function = self.read::<FunctionRecord>(&keys::function(name)).await?;
        if function.is_none_or(|(function, _)| function.standing.state != State::Deleting) {
            return Ok(());
        }
        self.forget_events(&turn, name).await?;
        let mut gone: Vec<String> = Vec::new();
        gone.extend(self.versions(name).await?.iter().map(|(version, _)| keys::version(name, version.number)));
        gone.extend(self.aliases(name).await?.iter().map(|(alias, _)| keys::alias(name, &alias.name)));
        // The function goes last: until then it is known to be on its way out.
        for some in gone.chunks(100) {
            turn.commit(some.iter().fold(Commit::new(), |commit, key| commit.delete(key))).await?;
        }
        turn.commit(Commit::new().delete(keys::function(name))).await?;
        tracing::info!(function = name, "a function was deleted");
        Ok(())
    }

    fn spawn_deletion(&self, name: String) {
        if self.is_shared() {
            // Whoever leads does it.
            return;
        }
        let Some(plane) = self.this.upgrade() else { return };
        tokio::spawn(async move {
            if let Err(error) = plane.finish_deletion(&name).await {
                tracing::error!(function = name, %error, "a function could not be deleted; it is tried again at the next start");
            }
            plane.spawn_clean_up();
        });
    }

    async fn check_free(&self, name: &str) -> Result<(), ControlError> {
        let known = self.read::<FunctionRecord>(&keys::function(name)).await?.is_some();
        match known || self.house.is_of_repository(name) {
            true => Err(ControlError::conflict(format!("Function already exist: {name}"))),
            false => Ok(()),
        }
    }

    /// The provider that a configuration names must be there, and stay.
    async fn check_provider(&self, configuration: &Configuration) -> Result<(), ControlError> {
        let instances = &configuration.capacity_provider_config.lambda_managed_instances_capacity_provider_config;
        let (provider, _) = self.provider(provider_name(&instances.capacity_provider_arn)?).await?;
        is_to_stay(&provider)
    }

    /// It must have instances of the configuration's architecture. Not asked of an update of `$LATEST`, which runs nowhere: provider
    /// and architecture are changed by two of them.
    pub(crate) async fn check_architecture(&self, configuration: &Configuration) -> Result<(), ControlError> {
        let instances = &configuration.capacity_provider_config.lambda_managed_instances_capacity_provider_config;
        let (provider, _) = self.provider(provider_name(&instances.capacity_provider_arn)?).await?;
        has_architecture(&provider, &configuration.architectures)
    }

    pub(crate) fn fresh_standing(&self, name: &str, version: &str, content: &Content) -> Standing {
        let now = self.now_text();
        let said = serde_json::to_string(content).unwrap_or_default();
        Standing {
            state: State::Pending,
            reason: Some(Reason::creating()),
            update: None,
            update_reason: None,
            revision_id: revision_id(&[name, version, &now, &said]),
            last_modified: now,
        }
    }

    /// Changes `$LATEST`.
    async fn update(
        &self,
        name: &str,
        revision_id_expected: Option<&str>,
        dry_run: bool,
        change: impl FnOnce(&mut FunctionRecord) -> Result<(), ControlError>,
    ) -> Result<FunctionRecord, ControlError> {
        let turn = self.turn().await?;
        let (mut function, revision): Known<FunctionRecord> = self.own_function(name).await?;
        check_revision(revision_id_expected, &function.standing.revision_id)?;
        if function.standing.state == State::Deleting {
            return Err(ControlError::conflict(format!(
                "The operation cannot be performed at this time. The function is currently in the following state: {}",
                function.standing.state.name()
            )));
        }
        change(&mut function)?;
        self.check_provider(&function.latest.configuration).await?;
        let fresh = self.fresh_standing(name, "$LATEST", &function.latest);
        function.standing.last_modified = fresh.last_modified;
        function.standing.revision_id = fresh.revision_id;
        if !dry_run {
            turn.commit(Commit::new().replace(keys::function(name), &function, revision)?).await?;
        }
        Ok(function)
    }
}

/// What a provider's instances may be, if it says that. Errors: none of these.
fn has_architecture(provider: &ProviderRecord, wanted: &[String]) -> Result<(), ControlError> {
    let requirements = provider.settings.get("InstanceRequirements");
    let has = requirements.and_then(|requirements| requirements["Architectures"].as_array());
    match has {
        Some(has) if !has.is_empty() && !wanted.iter().any(|wanted| has.iter().any(|has| has == wanted)) => {
            Err(ControlError::invalid(format!(
                "Architectures: found {wanted:?}, and the instances of capacity provider {} are {}: change it with the code \
                 (UpdateFunctionCode), or name another provider.",
                provider.name,
                has.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" or ")
            )))
        }
        _ => Ok(()),
    }
}

/// Lambda's guard against changes in between.
pub(crate) fn check_revision(expected: Option<&str>, found: &str) -> Result<(), ControlError> {
    if expected.is_none_or(|expected| expected == found) {
        return Ok(());
    }
    let text = "The Revision Id provided does not match the latest Revision Id. Call the GetFunction/GetAlias API to \
                retrieve the latest Revision Id";
    Err(ControlError::new(ErrorKind::PreconditionFailed, text))
}

fn package_type(given: Option<&str>) -> Result<(), ControlError> {
    match given {
        None | Some("Zip") => Ok(()),
        Some("Image") => Err(ControlError::invalid("PackageType Image is not supported here yet: use Zip.")),
        Some(other) => {
            Err(ControlError::validation(other, "packageType", "Member must satisfy enum value set: [Image, Zip]"))
        }
    }
}
