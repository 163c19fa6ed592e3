//! Packages as archives again.

use super::{House, MODEL, entry, zip_of};
use crate::export::write_zip;
use crate::{ContentSha256, FileEntry, Manifest};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Cursor, Read, Write};
use zip::ZipArchive;

#[test]
fn it_is_the_same_whatever_it_came_from() {
    let house = House::new();
    let mut files = MODEL.to_vec();
    files.push(("bootstrap", b"#!/bin/sh\n"));
    files.push(("größe.txt", b"\xc3\xa4"));
    let package = house.ingest(&zip_of(&files)).unwrap();
    files.reverse();
    let other = House::new();
    let again = other.ingest(&zip_of(&files)).unwrap();
    let [mut first, mut second] = [Vec::new(), Vec::new()];
    house.store.export_zip(package.manifest_sha256, &mut first).unwrap();
    other.store.export_zip(again.manifest_sha256, &mut second).unwrap();
    assert_eq!(first, second);
    assert_eq!(first.len() as u64, package.manifest.zip_bytes());
    // What clients have downloaded once, they get again from later builds.
    assert_eq!(
        ContentSha256::of(&first).to_string(),
        "e3f7be87237d272efef30e212e7c36cd6c9ae8c7d3fe6b7a0639af3c7400b7fa"
    );
    let back = House::new().ingest(&first).unwrap();
    assert_eq!(back.manifest, package.manifest, "with what may be run");
    assert_eq!(back.code_size, package.manifest.zip_bytes());
}

#[test]
fn nothing_is_sent_of_a_damaged_package() {
    let house = House::new();
    let package = house.ingest(&zip_of(MODEL)).unwrap();
    let blob = house.blob(MODEL[0].1);
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, b"{\"hidden_size\": 9}").unwrap();
    let mut sent = Vec::new();
    let text = house.store.export_zip(package.manifest_sha256, &mut sent).unwrap_err().to_string();
    assert!(text.contains(blob.to_str().unwrap()), "{text}");
    assert!(sent.is_empty());
}

/// The archive of these contents, with numbers of 64 bits from `wide_from` on.
fn archive(contents: &BTreeMap<String, Vec<u8>>, wide_from: u64) -> (Manifest, Vec<u8>) {
    let files: Vec<FileEntry> = contents.iter().map(|(path, content)| entry(path, content)).collect();
    let checksums = contents.values().map(|content| (ContentSha256::of(content), crc32fast::hash(content))).collect();
    let manifest = Manifest::new(files).unwrap();
    let mut zip = Vec::new();
    let mut content = |file: &FileEntry, writer: &mut dyn Write| {
        writer.write_all(&contents[&file.path]).unwrap();
        Ok(())
    };
    write_zip(&manifest, &checksums, wide_from, &mut zip, &mut content).unwrap();
    (manifest, zip)
}

#[test]
fn more_files_than_a_narrow_count_holds() {
    let contents: BTreeMap<String, Vec<u8>> = (0..70_000).map(|number| (number.to_string(), Vec::new())).collect();
    let (manifest, zip) = archive(&contents, u64::from(u32::MAX));
    assert_eq!(zip.len() as u64, manifest.zip_bytes());
    assert_eq!(ZipArchive::new(Cursor::new(zip)).unwrap().len(), 70_000);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Every mixture of narrow and wide numbers is read as what was written, by the strict reader too.
    #[test]
    fn wide_numbers_are_read_as_written(
        contents in prop::collection::btree_map("[a-zé]{1,8}", prop::collection::vec(any::<u8>(), 0..60), 1..8),
        wide_from in 1..400u64,
    ) {
        let (_, zip) = archive(&contents, wide_from);
        let mut read = ZipArchive::new(Cursor::new(&zip)).unwrap();
        read.validate_header_consistency().unwrap();
        for (path, content) in &contents {
            let mut found = Vec::new();
            read.by_name(path).unwrap().read_to_end(&mut found).unwrap();
            prop_assert_eq!(&found, content);
        }
        let bytes = zip.len() as u64;
        let strict = crate::archive::Archive::open(Cursor::new(zip), bytes, &crate::PackageLimits::default()).unwrap();
        prop_assert_eq!(strict.entries.len(), contents.len());
    }
}
