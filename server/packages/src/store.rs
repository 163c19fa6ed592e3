//! The store's folders, and contents one by one.
//!
//! ```text
//! blobs/<2 digits>/<sha256>   each content once, mode 0444
//! manifests/<sha256>.json     each package's list of files
//! packages/<sha256>/...       each package as a folder of hard links to blobs; made anew from the two above if lost
//! incoming/...                what is being written; emptied at the start
//! damaged/<sha256>-...        contents that did not hash to their name any more
//! lock                        one process at a time
//! ```
//!
//! What has a name outside `incoming/` is complete and survives a crash. Called on threads that may block: hashing and
//! flushing take seconds per GiB. Never asks for the time and never decides what is still needed; see `retain` for that.

use crate::hold::Holds;
use crate::staging::{Incoming, Staged, flush, make_folder, remove, rename, write_content};
use crate::{Backing, ContentSha256, Hold, Manifest, PackageError};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

/// Packages on disk, by content. Shared between threads by reference.
pub struct ContentStore {
    pub(crate) root: PathBuf,
    pub(crate) incoming: Incoming,
    pub(crate) holds: Holds,
    /// Held while a package's folder is looked at and, if need be, made.
    pub(crate) folders: Mutex<()>,
    /// A second place, if there is one.
    pub(crate) backing: Option<Arc<dyn Backing>>,
    _lock: File,
}

