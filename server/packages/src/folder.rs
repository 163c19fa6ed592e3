//! Packages as folders: handed out when they are what they should be, and made anew when they are not.
//!
//! Called by `ingest`, by the instance agent before it loads a version, and by the repository's scan. Contents are linked
//! from the blobs, so a folder costs names and no bytes; where a file system allows no more links to one, it is copied. Never
//! changes a content: only that it may be run, which it then may in every package that has it.

use crate::staging::{CHUNK_BYTES, Staged, flush, make_folder, rename};
use crate::{ContentSha256, ContentStore, FileEntry, Manifest, PackageError};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

impl ContentStore {
    /// The folder of a package, each of whose contents has been read and hashed just now. A folder that was lost or
    /// changed is made anew; a content that is damaged is an error that names it, and is set aside so that it can be sent
    /// again. Costs a read of all bytes: `examples/measure_packages.rs` says at how many MB/s.
    pub fn package(&self, manifest_sha256: ContentSha256) -> Result<PathBuf, PackageError> {
        let manifest = self.manifest(manifest_sha256)?;
        for (sha256, bytes) in manifest.contents() {
            self.verify(&manifest, sha256, bytes, &mut |_| ())?;
        }
        self.package_folder(&manifest, manifest_sha256, true)
    }

    /// The same of what is on disk alone: nothing is fetched, so that it takes no longer than reading does.
    pub fn package_on_disk(&self, manifest_sha256: ContentSha256) -> Result<PathBuf, PackageError> {
        let manifest = self.manifest_here(manifest_sha256)?;
        // Before anything is read: a part may be on its way.
        if let Some(sha256) = self.missing(&manifest).first() {
            let path = manifest.path_of(*sha256).to_owned();
            return Err(PackageError::MissingContents { count: 1, sha256: *sha256, path });
        }
        for (sha256, bytes) in manifest.contents() {
            self.verify_here(&manifest, sha256, bytes, &mut |_| ())?;
        }
        self.package_folder(&manifest, manifest_sha256, true)
    }

    /// The same without reading contents: names and lengths are looked at, which takes microseconds a file. For looking at
    /// packages often, such as all of them at every start; use [`ContentStore::package`] before one is loaded.
    pub fn package_unverified(&self, manifest_sha256: ContentSha256) -> Result<PathBuf, PackageError> {
        self.package_folder(&self.manifest(manifest_sha256)?, manifest_sha256, false)
    }

    /// Reads a content to its end and shows it to `chunk`. One that is not here, or damaged, is fetched. An error if there is
    /// none, or none that is what its name says.
    pub(crate) fn verify(
        &self,
        manifest: &Manifest,
        sha256: ContentSha256,
        bytes: u64,
        chunk: &mut dyn FnMut(&[u8]),
    ) -> Result<(), PackageError> {
        match self.verify_here(manifest, sha256, bytes, chunk) {
            Err(PackageError::MissingContents { .. } | PackageError::Damaged { .. })
                if self.recall_blob(sha256, bytes)? =>
            {
                self.verify_here(manifest, sha256, bytes, chunk)
            }
            verified => verified,
        }
    }

