//! Packages come, are shared, are handed out and are found damaged.

use super::{House, MODEL, entry, manifest_of, zip_by, zip_of};
use crate::{ContentSha256, ContentStore, FileEntry, Manifest, PackageError, PackageLimits};
use penstock_domain::ErrorCode;
use sha2::{Digest, Sha256};
use std::fs::{self, Permissions};
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use zip::CompressionMethod;

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().mode() & 0o7777
}

#[test]
fn a_zip_becomes_a_folder() {
    let house = House::on_disk();
    let zip = zip_of(MODEL);
    let package = house.ingest(&zip).unwrap();
    assert_eq!(package.manifest, manifest_of(MODEL));
    assert_eq!(package.manifest_sha256, package.manifest.sha256());
    assert_eq!(package.code_sha256_base64, ContentSha256::of(&zip).base64());
    assert_eq!((package.code_size, package.unpacked_bytes), (zip.len() as u64, 5020));
    assert_eq!(package.folder, house.root().join(format!("packages/{}", package.manifest_sha256)));
    for (name, content) in MODEL {
        let path = package.folder.join(name);
        assert_eq!(fs::read(&path).unwrap(), *content);
        assert_eq!(mode(&path), 0o444);
        assert_eq!(fs::metadata(&path).unwrap().ino(), fs::metadata(house.blob(content)).unwrap().ino());
    }
    assert_eq!(mode(&package.folder.join("nested/deeper")), 0o755);
    assert_eq!(fs::read_dir(house.root().join("incoming")).unwrap().count(), 0);
    assert_eq!(house.store.manifest(package.manifest_sha256).unwrap(), package.manifest);
    // Another archive of the same files is the same package under another `CodeSha256`.
    let again = house.ingest(&zip_by(CompressionMethod::Stored, MODEL)).unwrap();
    assert_eq!(again.manifest_sha256, package.manifest_sha256);
    assert_ne!(again.code_sha256_base64, package.code_sha256_base64);
}

#[test]
fn many_files_and_one_content_many_times() {
    let house = House::on_disk();
    let names: Vec<String> = (0..200).map(|number| format!("package{}/__init__.py", number)).collect();
    let mut files: Vec<(&str, &[u8])> = names.iter().map(|name| (name.as_str(), b"".as_slice())).collect();
    let numbered: Vec<(String, String)> = (0..100).map(|n| (format!("m/{n}.py"), format!("x = {n}"))).collect();
    files.extend(numbered.iter().map(|(name, content)| (name.as_str(), content.as_bytes())));
    let package = house.ingest(&zip_of(&files)).unwrap();
    assert_eq!(package.manifest.contents().len(), 101);
    assert_eq!(fs::metadata(house.blob(b"")).unwrap().nlink(), 201);
    house.store.package(package.manifest_sha256).unwrap();
}

#[test]
fn packages_share_contents() {
    let house = House::new();
    let first = house.ingest(&zip_of(MODEL)).unwrap();
    let changed = [MODEL[0], MODEL[2], ("config.pbtxt", b"max_batch_size: 8".as_slice())];
    let second = house.ingest(&zip_of(&changed)).unwrap();
    let inode = |folder: &Path| fs::metadata(folder.join("model.safetensors")).unwrap().ino();
    assert_eq!(inode(&first.folder), inode(&second.folder));
    assert_eq!(fs::metadata(house.blob(MODEL[2].1)).unwrap().nlink(), 3);
}

#[test]
fn what_may_be_run_stays_so() {
    let house = House::new();
    let files: [(&str, &[u8]); 2] = [("bin/bootstrap", b"#!/bin/sh\n"), ("handler.py", b"pass")];
    let package = house.ingest(&zip_of(&files)).unwrap();
    assert!(package.manifest.files()[0].executable && !package.manifest.files()[1].executable);
    assert_eq!(mode(&package.folder.join("bin/bootstrap")), 0o555);
    assert_eq!(mode(&package.folder.join("handler.py")), 0o444);
    // The same bytes elsewhere, as a file that nobody runs: the folder is right as it is.
    let other = house.ingest(&zip_of(&[("text", files[0].1)])).unwrap();
    let before = fs::metadata(&other.folder).unwrap().ino();
    house.store.package(other.manifest_sha256).unwrap();
    house.store.package(package.manifest_sha256).unwrap();
    assert_eq!(fs::metadata(&other.folder).unwrap().ino(), before);
}

