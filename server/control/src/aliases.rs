//! Operations on aliases. Where they lead is the house's to know before the answer is given.
//!
//! Called by the front end.

use crate::error::ControlError;
use crate::functions::{PAGE_MAX, check_revision};
use crate::plane::{ControlPlane, Known, Writing, revision_id};
use crate::requests::{AliasRequest, Page, RoutingConfig};
use crate::view;
use penstock_domain::VersionNumber;
use penstock_registry::store::Commit;
use penstock_registry::{AliasRecord, State, keys};
use serde_json::Value;

impl ControlPlane {
    pub(crate) async fn alias(&self, name: &str, alias: &str) -> Result<Option<Known<AliasRecord>>, ControlError> {
        self.read(&keys::alias(name, alias)).await
    }

    async fn own_alias(&self, name: &str, alias: &str) -> Result<Known<AliasRecord>, ControlError> {
        self.own_function(name).await?;
        self.alias(name, alias).await?.ok_or_else(|| {
            ControlError::not_found(format!("Alias not found: {}", self.options.account.qualified_arn(name, alias)))
        })
    }

    /// CreateAlias.
    pub async fn create_alias(&self, name: &str, request: AliasRequest) -> Result<Value, ControlError> {
        let turn = self.turn().await?;
        self.own_function(name).await?;
        let alias = request.name.clone().unwrap_or_default();
        check_name(&alias)?;
        if self.alias(name, &alias).await?.is_some() {
            let arn = self.options.account.qualified_arn(name, &alias);
            return Err(ControlError::conflict(format!("Alias already exists: {arn}")));
        }
        let Some(version) = request.function_version.clone() else {
            return Err(ControlError::validation("null", "functionVersion", "Member must not be null"));
        };
        let blank = AliasRecord {
            function: name.to_owned(),
            name: alias.clone(),
            version,
            extra: None,
            description: String::new(),
            revision_id: String::new(),
        };
        let record = self.changed_alias(blank, request).await?;
        turn.commit(Commit::new().create(keys::alias(name, &alias), &record)?).await?;
        self.lead(name).await?;
        Ok(view::of_alias(&record, &self.options.account))
    }

    /// GetAlias.
    pub async fn get_alias(&self, name: &str, alias: &str) -> Result<Value, ControlError> {
        self.function(name).await?;
        let (record, _) = self.own_alias(name, alias).await?;
        Ok(view::of_alias(&record, &self.options.account))
    }

    /// UpdateAlias.
    pub async fn update_alias(&self, name: &str, alias: &str, request: AliasRequest) -> Result<Value, ControlError> {
        let turn = self.turn().await?;
        let (old, revision) = self.own_alias(name, alias).await?;
        check_revision(request.revision_id.as_deref(), &old.revision_id)?;
        let record = self.changed_alias(old, request).await?;
        turn.commit(Commit::new().replace(keys::alias(name, alias), &record, revision)?).await?;
        self.lead(name).await?;
        Ok(view::of_alias(&record, &self.options.account))
    }

    /// DeleteAlias; one that is not there is gone already.
    pub async fn delete_alias(&self, name: &str, alias: &str) -> Result<(), ControlError> {
        let turn = self.turn().await?;
        self.own_function(name).await?;
        turn.commit(Commit::new().delete(keys::alias(name, alias))).await?;
        self.lead(name).await
    }

    /// ListAliases, perhaps of one version.
    pub async fn list_aliases(&self, name: &str, of: Option<&str>, page: &Page) -> Result<Value, ControlError> {
        if !self.house.is_of_repository(name) {
            self.function(name).await?;
        }
        let mut all: Vec<AliasRecord> = self.aliases(name).await?.into_iter().map(|(alias, _)| alias).collect();
        all.retain(|alias| of.is_none_or(|of| alias.version == of));
        let (items, next) = view::page(all, |alias| alias.name.clone(), page, PAGE_MAX);
        let items = items.iter().map(|alias| view::of_alias(alias, &self.options.account)).collect();
        Ok(view::listed("Aliases", items, next))
    }

    /// `old` with what is said put in its place, checked: its versions exist.
    async fn changed_alias(&self, old: AliasRecord, request: AliasRequest) -> Result<AliasRecord, ControlError> {
        let mut new = old;
        if let Some(version) = request.function_version {
            new.version = version;
        }
        if let Some(description) = request.description {
            crate::check::check_description(&description)?;
            new.description = description;
        }
        if let Some(RoutingConfig { additional_version_weights }) = request.routing_config {
            let mut weights = additional_version_weights.unwrap_or_default().into_iter();
            new.extra = weights.next();
            if weights.next().is_some() {
                let text = "Number of items in AdditionalVersionWeights cannot be greater than 1";
                return Err(ControlError::invalid(text));
            }
        }
        if new.extra.is_some() && new.version == "$LATEST" {
            let text = "$LATEST is not supported for an alias pointing to more than 1 version";
            return Err(ControlError::invalid(text));
        }
        if new.version == "$LATEST" {
            return Err(ControlError::invalid(
                "Functions configured with capacity provider configuration can't have an alias that points to $LATEST: name a \
                 published version or $LATEST.PUBLISHED.",
            ));
        }
        self.check_version(&new.function, &new.version).await?;
        if let Some((extra, share)) = &new.extra {
            if *extra == new.version {
                return Err(ControlError::invalid(format!(
                    "Invalid function version {extra}. Function version {extra} is already included in routing configuration."
                )));
            }
            if !(0.0..=1.0).contains(share) {
                let member = "routingConfig.additionalVersionWeights";
                let constraint = "Map value must satisfy constraint: [Member must have value between 0.0 and 1.0]";
                return Err(ControlError::validation(share, member, constraint));
            }
            self.check_version(&new.function, extra).await?;
        }
        let said = serde_json::to_string(&(&new.version, &new.extra, &new.description))?;
        new.revision_id = revision_id(&[&new.function, &new.name, &new.revision_id, &self.now_text(), &said]);
        Ok(new)
    }

    async fn check_version(&self, name: &str, text: &str) -> Result<VersionNumber, ControlError> {
        // As it is written: `01` names nothing.
        let number = VersionNumber::parse(text).filter(|number| number.to_string() == text).ok_or_else(|| {
            let constraint = "Member must satisfy regular expression pattern: (\\$LATEST(\\.PUBLISHED)?|[0-9]+)";
            ControlError::validation(text, "functionVersion", constraint)
        })?;
        match self.version(name, number.0).await? {
            Some((version, _)) if version.standing.state != State::Deleting => Ok(number),
            _ => Err(self.function_not_found(name, Some(text))),
        }
    }
}

fn check_name(alias: &str) -> Result<(), ControlError> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let digits = alias.bytes().all(|byte| byte.is_ascii_digit());
    if alias.is_empty() || alias.len() > 128 || !alias.chars().all(word) || digits {
        let constraint = "Member must satisfy regular expression pattern: (?!^[0-9]+$)([a-zA-Z0-9-_]+)";
        return Err(ControlError::validation(alias, "name", constraint));
    }
    Ok(())
}