impl ContentStore {
    /// Opens or makes the store in `root`, whose parent has to be there. One process at a time, and in it once. Removes
    /// what a crash left in `incoming/`.
    pub fn open(root: PathBuf) -> Result<Self, PackageError> {
        make_folder(&root)?;
        let lock = root.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock);
        let file = file.map_err(PackageError::io("open", &lock))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(PackageError::InUse { path: root }),
            Err(TryLockError::Error(error)) => return Err(PackageError::io("lock", &lock)(error)),
        }
        for folder in ["blobs", "manifests", "packages", "damaged"] {
            make_folder(&root.join(folder))?;
        }
        // All of them now, so that no upload has to flush a new one.
        for first in 0..=u8::MAX {
            make_folder(&root.join(format!("blobs/{first:02x}")))?;
        }
        flush(&root.join("blobs"))?;
        flush(&root)?;
        let incoming = Incoming::open(root.join("incoming"))?;
        let holds = Holds::default();
        let store = Self { root, incoming, holds, folders: Mutex::new(()), backing: None, _lock: file };
        store.holds.lock().loose = store.loose()?;
        Ok(store)
    }

    /// A folder for a file that a package is made of, such as an archive that is being received. It goes when it is dropped, or
    /// at the next start.
    pub fn stage(&self) -> Result<Staged, PackageError> {
        self.incoming.stage()
    }

    /// Bytes that can still be written to the store's file system.
    pub fn free_bytes(&self) -> Result<u64, PackageError> {
        let found =
            rustix::fs::statvfs(&self.root).map_err(|error| PackageError::io("look at", &self.root)(error.into()))?;
        Ok(found.f_bavail.saturating_mul(found.f_frsize))
    }

    /// Which of a manifest's contents are not here, or not with the length that it states: what has to be sent.
    pub fn missing(&self, manifest: &Manifest) -> Vec<ContentSha256> {
        let contents = manifest.contents().into_iter();
        contents.filter(|(sha256, bytes)| !self.has(*sha256, *bytes)).map(|(sha256, _)| sha256).collect()
    }

    /// Keeps a manifest and its contents, those that are here and those that will come, from [`ContentStore::retain`].
    /// Take it before [`ContentStore::missing`], and drop it when the package is ingested or the upload is given up.
    pub fn hold(&self, manifest: &Manifest) -> Hold {
        let hold = self.holds.hold();
        hold.add(manifest.contents().into_keys().chain([manifest.sha256()]), || ());
        hold
    }

    /// Takes one content, which has to hash to `sha256` and have `bytes` bytes; no more than one chunk beyond them is read,
    /// and nothing if it is here. Without a [`Hold`] it outlives one `retain` and not two. Bounding `bytes` is the caller's.
    pub fn put_blob(&self, sha256: ContentSha256, mut reader: impl Read, bytes: u64) -> Result<(), PackageError> {
        let hold = self.holds.hold();
        if hold.add([sha256], || self.has(sha256, bytes)) {
            return self.settle(sha256);
        }
        let mismatch = |found| PackageError::ContentMismatch { wanted: sha256, wanted_bytes: bytes, found };
        let staged = self.incoming.stage()?;
        let path = staged.path().join("blob");
        let mut counted = 0;
        let mut count = |read: u64| {
            counted += read;
            if counted > bytes { Err(mismatch(format!("{counted} bytes or more"))) } else { Ok(()) }
        };
        let failed = |source| PackageError::Read { source };
        let (found, found_bytes) = write_content(&path, &mut reader, &mut count, &failed)?;
        if (found, found_bytes) != (sha256, bytes) {
            return Err(mismatch(format!("{found} of {found_bytes} bytes")));
        }
        flush(&path)?;
        rename(&path, &self.blob(sha256))?;
        self.settle(sha256)
    }

    /// The content is here for certain; noted before the caller's hold ends.
    fn settle(&self, sha256: ContentSha256) -> Result<(), PackageError> {
        self.holds.lock().recent.insert(sha256);
        flush(&self.prefix(sha256))
    }

    /// A package's list of files, which hashes to its id. One that is not here, or damaged, is fetched.
    pub fn manifest(&self, manifest_sha256: ContentSha256) -> Result<Manifest, PackageError> {
        self.manifest_here(manifest_sha256).or_else(|error| self.recall_manifest(manifest_sha256)?.ok_or(error))
    }

    /// Whether all of a package is on disk, by names and lengths.
    pub fn is_on_disk(&self, manifest_sha256: ContentSha256) -> bool {
        self.manifest_here(manifest_sha256).is_ok_and(|manifest| self.missing(&manifest).is_empty())
    }

    pub(crate) fn manifest_here(&self, manifest_sha256: ContentSha256) -> Result<Manifest, PackageError> {
        let path = self.manifest_path(manifest_sha256);
        let json = match std::fs::read(&path) {
            Ok(json) => json,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(PackageError::NotFound { manifest_sha256 });
            }
            Err(error) => return Err(PackageError::io("read", &path)(error)),
        };
        let damaged = |found| PackageError::Damaged { what: format!("the manifest {}", path.display()), found };
        match ContentSha256::of(&json) {
            found if found == manifest_sha256 => Manifest::from_json(&json).map_err(|error| damaged(error.to_string())),
            found => Err(damaged(format!("it hashes to {found}"))),
        }
    }

    /// Writes a manifest down, so that it survives a crash.
    pub(crate) fn put_manifest(&self, manifest: &Manifest) -> Result<(), PackageError> {
        let manifest_sha256 = manifest.sha256();
        let path = self.manifest_path(manifest_sha256);
        if self.manifest_here(manifest_sha256).is_ok() {
            return flush(&self.root.join("manifests"));
        }
        let staged = self.incoming.stage()?;
        let written = staged.path().join("manifest");
        write_content(&written, &mut manifest.json().as_slice(), &mut |_| Ok(()), &|source| PackageError::Read {
            source,
        })?;
        flush(&written)?;
        rename(&written, &path)?;
        flush(&self.root.join("manifests"))
    }

    /// Moves a content that is damaged out of the way, so that it counts as missing and can be sent again. The file stays
    /// for whoever wants to look, until [`ContentStore::retain`] finds a good one or no need.
    pub(crate) fn set_aside(&self, sha256: ContentSha256) -> Result<PathBuf, PackageError> {
        let unique = self.incoming.unique();
        let name = unique.file_name().expect("a path in incoming/ has a name").to_string_lossy().into_owned();
        let mut aside = self.root.join(format!("damaged/{sha256}-{name}"));
        // Names begin again when the process does, and the system may give its number again.
        while aside.exists() {
            aside.as_mut_os_string().push("+");
        }
        rename(&self.blob(sha256), &aside)?;
        Ok(aside)
    }

    /// Whether a content of this length is here. Its hash was checked when it was written; see `package` for later.
    pub(crate) fn has(&self, sha256: ContentSha256, bytes: u64) -> bool {
        self.blob(sha256).symlink_metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() == bytes)
    }

    pub(crate) fn prefix(&self, sha256: ContentSha256) -> PathBuf {
        self.root.join("blobs").join(&sha256.to_string()[..2])
    }

    pub(crate) fn blob(&self, sha256: ContentSha256) -> PathBuf {
        self.prefix(sha256).join(sha256.to_string())
    }

    pub(crate) fn manifest_path(&self, sha256: ContentSha256) -> PathBuf {
        self.root.join(format!("manifests/{sha256}.json"))
    }

    pub(crate) fn folder_path(&self, sha256: ContentSha256) -> PathBuf {
        self.root.join(format!("packages/{sha256}"))
    }

    /// Removes what is whole in one step: it goes through `incoming/`, so that half of it is never seen.
    pub(crate) fn remove_whole(&self, path: &Path) -> Result<(), PackageError> {
        let gone = self.incoming.unique();
        match std::fs::rename(path, &gone) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            renamed => renamed.map_err(PackageError::io("remove", path)).and_then(|()| remove(&gone)),
        }
    }
}
