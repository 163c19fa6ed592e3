//! Operations on how asynchronous invocations end: retries, age, destinations.
//!
//! Called by the front end.

use crate::check::between;
use crate::error::ControlError;
use crate::functions::PAGE_MAX;
use crate::names::FunctionRef;
use crate::plane::{ControlPlane, Writing};
use crate::requests::{EventInvokeRequest, Page};
use crate::view;
use penstock_registry::store::Commit;
use penstock_registry::{EventInvoke, keys};
use serde_json::{Value, json};

const LATEST: &str = "$LATEST";

impl ControlPlane {
    /// PutFunctionEventInvokeConfig, or its update, which keeps what it does not name.
    pub async fn put_event_invoke(
        &self,
        named: &FunctionRef,
        request: EventInvokeRequest,
        update: bool,
    ) -> Result<Value, ControlError> {
        let turn = self.turn().await?;
        let (mut function, revision) = self.own_function(&named.name).await?;
        // There must be such a version or alias.
        self.get_configuration(named).await?;
        let qualifier = named.qualifier.as_deref().unwrap_or(LATEST);
        let old = function.event_invoke.get(qualifier).cloned();
        if update && old.is_none() {
            return Err(self.no_event_invoke(named));
        }
        let mut new = old.filter(|_| update).unwrap_or_default();
        let destination = |given: Option<crate::requests::Destination>| {
            given.map(|given| given.destination.filter(|text| !text.is_empty()))
        };
        let (on_success, on_failure) = match request.destination_config {
            None => (None, None),
            Some(config) => (destination(config.on_success), destination(config.on_failure)),
        };
        let said = request.maximum_retry_attempts.is_some()
            || request.maximum_event_age_in_seconds.is_some()
            || on_success.is_some()
            || on_failure.is_some();
        if !said {
            let text = "You must specify at least one of error handling or destination setting.";
            return Err(ControlError::invalid(text));
        }
        if let Some(attempts) = request.maximum_retry_attempts {
            new.maximum_retry_attempts = Some(between("maximumRetryAttempts", attempts, 0, 2)?);
        }
        if let Some(age) = request.maximum_event_age_in_seconds {
            new.maximum_event_age_in_seconds = Some(between("maximumEventAgeInSeconds", age, 60, 21_600)?);
        }
        for (said, kept) in [(on_success, &mut new.on_success), (on_failure, &mut new.on_failure)] {
            if let Some(said) = said {
                said.iter().try_for_each(|text| self.destination(text).map(drop))?;
                *kept = said;
            }
        }
        // To the millisecond: a finer one needs more digits than serde_json reads back exactly, and would be another after it was stored.
        new.last_modified = (self.now_seconds() * 1000.0).floor() / 1000.0;
        function.event_invoke.insert(qualifier.to_owned(), new.clone());
        turn.commit(Commit::new().replace(keys::function(&named.name), &function, revision)?).await?;
        Ok(self.event_invoke_told(&named.name, qualifier, &new))
    }

    /// GetFunctionEventInvokeConfig.
    pub async fn get_event_invoke(&self, named: &FunctionRef) -> Result<Value, ControlError> {
        let function = self.readable_function(&named.name).await?;
        let qualifier = named.qualifier.as_deref().unwrap_or(LATEST);
        let config = function
            .as_ref()
            .and_then(|function| function.event_invoke.get(qualifier))
            .ok_or_else(|| self.no_event_invoke(named))?;
        Ok(self.event_invoke_told(&named.name, qualifier, config))
    }

    /// DeleteFunctionEventInvokeConfig.
    pub async fn delete_event_invoke(&self, named: &FunctionRef) -> Result<(), ControlError> {
        let turn = self.turn().await?;
        let (mut function, revision) = self.own_function(&named.name).await?;
        let qualifier = named.qualifier.as_deref().unwrap_or(LATEST);
        if function.event_invoke.remove(qualifier).is_none() {
            return Err(self.no_event_invoke(named));
        }
        turn.commit(Commit::new().replace(keys::function(&named.name), &function, revision)?).await.map(drop)
    }

    /// ListFunctionEventInvokeConfigs.
    pub async fn list_event_invoke(&self, name: &str, page: &Page) -> Result<Value, ControlError> {
        let function = self.readable_function(name).await?;
        let all: Vec<(String, EventInvoke)> =
            function.map(|function| function.event_invoke.into_iter().collect()).unwrap_or_default();
        let (items, next) = view::page(all, |(qualifier, _)| qualifier.clone(), page, PAGE_MAX);
        let items = items.iter().map(|(qualifier, config)| self.event_invoke_told(name, qualifier, config)).collect();
        Ok(view::listed("FunctionEventInvokeConfigs", items, next))
    }

    fn no_event_invoke(&self, named: &FunctionRef) -> ControlError {
        let qualifier = named.qualifier.as_deref().unwrap_or(LATEST);
        let arn = self.options.account.qualified_arn(&named.name, qualifier);
        ControlError::not_found(format!("The function {arn} doesn't have an EventInvokeConfig"))
    }

    fn event_invoke_told(&self, name: &str, qualifier: &str, config: &EventInvoke) -> Value {
        let destination = |to: &Option<String>| to.as_ref().map_or(json!({}), |to| json!({ "Destination": to }));
        let mut told = json!({
            "FunctionArn": self.options.account.qualified_arn(name, qualifier),
            "LastModified": config.last_modified,
            "DestinationConfig": {
                "OnSuccess": destination(&config.on_success),
                "OnFailure": destination(&config.on_failure),
            },
        });
        if let Some(attempts) = config.maximum_retry_attempts {
            told["MaximumRetryAttempts"] = attempts.into();
        }
        if let Some(age) = config.maximum_event_age_in_seconds {
            told["MaximumEventAgeInSeconds"] = age.into();
        }
        told
    }
}
