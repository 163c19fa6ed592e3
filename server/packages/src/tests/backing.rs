//! What a second place has fills the disk, and is believed only if it hashes to its name.

use super::{House, MODEL, manifest_of, zip_of};
use crate::{BackedFile, Backing, ContentSha256, ContentStore, PackageError};
use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Cursor, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

/// In memory.
#[derive(Default)]
struct Shelf {
    kept: Mutex<BTreeMap<String, Vec<u8>>>,
    puts: Mutex<Vec<String>>,
    broken: Mutex<bool>,
}

impl Backing for Shelf {
    fn put(&self, files: &[BackedFile]) -> io::Result<()> {
        if *self.broken.lock().unwrap() {
            return Err(io::Error::other("the shelf is broken"));
        }
        for file in files {
            let mut kept = self.kept.lock().unwrap();
            if kept.get(&file.name).is_none_or(|there| there.len() as u64 != file.bytes) {
                let content = fs::read(&file.path)?;
                if ContentSha256::of(&content) != file.sha256 {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                self.puts.lock().unwrap().push(file.name.clone());
                kept.insert(file.name.clone(), content);
            }
        }
        Ok(())
    }

    fn get(&self, name: &str) -> io::Result<Box<dyn Read>> {
        match self.kept.lock().unwrap().get(name) {
            Some(content) => Ok(Box::new(Cursor::new(content.clone()))),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn backed() -> (House, Arc<Shelf>) {
    let House { folder, store } = House::new();
    let shelf = Arc::new(Shelf::default());
    (House { folder, store: store.with_backing(shelf.clone()) }, shelf)
}

/// Another server's disk, on the same shelf.
fn empty(root: &Path, shelf: &Arc<Shelf>) -> ContentStore {
    ContentStore::open(root.join("another")).unwrap().with_backing(shelf.clone())
}

#[test]
fn a_package_is_there_once_it_is_ingested_and_comes_back_to_an_empty_disk() {
    let (house, shelf) = backed();
    let package = house.ingest(&zip_of(MODEL)).unwrap();
    assert_eq!(shelf.kept.lock().unwrap().len(), MODEL.len() + 1);
    let last = shelf.puts.lock().unwrap().last().cloned().unwrap();
    assert_eq!(last, format!("manifests/{}.json", package.manifest_sha256), "what names contents comes after them");
    let puts = shelf.puts.lock().unwrap().len();
    house.ingest(&zip_of(&[MODEL[0], MODEL[2]])).unwrap();
    assert_eq!(shelf.puts.lock().unwrap().len(), puts + 1, "contents are shared");

    let store = empty(house.folder.path(), &shelf);
    let folder = store.package(package.manifest_sha256).unwrap();
    for (path, content) in MODEL {
        assert_eq!(fs::read(folder.join(path)).unwrap(), *content);
    }
    shelf.kept.lock().unwrap().clear();
    store.package(package.manifest_sha256).expect("it is on disk now");
}

#[test]
fn what_is_damaged_on_disk_is_fetched_again() {
    let (house, _shelf) = backed();
    let package = house.ingest(&zip_of(MODEL)).unwrap();
    let blob = house.blob(MODEL[2].1);
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, vec![8; 5000]).unwrap();
    fs::write(house.root().join(format!("manifests/{}.json", package.manifest_sha256)), "{}").unwrap();
    let folder = house.store.package(package.manifest_sha256).unwrap();
    assert_eq!(fs::read(folder.join(MODEL[2].0)).unwrap(), MODEL[2].1);
}

#[test]
fn what_is_on_disk_is_told_apart() {
    let (house, shelf) = backed();
    let id = house.ingest(&zip_of(MODEL)).unwrap().manifest_sha256;
    assert!(house.store.is_on_disk(id) && house.store.package_on_disk(id).is_ok());
    let store = empty(house.folder.path(), &shelf);
    assert!(!store.is_on_disk(id));
    assert!(matches!(store.package_on_disk(id), Err(PackageError::NotFound { .. })), "nothing is fetched");
    store.package(id).unwrap();
    assert!(store.is_on_disk(id) && store.package_on_disk(id).is_ok());
    fs::remove_file(house.blob(MODEL[2].1)).unwrap();
    assert!(!house.store.is_on_disk(id));
    assert!(matches!(house.store.package_on_disk(id), Err(PackageError::MissingContents { .. })));
}

#[test]
fn what_is_altered_there_is_refused() {
    let (house, shelf) = backed();
    let id = house.ingest(&zip_of(MODEL)).unwrap().manifest_sha256;
    let whole = shelf.kept.lock().unwrap().clone();
    for name in whole.keys() {
        for altered in ["", "{}", &"x".repeat(10_000)] {
            *shelf.kept.lock().unwrap() = whole.clone();
            shelf.kept.lock().unwrap().insert(name.clone(), altered.into());
            if altered.as_bytes() == whole[name] {
                continue;
            }
            let other = tempfile::tempdir().unwrap();
            let store = empty(other.path(), &shelf);
            let error = store.package(id).unwrap_err();
            assert!(matches!(&error, PackageError::BackingDamaged { name: found, .. } if found == name), "{error}");
            assert_eq!(fs::read_dir(other.path().join("another/incoming")).unwrap().count(), 0);
        }
    }
    shelf.kept.lock().unwrap().clear();
    let other = tempfile::tempdir().unwrap();
    assert!(matches!(empty(other.path(), &shelf).package(id), Err(PackageError::NotFound { .. })));
}

#[test]
fn what_the_disk_damaged_is_not_kept_there_and_can_be_sent_again() {
    for in_place in [false, true] {
        let (house, shelf) = backed();
        *shelf.broken.lock().unwrap() = true;
        house.ingest(&zip_of(MODEL)).unwrap_err();
        *shelf.broken.lock().unwrap() = false;
        let (content, blob) = (MODEL[2].1, house.blob(MODEL[2].1));
        match in_place {
            // In the package's folder too, which has a link to it.
            true => fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap(),
            false => fs::remove_file(&blob).unwrap(),
        }
        fs::write(&blob, vec![8; content.len()]).unwrap();
        let error = house.ingest(&zip_of(MODEL)).unwrap_err();
        assert!(matches!(error, PackageError::Damaged { .. }), "{error}");
        let package = house.ingest(&zip_of(MODEL)).unwrap();
        assert_eq!(shelf.kept.lock().unwrap().len(), MODEL.len() + 1);
        assert!(fs::read(package.folder.join(MODEL[2].0)).unwrap() == content, "in place: {in_place}");
    }
}

#[test]
fn without_the_second_place_a_package_is_not_taken() {
    let (house, shelf) = backed();
    *shelf.broken.lock().unwrap() = true;
    let error = house.ingest(&zip_of(MODEL)).unwrap_err();
    assert!(matches!(error, PackageError::Backing { .. }), "{error}");
    house.store.retain(|| Some([].into())).unwrap();
    assert!(!house.blob(MODEL[2].1).exists(), "nothing is left");
    *shelf.broken.lock().unwrap() = false;
    house.ingest(&zip_of(MODEL)).unwrap();
    house.store.retain(|| Some([].into())).unwrap();
    assert!(!house.blob(MODEL[2].1).exists());
    assert_eq!(shelf.kept.lock().unwrap().len(), MODEL.len() + 1, "nothing is removed there");
    house.store.package(manifest_of(MODEL).sha256()).expect("it can be had again");
}
