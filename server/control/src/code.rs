//! The code of functions: taken in, looked at, given back.
//!
//! Called by the operations on functions. What is kept and how is the content store's.

use crate::error::{ControlError, ErrorKind};
use crate::names::{FunctionRef, Which};
use crate::plane::ControlPlane;
use crate::requests::CodeSource;
use crate::sources::Reach;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_domain::{Qualifier, VersionNumber};
use penstock_packages::{ContentSha256, Package, PackageLimits};
use penstock_registry::{Code, Configuration, Content, FunctionRecord, VersionRecord, keys};
use std::collections::BTreeSet;
use std::io::Cursor;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::timeout;

/// Largest package that is sent back, in bytes of what was uploaded: it is made in memory.
const EXPORTED_BYTES_MAX: u64 = 256 << 20;

/// Packages that are taken in at once: each a thread that may wait for storage, and memory for what came in a request.
pub(crate) const TAKEN_AT_ONCE: usize = 8;
/// How long one waits for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(20);

/// Of an uploaded ZIP: Lambda's own, with as many files as a model's folder is looked through for.
const ZIP_LIMITS: PackageLimits = PackageLimits { files: PackageLimits::DEFAULT_FILES, ..PackageLimits::lambda() };

impl ControlPlane {
    /// The package of `$LATEST`, or of a version, as a ZIP. Its bytes are not those that were uploaded; its files are.
    pub async fn export_code(&self, named: &FunctionRef) -> Result<Vec<u8>, ControlError> {
        let (function, _) = self.own_function(&named.name).await?;
        let not_found = || self.function_not_found(&named.name, named.qualifier.as_deref());
        let code = match named.which() {
            None | Some(Which::Latest) => function.latest.code,
            Some(Which::Published(Qualifier::Version(number))) => {
                self.version(&named.name, number.0).await?.ok_or_else(not_found)?.0.content.code
            }
            Some(Which::Published(_)) => return Err(not_found()),
        };
        if code.code_size > EXPORTED_BYTES_MAX {
            let text =
                format!("This package has {} bytes, more than the {EXPORTED_BYTES_MAX} that are sent.", code.code_size);
            return Err(ControlError::invalid(text));
        }
        let content = self.content.clone();
        self.blocking(move || {
            let manifest = code.manifest_sha256.parse().map_err(|_| ControlError::service("a package has no name"))?;
            let mut zip = Vec::new();
            content.export_zip(manifest, Cursor::new(&mut zip))?;
            Ok::<_, ControlError>(zip)
        })
        .await
    }

    /// Takes code in and looks whether it can be served at all. The package is kept for as long as it is held, and then if
    /// a record names it.
    pub(crate) async fn take_code(
        &self,
        source: CodeSource,
        configuration: &Configuration,
    ) -> Result<(Code, Package), ControlError> {
        let Ok(Ok(_turn)) = timeout(TURN_TIMEOUT, self.taking.acquire()).await else {
            let text =
                format!("Rate Exceeded. {TAKEN_AT_ONCE} packages are being taken in; try again when one of them is.");
            return Err(ControlError::new(ErrorKind::TooManyRequests, text));
        };
        let content = self.content.clone();
        let package = match source {
            CodeSource { image_uri: Some(_), .. } => {
                return Err(ControlError::invalid(
                    "ImageUri is not supported here: functions are packages of type Zip.",
                ));
            }
            CodeSource { s3_bucket: Some(_), .. } | CodeSource { s3_key: Some(_), .. } => {
                self.fetch_code(source).await?
            }
            CodeSource { zip_file: Some(encoded), .. } => self
                .blocking(move || {
                    let bytes = STANDARD.decode(encoded.as_bytes()).map_err(|error| {
                        ControlError::validation("(blob)", "code.zipFile", format!("Member must be base64: {error}"))
                    })?;
                    content.ingest_zip(Cursor::new(bytes), &ZIP_LIMITS).map_err(ControlError::from)
                })
                .await
                .inspect_err(|error| self.clean_after(error))?,
            CodeSource { manifest: Some(manifest), .. } => self.take_announced(&manifest).await?,
            _ => return Err(ControlError::invalid("Please provide a source for function code.")),
        };
        let manifest_sha256 = package.manifest_sha256.to_string();
        self.verified.lock().insert(manifest_sha256.clone(), package.folder.clone());
        let code =
            Code { code_sha256: package.code_sha256_base64.clone(), code_size: package.code_size, manifest_sha256 };
        // What cannot be served at all is told now, not when it is published.
        let content = Content { configuration: configuration.clone(), code: code.clone() };
        if let Err(unread) = self.version_source(&content, VersionNumber(1), Reach::Disk).await {
            drop(package);
            self.spawn_clean_up();
            let reason = unread.reason;
            return Err(ControlError::invalid(format!("The package holds nothing that can be served: {reason}")));
        }
        Ok((code, package))
    }

    /// Removes packages that no function and no version has any more, in the background; several wishes at once are one.
    pub(crate) fn spawn_clean_up(&self) {
        let Some(plane) = self.this.upgrade().filter(|_| !self.cleaning.swap(true, Ordering::AcqRel)) else { return };
        tokio::spawn(async move {
            plane.cleaning.store(false, Ordering::Release);
            if let Err(error) = plane.clean_up().await {
                tracing::error!(%error, "packages that nobody has were not removed");
            }
        });
    }

    /// The same, when clients whose uploads the last end of the server cut have had their time to go on.
    pub(crate) fn clean_up_later(&self) {
        let this = self.this.clone();
        tokio::spawn(async move {
            tokio::time::sleep(crate::uploads::KEPT).await;
            let Some(plane) = this.upgrade() else { return };
            plane.content.let_go_of_loose();
            plane.spawn_clean_up();
        });
    }

    /// A package whose taking in failed on our side may have left contents.
    pub(crate) fn clean_after(&self, error: &ControlError) {
        if error.kind == ErrorKind::Service {
            self.spawn_clean_up();
        }
    }

    async fn clean_up(&self) -> Result<(), ControlError> {
        let Some(plane) = self.this.upgrade() else { return Ok(()) };
        let runtime = tokio::runtime::Handle::current();
        let content = self.content.clone();
        self.blocking(move || {
            content.retain(|| {
                // Asked once the store has noted what is held: the records name all else.
                let used = runtime.block_on(plane.used_packages());
                used.inspect_err(|error| tracing::error!(%error, "nobody knows which packages are used")).ok()
            })
        })
        .await
        .map(drop)
    }

    /// Names of all packages that a record has.
    async fn used_packages(&self) -> Result<BTreeSet<ContentSha256>, ControlError> {
        let mut used = BTreeSet::new();
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            used.insert(function.latest.code.manifest_sha256);
        }
        for (version, _) in self.read_all::<VersionRecord>(keys::VERSIONS).await? {
            used.insert(version.content.code.manifest_sha256);
            used.extend(version.serving.map(|serving| serving.code.manifest_sha256));
        }
        self.verified.lock().retain(|manifest, _| used.contains(manifest));
        Ok(used.iter().filter_map(|manifest| manifest.parse().ok()).collect())
    }
}
