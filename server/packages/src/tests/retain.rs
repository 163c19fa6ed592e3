//! What is not needed goes, and nothing else, whatever comes meanwhile.

use super::{House, MODEL, manifest_of, zip_of};
use crate::{ContentSha256, ContentStore, PackageLimits, Retained};
use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::sync::atomic::{AtomicUsize, Ordering};

#[test]
fn what_no_version_uses_goes() {
    let house = House::new();
    let first = house.ingest(&zip_of(MODEL)).unwrap();
    let second = house.ingest(&zip_of(&[MODEL[0], ("new", b"new")])).unwrap();
    let (first_id, second_id) = (first.manifest_sha256, second.manifest_sha256);
    assert_eq!(house.store.retain(|| Some(BTreeSet::new())).unwrap(), Retained::default(), "both are held");
    drop(second.clone());
    drop(second);
    let done = house.store.retain(|| Some(BTreeSet::from([first_id]))).unwrap();
    assert_eq!(done, Retained { packages: 1, contents: 1, bytes: 3 });
    house.store.package(first_id).unwrap();
    assert!(house.store.package(second_id).is_err());
    let folder = first.folder.clone();
    // Dropped while the store asks, which is after it has noted it: it stays this once.
    let done = house.store.retain(|| {
        drop(first);
        Some(BTreeSet::new())
    });
    assert_eq!(done.unwrap(), Retained::default());
    let done = house.store.retain(|| Some(BTreeSet::new())).unwrap();
    assert_eq!(done, Retained { packages: 1, contents: 3, bytes: 5020 });
    assert!(!folder.exists());
    let left: Vec<_> = house.listing().into_iter().filter(|path| path.components().count() > 2).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[test]
fn what_is_being_sent_stays() {
    let house = House::new();
    let manifest = manifest_of(MODEL);
    let put = |index: usize| {
        let content: &[u8] = MODEL[index].1;
        house.store.put_blob(ContentSha256::of(content), content, content.len() as u64).unwrap();
    };
    let hold = house.store.hold(&manifest);
    put(0);
    put(1);
    for _ in 0..3 {
        assert_eq!(house.store.retain(|| Some(BTreeSet::new())).unwrap().contents, 0, "they are held");
    }
    drop(hold);
    assert_eq!(house.store.retain(|| Some(BTreeSet::new())).unwrap().contents, 2);
    put(0);
    assert_eq!(house.store.retain(|| Some(BTreeSet::new())).unwrap().contents, 0, "it has just come");
    assert_eq!(house.store.missing(&manifest).len(), 2);
    assert_eq!(house.store.retain(|| Some(BTreeSet::new())).unwrap().contents, 1, "nobody has come for it");
}

#[test]
fn what_was_sent_before_a_restart_stays_until_it_is_let_go() {
    let House { folder, store } = House::new();
    let package = store.ingest_zip(Cursor::new(zip_of(&MODEL[1..2])), &PackageLimits::default()).unwrap();
    drop(package);
    let content: &[u8] = MODEL[0].1;
    store.put_blob(ContentSha256::of(content), content, content.len() as u64).unwrap();
    drop(store);
    let store = ContentStore::open(folder.path().join("packages")).unwrap();
    for removed in [1, 0] {
        assert_eq!(
            store.retain(|| Some(BTreeSet::new())).unwrap().contents,
            removed,
            "the package goes, the rest is loose"
        );
    }
    store.let_go_of_loose();
    assert_eq!(store.retain(|| Some(BTreeSet::new())).unwrap().contents, 1);
}

#[test]
fn nothing_goes_while_a_package_in_use_cannot_be_read() {
    let house = House::new();
    let ids = [zip_of(MODEL), zip_of(&MODEL[..1])].map(|zip| house.ingest(&zip).unwrap().manifest_sha256);
    let used = || Some(BTreeSet::from([ids[0], ContentSha256::of(b"never here")]));
    let before = house.listing();
    assert_eq!(house.store.retain(|| None).unwrap(), Retained::default(), "nobody knows what is used");
    let text = house.store.retain(used).unwrap_err().to_string();
    assert!(text.contains(&ContentSha256::of(b"never here").to_string()), "{text}");
    assert_eq!(house.listing(), before);
}

#[test]
fn what_was_set_aside_goes_when_a_good_one_has_come() {
    let house = House::new();
    let package = house.ingest(&zip_of(MODEL)).unwrap();
    let (id, content) = (package.manifest_sha256, MODEL[0].1);
    fs::remove_file(house.blob(content)).unwrap();
    fs::write(house.blob(content), "damaged").unwrap();
    assert!(house.store.package(id).is_err());
    let aside = || fs::read_dir(house.root().join("damaged")).unwrap().count();
    house.store.retain(|| Some(BTreeSet::from([id]))).unwrap();
    assert_eq!(aside(), 1);
    house.ingest(&zip_of(MODEL)).unwrap();
    house.store.retain(|| Some(BTreeSet::from([id]))).unwrap();
    assert_eq!(aside(), 0);
    house.store.package(id).unwrap();
}

/// Threads ingest the same and overlapping packages in both ways while another removes all that is not held.
#[test]
fn many_threads_at_once() {
    let house = House::on_disk();
    let working = AtomicUsize::new(4);
    let removed = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4usize {
            let (house, working) = (&house, &working);
            scope.spawn(move || {
                for round in 0..12 {
                    let own = format!("{thread} {round}");
                    let files = [MODEL[0], MODEL[2], if round % 3 == 0 { ("own", own.as_bytes()) } else { MODEL[1] }];
                    let package = if (thread + round) % 2 == 0 {
                        house.ingest(&zip_of(&files)).unwrap()
                    } else {
                        let manifest = manifest_of(&files);
                        let _hold = house.store.hold(&manifest);
                        for (_, content) in files {
                            let sha256 = ContentSha256::of(content);
                            house.store.put_blob(sha256, content, content.len() as u64).unwrap();
                        }
                        house.store.ingest_manifest(manifest, &PackageLimits::default()).unwrap()
                    };
                    assert_eq!(package.manifest, manifest_of(&files));
                    assert_eq!(house.store.package(package.manifest_sha256).unwrap(), package.folder);
                }
                working.fetch_sub(1, Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            while working.load(Ordering::SeqCst) > 0 {
                removed.fetch_add(house.store.retain(|| Some(BTreeSet::new())).unwrap().packages, Ordering::SeqCst);
                std::thread::yield_now();
            }
        });
    });
    house.store.retain(|| Some(BTreeSet::new())).unwrap();
    house.store.retain(|| Some(BTreeSet::new())).unwrap();
    let left: Vec<_> = house.listing().into_iter().filter(|path| path.components().count() > 2).collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(removed.into_inner() > 0);
}