#[test]
fn file_by_file_only_what_is_missing_is_sent() {
    let house = House::new();
    house.ingest(&zip_of(&[MODEL[2]])).unwrap();
    let (manifest, limits) = (manifest_of(MODEL), PackageLimits::default());
    let missing = house.store.missing(&manifest);
    assert_eq!(missing.len(), 2);
    let error = house.store.ingest_manifest(manifest.clone(), &limits).unwrap_err();
    let first = manifest.path_of(missing[0]);
    assert_eq!(
        error.to_string(),
        format!("2 of the package's contents are not here, the first is {} ({first:?}); send them first", missing[0])
    );
    assert_eq!(error.code(), ErrorCode::Conflict);
    for (_, content) in &MODEL[..2] {
        house.store.put_blob(ContentSha256::of(content), *content, content.len() as u64).unwrap();
    }
    assert!(house.store.missing(&manifest).is_empty());
    let package = house.store.ingest_manifest(manifest.clone(), &limits).unwrap();
    assert_eq!((package.code_size, package.unpacked_bytes), (5020, 5020));
    assert_eq!(package.code_sha256_base64, manifest.sha256().base64());
    assert_eq!(package.manifest_sha256, house.ingest(&zip_of(MODEL)).unwrap().manifest_sha256);
    for (limits, words) in [
        (PackageLimits { files: 2, ..limits }, "3 files and folders; at most 2"),
        (PackageLimits { unpacked_bytes: 5019, ..limits }, "the package brings the unpacked size to 5020 bytes"),
    ] {
        let error = house.store.ingest_manifest(manifest.clone(), &limits).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    }
}

#[test]
fn a_content_that_is_not_what_was_announced_is_refused() {
    let house = House::new();
    let before = house.listing();
    let (sha256, limits) = (ContentSha256::of(b"right"), PackageLimits::default());
    for (sent, bytes, words) in [
        (b"wrong".as_slice(), 5, format!("{} of 5 bytes was sent", ContentSha256::of(b"wrong"))),
        (b"right", 4, "5 bytes or more was sent".to_owned()),
        (b"right", 6, "of 5 bytes was sent".to_owned()),
        (b"", 5, "of 0 bytes was sent".to_owned()),
    ] {
        let error = house.store.put_blob(sha256, sent, bytes).unwrap_err();
        assert!(error.to_string().contains(&words), "{error}");
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
    }
    struct Broken;
    impl std::io::Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
    }
    let error = house.store.put_blob(sha256, Broken, 5).unwrap_err();
    assert_eq!(
        (error.code(), error.to_string().as_str()),
        (ErrorCode::Cancelled, "the upload could not be read: connection reset")
    );
    assert_eq!(house.listing(), before);
    // A manifest that lies about a length does not find the content.
    house.store.put_blob(sha256, b"right".as_slice(), 5).unwrap();
    house.store.put_blob(sha256, Broken, 5).unwrap();
    let lie = Manifest::new(vec![FileEntry { bytes: 6, ..entry("a", b"right") }]).unwrap();
    assert_eq!(house.store.missing(&lie), [sha256]);
    assert!(house.store.ingest_manifest(lie, &limits).is_err());
}

#[test]
fn a_folder_that_was_lost_or_changed_is_made_anew() {
    let house = House::new();
    let package = house.ingest(&zip_of(MODEL)).unwrap();
    let (id, folder) = (package.manifest_sha256, &package.folder);
    let config = folder.join("config.json");
    let changes: [(&str, &dyn Fn()); 8] = [
        ("lost", &|| fs::remove_dir_all(folder).unwrap()),
        ("less", &|| fs::remove_file(&config).unwrap()),
        ("more", &|| fs::write(folder.join("nested/more"), "").unwrap()),
        ("a folder more", &|| fs::create_dir(folder.join("more")).unwrap()),
        ("another length", &|| {
            fs::remove_file(&config).unwrap();
            fs::write(&config, "{}").unwrap();
        }),
        ("a link", &|| {
            fs::remove_file(&config).unwrap();
            std::os::unix::fs::symlink(house.blob(MODEL[0].1), &config).unwrap();
        }),
        ("a file for a folder", &|| {
            fs::remove_dir_all(folder.join("nested")).unwrap();
            fs::write(folder.join("nested"), "").unwrap();
        }),
        ("a file for all", &|| {
            fs::remove_dir_all(folder).unwrap();
            fs::write(folder, "").unwrap();
        }),
    ];
    let whole = house.listing();
    for (what, change) in changes {
        for open in [ContentStore::package, ContentStore::package_unverified] {
            change();
            assert_eq!(open(&house.store, id).unwrap(), *folder, "{what}");
            assert_eq!(house.listing(), whole, "{what}");
            assert_eq!(fs::read(&config).unwrap(), MODEL[0].1, "{what}");
        }
    }
    // Other bytes of the same length are seen by who reads them.
    fs::remove_file(&config).unwrap();
    fs::write(&config, b"{\"hidden_size\": 9}").unwrap();
    fs::set_permissions(&config, Permissions::from_mode(0o444)).unwrap();
    house.store.package_unverified(id).unwrap();
    assert_eq!(fs::read(&config).unwrap()[16], b'9');
    house.store.package(id).unwrap();
    assert_eq!(fs::read(&config).unwrap(), MODEL[0].1);
}

