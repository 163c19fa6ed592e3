//! The list of a package's files: what a version refers to and `penstock deploy` sends first.
//!
//! Made by `ingest` from an archive, or by a client. A manifest that exists is valid: sorted, every path checked, one
//! tree. Never touches a disk.

use crate::path::{Kind, check_path, check_tree};
use crate::{ContentSha256, PackageError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// One file of a package.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileEntry {
    /// Relative to the package's root, separated by `/`; see [`check_path`](crate::check_path).
    pub path: String,
    /// Of its content.
    pub sha256: ContentSha256,
    /// Its length.
    pub bytes: u64,
    /// May be run as a program: a custom runtime's `bootstrap`. Not written where it is false.
    #[serde(default, skip_serializing_if = "is_false")]
    pub executable: bool,
}

fn is_false(flag: &bool) -> bool {
    !flag
}

/// The files of a package, sorted by path. Its canonical JSON is `{"files":[{"path":…,"sha256":…,"bytes":…},…]}` without
/// spaces; the SHA-256 of that is the package's id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Manifest {
    files: Vec<FileEntry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unchecked {
    files: Vec<FileEntry>,
}

impl TryFrom<Unchecked> for Manifest {
    type Error = PackageError;

    fn try_from(unchecked: Unchecked) -> Result<Self, PackageError> {
        Self::new(unchecked.files)
    }
}

impl Manifest {
    /// Of these files, in any order. Refused: none, a path that may not be, a path twice, one content with two lengths.
    pub fn new(mut files: Vec<FileEntry>) -> Result<Self, PackageError> {
        if files.is_empty() {
            return Err(PackageError::Empty);
        }
        files.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let mut lengths = BTreeMap::new();
        let mut total = 0u64;
        for file in &files {
            check_path(&file.path).map_err(|fault| PackageError::path(file.path.as_bytes(), fault))?;
            let known = *lengths.entry(file.sha256).or_insert(file.bytes);
            let sum = total.checked_add(file.bytes);
            total = sum.filter(|_| known == file.bytes).ok_or_else(|| PackageError::Lengths {
                path: file.path.clone(),
                bytes: file.bytes,
                known,
            })?;
        }
        check_tree(files.iter().map(|file| (file.path.as_str(), Kind::File)))?;
        Ok(Self { files })
    }

    /// From JSON, canonical or not.
    pub fn from_json(json: &[u8]) -> Result<Self, PackageError> {
        serde_json::from_slice(json).map_err(|source| PackageError::NotAManifest { source })
    }

    /// The canonical JSON.
    pub fn json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("texts and numbers are always JSON")
    }

    /// SHA-256 of the canonical JSON: the package's id.
    pub fn sha256(&self) -> ContentSha256 {
        ContentSha256::of(&self.json())
    }

    /// Sorted by path.
    pub fn files(&self) -> &[FileEntry] {
        &self.files
    }

    /// Bytes of all files together.
    pub fn unpacked_bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// Each content once, with its length in bytes.
    pub fn contents(&self) -> BTreeMap<ContentSha256, u64> {
        self.files.iter().map(|file| (file.sha256, file.bytes)).collect()
    }

    /// The first path that has this content, for messages.
    pub(crate) fn path_of(&self, sha256: ContentSha256) -> &str {
        self.files.iter().find(|file| file.sha256 == sha256).map_or("", |file| &file.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &[u8]) -> FileEntry {
        let (sha256, bytes) = (ContentSha256::of(content), content.len() as u64);
        FileEntry { path: path.to_owned(), sha256, bytes, executable: false }
    }

    #[test]
    fn its_json_and_its_id_do_not_depend_on_the_order() {
        let (a, b) = (file("a/\"x\"", b""), FileEntry { executable: true, ..file("b", b"b") });
        let manifest = Manifest::new(vec![b.clone(), a.clone()]).unwrap();
        assert_eq!(manifest, Manifest::new(vec![a, b]).unwrap());
        let json = r#"{"files":[{"path":"a/\"x\"","sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","bytes":0},{"path":"b","sha256":"3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d","bytes":1,"executable":true}]}"#;
        assert_eq!(String::from_utf8(manifest.json()).unwrap(), json);
        assert_eq!(manifest.sha256(), ContentSha256::of(json.as_bytes()));
        assert_eq!(Manifest::from_json(json.replace(',', " ,\n").as_bytes()).unwrap(), manifest);
        assert_eq!((manifest.unpacked_bytes(), manifest.contents().len()), (1, 2));
    }

    #[test]
    fn what_is_not_one_says_why() {
        let text = |files| Manifest::new(files).unwrap_err().to_string();
        assert_eq!(text(Vec::new()), "the package has no files; put at least one into it");
        assert_eq!(
            text(vec![file("../x", b"")]),
            r#"the path "../x" cannot be used: it has the component "..", which leads elsewhere; write the path without it"#
        );
        assert_eq!(text(vec![file("a", b""), file("a", b"")]), r#""a" is there twice; name each file once"#);
        assert_eq!(text(vec![file("a", b""), file("a/b", b"")]), r#""a" is both a file and a folder; rename one"#);
        let longer = FileEntry { bytes: 7, ..file("b", b"") };
        assert_eq!(
            text(vec![file("a", b""), longer]),
            r#""b" is said to have 7 bytes, and the same content elsewhere in the package 0; state its true length"#
        );
        let endless = FileEntry { bytes: u64::MAX, ..file("b", b"x") };
        assert!(Manifest::new(vec![file("a", b"y"), endless]).is_err(), "the sum has to be a number");
        for json in ["", "[]", "{}", r#"{"files":[],"more":1}"#, r#"{"files":[{"path":"a"}]}"#] {
            assert!(Manifest::from_json(json.as_bytes()).is_err(), "{json}");
        }
    }
}
