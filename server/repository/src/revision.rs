//! Fingerprints of a version's files, so that a change is noticed without reading them.
//!
//! Called by `repository` on every scan. Reads names, sizes and times; never contents.

use crate::json::config_json;
use penstock_proto::inference::ModelConfig;
use sha2::{Digest, Sha256};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// Changes when a version's files or configuration change: 64 bits of a SHA-256 over the configuration, the labels and
/// each file's path, size and time of modification in nanoseconds. A file rewritten within the file system's clock
/// tick with the same size is not noticed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentRevision(pub u64);

impl fmt::Display for ContentRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for ContentRevision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Deepest folder looked into, and most entries looked at.
const DEPTH_MAX: usize = 8;
const ENTRIES_MAX: usize = 4096;

/// What a walk over a version's files found.
pub(crate) struct Fingerprint {
    pub(crate) revision: ContentRevision,
    /// Real paths of links that lead out of the folder, sorted.
    pub(crate) linked_paths: Vec<PathBuf>,
}

/// Walks `folder` (which may be absent, for the identity runtime). `also` are files elsewhere that belong to it.
pub(crate) fn fingerprint(folder: &Path, config: &ModelConfig, also: &[PathBuf]) -> io::Result<Fingerprint> {
    let mut walk = Walk { root: folder.canonicalize().unwrap_or_else(|_| folder.to_owned()), ..Walk::default() };
    if folder.is_dir() {
        if folder.symlink_metadata()?.is_symlink() {
            walk.linked_paths.push(walk.root.clone());
        }
        walk.folder(folder, Path::new(""), 0)?;
    }
    for path in also {
        walk.entry(path, path, DEPTH_MAX)?;
    }
    walk.lines.sort_unstable();
    walk.linked_paths.sort_unstable();
    walk.linked_paths.dedup();
    let mut hash = Sha256::new();
    hash.update(config_json(config).to_string());
    for line in &walk.lines {
        hash.update([0]);
        hash.update(line);
    }
    let digest = hash.finalize();
    let first = digest.first_chunk().copied().unwrap_or_default();
    Ok(Fingerprint { revision: ContentRevision(u64::from_be_bytes(first)), linked_paths: walk.linked_paths })
}

#[derive(Default)]
struct Walk {
    root: PathBuf,
    lines: Vec<String>,
    linked_paths: Vec<PathBuf>,
}

impl Walk {
    fn folder(&mut self, folder: &Path, relative: &Path, depth: usize) -> io::Result<()> {
        if depth == DEPTH_MAX {
            return Err(io::Error::other(format!("{}: more than {DEPTH_MAX} folders deep", folder.display())));
        }
        for entry in folder.read_dir()? {
            let name = entry?.file_name();
            self.entry(&folder.join(&name), &relative.join(&name), depth)?;
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, relative: &Path, depth: usize) -> io::Result<()> {
        if self.lines.len() == ENTRIES_MAX {
            return Err(io::Error::other(format!("{}: more than {ENTRIES_MAX} files", self.root.display())));
        }
        let is_link = path.symlink_metadata()?.is_symlink();
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            // A link to nowhere is only a problem if the model needs it, which loading finds out.
            Err(error) if is_link && error.kind() == io::ErrorKind::NotFound => {
                self.lines.push(format!("{relative:?} dangling"));
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        if is_link {
            let real = path.canonicalize()?;
            if !real.starts_with(&self.root) {
                tracing::debug!(link = %path.display(), target = %real.display(), "a link leads out of the version's folder");
                self.linked_paths.push(real);
            }
        }
        if metadata.is_dir() {
            return self.folder(path, relative, depth + 1);
        }
        let since_epoch = metadata.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.lines.push(format!("{relative:?} {} {}", metadata.len(), since_epoch.as_nanos()));
        Ok(())
    }
}
