//! How fast packages are taken and handed out: `cargo run --release -p penstock-packages --example measure_packages -- DIR
//! [MiB]`. Prints MB/s of one large content, and microseconds a file of many small ones. For people; nothing calls it.
#![allow(clippy::disallowed_methods)] // it measures, and has no caller to give it the time

use penstock_packages::{ContentSha256, ContentStore, FileEntry, Manifest, PackageLimits};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::io::{Cursor, Read, Write};
use std::time::Instant;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

/// Bytes that do not pack, the same at every run.
struct Noise {
    state: u64,
    left: u64,
}

impl Read for Noise {
    fn read(&mut self, chunk: &mut [u8]) -> std::io::Result<usize> {
        let length = chunk.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        for word in chunk[..length].chunks_mut(8) {
            self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            word.copy_from_slice(&self.state.rotate_left(17).to_le_bytes()[..word.len()]);
        }
        self.left -= length as u64;
        Ok(length)
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("give a folder to write to")?;
    let bytes = arguments.next().map_or(Ok(1024), |text| text.parse::<u64>())? << 20;
    let store = ContentStore::open(folder.into())?;
    let limits = PackageLimits::default();
    let rate = |what: &str, began: Instant| {
        println!("{what}: {:.0} MB/s", bytes as f64 / 1e6 / began.elapsed().as_secs_f64());
    };

    let mut content = Vec::new();
    Noise { state: 1, left: bytes }.read_to_end(&mut content)?;
    let began = Instant::now();
    let sha256 = ContentSha256::of(&content);
    rate("sha-256 alone, from memory", began);
    let began = Instant::now();
    store.put_blob(sha256, content.as_slice(), bytes)?;
    rate("put_blob, written and flushed", began);
    let entry = FileEntry { path: "model.safetensors".to_owned(), sha256, bytes, executable: false };
    let package = store.ingest_manifest(Manifest::new(vec![entry])?, &limits)?;
    let began = Instant::now();
    store.package(package.manifest_sha256)?;
    rate("package, verified from the page cache", began);
    let began = Instant::now();
    store.export_zip(package.manifest_sha256, std::fs::File::create("/dev/null")?)?;
    rate("export_zip, to nowhere", began);
    drop(package);
    for _ in 0..2 {
        store.retain(|| Some(BTreeSet::new()))?;
    }

    let methods = [("stored", CompressionMethod::Stored, None), ("deflated", CompressionMethod::Deflated, Some(1))];
    for (what, method, level) in methods {
        let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
        let options = SimpleFileOptions::default().compression_method(method).compression_level(level);
        writer.start_file("model.safetensors", options.large_file(true))?;
        writer.write_all(&content)?;
        let zip = writer.finish()?;
        let began = Instant::now();
        let package = store.ingest_zip(zip, &limits)?;
        rate(&format!("ingest_zip, {what}"), began);
        drop(package);
        store.retain(|| Some(BTreeSet::new()))?;
    }

    let files = 4000u32;
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    for number in 0..files {
        writer.start_file(format!("package/{}/{number}.py", number % 50), SimpleFileOptions::default())?;
        writer.write_all(format!("{:x?}", Sha256::digest(number.to_le_bytes())).as_bytes())?;
    }
    let zip = writer.finish()?;
    let each = |what: &str, began: Instant| {
        println!("{what}: {:.0} us a file of {files}", began.elapsed().as_secs_f64() * 1e6 / f64::from(files));
    };
    let began = Instant::now();
    let package = store.ingest_zip(zip, &limits)?;
    each("ingest_zip", began);
    let began = Instant::now();
    store.package_unverified(package.manifest_sha256)?;
    each("package_unverified", began);
    let began = Instant::now();
    store.package(package.manifest_sha256)?;
    each("package", began);
    Ok(())
}
