//! From records to what the house serves: packages read and judged, settings put over them, aliases led.
//!
//! Called whenever what is to be served has changed, and at start. Never inside a request.

use crate::error::ControlError;
use crate::plane::ControlPlane;
use crate::versions::is_coming_up;
use penstock_dispatch::Deployment;
use penstock_domain::{FunctionName, Variables, VersionNumber};
use penstock_packages::{ContentSha256, PackageError};
use penstock_registry::{Configuration, Content, FunctionRecord, Scaling, State, VersionRecord, keys};
use penstock_repository::{ContentRevision, Engine, FunctionSource, Origin, VersionSource, WorkerDevice};
use penstock_router::Route;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

impl ControlPlane {
    /// Begins to serve what the store holds: called once, before model repositories are read, so that a name that was deployed
    /// stays what it is. Nothing that is wrong with one function keeps the others from being served.
    pub async fn restore(&self) -> Result<Restored, ControlError> {
        let mut restored = Restored::default();
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            let name = function.name.clone();
            if let Err(error) = self.restore_function(function, &mut restored).await {
                tracing::error!(function = name, %error, "a function was not restored as it was");
            }
        }
        self.clean_up_later();
        self.follow_unreachable();
        Ok(restored)
    }

    async fn restore_function(&self, function: FunctionRecord, restored: &mut Restored) -> Result<(), ControlError> {
        let name = function.name;
        if function.standing.state == State::Deleting {
            return self.finish_deletion(&name).await;
        }
        // What served goes on; what was to take its place is brought up after.
        let deployment =
            self.serve_content(&name, |version| version.serving.as_ref().unwrap_or(&version.content)).await;
        for (version, _) in self.versions(&name).await? {
            let number = version.number;
            match version.standing.state {
                State::Deleting => self.finish_version_deletion(&name, VersionNumber(number)).await?,
                State::Deactivating => self.finish_deactivation(&name, number).await?,
                _ if is_coming_up(&version) => restored.coming_up.push((name.clone(), number)),
                _ => {}
            }
        }
        restored.deployments.push(deployment?);
        Ok(())
    }

    /// Waits until each restored version is ready or known not to be, and brings up what had not come up.
    pub async fn restored(&self, restored: Restored) -> Result<(), ControlError> {
        for deployment in restored.deployments {
            deployment.all_settled().await;
        }
        for (name, number) in restored.coming_up {
            self.bring_up(&name, number).await?;
        }
        Ok(())
    }

    /// Tells the house what is to be served of a function now, and where its aliases lead.
    pub(crate) async fn serve_function(&self, name: &str) -> Result<Deployment, ControlError> {
        self.serve_content(name, |version| &version.content).await
    }

    async fn serve_content(
        &self,
        name: &str,
        content_of: fn(&VersionRecord) -> &Content,
    ) -> Result<Deployment, ControlError> {
        let _serving = self.serving.lock().await;
        let function = self.read::<FunctionRecord>(&keys::function(name)).await?;
        let Some((function, _)) = function.filter(|(function, _)| function.standing.state != State::Deleting) else {
            return Ok(Deployment::default());
        };
        let function_name = FunctionName::new(name).map_err(|error| ControlError::invalid(error.to_string()))?;
        let (mut versions, mut config) = (Vec::new(), None);
        for (version, _) in self.versions(name).await? {
            if !matches!(version.standing.state, State::Pending | State::Active) {
                continue;
            }
            match self.source_of(&version, content_of(&version)).await {
                Ok(source) => {
                    config = source.config.clone().or(config);
                    versions.push(source);
                }
                // One that cannot be read does not take the others with it: `bring_up` finds it missing.
                Err(reason) => {
                    tracing::error!(function = name, version = %VersionNumber(version.number), reason, "a version is not served");
                }
            }
        }
        let source = FunctionSource {
            name: function_name.clone(),
            origin: Origin::Deployed,
            reserved_concurrency: function.reserved_concurrency,
            directory: PathBuf::new(),
            config: config.unwrap_or_default(),
            versions,
            unavailable_versions: Vec::new(),
            unavailable: None,
        };
        let deployment = self.house.deploy(source).await?;
        self.house.set_aliases(&function_name, self.routes(name).await?).await;
        Ok(deployment)
    }

    /// Where the aliases of a function lead.
    async fn routes(&self, name: &str) -> Result<BTreeMap<String, Route>, ControlError> {
        let route = |version: &str, extra: Option<&(String, f64)>| {
            let extra = extra.and_then(|(version, share)| Some((VersionNumber::parse(version)?, *share)));
            Some(Route { main: VersionNumber::parse(version)?, extra })
        };
        let aliases = self.aliases(name).await?;
        Ok(aliases
            .into_iter()
            .filter_map(|(alias, _)| Some((alias.name, route(&alias.version, alias.extra.as_ref())?)))
            .collect())
    }

    /// Tells the house where the aliases of a function lead now.
    pub(crate) async fn lead(&self, name: &str) -> Result<(), ControlError> {
        let _serving = self.serving.lock().await;
        let function = FunctionName::new(name).map_err(|error| ControlError::invalid(error.to_string()))?;
        self.house.set_aliases(&function, self.routes(name).await?).await;
        Ok(())
    }

    /// Has the house keep as many environments of a version as its record asks for, if it serves.
    pub(crate) async fn apply_scaling(&self, name: &str, number: u64) -> Result<(), ControlError> {
        let _serving = self.serving.lock().await;
        let function = FunctionName::new(name).map_err(|error| ControlError::invalid(error.to_string()))?;
        match self.version(name, number).await? {
            Some((version, _)) if version.standing.state == State::Active => {
                let wanted = environments(version.requested_scaling);
                Ok(self.house.set_environments(&function, VersionNumber(number), wanted).await?)
            }
            _ => Ok(()),
        }
    }

    /// A version as the house takes it. Errors: why it cannot be served.
    async fn source_of(&self, version: &VersionRecord, content: &Content) -> Result<VersionSource, String> {
        let mut source = self.version_source(content, VersionNumber(version.number)).await?;
        Arc::make_mut(&mut source.settings).penstock.environments = Some(environments(version.requested_scaling));
        Ok(source)
    }

    /// Content, read and judged, with its settings over it. Errors: why it cannot be served.
    pub(crate) async fn version_source(
        &self,
        content: &Content,
        number: VersionNumber,
    ) -> Result<VersionSource, String> {
        let manifest = content.code.manifest_sha256.clone();
        let known = self.verified.lock().get(&manifest).cloned();
        let store = self.content.clone();
        let (configuration, concurrency) = (content.configuration.clone(), self.options.environment_concurrency);
        let plane = self.this.clone();
        let read = tokio::task::spawn_blocking(move || {
            let note = |error: PackageError| {
                plane.upgrade().iter().for_each(|plane| plane.note_unreachable(&error));
                error.to_string()
            };
            let folder = match known {
                Some(folder) => folder,
                None => {
                    let sha256: ContentSha256 = manifest.parse().map_err(|error| format!("{error}"))?;
                    store.package(sha256).map_err(note)?
                }
            };
            let mut source = penstock_repository::read_package(&folder, number)?;
            put_settings(&mut source, &configuration, concurrency)?;
            source.revision = revision(&manifest, &configuration);
            Ok::<_, String>((source, manifest, folder))
        });
        let (source, manifest, folder) = read.await.map_err(|error| error.to_string())??;
        self.verified.lock().insert(manifest, folder);
        Ok(source)
    }
}

