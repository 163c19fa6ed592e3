//! Functions of model repositories as Lambda's API tells them: they can be looked at and invoked, not changed.
//!
//! Called by the look-ups. Pure translations of what the house tells.

use crate::check::LOCAL_PROVIDER;
use crate::error::ControlError;
use crate::names::FunctionRef;
use crate::plane::{ControlPlane, as_text, revision_id};
use crate::view::Object;
use penstock_dispatch::{ServedFunction, ServedVersion, VersionState};
use penstock_domain::Architecture;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

impl ControlPlane {
    /// `FunctionConfiguration` of a function of a repository, or of one of its versions.
    pub(crate) fn repository_view(&self, named: &FunctionRef) -> Result<Object, ControlError> {
        let functions = self.house.functions();
        let not_found = || self.function_not_found(&named.name, named.qualifier.as_deref());
        let served = functions.get(&named.name).ok_or_else(not_found)?;
        let version = match named.qualifier.as_deref() {
            None | Some("$LATEST") => served.versions.values().next_back(),
            Some(text) => {
                let number = penstock_domain::VersionNumber::parse(text).ok_or_else(not_found)?;
                Some(served.versions.get(&number).ok_or_else(not_found)?)
            }
        };
        Ok(self.repository_told(served, version, named.qualifier.as_deref()))
    }

    /// All versions of such a function, by key.
    pub(crate) fn repository_versions(&self, name: &str) -> Result<Vec<(String, Object)>, ControlError> {
        let functions = self.house.functions();
        let served = functions.get(name).ok_or_else(|| self.function_not_found(name, None))?;
        let told = |version: &Arc<ServedVersion>| {
            let qualifier = version.number.to_string();
            (format!("{:020}", version.number.0), self.repository_told(served, Some(version), Some(&qualifier)))
        };
        Ok(served.versions.values().map(told).collect())
    }

    fn repository_told(
        &self,
        served: &ServedFunction,
        version: Option<&Arc<ServedVersion>>,
        qualifier: Option<&str>,
    ) -> Object {
        let (account, name) = (&self.options.account, served.name.as_str());
        let state = version.map(|version| version.state());
        let has_failed = version.is_some_and(|version| version.failure().is_some());
        let (state, reason) = match &state {
            Some(VersionState::Ready | VersionState::Resting) => ("Active", ""),
            Some(VersionState::Loading) => ("Pending", "loading"),
            Some(VersionState::Restarting(why)) if has_failed => ("Pending", why.reason.as_str()),
            Some(VersionState::Restarting(why)) => ("Active", why.reason.as_str()),
            Some(VersionState::Unloading) => ("Deactivating", "unloading"),
            Some(VersionState::Unavailable(why)) => ("Failed", why.reason.as_str()),
            None => ("Failed", served.source.unavailable.as_deref().unwrap_or("unloaded")),
        };
        let number = version.map_or_else(|| "$LATEST".to_owned(), |version| version.number.to_string());
        let revision = version.map_or_else(String::new, |version| version.source.revision.to_string());
        let backend = version.map_or("", |version| version.source.runtime.backend());
        let arn = match qualifier {
            None => account.function_arn(name),
            Some(qualifier) => account.qualified_arn(name, qualifier),
        };
        let mut told = json!({
            "FunctionName": name,
            "FunctionArn": arn,
            "Version": number,
            "Runtime": if backend == "bert" { "candle" } else { "onnx" },
            "Role": format!("arn:aws:iam::{}:role/model-repository", account.id),
            "Description": format!("From the model repository: {}", served.source.directory.display()),
            "PackageType": "Zip",
            "CodeSize": 0,
            "CodeSha256": revision,
            "Architectures": [Architecture::OWN.name()],
            "State": state,
            "LastUpdateStatus": "Successful",
            "LastModified": as_text(changed(&served.source.directory)),
            "RevisionId": revision_id(&[name, &number, &revision]),
            "CapacityProviderConfig": {
                "LambdaManagedInstancesCapacityProviderConfig": {
                    "CapacityProviderArn": account.provider_arn(LOCAL_PROVIDER),
                },
            },
        });
        if !reason.is_empty() {
            told["StateReason"] = reason.into();
        }
        match told {
            Value::Object(told) => told,
            _ => Object::new(),
        }
    }
}

/// When a folder was changed last; the epoch if nobody knows.
fn changed(folder: &Path) -> SystemTime {
    folder.metadata().and_then(|metadata| metadata.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
}
