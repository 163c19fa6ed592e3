//! Code that lies in S3: read into the data directory, then taken in as an uploaded archive is.
//!
//! Called by `code`. What is received is in a folder that goes with it, however this ends.

use crate::error::{ControlError, ErrorKind};
use crate::plane::ControlPlane;
use crate::requests::CodeSource;
use penstock_packages::{Package, PackageLimits};
use penstock_remote::S3Error;
use std::fs::File;
use std::io;

/// Of the disk that stays free whatever is received, in bytes.
const KEPT_BYTES: u64 = 64 << 20;

impl ControlPlane {
    /// The package that `source` names. Errors: it is not there, may not be read, is too large, is no package.
    pub(crate) async fn fetch_code(&self, source: CodeSource) -> Result<Package, ControlError> {
        let (Some(bucket), Some(key)) = (source.s3_bucket, source.s3_key) else {
            return Err(ControlError::invalid("Please provide both S3Bucket and S3Key."));
        };
        if let Some(mode) = source.s3_object_storage_mode.filter(|mode| mode != "COPY") {
            return Err(match mode.as_str() {
                "REFERENCE" => ControlError::invalid("S3ObjectStorageMode REFERENCE is not supported here: use COPY."),
                _ => ControlError::validation(
                    mode,
                    "code.s3ObjectStorageMode",
                    "Member must satisfy enum value set: [REFERENCE, COPY]",
                ),
            });
        }
        let bytes_max = self.options.package_bytes_max;
        let storage = self.options.remote.s3().map_err(|error| ControlError::invalid(error.to_string()))?;
        let object = storage.open(&bucket, &key, source.s3_object_version, bytes_max).await.map_err(refused)?;
        let (bytes, content) = (object.bytes(), self.content.clone());
        let staged = self
            .blocking(move || {
                let (free, staged) = (content.free_bytes()?, content.stage()?);
                // What it unpacks to is seldom less, and not known yet.
                match bytes.saturating_mul(2).saturating_add(KEPT_BYTES) {
                    needed if needed > free => Err(ControlError::new(
                        ErrorKind::CodeStorageExceeded,
                        format!("The package needs {needed} bytes while it is taken in, and {free} are free here."),
                    )),
                    _ => Ok(staged),
                }
            })
            .await?;
        let path = staged.path().join("archive");
        object.save(&path).await.map_err(refused)?;
        tracing::debug!(bucket, key, bytes, "a package was read from S3");
        let content = self.content.clone();
        self.blocking(move || {
            let archive = File::open(&path).map_err(|error| ControlError::service(error.to_string()))?;
            let package = content.ingest_zip(archive, &PackageLimits::large(bytes_max));
            drop(staged);
            package.map_err(ControlError::from)
        })
        .await
        .inspect_err(|error| self.clean_after(error))
    }
}

fn refused(error: S3Error) -> ControlError {
    match error {
        S3Error::Away { .. } => {
            tracing::warn!(%error, "a package could not be read from S3");
            ControlError::service(format!("Error occurred while GetObject. {error}"))
        }
        S3Error::Told { .. } => ControlError::invalid(format!("Error occurred while GetObject. {error}")),
        S3Error::TooLarge { .. } => ControlError::invalid(format!(
            "Error occurred while GetObject. {error}: send a smaller package, or have packages.max_package_bytes raised."
        )),
        S3Error::Busy => ControlError::new(ErrorKind::TooManyRequests, format!("Rate Exceeded. {error}")),
        S3Error::File { ref source, .. } if source.kind() == io::ErrorKind::StorageFull => {
            ControlError::new(ErrorKind::CodeStorageExceeded, error.to_string())
        }
        S3Error::File { .. } => {
            tracing::error!(%error, "a package could not be received");
            ControlError::service(error.to_string())
        }
    }
}