/// What was restored and has not settled yet.
#[derive(Default)]
pub struct Restored {
    deployments: Vec<Deployment>,
    /// Versions that had not come up when the server ended.
    coming_up: Vec<(String, u64)>,
}

/// Environments that are kept for a scaling: as long as nothing starts them on demand, at least one.
fn environments(scaling: Scaling) -> u32 {
    scaling.min_execution_environments.max(1)
}

/// Tells one content from another in this process.
fn revision(manifest: &str, configuration: &Configuration) -> ContentRevision {
    let said = serde_json::to_string(configuration).unwrap_or_default();
    let digest = ContentSha256::of(format!("{manifest}\n{said}").as_bytes()).to_string();
    ContentRevision(digest.get(..16).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or_default())
}

/// Puts what Lambda's members say over what the package says.
fn put_settings(
    source: &mut VersionSource,
    configuration: &Configuration,
    environment_concurrency: u32,
) -> Result<(), String> {
    let instances = &configuration.capacity_provider_config.lambda_managed_instances_capacity_provider_config;
    let settings = Arc::make_mut(&mut source.settings);
    if let Some(accelerator) = &configuration.accelerator_config {
        if settings.worker_device == WorkerDevice::Cpu {
            return Err(
                "AcceleratorConfig asks for a GPU, config.pbtxt's instance_group says KIND_CPU: leave one of them out"
                    .into(),
            );
        }
        settings.worker_device = WorkerDevice::Gpu;
        settings.penstock.device_memory_bytes = Some(u64::from(accelerator.accelerator_memory_size) << 30);
    }
    let own = &mut settings.penstock;
    match (configuration.runtime.as_str(), own.engine) {
        ("candle", Engine::OnnxRuntime) | ("onnx", Engine::Candle) => {
            let runtime = &configuration.runtime;
            return Err(format!(
                "Runtime is {runtime}, config.pbtxt's penstock.engine says otherwise: leave it out there"
            ));
        }
        ("candle", Engine::Auto) if source.runtime.backend() == "bert" => own.engine = Engine::Candle,
        ("candle", _) if source.runtime.backend() == "onnxruntime" => {
            return Err("Runtime candle runs Hugging Face folders of encoders; this is an ONNX model: use onnx".into());
        }
        _ => {}
    }
    let per_core_mib = instances.execution_environment_memory_gib_per_vcpu * 1024.0;
    let cores = (f64::from(configuration.memory_size) / per_core_mib) as u32;
    own.threads = own.threads.or(Some(cores.max(1)));
    own.memory_limit_bytes = own.memory_limit_bytes.or(match configuration.accelerator_config {
        // CUDA maps far more than it uses.
        Some(_) => None,
        None => Some(u64::from(configuration.memory_size) << 20),
    });
    own.max_concurrency =
        instances.per_execution_environment_max_concurrency.or(own.max_concurrency).or(Some(environment_concurrency));
    settings.role = Some(configuration.role.clone());
    settings.variables =
        Variables(configuration.environment.clone().map(|environment| environment.variables).unwrap_or_default());
    settings.penstock.timeout_ms = Some(u64::from(configuration.timeout) * 1000);
    Ok(())
}
