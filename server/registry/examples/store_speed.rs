//! What a commit costs: commits a second of one writer and of many that wait at once, with the disk's own flush beside
//! them; what a read costs; and how long opening takes, after an orderly end and after none.
//!
//! `cargo run --release -p penstock-registry --example store_speed [FOLDER [MIB]]`: the store is in a new folder below
//! FOLDER (the system's for temporary files, if left out: mind that it is on a disk), and MIB are written before it is
//! opened again.

#![allow(clippy::disallowed_methods, reason = "it measures")]
#![allow(clippy::unwrap_used, reason = "whoever measures reads the panic")]

use bytes::Bytes;
use penstock_registry::store::{Commit, Expect, LocalStore, LocalStoreOptions, MAX_LARGE_BYTES, Step, Store};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const FOR: Duration = Duration::from_secs(3);
const VALUE_BYTES: usize = 1000;

#[tokio::main]
async fn main() {
    let below = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let mib: u64 = std::env::args().nth(2).map_or(256, |text| text.parse().unwrap());
    let folder = below.join(format!("store-speed-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    measure(&folder, mib).await;
    std::fs::remove_dir_all(&folder).unwrap();
}

async fn measure(folder: &Path, mib: u64) {
    println!("the disk alone, 4 KiB written and flushed: {:.0} a second", flushes(&folder.join("flushes")));
    let groups = Arc::new(AtomicU64::new(0));
    let counted = groups.clone();
    let on_step = move |step| {
        counted.fetch_add(u64::from(step == Step::Durable), Ordering::Relaxed);
    };
    let options = LocalStoreOptions { on_step: Some(Arc::new(on_step)), ..Default::default() };
    let store = Arc::new(LocalStore::open(&folder.join("state"), options).unwrap());
    for writers in [1, 8, 64, 256] {
        let before = groups.load(Ordering::Relaxed);
        let commits = commit_for_a_while(&store, writers).await as f64;
        let flushed = (groups.load(Ordering::Relaxed) - before) as f64;
        let seconds = FOR.as_secs_f64();
        println!(
            "{writers} waiting: {:.0} commits a second, {:.1} in a group, {:.2} ms each",
            commits / seconds,
            commits / flushed,
            writers as f64 * seconds * 1e3 / commits
        );
    }
    let start = Instant::now();
    for n in 0..1_000_000 {
        store.get(if n % 2 == 0 { "f/1" } else { "f/none" }).await.unwrap();
    }
    println!("get: {:.0} ns", start.elapsed().as_nanos() as f64 / 1e6);
    open_again(store, folder, mib).await;
}

fn flushes(path: &Path) -> f64 {
    let mut file = File::create(path).unwrap();
    file.write_all(&[0; 4096]).unwrap();
    file.sync_all().unwrap();
    let (start, mut count) = (Instant::now(), 0);
    while start.elapsed() < FOR {
        file.rewind().unwrap();
        file.write_all(&[1; 4096]).unwrap();
        file.sync_data().unwrap();
        count += 1;
    }
    f64::from(count) / start.elapsed().as_secs_f64()
}

/// Each writer changes its own entry, comparing first, and waits for the answer.
async fn commit_for_a_while(store: &Arc<LocalStore>, writers: usize) -> u64 {
    let until = Instant::now() + FOR;
    let mut writing = tokio::task::JoinSet::new();
    for writer in 0..writers {
        let (store, key) = (store.clone(), format!("f/{writer}"));
        writing.spawn(async move {
            let mut expect =
                store.get(&key).await.unwrap().map_or(Expect::Absent, |found| Expect::Revision(found.revision));
            let mut count = 0;
            while Instant::now() < until {
                let commit = Commit::new().expect(&key, expect).put(&key, Bytes::from(vec![7; VALUE_BYTES]));
                expect = Expect::Revision(store.commit(commit).await.unwrap());
                count += 1;
            }
            count
        });
    }
    writing.join_all().await.into_iter().sum()
}

async fn open_again(store: Arc<LocalStore>, folder: &Path, mib: u64) {
    // A quarter in entries, the rest in blobs.
    for n in 0..mib / 4 {
        let mut commit = Commit::new();
        for part in 0..64 {
            commit = commit.put(format!("e/{n}/{part}"), vec![1; 16 << 10]);
        }
        for part in 0..3 {
            commit = commit.put_large(format!("{n}/{part}"), vec![1; MAX_LARGE_BYTES / 2]);
        }
        store.commit(commit).await.unwrap();
    }
    let state = folder.join("state/state.redb");
    println!("the file has {} MiB", state.metadata().unwrap().len() >> 20);
    // What a killed process leaves: the file as it is while it is open.
    std::fs::create_dir(folder.join("killed")).unwrap();
    std::fs::copy(&state, folder.join("killed/state.redb")).unwrap();
    store.close().await.unwrap();
    drop(store);
    for name in ["state", "killed"] {
        let start = Instant::now();
        let store = LocalStore::open(&folder.join(name), LocalStoreOptions::default()).unwrap();
        println!("opening, {name}: {:.0} ms", start.elapsed().as_secs_f64() * 1e3);
        drop(store);
    }
}
