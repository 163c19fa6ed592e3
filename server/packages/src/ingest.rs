//! A package arrives: as an archive, or as a list of contents that have been sent one by one.
//!
//! Called by the control plane for `CreateFunction` and `UpdateFunctionCode`, and for `penstock deploy`. When it returns, the
//! package survives a crash; when it refuses, nothing of it is left. Never says what a package is for.

use crate::archive::{Archive, check_size};
use crate::staging::{CHUNK_BYTES, flush, flush_all, rename};
use crate::unpack::unpack;
use crate::{ContentSha256, ContentStore, Hold, Manifest, PackageError, PackageLimits};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io::{self, Read, Seek};
use std::path::PathBuf;

/// A package that is in the store.
#[derive(Clone, Debug)]
pub struct Package {
    /// Its files.
    pub manifest: Manifest,
    /// Its id.
    pub manifest_sha256: ContentSha256,
    /// What Lambda calls `CodeSha256`, in base64: of the archive's bytes, or of the manifest if it came file by file.
    pub code_sha256_base64: String,
    /// What Lambda calls `CodeSize`, in bytes: of the archive, or of all files if it came file by file.
    pub code_size: u64,
    /// Of all files together.
    pub unpacked_bytes: u64,
    /// Where it lies, complete and read-only.
    pub folder: PathBuf,
    /// Keeps it from [`ContentStore::retain`]. Drop it when a version that refers to it has been written down.
    pub hold: Hold,
}

impl PackageLimits {
    /// Whether a package of these files may be taken.
    pub fn check_manifest(&self, manifest: &Manifest) -> Result<(), PackageError> {
        let (files, unpacked_bytes) = (manifest.files().len(), manifest.unpacked_bytes());
        if files > self.files {
            return Err(PackageError::TooManyFiles { found: files as u64, limit: self.files });
        }
        // There is no archive that it could be too large for.
        check_size(&Self { ratio_free_bytes: u64::MAX, ..*self }, 0, unpacked_bytes, || "the package".to_owned())
    }
}

impl ContentStore {
    /// Takes a ZIP. It is read twice, once to hash it and once to unpack it: give a file, and let nobody change it
    /// meanwhile. Permissions are not kept but for "its owner may run it"; neither are times and empty folders.
    pub fn ingest_zip(&self, mut zip: impl Read + Seek, limits: &PackageLimits) -> Result<Package, PackageError> {
        let (code_sha256, code_size) = survey(&mut zip, limits)?;
        let mut archive = Archive::open(zip, code_size, limits)?;
        let hold = self.holds.hold();
        let staged = self.incoming.stage()?;
        let has = |sha256, bytes| self.has(sha256, bytes);
        let unpacked = unpack(&mut archive, code_size, limits, &staged, &hold, &has)?;
        let paths: Vec<PathBuf> = unpacked.new.values().cloned().collect();
        flush_all(&paths)?;
        for (sha256, path) in &unpacked.new {
            rename(path, &self.blob(*sha256))?;
        }
        self.finish(unpacked.manifest, code_sha256.base64(), code_size, hold)
    }

    /// Takes a package whose contents have been put one by one; all of them have to be here.
    pub fn ingest_manifest(&self, manifest: Manifest, limits: &PackageLimits) -> Result<Package, PackageError> {
        limits.check_manifest(&manifest)?;
        let unpacked_bytes = manifest.unpacked_bytes();
        let hold = self.hold(&manifest);
        let missing = hold.add([], || self.missing(&manifest));
        if let Some(sha256) = missing.first() {
            let path = manifest.path_of(*sha256).to_owned();
            return Err(PackageError::MissingContents { count: missing.len(), sha256: *sha256, path });
        }
        let code_sha256 = manifest.sha256().base64();
        self.finish(manifest, code_sha256, unpacked_bytes, hold)
    }

    /// All contents are here; makes them a package.
    fn finish(
        &self,
        manifest: Manifest,
        code_sha256_base64: String,
        code_size: u64,
        hold: Hold,
    ) -> Result<Package, PackageError> {
        let manifest_sha256 = manifest.sha256();
        hold.add([manifest_sha256], || ());
        // Those of contents that were here before too: whoever wrote one may not have come to this yet.
        let prefixes: BTreeSet<PathBuf> = manifest.files().iter().map(|file| self.prefix(file.sha256)).collect();
        prefixes.iter().try_for_each(|prefix| flush(prefix))?;
        self.put_manifest(&manifest)?;
        // One that was here may have links to contents that were damaged and came anew. Not flushed: a folder that a crash loses
        // is made anew from what has been.
        let folder = self.package_folder(&manifest, manifest_sha256, true)?;
        self.back(&manifest, manifest_sha256)?;
        let unpacked_bytes = manifest.unpacked_bytes();
        Ok(Package { manifest, manifest_sha256, code_sha256_base64, code_size, unpacked_bytes, folder, hold })
    }
}

/// SHA-256 and length of an archive, read to its end from its start.
fn survey(zip: &mut (impl Read + Seek), limits: &PackageLimits) -> Result<(ContentSha256, u64), PackageError> {
    let failed = |source| PackageError::Read { source };
    zip.rewind().map_err(failed)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0u64;
    loop {
        match zip.read(&mut chunk) {
            Ok(0) => return Ok((ContentSha256::from_hash(hash), bytes)),
            Ok(read) => {
                hash.update(&chunk[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
        if bytes > limits.zip_bytes {
            return Err(PackageError::ZipTooLarge { limit: limits.zip_bytes });
        }
    }
}
