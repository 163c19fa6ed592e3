//! Tests of this crate: attacks, damage, and whole stores in temporary folders.

mod attacks;
mod backing;
mod crash;
mod damage;
mod export;
mod raw_zip;
mod retain;
mod store;

use crate::{ContentSha256, ContentStore, FileEntry, Manifest, Package, PackageError, PackageLimits};
use std::collections::BTreeSet;
use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use tempfile::TempDir;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// A store in a temporary folder.
pub(crate) struct House {
    pub(crate) folder: TempDir,
    pub(crate) store: ContentStore,
}

impl House {
    /// In memory where there is such a folder: what is tested is seldom the disk, and flushing it takes long.
    pub(crate) fn new() -> Self {
        let memory = Path::new("/dev/shm");
        if memory.is_dir() { Self::below(memory) } else { Self::on_disk() }
    }

    pub(crate) fn on_disk() -> Self {
        Self::below(&std::env::temp_dir())
    }

    fn below(folder: &Path) -> Self {
        let folder = tempfile::tempdir_in(folder).unwrap();
        let store = ContentStore::open(folder.path().join("packages")).unwrap();
        Self { folder, store }
    }

    pub(crate) fn root(&self) -> PathBuf {
        self.folder.path().join("packages")
    }

    pub(crate) fn ingest(&self, zip: &[u8]) -> Result<Package, PackageError> {
        self.store.ingest_zip(Cursor::new(zip), &PackageLimits::default())
    }

    /// Everything that is in the store, relative to its root.
    pub(crate) fn listing(&self) -> BTreeSet<PathBuf> {
        let mut found = BTreeSet::new();
        list(&self.root(), &self.root(), &mut found);
        found
    }

    pub(crate) fn blob(&self, content: &[u8]) -> PathBuf {
        let sha256 = ContentSha256::of(content).to_string();
        self.root().join("blobs").join(&sha256[..2]).join(sha256)
    }
}

fn list(root: &Path, folder: &Path, found: &mut BTreeSet<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            list(root, &path, found);
        }
        found.insert(path.strip_prefix(root).unwrap().to_owned());
    }
}

/// An archive as tools make it; a name that ends in `/` is a folder.
pub(crate) fn zip_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    zip_by(CompressionMethod::Deflated, files)
}

pub(crate) fn zip_by(method: CompressionMethod, files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    for (name, content) in files {
        match name.strip_suffix('/') {
            Some(folder) => writer.add_directory(folder, options).unwrap(),
            None => {
                let mode = if name.ends_with("bootstrap") { 0o755 } else { 0o644 };
                writer.start_file(*name, options.unix_permissions(mode)).unwrap();
                writer.write_all(content).unwrap();
            }
        }
    }
    writer.finish().unwrap().into_inner()
}

pub(crate) fn entry(path: &str, content: &[u8]) -> FileEntry {
    let (sha256, bytes) = (ContentSha256::of(content), content.len() as u64);
    FileEntry { path: path.to_owned(), sha256, bytes, executable: false }
}

pub(crate) fn manifest_of(files: &[(&str, &[u8])]) -> Manifest {
    Manifest::new(files.iter().map(|(path, content)| entry(path, content)).collect()).unwrap()
}

/// A model's folder.
pub(crate) const MODEL: &[(&str, &[u8])] = &[
    ("config.json", b"{\"hidden_size\": 8}"),
    ("nested/deeper/tokenizer.json", b"{}"),
    ("model.safetensors", &[7; 5000]),
];
