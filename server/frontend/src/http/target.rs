//! Room 1, front end: which function and version a route or a `model` member means.
//!
//! Called by every handler that names a function. Pure.

use crate::convert::function_and_version;
use axum::extract::RawPathParams;
use penstock_domain::{FunctionName, Qualifier, Refusal};

/// A function, and which version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The function.
    pub(crate) function: FunctionName,
    /// Which version of it.
    pub(crate) qualifier: Qualifier,
}

impl Target {
    /// From the route's `{model}` and `{version}`.
    pub(crate) fn of_route(params: &RawPathParams) -> Result<Self, Refusal> {
        let param = |name| params.iter().find(|(key, _)| *key == name).map(|(_, value)| value);
        Self::parse(param("model").unwrap_or_default(), param("version").unwrap_or_default())
    }

    /// From `name` or `name:qualifier`, and a version beside it, empty if there is none.
    pub(crate) fn parse(model: &str, version: &str) -> Result<Self, Refusal> {
        let (function, qualifier) = function_and_version(model, version)?;
        Ok(Self { function, qualifier })
    }
}
