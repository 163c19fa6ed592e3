//! A folder as a package: its files, each by its content.
//!
//! Called by `deploy`. Reads every file once, to hash it; links are followed to files, as model caches make them.

use super::ClientError;
use penstock_packages::{ContentSha256, FileEntry, Manifest, check_path};
use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Deepest folder that is looked into, as deep as packages may be: a loop of links ends there.
const DEPTH_MAX: usize = 16;

/// A package, and where its contents lie here.
pub(crate) struct Local {
    pub(crate) manifest: Manifest,
    pub(crate) contents: HashMap<ContentSha256, PathBuf>,
    /// Files that were left out, because their names begin with a dot.
    pub(crate) hidden: usize,
}

/// Reads a folder. `hashed` is told of each part that is read, in bytes. Errors: it is none, or a name in it cannot be sent.
pub(crate) fn read(folder: &Path, mut hashed: impl FnMut(u64)) -> Result<Local, ClientError> {
    if !folder.is_dir() {
        return Err(ClientError::Usage(format!("{}: expected a model's folder", folder.display())));
    }
    let (mut files, mut hidden) = (Vec::new(), 0);
    list(folder, "", 0, &mut files, &mut hidden)?;
    let (mut entries, mut contents) = (Vec::with_capacity(files.len()), HashMap::new());
    for (path, file) in files {
        let unread = |error: io::Error| ClientError::Local(format!("{}: {error}", file.display()));
        let metadata = fs::metadata(&file).map_err(unread)?;
        let mut hashing = Hashing { sha256: sha2::Digest::new(), bytes: 0, told: &mut hashed };
        io::copy(&mut fs::File::open(&file).map_err(unread)?, &mut hashing).map_err(unread)?;
        let (sha256, bytes) =
            (ContentSha256::from_digest(sha2::Digest::finalize(hashing.sha256).into()), hashing.bytes);
        entries.push(FileEntry { path, sha256, bytes, executable: metadata.permissions().mode() & 0o100 != 0 });
        contents.insert(sha256, file);
    }
    let manifest =
        Manifest::new(entries).map_err(|error| ClientError::Local(format!("{}: {error}", folder.display())))?;
    Ok(Local { manifest, contents, hidden })
}

fn list(
    folder: &Path,
    prefix: &str,
    depth: usize,
    files: &mut Vec<(String, PathBuf)>,
    hidden: &mut usize,
) -> Result<(), ClientError> {
    let unread = |path: &Path, error: io::Error| ClientError::Local(format!("{}: {error}", path.display()));
    if depth > DEPTH_MAX {
        return Err(ClientError::Local(format!("{}: more than {DEPTH_MAX} folders deep", folder.display())));
    }
    for entry in fs::read_dir(folder).map_err(|error| unread(folder, error))? {
        let path = entry.map_err(|error| unread(folder, error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            *hidden += 1;
            continue;
        }
        let own = format!("{prefix}{name}");
        let metadata = fs::metadata(&path).map_err(|error| unread(&path, error))?;
        if metadata.is_dir() {
            list(&path, &format!("{own}/"), depth + 1, files, hidden)?;
        } else if metadata.is_file() {
            check_path(&own).map_err(|fault| ClientError::Local(format!("{}: {fault}", path.display())))?;
            files.push((own, path));
        } else {
            return Err(ClientError::Local(format!("{}: neither a file nor a folder", path.display())));
        }
    }
    Ok(())
}

struct Hashing<'a> {
    sha256: sha2::Sha256,
    bytes: u64,
    told: &'a mut dyn FnMut(u64),
}

impl Write for Hashing<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        sha2::Digest::update(&mut self.sha256, part);
        self.bytes += part.len() as u64;
        (self.told)(part.len() as u64);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_read_with_its_links_and_without_what_is_hidden() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("model");
        fs::create_dir_all(root.join("1")).unwrap();
        fs::write(folder.path().join("blob"), "weights").unwrap();
        std::os::unix::fs::symlink("../../blob", root.join("1/model.onnx")).unwrap();
        fs::write(root.join("config.pbtxt"), "x").unwrap();
        fs::write(root.join(".DS_Store"), "x").unwrap();
        let mut read_bytes = 0;
        let local = read(&root, |bytes| read_bytes += bytes).unwrap();
        let paths: Vec<_> = local.manifest.files().iter().map(|file| (&*file.path, file.bytes)).collect();
        assert_eq!(paths, [("1/model.onnx", 7), ("config.pbtxt", 1)]);
        assert_eq!((local.hidden, read_bytes), (1, 8));
        assert_eq!(local.manifest.files()[0].sha256, ContentSha256::of(b"weights"));

        std::os::unix::fs::symlink(".", root.join("loop")).unwrap();
        let looped = read(&root, |_| ()).err().unwrap().to_string();
        assert!(looped.contains(" deep"), "{looped}");
        assert!(read(&root.join("config.pbtxt"), |_| ()).is_err());
    }
}