#[test]
fn a_damaged_content_is_named_and_can_be_sent_again() {
    let house = House::new();
    let package = house.ingest(&zip_of(MODEL)).unwrap();
    let (id, content) = (package.manifest_sha256, MODEL[2].1);
    let blob = house.blob(content);
    let mut bytes = content.to_vec();
    bytes[2000] ^= 1;
    fs::set_permissions(&blob, Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, &bytes).unwrap();
    let error = house.store.package(id).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(blob.to_str().unwrap()) && text.contains("model.safetensors"), "{text}");
    assert!(text.contains(&format!("hashes to {}", ContentSha256::of(&bytes))), "{text}");
    assert!(text.ends_with("upload the package again"), "{text}");
    assert_eq!(error.code(), ErrorCode::Internal);
    assert_eq!(fs::read_dir(house.root().join("damaged")).unwrap().count(), 1);
    let sha256 = ContentSha256::of(content);
    assert_eq!(house.store.missing(&package.manifest), [sha256]);
    assert!(matches!(house.store.package(id), Err(PackageError::MissingContents { count: 1, .. })));
    house.store.put_blob(sha256, content, content.len() as u64).unwrap();
    house.store.package(id).unwrap();
    assert_eq!(fs::read(package.folder.join("model.safetensors")).unwrap(), content);
    // A blob of another length is no blob: the next upload puts it right.
    fs::set_permissions(&blob, Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, "short").unwrap();
    house.ingest(&zip_of(MODEL)).unwrap();
    house.store.package(id).unwrap();
}

#[test]
fn a_damaged_manifest_is_named() {
    let house = House::new();
    let package = house.ingest(&zip_of(MODEL)).unwrap();
    let path = house.root().join(format!("manifests/{}.json", package.manifest_sha256));
    fs::remove_file(&path).unwrap();
    let error = house.store.package(package.manifest_sha256).unwrap_err();
    assert_eq!(error.code(), ErrorCode::NotFound);
    fs::write(&path, "{}").unwrap();
    let text = house.store.package(package.manifest_sha256).unwrap_err().to_string();
    assert!(text.contains(path.to_str().unwrap()) && text.ends_with("upload the package again"), "{text}");
    house.ingest(&zip_of(MODEL)).unwrap();
    house.store.package(package.manifest_sha256).unwrap();
}

#[test]
fn a_content_with_all_the_links_it_may_have_is_copied() {
    let house = House::on_disk();
    house.ingest(&zip_of(&[("a", b"")])).unwrap();
    let links = tempfile::tempdir_in(house.folder.path()).unwrap();
    // ext4 ends at 65,000; where there is no end, there is nothing to see.
    let all = (0..66_000).try_for_each(|number| fs::hard_link(house.blob(b""), links.path().join(number.to_string())));
    let package = house.ingest(&zip_of(&[("b/__init__.py", b"")])).unwrap();
    let copied = fs::metadata(package.folder.join("b/__init__.py")).unwrap().nlink() == 1;
    assert_eq!(copied, all.is_err());
    let before = fs::metadata(&package.folder).unwrap().ino();
    house.store.package(package.manifest_sha256).unwrap();
    assert_eq!(fs::metadata(&package.folder).unwrap().ino(), before, "a copy is as good");
}

#[test]
fn what_the_system_refuses_names_the_path() {
    let house = House::new();
    let manifests = house.root().join("manifests");
    fs::remove_dir(&manifests).unwrap();
    fs::write(&manifests, "").unwrap();
    let error = house.ingest(&zip_of(MODEL)).unwrap_err();
    assert!(error.to_string().contains(manifests.to_str().unwrap()), "{error}");
    assert_eq!(error.code(), ErrorCode::Internal);
    let full = PackageError::io("write", Path::new("/packages/x"))(std::io::ErrorKind::StorageFull.into());
    assert_eq!(
        full.to_string(),
        "cannot write /packages/x: no storage space; free space there, delete versions, or move the folder to a larger disk"
    );
}

#[test]
fn a_reader_is_read_from_its_start() {
    let house = House::new();
    let mut reader = Cursor::new(zip_of(MODEL));
    reader.set_position(100);
    let package = house.store.ingest_zip(&mut reader, &PackageLimits::lambda()).unwrap();
    let whole: [u8; 32] = Sha256::digest(reader.get_ref()).into();
    assert_eq!(package.code_sha256_base64, base64::Engine::encode(&base64::engine::general_purpose::STANDARD, whole));
}
