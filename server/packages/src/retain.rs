//! What no version needs any more goes.
//!
//! Called by the control plane now and then, and after versions were deleted. Never removes what is held, what is being
//! ingested, or anything at all while a package that is in use cannot be read.

use crate::staging::remove;
use crate::{ContentSha256, ContentStore, PackageError};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// What one removal did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retained {
    /// Packages removed.
    pub packages: usize,
    /// Contents removed.
    pub contents: usize,
    /// Their bytes.
    pub bytes: u64,
}

impl ContentStore {
    /// Removes packages, manifests and contents that none of `used`, nobody's [`Hold`](crate::Hold) and no running
    /// ingestion needs; contents put one by one since the last call are left this once. `used` gives the ids of all packages
    /// that versions refer to, and is asked after the store has noted what is held: a package whose version is written down
    /// before its hold is dropped is in one of the two. If it gives `None`, or a package in use cannot be read, nothing is
    /// removed.
    ///
    /// Contents that an earlier process took one by one, for packages that had not come to be, are left until
    /// [`ContentStore::let_go_of_loose`].
    pub fn retain(&self, used: impl FnOnce() -> Option<BTreeSet<ContentSha256>>) -> Result<Retained, PackageError> {
        let mut kept = self.holds.lock().all();
        // Not under the lock: what is asked may drop a hold.
        let Some(used) = used() else { return Ok(Retained::default()) };
        for manifest_sha256 in used {
            kept.extend(self.manifest(manifest_sha256)?.contents().into_keys());
            kept.insert(manifest_sha256);
        }
        // From here to the end, no ingestion can find that a content is here.
        let mut held = self.holds.lock();
        kept.append(&mut held.all());
        let mut kept_contents = std::mem::take(&mut held.recent);
        kept_contents.extend(kept.iter().chain(&held.loose));
        let mut done = Retained::default();
        for (path, manifest_sha256) in named(&self.root.join("packages"))? {
            if manifest_sha256.is_none_or(|sha256| !kept.contains(&sha256)) {
                self.remove_whole(&path)?;
            }
        }
        for (path, manifest_sha256) in named(&self.root.join("manifests"))? {
            if manifest_sha256.is_none_or(|sha256| !kept.contains(&sha256)) {
                remove(&path)?;
                done.packages += 1;
            }
        }
        for first in 0..=u8::MAX {
            for (path, sha256) in named(&self.root.join(format!("blobs/{first:02x}")))? {
                if sha256.is_none_or(|sha256| !kept_contents.contains(&sha256)) {
                    done.bytes += path.symlink_metadata().map_or(0, |metadata| metadata.len());
                    remove(&path)?;
                    done.contents += 1;
                }
            }
        }
        for (path, sha256) in named(&self.root.join("damaged"))? {
            if sha256.is_none_or(|sha256| !kept_contents.contains(&sha256) || self.blob(sha256).exists()) {
                remove(&path)?;
            }
        }
        Ok(done)
    }

    /// Clients that were sending when the last process ended have had time to go on: what they sent counts no more.
    pub fn let_go_of_loose(&self) {
        self.holds.lock().loose.clear();
    }

    /// Contents that no manifest on disk names.
    pub(crate) fn loose(&self) -> Result<BTreeSet<ContentSha256>, PackageError> {
        let mut loose = BTreeSet::new();
        for first in 0..=u8::MAX {
            let contents = named(&self.root.join(format!("blobs/{first:02x}")))?;
            loose.extend(contents.into_iter().filter_map(|(_, sha256)| sha256));
        }
        let manifests = named(&self.root.join("manifests"))?.into_iter().filter_map(|(_, sha256)| sha256);
        // One that cannot be read names nothing.
        for manifest in manifests.filter_map(|sha256| self.manifest_here(sha256).ok()) {
            for sha256 in manifest.contents().keys() {
                loose.remove(sha256);
            }
        }
        Ok(loose)
    }
}

/// What is in one of the store's folders, and the hash that its name begins with.
fn named(folder: &Path) -> Result<Vec<(PathBuf, Option<ContentSha256>)>, PackageError> {
    let entries = fs::read_dir(folder).map_err(PackageError::io("list", folder))?;
    let one = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.map_err(PackageError::io("list", folder))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let sha256 = name.and_then(|name| name.get(..64)).and_then(|digits| digits.parse().ok());
        Ok((path, sha256))
    };
    entries.map(one).collect()
}
