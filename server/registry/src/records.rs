//! What is kept of functions, versions, aliases and capacity providers, and under which keys.
//!
//! Written and read by the control plane, as JSON in the store. Plain values.

use crate::configuration::{Code, Configuration};
use crate::state::{Reason, State, UpdateStatus};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a function or a version consists of.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Content {
    /// How it is set up.
    pub configuration: Configuration,
    /// What it runs.
    pub code: Code,
}

/// Where a function or a version stands, and how its last update ended.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Standing {
    /// Now.
    pub state: State,
    /// Why, where that needs words.
    pub reason: Option<Reason>,
    /// `None` until it was complete once.
    pub update: Option<UpdateStatus>,
    /// Why, where that needs words.
    pub update_reason: Option<Reason>,
    /// ISO 8601, as Lambda writes it: `2026-01-02T03:04:05.678+0000`.
    pub last_modified: String,
    /// Changes with every change.
    pub revision_id: String,
}

/// A function: its `$LATEST`, and what belongs to all its versions.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct FunctionRecord {
    /// Its name.
    pub name: String,
    /// `$LATEST`, which never serves.
    pub latest: Content,
    /// Where that stands.
    pub standing: Standing,
    /// The highest number given; numbers are never given twice.
    pub last_number: u64,
    /// By key.
    pub tags: BTreeMap<String, String>,
    /// Invocations in flight of all versions, kept for it; `None` where it has none of its own.
    pub reserved_concurrency: Option<u32>,
    /// How asynchronous invocations end, by qualifier.
    pub event_invoke: BTreeMap<String, EventInvoke>,
}

/// A published version.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct VersionRecord {
    /// Its function.
    pub function: String,
    /// Its number; 0 is `$LATEST.PUBLISHED`.
    pub number: u64,
    /// What was published.
    pub content: Content,
    /// Of `$LATEST.PUBLISHED`: what serves until the new content does.
    pub serving: Option<Content>,
    /// Where it stands.
    pub standing: Standing,
    /// How many environments are asked for.
    pub requested_scaling: Scaling,
    /// How many are kept.
    pub applied_scaling: Option<Scaling>,
}

/// How many environments a version may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Scaling {
    /// At least.
    pub min_execution_environments: u32,
    /// At most; `None`: as many as are needed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_execution_environments: Option<u32>,
}

impl Default for Scaling {
    /// One environment, where Lambda has three: a GPU is dear, and one machine has no zones.
    fn default() -> Self {
        Self { min_execution_environments: 1, max_execution_environments: None }
    }
}

impl Scaling {
    /// No environments at all are wanted.
    pub fn is_off(self) -> bool {
        self.min_execution_environments == 0 && self.max_execution_environments == Some(0)
    }
}

/// A name for a version, or for two of them by weight.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct AliasRecord {
    /// Its function.
    pub function: String,
    /// Its name.
    pub name: String,
    /// The main version, as Lambda writes it.
    pub version: String,
    /// Another version, and its share, 0 to 1.
    pub extra: Option<(String, f64)>,
    /// In words.
    pub description: String,
    /// Changes with every change.
    pub revision_id: String,
}

/// How asynchronous invocations of a function end.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct EventInvoke {
    /// How often one that failed is tried again, 0 to 2.
    pub maximum_retry_attempts: Option<u32>,
    /// How long one may wait, in seconds.
    pub maximum_event_age_in_seconds: Option<u32>,
    /// Where it is told that one was done.
    pub on_success: Option<String>,
    /// Where it is told that one was not.
    pub on_failure: Option<String>,
    /// Seconds since the epoch.
    pub last_modified: f64,
}

/// A capacity provider: the rules by which instances come and go.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct ProviderRecord {
    /// Its name.
    pub name: String,
    /// What was asked for, by Lambda's names.
    pub settings: serde_json::Map<String, serde_json::Value>,
    /// Where it stands.
    pub state: State,
    /// ISO 8601.
    pub last_modified: String,
    /// By key.
    pub tags: BTreeMap<String, String>,
}

/// Where the records are kept.
pub mod keys {
    /// All functions.
    pub const FUNCTIONS: &str = "function/";
    /// All versions of all functions.
    pub const VERSIONS: &str = "version/";
    /// All aliases of all functions.
    pub const ALIASES: &str = "alias/";
    /// Blobs: all asynchronous invocations.
    pub const EVENTS: &str = "event/";
    /// All capacity providers.
    pub const PROVIDERS: &str = "provider/";

    /// A function.
    pub fn function(name: &str) -> String {
        format!("{FUNCTIONS}{name}")
    }

    /// All versions of a function.
    pub fn versions(function: &str) -> String {
        format!("{VERSIONS}{function}/")
    }

    /// A version. The digits are filled up, so that keys sort as numbers do.
    pub fn version(function: &str, number: u64) -> String {
        format!("{VERSIONS}{function}/{number:020}")
    }

    /// All aliases of a function.
    pub fn aliases(function: &str) -> String {
        format!("{ALIASES}{function}/")
    }

    /// Blobs: asynchronous invocations of a function.
    pub fn events(function: &str) -> String {
        format!("{EVENTS}{function}/")
    }

    /// An alias.
    pub fn alias(function: &str, name: &str) -> String {
        format!("{ALIASES}{function}/{name}")
    }

    /// A capacity provider.
    pub fn provider(name: &str) -> String {
        format!("{PROVIDERS}{name}")
    }
}
