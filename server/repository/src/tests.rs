//! Tests of this crate: tables, properties and whole directories. Comparisons with other readers of the same formats
//! are in tests/repository.

mod control;
mod formats;
mod repository;
mod revision;
mod settings;

use crate::{FunctionSource, scan_function};
use penstock_domain::FunctionName;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A model repository in a temporary directory.
pub(crate) struct Repository(TempDir);

impl Repository {
    pub(crate) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }

    pub(crate) fn paths(&self) -> Vec<PathBuf> {
        vec![self.path().to_owned()]
    }

    /// Writes a file, with the folders it needs; a path that ends in `/` makes a folder.
    pub(crate) fn with(self, path: &str, content: &str) -> Self {
        self.write(path, content);
        self
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let target = self.path().join(path);
        if path.ends_with('/') {
            return std::fs::create_dir_all(target).unwrap();
        }
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::write(target, content).unwrap();
    }

    pub(crate) fn function(&self, name: &str) -> FunctionSource {
        scan_function(&self.path().join(name), &self::name(name))
    }
}

pub(crate) fn name(text: &str) -> FunctionName {
    FunctionName::new(text).unwrap()
}

/// An identity function's configuration, with more lines.
pub(crate) fn identity(more: &str) -> String {
    format!("backend: \"identity\"\n{more}")
}
