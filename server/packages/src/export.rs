//! A package as a ZIP again: what `GetFunction` gives a location of.
//!
//! Called by the control plane. The archive depends on the manifest alone: sorted entries, stored and not compressed (weights
//! do not pack), no times. It is not the archive that was uploaded, so its hash is not the package's `CodeSha256`. Never
//! gives out a content that it has not hashed.

use crate::{ContentSha256, ContentStore, PackageError};
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, DateTime, ZipWriter};

impl ContentStore {
    /// Writes a package as a ZIP. All contents are read and hashed before the first byte is written; then they are read
    /// again. After an error, what was written is no archive to be used, even if it looks like one.
    pub fn export_zip(&self, manifest_sha256: ContentSha256, writer: impl Write + Seek) -> Result<(), PackageError> {
        let manifest = self.manifest(manifest_sha256)?;
        let _hold = self.hold(&manifest);
        for (sha256, bytes) in manifest.contents() {
            self.verify(&manifest, sha256, bytes, &mut |_| {})?;
        }
        let mut zip = ZipWriter::new(writer);
        for file in manifest.files() {
            let options = SimpleFileOptions::default()
                .compression_method(CompressionMethod::Stored)
                .last_modified_time(DateTime::default())
                .large_file(file.bytes > u64::from(u32::MAX))
                .unix_permissions(if file.executable { 0o755 } else { 0o644 });
            zip.start_file(file.path.as_str(), options).map_err(|error| failed(error.into()))?;
            let blob = self.blob(file.sha256);
            let mut reader = File::open(&blob).map_err(PackageError::io("open", &blob))?.take(file.bytes);
            if io::copy(&mut reader, &mut zip).map_err(failed)? != file.bytes {
                return Err(PackageError::io("read", &blob)(io::ErrorKind::UnexpectedEof.into()));
            }
        }
        zip.finish().map(drop).map_err(|error| failed(error.into()))
    }
}

fn failed(source: io::Error) -> PackageError {
    PackageError::Write { source }
}
