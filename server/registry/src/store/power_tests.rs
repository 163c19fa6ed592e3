//! The store on a disk whose power fails: what was not flushed is lost in part, sector by sector. This shows what
//! killing a process cannot: that an answer comes after the flush. Which commits share a group is up to the threads, so
//! a seed repeats the disk, not all of a failure.

use super::file::{StateFile, builder, initialise};
use super::{Commit, Expect, LocalStore, LocalStoreOptions, OpenError, Store, StoreError};
use parking_lot::Mutex;
use redb::StorageBackend;
use std::io::{Error, Result};
use std::path::Path;
use std::sync::Arc;

const SECTOR_BYTES: usize = 512;
const WRITERS: usize = 3;

/// Chance from a seed: splitmix64, by Steele, Lea and Flood.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

#[derive(Debug)]
struct Platter {
    flushed: Vec<u8>,
    /// As it is read while there is power.
    cached: Vec<u8>,
    /// Since the last flush: where, and what.
    pending: Vec<(usize, Vec<u8>)>,
    writes_left: u64,
}

#[derive(Clone, Debug)]
struct Disk(Arc<Mutex<Platter>>);

impl Disk {
    fn holding(content: Vec<u8>) -> Self {
        let (flushed, cached) = (content.clone(), content);
        Self(Arc::new(Mutex::new(Platter { flushed, cached, pending: Vec::new(), writes_left: u64::MAX })))
    }

    fn fail_after(&self, writes: u64) {
        self.0.lock().writes_left = writes;
    }

    /// The disk after the power came back: of what was not flushed, some sectors.
    fn power_back(&self, chance: &mut Chance) -> Self {
        let platter = self.0.lock();
        let mut content = platter.flushed.clone();
        // A file's length is the file system's, which may have it already.
        if content.len() < platter.cached.len() && chance.below(2) == 0 {
            content.resize(platter.cached.len(), 0);
        }
        let reached = chance.below(4);
        for (at, bytes) in &platter.pending {
            for (n, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                let start = at + n * SECTOR_BYTES;
                if chance.below(3) < reached && start + sector.len() <= content.len() {
                    content[start..start + sector.len()].copy_from_slice(sector);
                }
            }
        }
        Self::holding(content)
    }

    fn change(&self, change: impl FnOnce(&mut Platter)) -> Result<()> {
        let mut platter = self.0.lock();
        platter.writes_left = platter.writes_left.checked_sub(1).ok_or_else(|| Error::other("no power"))?;
        change(&mut platter);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64> {
        Ok(self.0.lock().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (platter, at) = (self.0.lock(), offset as usize);
        let found = platter.cached.get(at..at + out.len()).ok_or_else(|| Error::other("beyond the end"))?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        self.change(|platter| platter.cached.resize(len as usize, 0))
    }

    fn sync_data(&self) -> Result<()> {
        self.change(|platter| {
            platter.flushed.clone_from(&platter.cached);
            platter.pending.clear();
        })
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.change(|platter| {
            let at = offset as usize;
            platter.cached[at..at + bytes.len()].copy_from_slice(bytes);
            platter.pending.push((at, bytes.to_vec()));
        })
    }
}

fn new_disk() -> Disk {
    let disk = Disk::holding(Vec::new());
    initialise(&builder().create_with_backend(disk.clone()).unwrap()).unwrap();
    disk
}

fn open(disk: &Disk) -> std::result::Result<LocalStore, OpenError> {
    let (disk, path) = (disk.clone(), Path::new("a disk"));
    let damaged = |error: redb::DatabaseError| OpenError::Damaged { file: path.to_owned(), what: error.to_string() };
    let open = move || StateFile::with(builder().create_with_backend(disk).map_err(damaged)?, path);
    LocalStore::start(open, path, LocalStoreOptions::default())
}

/// The `n`th commit of a writer changes two entries and a blob, if its last one was `n - 1`.
fn nth(writer: usize, n: u64, last: Option<u64>) -> Commit {
    let value = n.to_string().repeat(300);
    let expect = last.map_or(Expect::Absent, Expect::Revision);
    let commit = Commit::new().expect(format!("{writer}/n"), expect).put(format!("{writer}/n"), n.to_string());
    commit.put(format!("{writer}/{}", n % 3), value.clone()).put_large(format!("{writer}"), value)
}

/// What is there of each writer: the number of its last commit, and its revision. It is whole.
async fn found(store: &LocalStore) -> Vec<(u64, Option<u64>)> {
    let mut all = Vec::new();
    for writer in 0..WRITERS {
        let Some(head) = store.get(&format!("{writer}/n")).await.unwrap() else {
            all.push((0, None));
            continue;
        };
        let n: u64 = String::from_utf8(head.value.to_vec()).unwrap().parse().unwrap();
        let entry = store.get(&format!("{writer}/{}", n % 3)).await.unwrap().unwrap();
        let blob = store.get_blob(&writer.to_string()).await.unwrap().unwrap();
        assert_eq!((entry.value, entry.revision), (n.to_string().repeat(300).into(), head.revision));
        assert_eq!((blob.value, blob.revision), (n.to_string().repeat(300).into(), head.revision));
        all.push((n, Some(head.revision)));
    }
    assert_eq!(all.iter().map(|(n, _)| n).sum::<u64>(), *store.watch().borrow(), "each commit is one revision");
    all
}

/// Commits until the power fails. Gives what was answered.
async fn until_the_power_fails(store: Arc<LocalStore>, mut last: Vec<(u64, Option<u64>)>) -> Vec<(u64, Option<u64>)> {
    for _ in 0..1000 {
        // All of them wait at once, so that some share a group.
        let mut commits = Vec::new();
        for (writer, (n, at)) in last.iter().enumerate() {
            let (store, commit) = (store.clone(), nth(writer, n + 1, *at));
            commits.push(tokio::spawn(async move { store.commit(commit).await }));
        }
        let mut failed = false;
        for ((n, at), commit) in last.iter_mut().zip(commits) {
            match commit.await.unwrap() {
                Ok(revision) => (*n, *at) = (*n + 1, Some(revision)),
                Err(StoreError::Failed(_)) => failed = true,
                Err(other) => panic!("{other}"),
            }
        }
        if failed {
            assert!(matches!(store.commit(Commit::new().put("a", "")).await, Err(StoreError::Failed(_))));
            for (writer, (n, _)) in last.iter().enumerate() {
                let read = store.get(&format!("{writer}/n")).await.unwrap().map(|entry| entry.value);
                assert_eq!(read, (*n > 0).then(|| n.to_string().into()), "readers see what was answered, to the end");
            }
            return last;
        }
    }
    panic!("3000 commits were answered and hardly anything was written");
}

async fn story(seed: u64) {
    let mut chance = Chance(seed);
    let mut disk = new_disk();
    let mut last = vec![(0, None); WRITERS];
    for _ in 0..4 {
        disk.fail_after(chance.below(150));
        // The power may fail while it opens, too.
        if let Ok(store) = open(&disk) {
            last = until_the_power_fails(Arc::new(store), last).await;
        }
        disk = disk.power_back(&mut chance);
        let store = open(&disk).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let now = found(&store).await;
        for (writer, (was, is)) in last.iter().zip(&now).enumerate() {
            assert!(*is == *was || is.0 == was.0 + 1, "seed {seed}: writer {writer} was told {was:?} and has {is:?}");
        }
        last = now;
    }
}

#[tokio::test]
async fn what_was_answered_survives_the_power() {
    for seed in 0..300 {
        story(seed).await;
    }
}
