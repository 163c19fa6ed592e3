//! Room 1, front end: which function and version a route or a `model` member means.
//!
//! Called by every handler that names a function. Pure.

use crate::convert::function_and_version;
use axum::extract::RawPathParams;
use penstock_domain::{FunctionName, Refusal, VersionNumber};

/// A function and, if asked for, a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// The function.
    pub(crate) function: FunctionName,
    /// By number; `None` means the function's default.
    pub(crate) version: Option<VersionNumber>,
}

impl Target {
    /// From the route's `{model}` and `{version}`.
    pub(crate) fn of_route(params: &RawPathParams) -> Result<Self, Refusal> {
        let param = |name| params.iter().find(|(key, _)| *key == name).map(|(_, value)| value);
        Self::parse(param("model").unwrap_or_default(), param("version").unwrap_or_default())
    }

    /// From `name` or `name:qualifier`, and a version beside it, empty if there is none.
    pub(crate) fn parse(model: &str, version: &str) -> Result<Self, Refusal> {
        let (function, version) = function_and_version(model, version)?;
        Ok(Self { function, version })
    }

    /// The version's number, as the house takes it.
    pub(crate) fn number(&self) -> Option<u64> {
        self.version.map(|version| version.0)
    }
}
