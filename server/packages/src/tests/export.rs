//! Packages as archives again.

use super::{House, MODEL, zip_of};
use std::fs;
use std::io::Cursor;

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
    house.store.export_zip(package.manifest_sha256, Cursor::new(&mut first)).unwrap();
    other.store.export_zip(again.manifest_sha256, Cursor::new(&mut second)).unwrap();
    assert_eq!(first, second);
    let back = House::new().ingest(&first).unwrap();
    assert_eq!(back.manifest, package.manifest, "with what may be run");
}

#[test]
fn nothing_is_sent_of_a_damaged_package() {
    let house = House::new();
    let package = house.ingest(&zip_of(MODEL)).unwrap();
    let blob = house.blob(MODEL[0].1);
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, b"{\"hidden_size\": 9}").unwrap();
    let mut sent = Vec::new();
    let text = house.store.export_zip(package.manifest_sha256, Cursor::new(&mut sent)).unwrap_err().to_string();
    assert!(text.contains(blob.to_str().unwrap()), "{text}");
    assert!(sent.is_empty());
}
