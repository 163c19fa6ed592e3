//! Archives made to do harm: each is refused with its reason, and nothing of it is left.

use super::raw_zip::{RawEntry, end, quote, raw_zip, stored, zeros};
use super::{House, MODEL, zip_of};
use crate::archive::Archive;
use crate::unpack::unpack;
use crate::{ContentSha256, PackageError, PackageLimits};
use penstock_domain::ErrorCode;
use std::io::Cursor;

const UNZIP: &str = "Could not unzip uploaded file. Please check your file, then try to upload again.";

/// Refused with a text that has `words`, and nothing is left.
#[track_caller]
fn refused(house: &House, what: &str, zip: &[u8], words: &str) -> PackageError {
    let before = house.listing();
    let error = house.ingest(zip).expect_err(what);
    assert!(error.to_string().contains(words), "{what}: {error}");
    assert_eq!(house.listing(), before, "{what} leaves something");
    error
}

#[test]
fn names_that_lead_elsewhere() {
    let house = House::new();
    let absolute = house.folder.path().join("outside").to_str().unwrap().to_owned();
    let long = "a".repeat(300);
    let table: &[(&[u8], &str)] = &[
        (b"../outside", r#"".." "#),
        (b"a/../../outside", r#"component ".."#),
        (b"a/..", r#"component ".."#),
        (b"..", r#"component ".."#),
        (b"./a", r#"component ".""#),
        (absolute.as_bytes(), "absolute"),
        (b"//outside", "absolute"),
        (b"/", "it is empty"),
        (b"", "it is empty"),
        (b"a//b", "empty component"),
        (b"..\\outside", "backslash"),
        (b"a\\..\\..\\outside", "backslash"),
        (b"C:\\outside", "backslash"),
        (b"c:/outside", "drive letter"),
        (b"\\\\?\\C:\\x", "backslash"),
        (b"a\0../outside", "U+0000"),
        (b"a\r\nb", "U+000D"),
        (b"..\xc0\xafoutside", "not UTF-8"),
        (b"\xff", "not UTF-8"),
        (long.as_bytes(), "300 bytes"),
        (b"../folder/", r#"component ".."#),
    ];
    for (name, words) in table {
        let shown = String::from_utf8_lossy(name).into_owned();
        let words = words.trim_end();
        let error = refused(&house, &shown, &raw_zip(&[stored("fine", b"fine"), stored(name, b"")]), words);
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        // The local header alone says it: readers that stream believe that one.
        let local_name = Some(name.to_vec());
        refused(&house, &shown, &raw_zip(&[RawEntry { local_name, ..stored("fine", b"fine") }]), "mismatch");
    }
    assert!(!house.folder.path().join("outside").exists());
}

#[test]
fn what_is_not_a_file() {
    let house = House::new();
    let table = [
        (0o120_777, "a symbolic link"),
        (0o010_644, "a named pipe"),
        (0o140_644, "a socket"),
        (0o020_644, "a device"),
        (0o060_644, "a device"),
        (0o040_755, "a folder by its mode and a file by its name"),
        (0o150_644, "of an unknown type"),
    ];
    for (mode, words) in table {
        let link = RawEntry { mode, ..stored("link", b"/etc/passwd") };
        refused(&house, words, &raw_zip(&[stored("fine", b"fine"), link]), words);
    }
    let folder = RawEntry { mode: 0o100_644, ..stored("folder/", b"") };
    refused(&house, "file with a slash", &raw_zip(&[folder]), "a file by its mode and a folder by its name");
    refused(&house, "folder with bytes", &raw_zip(&[stored("folder/", b"bytes")]), "has 5 bytes");
    // A link first and a file through it afterwards.
    let link = RawEntry { mode: 0o120_777, ..stored("a", b"..") };
    refused(&house, "through a link", &raw_zip(&[link, stored("a/b", b"")]), "a symbolic link");
}

#[test]
fn names_that_contradict_each_other() {
    let house = House::new();
    let twice = [stored("a", b"1"), stored("b", b""), stored("a", b"2")];
    refused(&house, "twice", &raw_zip(&twice), r#""a" is there twice"#);
    refused(&house, "file and folder", &raw_zip(&[stored("a", b""), stored("a/b", b"")]), "both a file and a folder");
    refused(&house, "folder and file", &raw_zip(&[stored("a/", b""), stored("a", b"")]), "both a file and a folder");
    assert!(house.ingest(&raw_zip(&[stored("a", b""), stored("A", b"")])).is_ok(), "case makes two names");
    // Info-ZIP's field 0x7075 renames what other readers see under its first name.
    let unicode = [[1].as_slice(), &crc32fast::hash(b"fine").to_le_bytes(), b"evil"].concat();
    let extra = [0x7075u16.to_le_bytes().as_slice(), &9u16.to_le_bytes(), &unicode].concat();
    refused(
        &house,
        "renamed",
        &raw_zip(&[RawEntry { extra, ..stored("fine", b"") }]),
        "another name in its Unicode field",
    );
}

#[test]
fn what_cannot_be_unpacked() {
    let house = House::new();
    let flagged = |flags| raw_zip(&[RawEntry { flags, ..stored("a", b"secret") }]);
    for flags in [1, 1 | 1 << 6, 1 << 13, 1 << 5] {
        let error = refused(&house, "encrypted", &flagged(flags), "without a password");
        assert_eq!(error.lambda_text().unwrap(), UNZIP);
    }
    for (method, words) in
        [(1, "method"), (9, "method"), (12, "method"), (14, "method"), (93, "method"), (99, "method")]
    {
        refused(&house, "method", &raw_zip(&[RawEntry { method, ..stored("a", b"x") }]), words);
    }
    let checksum = Some(1);
    let wrong = raw_zip(&[stored("fine", b"fine"), RawEntry { checksum, ..stored("a", b"x") }]);
    let error = refused(&house, "checksum", &wrong, r#"entry "a": Invalid checksum"#);
    assert_eq!(error.lambda_text().unwrap(), UNZIP);
    let junk = RawEntry { method: 8, content: Some(vec![0; 9]), ..stored("a", &[0xff; 20]) };
    refused(&house, "not deflate", &raw_zip(&[junk]), r#"entry "a""#);
}

#[test]
fn what_is_no_archive() {
    let house = House::new();
    for (what, bytes) in
        [("nothing", b"".as_slice()), ("text", b"def handler(event, context): pass"), ("gzip", b"\x1f\x8b")]
    {
        let error = refused(&house, what, bytes, "not a ZIP archive");
        assert_eq!(error.lambda_text().unwrap(), UNZIP);
    }
    let error = refused(&house, "no entries", &end(0, 0, 0, b""), "no files");
    assert_eq!(error.lambda_text().unwrap(), "Uploaded file must be a non-empty zip");
    refused(&house, "folders only", &zip_of(&[("a/", b""), ("a/b/", b"")]), "no files");
    let error = refused(&house, "cut", &zip_of(MODEL)[..200], "cut short");
    assert_eq!(error.lambda_text().unwrap(), UNZIP);
}

#[test]
fn archives_that_can_be_read_in_two_ways() {
    let house = House::new();
    let good = zip_of(MODEL);
    let evil = raw_zip(&[stored("evil", b"evil")]);
    assert!(house.ingest(&good).is_ok());
    refused(&house, "two archives", &[good.as_slice(), &evil].concat(), "does not end where the record begins");
    refused(&house, "something before", &[b"#!/bin/sh\n".as_slice(), &good].concat(), "does not end where");
    refused(&house, "something after", &[good.as_slice(), b"more"].concat(), "0 bytes follow it, and 4 do");
    let (list, list_at) = (good.len() - 22, u32::from_le_bytes(good[good.len() - 6..][..4].try_into().unwrap()));
    let with_end = |record: Vec<u8>| [&good[..list], &record].concat();
    let list_bytes = list as u32 - list_at;
    assert!(house.ingest(&with_end(end(3, list_bytes, list_at, b"a comment"))).is_ok());
    refused(&house, "end in a comment", &with_end(end(3, list_bytes, list_at, &evil)), "does not end where");
    refused(&house, "half an end in a comment", &with_end(end(3, list_bytes, list_at, b"PK\x05\x06")), "cut short");
    refused(&house, "fewer", &with_end(end(2, list_bytes, list_at, b"")), "more in the list than the 2 entries");
    refused(&house, "more", &with_end(end(4, list_bytes, list_at, b"")), "ends inside it");
    refused(&house, "list elsewhere", &with_end(end(3, list_bytes, list_at - 1, b"")), "does not end where");
    let unlisted = [RawEntry { unlisted: true, ..stored("evil", b"evil") }, stored("fine", b"fine")];
    refused(&house, "unlisted entry", &raw_zip(&unlisted), "missing from central directory");
}

#[test]
fn bombs() {
    let house = House::new();
    // 4 GiB of zeros.
    let (rounds, bytes) = (2_080_895, 4_294_967_281u32);
    let bomb = RawEntry {
        name: b"zeros".to_vec(),
        packed: zeros(rounds),
        method: 8,
        declared_bytes: Some(bytes),
        checksum: Some(0),
        ..RawEntry::default()
    };
    let honest = raw_zip(std::slice::from_ref(&bomb));
    let error =
        refused(&house, "honest", &honest, "what the archive declares brings the unpacked size to 4294967281 bytes");
    assert_eq!(error.code(), ErrorCode::TooLarge);
    let liar = raw_zip(&[stored("fine", b"fine"), RawEntry { declared_bytes: Some(1000), ..bomb.clone() }]);
    refused(&house, "liar", &liar, "larger than its declared");
    let lambda = PackageLimits::lambda();
    let error = house.store.ingest_zip(Cursor::new(&honest), &lambda).unwrap_err();
    assert_eq!(error.lambda_text().unwrap(), "Unzipped size must be smaller than 262144000 bytes");
    let small = PackageLimits { zip_bytes: 1 << 20, ..lambda };
    let error = house.store.ingest_zip(Cursor::new(&honest), &small).unwrap_err();
    assert!(matches!(error, PackageError::ZipTooLarge { limit: 1_048_576 }), "{error}");
    let many: Vec<RawEntry> = (0..4097).map(|number| stored(number.to_string(), b"")).collect();
    refused(&house, "many", &raw_zip(&many), "4097 files and folders; at most 4096");
    let wide = RawEntry { extra: [&[0xfe, 0xca, 0xac, 0x0d], [0; 3500].as_slice()].concat(), ..stored("a", b"") };
    refused(&house, "long list", &raw_zip(&[wide]), "at most 2048 for each");
}

/// What is counted holds even if what was declared had been believed.
#[test]
fn what_comes_out_is_counted() {
    let house = House::new();
    let packed = zeros(200);
    let content = Some(vec![0; 1 + 258 * 8 * 200]);
    let zip = raw_zip(&[
        stored("fine", b"fine"),
        RawEntry { name: b"zeros".to_vec(), packed, content, method: 8, ..RawEntry::default() },
    ]);
    let (bytes, loose) = (zip.len() as u64, PackageLimits::default());
    let size = PackageLimits { unpacked_bytes: 400_000, ..loose };
    let ratio = PackageLimits { ratio_free_bytes: 4, ..loose };
    for (limits, words) in [(size, "at most 400000 are taken"), (ratio, "bytes may unpack to")] {
        let mut archive = Archive::open(Cursor::new(&zip), bytes, &loose).unwrap();
        let before = house.listing();
        let (staged, hold) = (house.store.incoming.stage().unwrap(), house.store.holds.hold());
        let error = unpack(&mut archive, bytes, &limits, &staged, &hold, &|_, _| false).err().unwrap().to_string();
        assert!(error.starts_with(r#"entry "zeros" brings the unpacked size to "#) && error.contains(words), "{error}");
        drop(staged);
        assert_eq!(house.listing(), before);
    }
    assert_eq!(house.ingest(&zip).unwrap().unpacked_bytes, 4 + 1 + 258 * 8 * 200);
}

#[test]
fn entries_that_share_bytes() {
    let house = House::new();
    let kernel = RawEntry {
        name: b"b".to_vec(),
        packed: zeros(10),
        content: Some(vec![0; 1 + 258 * 8 * 10]),
        method: 8,
        ..RawEntry::default()
    };
    assert!(house.ingest(&raw_zip(std::slice::from_ref(&kernel))).is_ok());
    // The first entry quotes the second one's header and goes on with its bytes.
    let header = kernel.local();
    let header = &header[..header.len() - kernel.packed.len()];
    let packed = [quote(header), kernel.packed.clone()].concat();
    let content = Some([header, kernel.content.as_ref().unwrap()].concat());
    let quoting = RawEntry { name: b"a".to_vec(), packed, content, method: 8, ..RawEntry::default() };
    assert!(house.ingest(&raw_zip(std::slice::from_ref(&quoting))).is_ok(), "alone it is an honest archive");
    let second = quoting.local().len() - kernel.local().len();
    let overlapping = [quoting, RawEntry { elsewhere: Some(second as u32), ..kernel.clone() }];
    refused(&house, "quoted overlap", &raw_zip(&overlapping), "overlapping entries");
    // Two names for one place.
    let twin = RawEntry { elsewhere: Some(0), name: b"c".to_vec(), ..kernel.clone() };
    refused(&house, "full overlap", &raw_zip(&[kernel, twin]), "mismatch");
    let outside = RawEntry { elsewhere: Some(u32::MAX - 1), ..stored("far", b"") };
    refused(&house, "outside", &raw_zip(&[stored("a", b""), outside]), r#"entry "far""#);
}

#[test]
fn what_was_here_before_a_refused_archive_stays() {
    let house = House::new();
    let good = house.ingest(&zip_of(MODEL)).unwrap();
    let mut entries: Vec<RawEntry> = MODEL.iter().map(|(name, content)| stored(name, content)).collect();
    entries.push(stored("new", b"new"));
    entries.push(RawEntry { checksum: Some(1), ..stored("wrong", b"wrong") });
    refused(&house, "late", &raw_zip(&entries), r#"entry "wrong""#);
    assert_eq!(house.store.package(good.manifest_sha256).unwrap(), good.folder);
    assert!(!house.store.has(ContentSha256::of(b"new"), 3));
}
