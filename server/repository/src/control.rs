//! What to load, unload or replace between two readings of the repositories. Pure.
//!
//! Called by the composition root: at start (from nothing), on every poll, and after each call of the load API.
//!
//! What is served is kept when its files become wrong: a function or a version that was served and is now
//! unavailable stays as it was, so that a half-copied model never takes down a good one. Only what is gone, or no
//! longer chosen by the version policy, is unloaded.

use crate::function::{FunctionSource, Origin, VersionSource};
use crate::revision::ContentRevision;
use penstock_domain::{FunctionName, VersionNumber};
use std::collections::BTreeMap;

/// Who decides what is loaded, as Triton names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ControlMode {
    /// Everything at start, and nothing changes after.
    #[default]
    None,
    /// What is named at start, and what the load API says after.
    Explicit,
    /// Everything, read again from time to time.
    Poll,
}

impl ControlMode {
    /// The mode of a name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "none" => Some(Self::None),
            "explicit" => Some(Self::Explicit),
            "poll" => Some(Self::Poll),
            _ => None,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Explicit => "explicit",
            Self::Poll => "poll",
        }
    }

    /// What is to be loaded at start. `named` counts only in explicit mode, where `*` stands for everything; else the
    /// names that no function has.
    pub fn at_start(
        self,
        mut functions: Vec<FunctionSource>,
        named: &[String],
    ) -> Result<Vec<FunctionSource>, Vec<String>> {
        if self != Self::Explicit || named.iter().any(|name| name == "*") {
            return Ok(functions);
        }
        let known = |name: &String| functions.iter().any(|function| function.name.as_str() == name);
        let unknown: Vec<String> = named.iter().filter(|name| !known(name)).cloned().collect();
        if !unknown.is_empty() {
            return Err(unknown);
        }
        functions.retain(|function| named.iter().any(|name| name == function.name.as_str()));
        Ok(functions)
    }
}

/// One step from what is served to what should be.
#[derive(Debug, Clone, PartialEq)]
pub enum Change {
    /// Start serving a version.
    Load {
        /// Of this function.
        function: FunctionName,
        /// The version.
        version: VersionSource,
    },
    /// Load new content of a version beside the old, then switch.
    Replace {
        /// Of this function.
        function: FunctionName,
        /// The new content.
        version: VersionSource,
        /// The content it replaces.
        previous: ContentRevision,
    },
    /// Stop serving a version.
    Unload {
        /// Of this function.
        function: FunctionName,
        /// The version.
        number: VersionNumber,
    },
}

/// The steps from `previous` (what is served, see [`settle`]) to `next` (what was read now): first what is loaded and
/// replaced, then what is unloaded; each by name and number. `plan(next, next)` is empty.
pub fn plan(previous: &[FunctionSource], next: &[FunctionSource]) -> Vec<Change> {
    let served = versions_by_name(previous);
    let settled = settle(previous, next);
    let wanted = versions_by_name(&settled);
    let mut changes = Vec::new();
    for (&(name, number), &version) in &wanted {
        let (function, version) = (name.clone(), version.clone());
        match served.get(&(name, number)) {
            None => changes.push(Change::Load { function, version }),
            Some(old) if old.revision != version.revision => {
                changes.push(Change::Replace { function, version, previous: old.revision });
            }
            Some(_) => {}
        }
    }
    for (&(name, number), _) in served.iter().filter(|(key, _)| !wanted.contains_key(key)) {
        changes.push(Change::Unload { function: name.clone(), number });
    }
    changes
}

/// What is served once [`plan`]'s steps are done: `next`, where the versions that became unavailable stay as they were
/// in `previous`. Hand it back as `previous` the next time. Reasons are those of `next`, for the index.
pub fn settle(previous: &[FunctionSource], next: &[FunctionSource]) -> Vec<FunctionSource> {
    let served: BTreeMap<&FunctionName, &FunctionSource> = previous.iter().map(|f| (&f.name, f)).collect();
    next.iter()
        .map(|function| match served.get(&function.name) {
            // What is deployed is as it is said to be.
            Some(old) if function.origin == Origin::Repository => keep_served(old, function),
            Some(_) => function.clone(),
            None => function.clone(),
        })
        .collect()
}

fn keep_served(old: &FunctionSource, new: &FunctionSource) -> FunctionSource {
    let mut settled = new.clone();
    // Without any version to speak of, the whole function could not be judged.
    let unjudged = new.versions.is_empty() && new.unavailable_versions.is_empty();
    let broken = |number| unjudged || new.unavailable_versions.iter().any(|version| version.number == number);
    let here = |number| new.versions.iter().any(|version| version.number == number);
    settled.versions.extend(old.versions.iter().filter(|v| broken(v.number) && !here(v.number)).cloned());
    settled.versions.sort_by_key(|version| version.number);
    if new.versions.is_empty() && !settled.versions.is_empty() {
        settled.config = old.config.clone();
    }
    settled
}

fn versions_by_name(functions: &[FunctionSource]) -> BTreeMap<(&FunctionName, VersionNumber), &VersionSource> {
    let versions = functions.iter().flat_map(|f| f.versions.iter().map(move |v| ((&f.name, v.number), v)));
    versions.collect()
}
