//! Entries become staged contents, counted and hashed as they come out.
//!
//! Called by `ingest` with an archive whose declarations have been checked. Believes none of them: it counts what comes out,
//! stops at the first chunk too many, and leaves nothing but the staged folder, which goes when its owner drops it.

use crate::archive::{Archive, check_size};
use crate::path::Kind;
use crate::staging::{Staged, remove, write_content};
use crate::{ContentSha256, FileEntry, Hold, Manifest, PackageError, PackageLimits};
use std::collections::BTreeMap;
use std::io::{self, Read, Seek};
use std::path::PathBuf;

/// What an archive was unpacked to.
pub(crate) struct Unpacked {
    pub(crate) manifest: Manifest,
    /// Contents that are not in the store yet, and where they are.
    pub(crate) new: BTreeMap<ContentSha256, PathBuf>,
}

/// Unpacks all entries into `staged`. `has` says whether the store has a content of this hash and length; such are held
/// by `hold` and not kept twice.
pub(crate) fn unpack<R: Read + Seek>(
    archive: &mut Archive<R>,
    zip_bytes: u64,
    limits: &PackageLimits,
    staged: &Staged,
    hold: &Hold,
    has: &dyn Fn(ContentSha256, u64) -> bool,
) -> Result<Unpacked, PackageError> {
    let mut files = Vec::new();
    let mut new = BTreeMap::new();
    let mut total = 0u64;
    for number in 0..archive.entries.len() {
        let entry = &archive.entries[number];
        let (path, kind, declared_bytes) = (entry.path.clone(), entry.kind, entry.declared_bytes);
        let executable = entry.executable;
        let mut count = |read: u64| {
            total = total.saturating_add(read);
            check_size(limits, zip_bytes, total, || format!("entry {path:?}"))
        };
        let target = staged.path().join(number.to_string());
        let failed = |error: io::Error| wrong(&path, error);
        let mut content = archive.content(number)?;
        let (sha256, bytes) = write_content(&target, &mut content, &mut count, &failed)?;
        if bytes != declared_bytes {
            let text = format!("it declares {declared_bytes} bytes and has {bytes}");
            return Err(PackageError::corrupt(format!("entry {path:?}"), text));
        }
        if kind == Kind::Folder {
            remove(&target)?;
            continue;
        }
        // Looked at now and not at the end, so that a large package that is here already is not on disk twice.
        if hold.add([sha256], || has(sha256, bytes)) || new.contains_key(&sha256) {
            remove(&target)?;
        } else {
            new.insert(sha256, target);
        }
        files.push(FileEntry { path, sha256, bytes, executable });
    }
    Ok(Unpacked { manifest: Manifest::new(files)?, new })
}

/// An error while an entry is read: the archive's, unless the operating system says it.
fn wrong(path: &str, source: io::Error) -> PackageError {
    match source.raw_os_error() {
        Some(_) => PackageError::Read { source },
        None => PackageError::corrupt(format!("entry {path:?}"), source.to_string()),
    }
}
