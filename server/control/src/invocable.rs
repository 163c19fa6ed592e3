//! Which version an invocation over Lambda's API means, and why there is none.
//!
//! Called by the front end for each invocation: what can be invoked is told from the house's snapshot alone; the records
//! are read only to say why not.

use crate::error::{ControlError, ErrorKind};
use crate::names::{FunctionRef, Which};
use crate::plane::ControlPlane;
use penstock_dispatch::VersionState;
use penstock_domain::{FunctionName, Qualifier, VersionNumber};
use penstock_registry::{State, VersionRecord};

impl ControlPlane {
    /// What the house is to be asked for. Errors: in Lambda's words, why it cannot be invoked.
    pub async fn invocable(&self, named: &FunctionRef) -> Result<(FunctionName, Qualifier), ControlError> {
        let qualifier = match named.which() {
            Some(Which::Latest) => return Err(self.latest(named).await),
            Some(Which::Published(qualifier)) => qualifier,
            // A repository's function has no $LATEST.PUBLISHED: its highest version is what it publishes.
            None if self.house.is_of_repository(&named.name) => Qualifier::Unnamed,
            None => VersionNumber::LATEST_PUBLISHED.into(),
        };
        let served = self.house.functions();
        let served = served.get(&named.name);
        let version = served.and_then(|served| served.version(&qualifier, u64::MAX));
        let has_served = || version.is_some_and(|version| version.failure().is_none());
        match (served, version.map(|version| version.state())) {
            (Some(served), Some(VersionState::Ready | VersionState::Resting)) => Ok((served.name.clone(), qualifier)),
            (Some(served), Some(VersionState::Restarting(_))) if has_served() => Ok((served.name.clone(), qualifier)),
            // Whether it has been up before, as before a start of this server, only its record knows.
            (Some(served), Some(VersionState::Loading | VersionState::Restarting(_)))
                if self.has_come_up(named, &qualifier).await =>
            {
                Ok((served.name.clone(), qualifier))
            }
            _ => Err(self.why_not(named, &qualifier).await),
        }
    }

    async fn latest(&self, named: &FunctionRef) -> ControlError {
        match self.function(&named.name).await {
            _ if self.house.is_of_repository(&named.name) => {}
            Err(error) if error.kind == ErrorKind::ResourceNotFound => {
                return self.function_not_found(&named.name, Some("$LATEST"));
            }
            // It is not known whether there is one.
            Err(error) => return error,
            Ok(_) => {}
        }
        ControlError::invalid(
            "Functions configured with capacity provider configuration can't be invoked with $LATEST qualifier. To invoke this \
             function, specify a published version qualifier or $LATEST.PUBLISHED.",
        )
    }

    async fn why_not(&self, named: &FunctionRef, qualifier: &Qualifier) -> ControlError {
        let unknown = || self.function_not_found(&named.name, named.qualifier.as_deref());
        if self.house.is_of_repository(&named.name) {
            return match self.house.resolve(&named.name, qualifier) {
                Ok(version) => {
                    let text = format!("The function is not available: {}", version.state().reason());
                    ControlError::new(ErrorKind::ResourceNotReady, text)
                }
                Err(_) => unknown(),
            };
        }
        match self.function(&named.name).await {
            Err(error) if error.kind == ErrorKind::ResourceNotFound => return unknown(),
            Err(error) => return error,
            Ok(_) => {}
        }
        let version = match self.recorded(named, qualifier).await {
            Ok(version) => version,
            Err(error) => return error,
        };
        match version {
            Some(version) if version.standing.state == State::Deleting => unknown(),
            Some(version) if version.standing.state == State::Active => {
                let text = "The version has no execution environment at the moment; one is being started.";
                ControlError::new(ErrorKind::ResourceNotReady, text)
            }
            Some(version) => ControlError::conflict(format!(
                "The operation cannot be performed at this time. The function is currently in the following state: {}",
                version.standing.state.name()
            )),
            None if named.qualifier.is_none() => ControlError::new(
                ErrorKind::NoPublishedVersion,
                "The function can't be invoked because no published version exists. For functions with capacity provider \
                 configuration, either publish a version to $LATEST.PUBLISHED, or specify a published version qualifier.",
            ),
            None => unknown(),
        }
    }

    /// Whether what loads has been up before: then it will be, and a request can wait. What a repository has is served in any case.
    async fn has_come_up(&self, named: &FunctionRef, qualifier: &Qualifier) -> bool {
        if self.house.is_of_repository(&named.name) {
            return true;
        }
        let version = self.recorded(named, qualifier).await;
        version.is_ok_and(|version| version.is_some_and(|version| version.standing.state == State::Active))
    }

    /// The record of the version that is meant.
    async fn recorded(
        &self,
        named: &FunctionRef,
        qualifier: &Qualifier,
    ) -> Result<Option<VersionRecord>, ControlError> {
        let number = match qualifier {
            Qualifier::Version(number) => Some(*number),
            Qualifier::Alias(alias) => {
                let alias = self.alias(&named.name, alias).await?;
                alias.and_then(|(alias, _)| VersionNumber::parse(&alias.version))
            }
            Qualifier::Unnamed => None,
        };
        let Some(number) = number else { return Ok(None) };
        Ok(self.version(&named.name, number.0).await?.map(|(version, _)| version))
    }
}
