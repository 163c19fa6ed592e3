//! Content of versions, read and judged: where its package lies, what it holds, Lambda's settings put over it.
//!
//! Called before something is served, and when code is taken in. Never with the lock of what is served held: a package may
//! have to be fetched.

use crate::plane::ControlPlane;
use crate::providers::uses_other;
use parking_lot::Mutex;
use penstock_domain::{Architecture, Variables, VersionNumber};
use penstock_packages::{ContentSha256, PackageError};
use penstock_registry::{Configuration, Content};
use penstock_repository::{ContentRevision, Engine, VersionSource, WorkerDevice};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// How far is gone for a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// No further than the disk, which always answers.
    Disk,
    /// To the storage that `packages.s3_bucket` names, if there is one.
    Anywhere,
}

/// Why content cannot be served.
#[derive(Clone, Debug)]
pub(crate) struct Unread {
    /// What was found.
    pub(crate) reason: String,
    /// There is storage, and it is away or was not asked, or what it has could not be written: it may be read later.
    pub(crate) may_pass: bool,
    /// The storage did not answer in time.
    pub(crate) is_late: bool,
    /// It is the package that could not be had, not what it holds.
    pub(crate) lacks_package: bool,
}

impl From<String> for Unread {
    fn from(reason: String) -> Self {
        Self { reason, may_pass: false, is_late: false, lacks_package: false }
    }
}

impl ControlPlane {
    /// Content, read and judged, with its settings over it. Errors: why it cannot be served.
    pub(crate) async fn version_source(
        &self,
        content: &Content,
        number: VersionNumber,
        reach: Reach,
    ) -> Result<VersionSource, Unread> {
        let manifest = content.code.manifest_sha256.clone();
        // What is fetched is fetched once; whoever goes no further than the disk waits for nobody.
        let fetching = (reach == Reach::Anywhere && !self.is_verified(content)).then(|| self.fetching.of(&manifest));
        let _alone = match &fetching {
            Some(one) => Some(one.lock.lock().await),
            None => None,
        };
        let known = self.verified.lock().get(&manifest).cloned();
        let store = self.content.clone();
        let (configuration, concurrency) = (content.configuration.clone(), self.options.environment_concurrency);
        let read = tokio::task::spawn_blocking(move || {
            let folder = match known {
                Some(folder) => folder,
                None => {
                    let sha256: ContentSha256 = manifest.parse().map_err(|error| format!("{error}"))?;
                    let package = match reach {
                        Reach::Disk => store.package_on_disk(sha256),
                        Reach::Anywhere => store.package(sha256),
                    };
                    package.map_err(|error| Unread {
                        lacks_package: true,
                        is_late: match &error {
                            PackageError::Backing { source, .. } => source.kind() == std::io::ErrorKind::TimedOut,
                            _ => false,
                        },
                        may_pass: match reach {
                            Reach::Disk => store.is_backed(),
                            // The disk may be full, too.
                            Reach::Anywhere => {
                                store.is_backed()
                                    && matches!(error, PackageError::Backing { .. } | PackageError::Io { .. })
                            }
                        },
                        reason: match reach {
                            Reach::Disk if store.is_backed() => {
                                "its package is not on disk as it should be; it will be asked for where packages.s3_bucket says"
                                    .to_owned()
                            }
                            _ => error.to_string(),
                        },
                    })?
                }
            };
            let mut source = penstock_repository::read_package(&folder, number)?;
            put_settings(&mut source, &configuration, concurrency)?;
            source.revision = revision(&manifest, &configuration);
            Ok((source, manifest, folder))
        });
        let read: Result<_, Unread> = read.await.map_err(|error| Unread::from(error.to_string()))?;
        if read.as_ref().is_err_and(|unread| unread.may_pass) {
            self.unreachable.store(true, Ordering::Release);
        }
        let (source, manifest, folder) = read?;
        self.verified.lock().insert(manifest, folder);
        Ok(source)
    }

    /// Whether the package of a content was read since the start.
    pub(crate) fn is_verified(&self, content: &Content) -> bool {
        self.verified.lock().contains_key(&content.code.manifest_sha256)
    }

    /// Whether the package of a content is on disk, by the names and lengths of its files.
    pub(crate) async fn is_on_disk(&self, content: &Content) -> bool {
        let (store, manifest) = (self.content.clone(), content.code.manifest_sha256.parse());
        let looked = tokio::task::spawn_blocking(move || manifest.is_ok_and(|manifest| store.is_on_disk(manifest)));
        looked.await.unwrap_or_default()
    }
}

/// Packages that are being fetched, by manifest.
#[derive(Default)]
pub(crate) struct Fetching(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// One of them, for as long as somebody wants it.
pub(crate) struct Fetched<'a> {
    all: &'a Fetching,
    manifest: String,
    lock: Arc<tokio::sync::Mutex<()>>,
}

impl Fetching {
    fn of(&self, manifest: &str) -> Fetched<'_> {
        let lock = self.0.lock().entry(manifest.to_owned()).or_default().clone();
        Fetched { all: self, manifest: manifest.to_owned(), lock }
    }
}

impl Drop for Fetched<'_> {
    fn drop(&mut self) {
        let mut all = self.all.0.lock();
        // The map's and this one's.
        if Arc::strong_count(&self.lock) <= 2 {
            all.remove(&self.manifest);
        }
    }
}

/// Tells one content from another in this process.
fn revision(manifest: &str, configuration: &Configuration) -> ContentRevision {
    let said = serde_json::to_string(configuration).unwrap_or_default();
    let digest = ContentSha256::of(format!("{manifest}\n{said}").as_bytes()).to_string();
    ContentRevision(digest.get(..16).and_then(|text| u64::from_str_radix(text, 16).ok()).unwrap_or_default())
}

/// Cores of one environment: its memory by the memory of each; at least 1.
pub(crate) fn cores_of(configuration: &Configuration) -> u32 {
    let instances = &configuration.capacity_provider_config.lambda_managed_instances_capacity_provider_config;
    let per_core_mib = instances.execution_environment_memory_gib_per_vcpu * 1024.0;
    ((f64::from(configuration.memory_size) / per_core_mib) as u32).max(1)
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
    own.threads = own.threads.or(Some(cores_of(configuration)));
    let memory_bytes = u64::from(configuration.memory_size) << 20;
    own.memory_bytes = Some(memory_bytes);
    own.memory_limit_bytes = own.memory_limit_bytes.or(match configuration.accelerator_config {
        // CUDA maps far more than it uses.
        Some(_) => None,
        None => Some(memory_bytes),
    });
    own.max_concurrency =
        instances.per_execution_environment_max_concurrency.or(own.max_concurrency).or(Some(environment_concurrency));
    settings.capacity_provider = uses_other(configuration).map(str::to_owned);
    // This machine has but one, whatever is said.
    let architecture = configuration.architectures.first().filter(|_| settings.capacity_provider.is_some());
    settings.architecture = architecture.and_then(|name| Architecture::parse(name));
    settings.role = Some(configuration.role.clone());
    settings.variables =
        Variables(configuration.environment.clone().map(|environment| environment.variables).unwrap_or_default());
    settings.penstock.timeout_ms = Some(u64::from(configuration.timeout) * 1000);
    Ok(())
}
