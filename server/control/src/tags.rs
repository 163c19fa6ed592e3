//! Operations on tags, of functions and of capacity providers.
//!
//! Called by the front end.

use crate::error::ControlError;
use crate::names::{FunctionRef, provider_name};
use crate::plane::{ControlPlane, Writing};
use crate::providers::write_provider;
use penstock_registry::store::Commit;
use penstock_registry::{FunctionRecord, ProviderRecord, keys};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Most tags of one resource.
const TAGS_MAX: usize = 50;

/// What has tags.
enum Tagged {
    Function(Box<FunctionRecord>, u64),
    Provider(ProviderRecord, u64),
}

impl ControlPlane {
    /// ListTags.
    pub async fn list_tags(&self, arn: &str) -> Result<Value, ControlError> {
        if FunctionRef::parse(arn, None, self.account())
            .is_ok_and(|named| named.qualifier.is_none() && self.house.is_of_repository(&named.name))
        {
            return Ok(json!({ "Tags": {} }));
        }
        let tags = match self.tagged(arn).await? {
            Tagged::Function(function, _) => function.tags,
            Tagged::Provider(provider, _) => provider.tags,
        };
        Ok(json!({ "Tags": tags }))
    }

    /// TagResource.
    pub async fn tag(&self, arn: &str, tags: BTreeMap<String, String>) -> Result<(), ControlError> {
        self.change_tags(arn, |known| known.extend(tags)).await
    }

    /// UntagResource.
    pub async fn untag(&self, arn: &str, tag_keys: &[String]) -> Result<(), ControlError> {
        self.change_tags(arn, |known| known.retain(|key, _| !tag_keys.contains(key))).await
    }

    async fn change_tags(
        &self,
        arn: &str,
        change: impl FnOnce(&mut BTreeMap<String, String>),
    ) -> Result<(), ControlError> {
        let turn = self.turn().await?;
        match self.tagged(arn).await? {
            Tagged::Function(mut function, revision) => {
                change(&mut function.tags);
                check(&function.tags)?;
                let key = keys::function(&function.name);
                turn.commit(Commit::new().replace(key, &*function, revision)?).await.map(drop)
            }
            Tagged::Provider(mut provider, revision) => {
                change(&mut provider.tags);
                check(&provider.tags)?;
                write_provider(&turn, &provider, revision).await
            }
        }
    }

    async fn tagged(&self, arn: &str) -> Result<Tagged, ControlError> {
        if arn.contains(":capacity-provider:") {
            let (provider, revision) = self.provider(provider_name(arn)?).await?;
            return Ok(Tagged::Provider(provider, revision));
        }
        let named = FunctionRef::parse(arn, None, self.account())?;
        if named.qualifier.is_some() {
            let text = "Tags on function aliases and versions are not supported. Please specify a function ARN.";
            return Err(ControlError::invalid(text));
        }
        let (function, revision) = self.own_function(&named.name).await?;
        Ok(Tagged::Function(Box::new(function), revision))
    }
}

/// Checks all tags of a resource together.
pub(crate) fn check(tags: &BTreeMap<String, String>) -> Result<(), ControlError> {
    if tags.len() > TAGS_MAX {
        return Err(ControlError::invalid(format!(
            "A resource has at most {TAGS_MAX} tags, this one would have {}.",
            tags.len()
        )));
    }
    for (key, value) in tags {
        if key.is_empty() || key.chars().count() > 128 || value.chars().count() > 256 || key.starts_with("aws:") {
            let text = format!(
                "Tag '{key}': a key has 1 to 128 characters and does not begin with 'aws:', a value has at most 256 characters."
            );
            return Err(ControlError::invalid(text));
        }
    }
    Ok(())
}
