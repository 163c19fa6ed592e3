//! `incoming/`: where everything is written before it has a name.
//!
//! Called by `store`, `unpack` and `folder`. What is here belongs to nobody: it goes when its owner drops it, or when the
//! store is next opened after a crash. Never reads what it writes.

use crate::{ContentSha256, PackageError};
use sha2::{Digest, Sha256};
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Read and written at a time, in bytes.
pub(crate) const CHUNK_BYTES: usize = 256 << 10;
/// From this many files on, one flush of the file system costs less than one of each file.
const FLUSH_ALL_FROM: usize = 64;

/// The folder `incoming/`.
pub(crate) struct Incoming {
    folder: PathBuf,
    next: AtomicU64,
}

/// A folder in `incoming/`, removed with all that is in it when dropped.
pub struct Staged {
    path: PathBuf,
}

impl Incoming {
    /// Makes it, or empties it of what a crash has left.
    pub(crate) fn open(folder: PathBuf) -> Result<Self, PackageError> {
        make_folder(&folder)?;
        for entry in fs::read_dir(&folder).map_err(PackageError::io("list", &folder))? {
            let path = entry.map_err(PackageError::io("list", &folder))?.path();
            tracing::info!(path = %path.display(), "removing what an upload that did not end has left");
            remove(&path)?;
        }
        Ok(Self { folder, next: AtomicU64::new(0) })
    }

    /// A path that nobody else has: by process and by count, since the store has one owner at a time.
    pub(crate) fn unique(&self) -> PathBuf {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.folder.join(format!("{}-{number}", std::process::id()))
    }

    /// A new folder.
    pub(crate) fn stage(&self) -> Result<Staged, PackageError> {
        let path = self.unique();
        make_folder(&path)?;
        Ok(Staged { path })
    }
}

impl Staged {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.path) {
            tracing::warn!(%error, "what an upload has left stays until the next start");
        }
    }
}

/// Writes all that `reader` has into a new read-only file, hashing it on the way. `count` is told each chunk's bytes before
/// they are written and may refuse; `failed` says whose fault a reader's error is. Not flushed to the disk.
pub(crate) fn write_content(
    path: &Path,
    reader: &mut dyn Read,
    count: &mut dyn FnMut(u64) -> Result<(), PackageError>,
    failed: &dyn Fn(io::Error) -> PackageError,
) -> Result<(ContentSha256, u64), PackageError> {
    let mut file = create(path, 0o444)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut bytes = 0;
    loop {
        let read = match reader.read(&mut chunk) {
            Ok(0) => return Ok((ContentSha256::from_hash(hash), bytes)),
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(error)),
        };
        count(read as u64)?;
        hash.update(&chunk[..read]);
        file.write_all(&chunk[..read]).map_err(PackageError::io("write", path))?;
        bytes += read as u64;
    }
}

/// A new file of this mode, whatever the process's mask.
pub(crate) fn create(path: &Path, mode: u32) -> Result<File, PackageError> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let file = file.map_err(PackageError::io("create", path))?;
    file.set_permissions(Permissions::from_mode(mode)).map_err(PackageError::io("set the mode of", path))?;
    Ok(file)
}

/// A folder that its owner may change and all may read; no error if it is there.
pub(crate) fn make_folder(path: &Path) -> Result<(), PackageError> {
    match DirBuilder::new().mode(0o755).create(path) {
        Ok(()) => {
            fs::set_permissions(path, Permissions::from_mode(0o755)).map_err(PackageError::io("set the mode of", path))
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        Err(error) => Err(PackageError::io("make the folder", path)(error)),
    }
}

/// After this the contents of these files survive a crash. Their names do not: see [`flush`].
pub(crate) fn flush_all(paths: &[PathBuf]) -> Result<(), PackageError> {
    match paths {
        [first, ..] if paths.len() >= FLUSH_ALL_FROM => {
            let file = File::open(first).map_err(PackageError::io("open", first))?;
            rustix::fs::syncfs(&file).map_err(|error| PackageError::io("flush", first)(error.into()))
        }
        few => few.iter().try_for_each(|path| flush(path)),
    }
}

/// After this a file's content, or the names in a folder, survive a crash.
pub(crate) fn flush(path: &Path) -> Result<(), PackageError> {
    let file = File::open(path).map_err(PackageError::io("open", path))?;
    file.sync_all().map_err(PackageError::io("flush", path))
}

/// Gives a staged file or folder its name, over what has it.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), PackageError> {
    fs::rename(from, to).map_err(PackageError::io("rename a finished file to", to))
}

/// A file, or a folder with all that is in it; no error if there is none.
pub(crate) fn remove(path: &Path) -> Result<(), PackageError> {
    let removed = match path.symlink_metadata() {
        Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other.map_err(PackageError::io("remove", path)),
    }
}
