//! Functions that the control plane deploys, beside those of model repositories: put up, scaled, taken away.
//!
//! Called by the control plane, never inside a request. What is to be served is its business; the house serves it.

use crate::changes::{Changed, settled};
use crate::function::{ServedFunction, ServedVersion, Unavailable, VersionState};
use crate::house::House;
use penstock_domain::{ErrorCode, FunctionName, Refusal, VersionNumber};
use penstock_repository::{FunctionSource, Origin};
use penstock_router::Route;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::task::JoinHandle;

/// What a deployment has set going.
#[derive(Default)]
pub struct Deployment {
    /// All versions that are served of the function, those that others opened before too.
    served: Vec<Arc<ServedVersion>>,
    opened: Vec<Arc<ServedVersion>>,
    switches: Vec<(VersionNumber, JoinHandle<Result<(), Unavailable>>)>,
}

impl Deployment {
    /// Waits until all its versions are ready, or known not to be.
    pub async fn all_settled(self) {
        settled(&self.opened).await;
    }

    /// Waits until a version of it is ready, or it is known why not, whoever opened it.
    pub async fn ready(self, number: VersionNumber) -> Result<(), Unavailable> {
        let opened = self.opened.into_iter().find(|version| version.number == number);
        let served = || self.served.into_iter().find(|version| version.number == number);
        let Some(version) = opened.or_else(served) else { return Ok(()) };
        settled(std::slice::from_ref(&version)).await;
        if let Some((_, switch)) = self.switches.into_iter().find(|(of, _)| *of == number) {
            // It knows why: it stops what is not served. A task that was cancelled means that the server ends.
            return switch.await.unwrap_or(Ok(()));
        }
        match version.state() {
            VersionState::Unavailable(why) => Err(why),
            _ => Ok(()),
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
        let name = source.name.clone();
        let mut wanted = control.clone();
        wanted.retain(|other| other.name != name);
        wanted.push(source);
        let changed = self.change(&mut control, wanted);
        let functions = self.functions.load();
        let served = functions.get(name.as_str()).map(|served| served.versions.values().cloned().collect());
        let Changed { opened, switches } = changed;
        Ok(Deployment { served: served.unwrap_or_default(), opened, switches })
    }

    /// Drains and ends all versions of a deployed function, and forgets it. Unknown names are fine.
    pub async fn withdraw(&self, function: &FunctionName) {
        let served = self.functions.load().get(function.as_str()).cloned();
        {
            let mut control = self.control.lock().await;
            let mut wanted = control.clone();
            wanted.retain(|other| other.name != *function || other.origin == Origin::Repository);
            self.change(&mut control, wanted);
        }
        let Some(served) = served.filter(|served| served.source.origin == Origin::Deployed) else { return };
        for version in served.versions.values() {
            version.ended().await;
        }
        self.functions.rcu(|functions| {
            let mut functions = BTreeMap::clone(functions);
            let gone = |served: &ServedFunction| {
                served.versions.values().all(|version| matches!(version.state(), VersionState::Unavailable(_)))
            };
            if functions.get(function.as_str()).is_some_and(|served| gone(served)) {
                functions.remove(function.as_str());
            }
            functions
        });
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

    /// Keeps so many environments of a version from now on. Errors: there is no such version.
    pub async fn set_environments(
        &self,
        function: &FunctionName,
        number: VersionNumber,
        environments: u32,
    ) -> Result<(), Refusal> {
        let version = self.resolve(function.as_str(), &number.into())?;
        let functions = self.functions();
        let served = functions.get(function.as_str());
        let source = served.ok_or_else(|| Refusal::new(ErrorCode::NotFound, format!("there is no '{function}'")))?;
        let specification = (self.options.specify)(&source.source, &version.source)
            .map_err(|reason| Refusal::new(ErrorCode::Unavailable, reason))?;
        self.scale(&version, &specification, environments.max(1));
        Ok(())
    }

    /// Where the aliases of a function lead, from now on.
    pub fn set_aliases(&self, function: &FunctionName, aliases: BTreeMap<String, Route>) {
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
