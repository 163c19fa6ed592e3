//! The store in a file: what readers may see when, who may open it, and files that are not as they were written.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use bytes::Bytes;
use common::{Held, open};
use penstock_registry::store::{
    Commit, Expect, Limits, LocalStore, LocalStoreOptions, OpenError, Step, Store, StoreError,
};
use proptest::prelude::*;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use tempfile::TempDir;

/// A first poll, which asks the thread. Whether it was answered.
fn poll_once(future: Pin<&mut (impl Future + ?Sized)>) -> bool {
    matches!(future.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(_))
}

fn error(folder: &Path) -> OpenError {
    LocalStore::open(folder, LocalStoreOptions::default()).err().unwrap()
}

#[tokio::test]
async fn nobody_sees_what_is_not_durable_or_not_whole() {
    for step in [Step::Collected, Step::Filled, Step::Durable] {
        let folder = TempDir::new().unwrap();
        let held = Held::at(folder.path(), step);
        let watch = held.store.watch();
        let store = held.store.clone();
        let commit = Commit::new().put("a", "1").put("b", "1").put_large("a", "1");
        let committing = tokio::spawn(async move { store.commit(commit).await });
        tokio::task::yield_now().await;
        held.arrived();
        assert_eq!(held.store.list("", None, 9).await, Ok(Vec::new()), "{step:?}");
        assert_eq!(held.store.get_blob("a").await, Ok(None), "{step:?}");
        assert!(!watch.has_changed().unwrap() && !committing.is_finished(), "{step:?}");
        held.go_on(1);
        assert_eq!(committing.await.unwrap(), Ok(1));
        assert_eq!(held.store.list("", None, 9).await.unwrap().len(), 2);
    }
}

#[tokio::test]
async fn each_commit_of_a_group_has_its_own_verdict() {
    let folder = TempDir::new().unwrap();
    let held = Held::at(folder.path(), Step::Collected);
    let mut first = held.store.commit(Commit::new().put("other", ""));
    assert!(!poll_once(first.as_mut()));
    held.arrived();
    // All of these wait, so they become one group.
    let create = |n: u64| Commit::new().expect("a", Expect::Absent).put("a", n.to_string()).put(format!("by/{n}"), "");
    let mut rivals: Vec<_> = (0..5).map(|n| held.store.commit(create(n))).collect();
    let follow = Commit::new().expect("a", Expect::Revision(2)).put("a", "next").delete("by/0");
    rivals.push(held.store.commit(follow));
    assert!(rivals.iter_mut().all(|rival| !poll_once(rival.as_mut())));
    held.go_on(2);
    assert_eq!(first.await, Ok(1));
    held.arrived();
    let mut verdicts = Vec::new();
    for rival in rivals {
        verdicts.push(rival.await);
    }
    let conflict = Err(StoreError::Conflict { key: "a".into(), found: Some(2) });
    let wanted = [Ok(2), conflict.clone(), conflict.clone(), conflict.clone(), conflict, Ok(3)];
    assert_eq!(verdicts, wanted);
    let keys: Vec<(String, u64)> =
        held.store.list("", None, 9).await.unwrap().into_iter().map(|(key, entry)| (key, entry.revision)).collect();
    assert_eq!(keys, [("a".to_owned(), 3), ("other".to_owned(), 1)]);
}