    pub(crate) fn verify_here(
        &self,
        manifest: &Manifest,
        sha256: ContentSha256,
        bytes: u64,
        chunk: &mut dyn FnMut(&[u8]),
    ) -> Result<(), PackageError> {
        let blob = self.blob(sha256);
        let path = manifest.path_of(sha256);
        let (found, found_bytes, read) = match hash_file(&blob, chunk) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PackageError::MissingContents { count: 1, sha256, path: path.to_owned() });
            }
            Err(error) => return Err(PackageError::io("read", &blob)(error)),
        };
        if (found, found_bytes) == (sha256, bytes) {
            return Ok(());
        }
        // Not a good one that has taken its place since.
        if blob.symlink_metadata().is_ok_and(|now| (now.dev(), now.ino()) != read) {
            return self.verify_here(manifest, sha256, bytes, chunk);
        }
        let aside = self.set_aside(sha256)?;
        tracing::warn!(content = %sha256, path, aside = %aside.display(), "a content is damaged and has been set aside");
        let what = format!("the content {} of {path:?}, now {},", blob.display(), aside.display());
        Err(PackageError::Damaged {
            what,
            found: format!("it has {found_bytes} of {bytes} bytes and hashes to {found}"),
        })
    }

    /// The folder, made if it is not there or not right. `thorough` reads the files in it that are not the blobs themselves.
    pub(crate) fn package_folder(
        &self,
        manifest: &Manifest,
        manifest_sha256: ContentSha256,
        thorough: bool,
    ) -> Result<PathBuf, PackageError> {
        let folder = self.folder_path(manifest_sha256);
        let _one_at_a_time = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
        if folder.symlink_metadata().is_ok() {
            match self.fault(manifest, &folder, thorough) {
                None => return Ok(folder),
                Some(fault) => tracing::warn!(folder = %folder.display(), fault, "a package's folder is made anew"),
            }
        }
        let staged = self.incoming.stage()?;
        self.lay_out(manifest, &staged)?;
        self.remove_whole(&folder)?;
        rename(staged.path(), &folder)?;
        Ok(folder)
    }

    fn lay_out(&self, manifest: &Manifest, staged: &Staged) -> Result<(), PackageError> {
        let mut made = BTreeSet::new();
        for file in manifest.files() {
            for (end, _) in file.path.match_indices('/') {
                if made.insert(&file.path[..end]) {
                    make_folder(&staged.path().join(&file.path[..end]))?;
                }
            }
            self.lay_file(file, &staged.path().join(&file.path))?;
        }
        Ok(())
    }

    fn lay_file(&self, file: &FileEntry, target: &Path) -> Result<(), PackageError> {
        let blob = self.blob(file.sha256);
        match fs::hard_link(&blob, target) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(PackageError::MissingContents { count: 1, sha256: file.sha256, path: file.path.clone() });
            }
            // ext4 allows 65,000: an empty `__init__.py` gets there.
            Err(error) if error.kind() == io::ErrorKind::TooManyLinks => {
                fs::copy(&blob, target).map_err(PackageError::io("copy a content to", target))?;
                flush(target)?;
            }
            Err(error) => return Err(PackageError::io("link a content to", target)(error)),
        }
        if file.executable {
            let executable = Permissions::from_mode(0o555);
            fs::set_permissions(target, executable).map_err(PackageError::io("set the mode of", target))?;
        }
        Ok(())
    }

    /// What about a folder is not as its manifest says.
    fn fault(&self, manifest: &Manifest, folder: &Path, thorough: bool) -> Option<String> {
        let mut found = BTreeMap::new();
        if let Err(error) = walk(folder, "", &mut found) {
            return Some(error.to_string());
        }
        let folders =
            manifest.files().iter().flat_map(|file| file.path.match_indices('/').map(|(end, _)| &file.path[..end]));
        let folders: BTreeSet<&str> = folders.collect();
        let extra = found.iter().find(|(path, metadata)| metadata.is_dir() && !folders.contains(path.as_str()));
        if let Some((path, _)) = extra {
            return Some(format!("{path:?} is not part of it"));
        }
        for file in manifest.files() {
            match found.remove(&file.path) {
                None => return Some(format!("{:?} is not there", file.path)),
                Some(metadata) if !self.is(file, &metadata, &folder.join(&file.path), thorough) => {
                    return Some(format!("{:?} is not what it was", file.path));
                }
                Some(_) => {}
            }
        }
        found.retain(|_, metadata| !metadata.is_dir());
        found.keys().next().map(|path| format!("{path:?} is not part of it"))
    }

    fn is(&self, file: &FileEntry, metadata: &Metadata, path: &Path, thorough: bool) -> bool {
        // Another package may have made it executable; nobody may have made it writable.
        let modes: &[u32] = if file.executable { &[0o555] } else { &[0o444, 0o555] };
        if !metadata.is_file() || metadata.len() != file.bytes || !modes.contains(&(metadata.mode() & 0o7777)) {
            return false;
        }
        let blob = self.blob(file.sha256).symlink_metadata();
        let same = blob.is_ok_and(|blob| (blob.dev(), blob.ino()) == (metadata.dev(), metadata.ino()));
        same || !thorough || hash_file(path, &mut |_| ()).is_ok_and(|(found, ..)| found == file.sha256)
    }
}

/// All that is below a folder, by path from its root. As deep as it is: the store writes nothing deeper than 16 folders.
fn walk(folder: &Path, above: &str, found: &mut BTreeMap<String, Metadata>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name =
            entry.file_name().into_string().map_err(|name| io::Error::other(format!("{name:?} is not part of it")))?;
        let path = if above.is_empty() { name } else { format!("{above}/{name}") };
        let metadata = entry.path().symlink_metadata()?;
        if metadata.is_dir() {
            walk(&entry.path(), &path, found)?;
        }
        found.insert(path, metadata);
    }
    Ok(())
}

/// SHA-256 and length of a file, and which file it was: device and inode.
fn hash_file(path: &Path, seen: &mut dyn FnMut(&[u8])) -> io::Result<(ContentSha256, u64, (u64, u64))> {
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        match file.read(&mut chunk) {
            Ok(0) => return Ok((ContentSha256::from_hash(hash), bytes, (metadata.dev(), metadata.ino()))),
            Ok(read) => {
                hash.update(&chunk[..read]);
                seen(&chunk[..read]);
                bytes += read as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}
