//! Stores opened after something else has happened to them.

use super::{House, MODEL, zip_of};
use crate::{ContentStore, PackageError, PackageLimits};
use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;

#[test]
fn what_a_crash_left_is_gone_at_the_next_start() {
    let House { folder, store } = House::on_disk();
    let root = folder.path().join("packages");
    let package = store.ingest_zip(Cursor::new(zip_of(MODEL)), &PackageLimits::default()).unwrap();
    let id = package.manifest_sha256;
    drop(package);
    drop(store);
    fs::create_dir_all(root.join("incoming/17-3/nested")).unwrap();
    fs::write(root.join("incoming/17-3/nested/0"), "half of a blob").unwrap();
    fs::write(root.join("incoming/17-4"), "a file").unwrap();
    // The crash came after the contents and before the manifest.
    let orphan = root.join("blobs/ab").join("ab".repeat(32));
    fs::write(&orphan, "orphan").unwrap();
    fs::remove_dir_all(root.join("packages")).unwrap();
    let store = ContentStore::open(root.clone()).unwrap();
    assert_eq!(fs::read_dir(root.join("incoming")).unwrap().count(), 0);
    assert_eq!(fs::read(store.package(id).unwrap().join("config.json")).unwrap(), MODEL[0].1);
    store.retain(|| Some(BTreeSet::from([id]))).unwrap();
    assert!(orphan.exists(), "somebody may have sent it");
    store.let_go_of_loose();
    store.retain(|| Some(BTreeSet::from([id]))).unwrap();
    assert!(!orphan.exists());
    store.package(id).unwrap();
}

#[test]
fn one_process_at_a_time() {
    let house = House::new();
    let error = ContentStore::open(house.root()).err().unwrap();
    assert!(matches!(&error, PackageError::InUse { path } if *path == house.root()), "{error}");
    let House { folder, store } = house;
    drop(store);
    ContentStore::open(folder.path().join("packages")).unwrap();
}

#[test]
fn a_folder_that_cannot_be_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("file");
    fs::write(&root, "").unwrap();
    for root in [root, folder.path().join("not/there")] {
        let text = ContentStore::open(root.clone()).err().unwrap().to_string();
        assert!(text.starts_with(&format!("cannot make the folder {}", root.display())), "{text}");
    }
}