/// Not on a runtime, which would make a task wait after it has asked for much.
#[test]
fn who_leaves_while_waiting_for_a_place_has_done_nothing_and_who_leaves_later_everything() {
    let folder = TempDir::new().unwrap();
    let held = Held::at(folder.path(), Step::Collected);
    let put = |n: usize| held.store.commit(Commit::new().put(format!("{n:03}/a"), "").put(format!("{n:03}/b"), ""));
    let mut first = put(0);
    assert!(!poll_once(first.as_mut()));
    held.arrived();
    let mut waiting: Vec<_> = (1..=256).map(put).collect();
    assert!(waiting.iter_mut().all(|commit| !poll_once(commit.as_mut())));
    let (mut leaves, mut stays) = (put(257), put(258));
    assert!(!poll_once(leaves.as_mut()) && !poll_once(stays.as_mut()), "there is no place");
    drop((leaves, waiting));
    held.go_on(10);
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    assert_eq!(runtime.block_on(first), Ok(1));
    assert_eq!(runtime.block_on(stays), Ok(258), "after 256 that nobody waited for");
    let all = runtime.block_on(held.store.list("", None, 1000)).unwrap();
    assert_eq!(all.len(), 2 * 258);
    assert!(all.iter().all(|(key, _)| !key.starts_with("257")));
}

#[tokio::test]
async fn what_waits_when_it_is_closed_or_dropped_is_still_done() {
    let folder = TempDir::new().unwrap();
    let held = Held::at(folder.path(), Step::Collected);
    let put = |key: &str| held.store.commit(Commit::new().put(key, ""));
    let mut waiting = [put("a"), put("b"), put("c")];
    assert!(waiting.iter_mut().all(|commit| !poll_once(commit.as_mut())));
    let mut closing = held.store.close();
    assert!(!poll_once(closing.as_mut()));
    held.go_on(10);
    assert_eq!(closing.await, Ok(()));
    for commit in waiting {
        assert!(commit.await.is_ok());
    }
    drop(held);

    let store = open(folder.path(), Limits::default());
    let mut left = store.commit(Commit::new().put("d", ""));
    assert!(!poll_once(left.as_mut()));
    drop(left);
    drop(store);
    assert_eq!(open(folder.path(), Limits::default()).list("", None, 9).await.unwrap().len(), 4);
}

#[test]
fn the_folder_and_the_file_are_for_this_user_alone() {
    let folder = TempDir::new().unwrap();
    let deep = folder.path().join("a/b");
    drop(open(&deep, Limits::default()));
    let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(&folder.path().join("a")), mode(&deep), mode(&deep.join("state.redb"))), (0o700, 0o700, 0o600));
    let names: Vec<_> = deep.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["state.redb"]);
}

#[test]
fn a_second_opener_is_told_what_to_do() {
    let folder = TempDir::new().unwrap();
    let first = open(folder.path(), Limits::default());
    let text = error(folder.path()).to_string();
    let file = folder.path().join("state.redb");
    let wanted = "is open in another process: stop that one, or choose another data directory for this one";
    assert_eq!(text, format!("{} {wanted}", file.display()));
    drop(first);
    drop(open(folder.path(), Limits::default()));
}

#[test]
fn a_file_in_the_folders_place_is_named() {
    let folder = TempDir::new().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let text = error(&file).to_string();
    assert!(text.starts_with(&format!("{} cannot be opened", file.display())), "{text}");
}

#[test]
fn a_newer_format_is_left_alone() {
    const META: redb::TableDefinition<&str, u64> = redb::TableDefinition::new("meta");
    let folder = TempDir::new().unwrap();
    drop(open(folder.path(), Limits::default()));
    let database = redb::Database::open(folder.path().join("state.redb")).unwrap();
    let transaction = database.begin_write().unwrap();
    transaction.open_table(META).unwrap().insert("format", 2).unwrap();
    transaction.commit().unwrap();
    drop(database);
    let text = error(folder.path()).to_string();
    assert!(text.contains("has format 2 and this version of Penstock knows up to 1"), "{text}");
}

#[tokio::test]
async fn limits_below_what_is_there_are_told() {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), Limits::default());
    store.commit(Commit::new().put("a", "").put_large("a", "12345")).await.unwrap();
    drop(store);
    let limits = Limits { blob_bytes: 4, ..Limits::default() };
    let refused =
        LocalStore::open(folder.path(), LocalStoreOptions { limits, on_step: None }).err().unwrap().to_string();
    assert!(refused.ends_with("holds more than it may: blob_bytes is 5, and the most is 4: raise it"), "{refused}");
}

