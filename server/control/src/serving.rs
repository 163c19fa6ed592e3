//! From records to what the house serves: packages read and judged, settings put over them, aliases led.
//!
//! Called whenever what is to be served has changed, and at start. Never inside a request.

use crate::error::ControlError;
use crate::functions::alias_version;
use crate::plane::ControlPlane;
use crate::versions::serves;
use penstock_dispatch::Deployment;
use penstock_domain::{FunctionName, VersionNumber};
use penstock_packages::ContentSha256;
use penstock_registry::{Configuration, Content, FunctionRecord, Scaling, State, UpdateStatus, VersionRecord, keys};
use penstock_repository::{ContentRevision, Engine, FunctionSource, Origin, VersionSource, WorkerDevice};
use penstock_router::Route;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

impl ControlPlane {
    /// Serves what the store holds: called once, at start. Versions that had not come up are brought up again, functions
    /// that were being deleted are gone after it. Waits until each version is ready or known not to be.
    pub async fn restore(&self) -> Result<(), ControlError> {
        let mut waiting = Vec::new();
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            if function.standing.state == State::Deleting {
                self.finish_deletion(&function.name).await?;
                continue;
            }
            for (version, _) in self.versions(&function.name).await? {
                let unfinished = version.standing.update == Some(UpdateStatus::InProgress);
                match version.standing.state {
                    State::Deleting => self.delete_version(&function.name, VersionNumber(version.number)).await?,
                    State::Deactivating => self.finish_deactivation(&function.name, version.number).await?,
                    State::Pending => waiting.push((function.name.clone(), version.number)),
                    State::Active if unfinished => waiting.push((function.name.clone(), version.number)),
                    _ => {}
                }
            }
            match self.serve_function(&function.name).await {
                Ok(deployment) => deployment.all_settled().await,
                Err(error) => tracing::error!(function = function.name, %error, "a function cannot be served"),
            }
        }
        for (name, number) in waiting {
            self.bring_up(&name, number).await?;
        }
        self.forget_unused_content().await
    }

    /// Tells the house what is to be served of a function now, and where its aliases lead.
    pub(crate) async fn serve_function(&self, name: &str) -> Result<Deployment, ControlError> {
        let _serving = self.serving.lock().await;
        let Some((function, _)) = self.read::<FunctionRecord>(&keys::function(name)).await? else {
            return Ok(Deployment::default());
        };
        let function_name = FunctionName::new(name).map_err(|error| ControlError::invalid(error.to_string()))?;
        let (mut versions, mut config) = (Vec::new(), None);
        for (version, _) in self.versions(name).await? {
            if !serves(&function, &version) {
                continue;
            }
            match self.source_of(&version).await {
                Ok(source) => {
                    config = source.config.clone().or(config);
                    versions.push(source);
                }
                // One that cannot be read does not take the others with it.
                Err(error) if version.standing.state == State::Active => {
                    tracing::error!(function = name, version = %VersionNumber(version.number), %error, "a version is not served");
                }
                Err(error) => return Err(error),
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
        self.house.set_aliases(&function_name, self.routes(name).await?);
        Ok(deployment)
    }

    /// Where the aliases of a function lead.
    pub(crate) async fn routes(&self, name: &str) -> Result<BTreeMap<String, Route>, ControlError> {
        let route = |version: &str, extra: Option<&(String, f64)>| {
            let extra = extra.and_then(|(version, share)| Some((alias_version(version)?, *share)));
            Some(Route { main: alias_version(version)?, extra })
        };
        let aliases = self.aliases(name).await?;
        Ok(aliases
            .into_iter()
            .filter_map(|(alias, _)| Some((alias.name, route(&alias.version, alias.extra.as_ref())?)))
            .collect())
    }

    /// A version as the house takes it.
    async fn source_of(&self, version: &VersionRecord) -> Result<VersionSource, ControlError> {
        let number = VersionNumber(version.number);
        let mut source = self.version_source(&version.content, number).await.map_err(ControlError::invalid)?;
        let settings = Arc::make_mut(&mut source.settings);
        settings.penstock.environments = Some(environments(version.requested_scaling));
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
        let read = tokio::task::spawn_blocking(move || {
            let folder = match known {
                Some(folder) => folder,
                None => {
                    let sha256: ContentSha256 = manifest.parse().map_err(|error| format!("{error}"))?;
                    store.package(sha256).map_err(|error| error.to_string())?
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

    /// Removes packages that no function and no version has any more.
    pub(crate) async fn forget_unused_content(&self) -> Result<(), ControlError> {
        let _writes = self.writes.lock().await;
        let mut used = BTreeSet::new();
        let mut keep = |content: &Content| used.insert(content.code.manifest_sha256.clone());
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            keep(&function.latest);
        }
        for (version, _) in self.read_all::<VersionRecord>("version/").await? {
            keep(&version.content);
            version.serving.iter().for_each(|content| {
                keep(content);
            });
        }
        self.verified.lock().retain(|manifest, _| used.contains(manifest));
        let store = self.content.clone();
        let used: BTreeSet<ContentSha256> = used.iter().filter_map(|manifest| manifest.parse().ok()).collect();
        self.blocking(move || store.retain(|| used)).await?;
        Ok(())
    }
}

/// Environments that are kept for a scaling: as long as nothing starts them on demand, at least one.
pub(crate) fn environments(scaling: Scaling) -> u32 {
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
    own.timeout_ms = Some(u64::from(configuration.timeout) * 1000);
    Ok(())
}
