//! A second place for contents and manifests, from which the disk is filled where it lacks them.
//!
//! Called by `ingest` before a package is said to be here, and by `store` and `folder` when something is not on disk or is
//! damaged there. What comes from it is believed as little as an upload: it is hashed on its way. Nothing is ever removed
//! from it: other stores may have the same packages there, and only they know.

use crate::staging::{flush, rename, write_content};
use crate::{ContentSha256, ContentStore, Manifest, PackageError};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

/// Most bytes of a manifest: as many files as an archive can have, each with the longest path.
const MANIFEST_BYTES_MAX: u64 = 128 << 20;

/// A file that is to be kept there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackedFile {
    /// Its name there: as in the store's own folder, with slashes.
    pub name: String,
    /// Where it is.
    pub path: PathBuf,
    /// What it hashes to, if the disk kept it.
    pub sha256: ContentSha256,
    /// Its length.
    pub bytes: u64,
}

/// Such a place. Called on threads that may block; every call ends, in time that depends on the bytes.
pub trait Backing: Send + Sync {
    /// Keeps files durably, those left out that are there with their length. An object is there whole or not at all. An error of
    /// kind `InvalidData` says that a file does not hash to what it should.
    fn put(&self, files: &[BackedFile]) -> io::Result<()>;

    /// Reads a file. An error of kind `NotFound` says that it is not there.
    fn get(&self, name: &str) -> io::Result<Box<dyn Read>>;
}

impl ContentStore {
    /// Keeps contents and manifests there too, from now on, and fetches what is not on disk from there.
    pub fn with_backing(mut self, backing: Arc<dyn Backing>) -> Self {
        self.backing = Some(backing);
        self
    }

    /// Whether there is such a place.
    pub fn is_backed(&self) -> bool {
        self.backing.is_some()
    }

    /// A package is there when this returns: its contents first, then what names them.
    pub(crate) fn back(&self, manifest: &Manifest, manifest_sha256: ContentSha256) -> Result<(), PackageError> {
        let Some(backing) = &self.backing else { return Ok(()) };
        let contents = manifest.contents().into_iter();
        let files: Vec<BackedFile> = contents
            .map(|(sha256, bytes)| BackedFile { name: blob_name(sha256), path: self.blob(sha256), sha256, bytes })
            .collect();
        let failed = |source| PackageError::Backing { doing: "keep the package in", source };
        match backing.put(&files) {
            // Set aside, so that it counts as missing and can be sent again.
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                for (sha256, bytes) in manifest.contents() {
                    self.verify_here(manifest, sha256, bytes, &mut |_| ())?;
                }
                return Err(failed(error));
            }
            kept => kept.map_err(failed)?,
        }
        let bytes = manifest.json().len() as u64;
        let path = self.manifest_path(manifest_sha256);
        let (name, sha256) = (manifest_name(manifest_sha256), manifest_sha256);
        backing.put(&[BackedFile { name, path, sha256, bytes }]).map_err(failed)
    }

    /// Fetches a content. `false` if there is no such place, or it is not there. Errors: what is there is another content.
    pub(crate) fn recall_blob(&self, sha256: ContentSha256, bytes: u64) -> Result<bool, PackageError> {
        let name = blob_name(sha256);
        let Some(mut reader) = self.reader(&name)? else { return Ok(false) };
        let staged = self.incoming.stage()?;
        let path = staged.path().join("blob");
        let mut counted = 0;
        let mut count = |read: u64| {
            counted += read;
            let more = || damaged(&name, format!("it has more than {bytes} bytes"));
            if counted > bytes { Err(more()) } else { Ok(()) }
        };
        let failed = |source| PackageError::Backing { doing: "read a content of the package from", source };
        let (found, found_bytes) = write_content(&path, &mut reader, &mut count, &failed)?;
        if (found, found_bytes) != (sha256, bytes) {
            return Err(damaged(&name, format!("it has {found_bytes} of {bytes} bytes and hashes to {found}")));
        }
        flush(&path)?;
        rename(&path, &self.blob(sha256))?;
        flush(&self.prefix(sha256))?;
        tracing::info!(content = %sha256, bytes, "a content was fetched");
        Ok(true)
    }

    /// Fetches a manifest and writes it down. `None` if there is no such place, or it is not there.
    pub(crate) fn recall_manifest(&self, manifest_sha256: ContentSha256) -> Result<Option<Manifest>, PackageError> {
        let name = manifest_name(manifest_sha256);
        let Some(reader) = self.reader(&name)? else { return Ok(None) };
        let mut json = Vec::new();
        let failed = |source| PackageError::Backing { doing: "read the package's list of files from", source };
        reader.take(MANIFEST_BYTES_MAX).read_to_end(&mut json).map_err(failed)?;
        let found = ContentSha256::of(&json);
        if found != manifest_sha256 {
            return Err(damaged(&name, format!("it hashes to {found}")));
        }
        let manifest = Manifest::from_json(&json).map_err(|error| damaged(&name, error.to_string()))?;
        self.put_manifest(&manifest)?;
        Ok(Some(manifest))
    }

    fn reader(&self, name: &str) -> Result<Option<Box<dyn Read>>, PackageError> {
        match self.backing.as_ref().map(|backing| backing.get(name)) {
            None => Ok(None),
            Some(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Some(Err(source)) => Err(PackageError::Backing { doing: "fetch what is missing from", source }),
            Some(Ok(reader)) => Ok(Some(reader)),
        }
    }
}

fn blob_name(sha256: ContentSha256) -> String {
    let digits = sha256.to_string();
    format!("blobs/{}/{digits}", &digits[..2])
}

fn manifest_name(sha256: ContentSha256) -> String {
    format!("manifests/{sha256}.json")
}

fn damaged(name: &str, found: String) -> PackageError {
    PackageError::BackingDamaged { name: name.to_owned(), found }
}
