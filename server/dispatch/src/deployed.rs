//! Functions that the control plane deploys, beside those of model repositories: put up, scaled, taken away.
//!
//! Called by the control plane, never inside a request. What is to be served is its business; the house serves it.

use crate::LogLine;
use crate::changes::settled;
use crate::function::{Cause, ServedFunction, ServedVersion, Unavailable};
use crate::house::House;
use penstock_domain::{ErrorCode, FunctionName, Refusal, VersionNumber};
use penstock_repository::{FunctionSource, Origin, VersionSource};
use penstock_router::Route;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is served of a function, or is to be, after a deployment.
#[derive(Default)]
pub struct Deployment(Vec<Placing>);

struct Placing {
    version: Arc<ServedVersion>,
    /// It is to take the place of old content.
    switches: bool,
}

impl Placing {
    async fn ready(&self) -> Result<(), Unavailable> {
        if self.switches {
            return self.version.switched().await;
        }
        settled(std::slice::from_ref(&self.version)).await;
        self.version.failure().map_or(Ok(()), Err)
    }
}

impl Deployment {
    /// Waits until all its versions are ready, or known not to be.
    pub async fn all_settled(self) {
        for placing in self.0 {
            // Why not is what `ready` is asked for.
            let _ = placing.ready().await;
        }
    }

    /// Waits until this version of it is ready, or it is known why not, whoever began to load it.
    pub async fn ready(self, number: VersionNumber) -> Result<(), Unavailable> {
        match self.0.into_iter().find(|placing| placing.version.number == number) {
            Some(placing) => placing.ready().await,
            None => Err(Unavailable { cause: Cause::Unloaded, reason: "it is not to be served any more".into() }),
        }
    }
}

/// The versions of a function that was withdrawn.
pub struct Leaving(Vec<Arc<ServedVersion>>);

impl Leaving {
    /// Waits until their processes are gone; bounded by the drain timeout.
    pub async fn ended(self) {
        for version in self.0 {
            version.ended().await;
        }
    }
}

/// What is read from repositories, beside what is deployed: a name that is deployed already stays as it is.
pub(crate) fn beside_deployed(control: &[FunctionSource], read: Vec<FunctionSource>) -> Vec<FunctionSource> {
    let mut wanted: Vec<FunctionSource> =
        control.iter().filter(|function| function.origin == Origin::Deployed).cloned().collect();
    for function in read {
        match wanted.iter().any(|other| other.name == function.name) {
            false => wanted.push(function),
            true => tracing::warn!(
                function = %function.name,
                directory = %function.directory.display(),
                "a function of this name is deployed: rename the directory or delete the function"
            ),
        }
    }
    wanted
}

impl House {
    /// Serves of a deployed function what `source` says: versions that are new to it are loaded, those with new content
    /// replaced once that is ready, others drained and ended. Errors: a model repository has this name.
    pub async fn deploy(&self, source: FunctionSource) -> Result<Deployment, Refusal> {
        let mut control = self.control.lock().await;
        if control.iter().any(|other| other.name == source.name && other.origin == Origin::Repository) {
            return Err(owned_by_repository(&source.name));
        }
        let (name, sources) = (source.name.clone(), source.versions.clone());
        let mut wanted = control.clone();
        wanted.retain(|other| other.name != name);
        wanted.push(source);
        self.change(&mut control, wanted);
        let (functions, switching) = (self.functions.load(), self.switching.lock());
        let placing = |source: &VersionSource| {
            let is = |version: &&Arc<ServedVersion>| {
                version.function == name
                    && version.number == source.number
                    && version.source.revision == source.revision
            };
            let new = switching.iter().find(is).map(|version| Placing { version: version.clone(), switches: true });
            let served = || functions.get(name.as_str())?.versions.get(&source.number).filter(is).cloned();
            new.or_else(|| Some(Placing { version: served()?, switches: false }))
        };
        Ok(Deployment(sources.iter().filter_map(placing).collect()))
    }

    /// Stops all versions of a deployed function: what they have is answered. Unknown names are fine.
    pub async fn withdraw(&self, function: &FunctionName) -> Leaving {
        let mut control = self.control.lock().await;
        let deployed = |other: &FunctionSource| other.name == *function && other.origin == Origin::Deployed;
        if !control.iter().any(deployed) {
            return Leaving(Vec::new());
        }
        let served = self.functions.load().get(function.as_str()).cloned();
        let mut wanted = control.clone();
        wanted.retain(|other| !deployed(other));
        self.change(&mut control, wanted);
        Leaving(served.iter().flat_map(|served| served.versions.values().cloned()).collect())
    }

    /// Takes a function that was withdrawn out of the index.
    pub async fn forget(&self, function: &FunctionName) {
        let control = self.control.lock().await;
        if control.iter().any(|other| other.name == *function) {
            return;
        }
        self.functions.rcu(|functions| {
            let mut functions = BTreeMap::clone(functions);
            functions.remove(function.as_str());
            functions
        });
        self.journals.forget(function);
    }

    /// What a function's environments said last, and what became of them: lines after number `after`, oldest first, and the
    /// number of the last of all functions' lines.
    pub fn log(&self, function: &FunctionName, after: u64) -> (Vec<LogLine>, u64) {
        self.journals.after(function, after)
    }

    /// Waits until a version that is stopped has ended; one that is not there has.
    pub async fn ended(&self, function: &FunctionName, number: VersionNumber) {
        let served = self.functions.load().get(function.as_str()).cloned();
        if let Some(version) = served.and_then(|served| served.versions.get(&number).cloned())
            && version.stop.is_cancelled()
        {
            version.ended().await;
        }
    }

    /// Where the aliases of a function lead, from now on.
    pub async fn set_aliases(&self, function: &FunctionName, aliases: BTreeMap<String, Route>) {
        // A change makes a new snapshot of all functions from the one before.
        let _control = self.control.lock().await;
        self.functions.rcu(|functions| {
            let mut functions = BTreeMap::clone(functions);
            if let Some(served) = functions.get(function.as_str()) {
                let (name, source) = (served.name.clone(), served.source.clone());
                let (versions, aliases) = (served.versions.clone(), aliases.clone());
                functions.insert(name.to_string(), Arc::new(ServedFunction { name, source, versions, aliases }));
            }
            functions
        });
    }

    /// Whether a model repository has a function of this name.
    pub fn is_of_repository(&self, function: &str) -> bool {
        self.functions.load().get(function).is_some_and(|served| served.source.origin == Origin::Repository)
    }

    /// Errors if the control plane has deployed a function of this name: then the repository's calls are not for it.
    pub(crate) fn not_deployed(&self, function: &str) -> Result<(), Refusal> {
        let deployed = |served: &Arc<ServedFunction>| served.source.origin == Origin::Deployed;
        if self.functions.load().get(function).is_some_and(deployed) {
            let text =
                format!("'{function}' was deployed: it is changed and deleted where it was, not by load and unload");
            return Err(Refusal::new(ErrorCode::Conflict, text));
        }
        Ok(())
    }
}

fn owned_by_repository(function: &FunctionName) -> Refusal {
    let text = format!("'{function}' belongs to a model repository: change its files, or choose another name");
    Refusal::new(ErrorCode::Conflict, text)
}