#[test]
fn a_file_that_is_empty_or_something_else_is_not_begun_anew() {
    for content in ["", "redb", "something else, and longer than a header of redb's would ever be, by far"] {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("state.redb");
        std::fs::write(&file, content).unwrap();
        let error = error(folder.path());
        assert!(matches!(error, OpenError::Damaged { .. }), "{content:?}: {error}");
        assert_eq!(std::fs::read(&file).unwrap(), content.as_bytes());
    }
}

#[test]
fn what_an_interrupted_beginning_left_is_no_hindrance() {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("state.redb.new"), "half of a head").unwrap();
    drop(open(folder.path(), Limits::default()));
}

/// A file's bytes, and what is read from it.
type History = (Vec<u8>, Vec<(String, Bytes)>);

fn with_history() -> History {
    let folder = TempDir::new().unwrap();
    let store = open(folder.path(), Limits::default());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let wanted = runtime.block_on(async {
        for n in 0..12u8 {
            let key = format!("k/{}", n % 7);
            let large = Bytes::from(vec![n; 9000]);
            let commit = Commit::new().put(key, vec![n; 700]).delete(format!("k/{}", (n + 3) % 7));
            store.commit(commit.put_large("b", large)).await.unwrap();
        }
        all(&store).await
    });
    drop(store);
    (std::fs::read(folder.path().join("state.redb")).unwrap(), wanted)
}

async fn all(store: &LocalStore) -> Vec<(String, Bytes)> {
    let mut all = vec![("b".to_owned(), store.get_blob("b").await.unwrap().unwrap().value)];
    all.extend(store.list("", None, 99).await.unwrap().into_iter().map(|(key, entry)| (key, entry.value)));
    all
}

/// Opens a damaged file: it is what it was, or it says that it is damaged. Gives whether it opened.
fn opens_as(content: &[u8], wanted: &[(String, Bytes)]) -> bool {
    let folder = TempDir::new().unwrap();
    std::fs::write(folder.path().join("state.redb"), content).unwrap();
    match LocalStore::open(folder.path(), LocalStoreOptions::default()) {
        Ok(store) => {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            assert_eq!(runtime.block_on(all(&store)), wanted, "opened, and something else is in it");
            true
        }
        Err(OpenError::Damaged { what, .. }) => {
            assert!(!what.contains("panicked"), "{what}");
            false
        }
        Err(other) => panic!("not told as damage: {other}"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    /// Cut off anywhere, or with bytes changed anywhere.
    #[test]
    fn damage_is_told_and_never_read_as_state(
        cut in prop::option::weighted(0.3, 0.0..1.0f64),
        flips in prop::collection::vec((0.0..1.0f64, 1..=255u8), 0..4),
        header in prop::collection::vec((0..512usize, 1..=255u8), 0..2),
    ) {
        static HISTORY: LazyLock<History> = LazyLock::new(with_history);
        let (mut content, wanted) = HISTORY.clone();
        for (at, with) in flips {
            let at = (at * content.len() as f64) as usize;
            content[at] ^= with;
        }
        for (at, with) in header {
            content[at] ^= with;
        }
        content.truncate(cut.map_or(content.len(), |cut| (cut * content.len() as f64) as usize));
        opens_as(&content, &wanted);
    }
}

#[test]
fn a_changed_value_is_found() {
    let (content, wanted) = with_history();
    assert!(opens_as(&content, &wanted));
    // The newest of everything: nothing older has these bytes.
    for newest in [vec![11; 700], vec![11; 9000]] {
        let at = content.windows(newest.len()).position(|part| part == newest).unwrap();
        let mut changed = content.clone();
        changed[at + 300] ^= 1;
        assert!(!opens_as(&changed, &wanted));
    }
}
