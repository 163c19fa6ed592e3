//! What holds for every store, wherever it keeps what it has. Each test is given an empty store, and the revision it is at.

#![allow(clippy::unwrap_used)] // helpers of tests

use bytes::Bytes;
use penstock_registry::store::{
    Commit, Entry, Expect, MAX_COMMIT_BYTES, MAX_LARGE_BYTES, MAX_OPERATIONS, MAX_VALUE_BYTES, Store, StoreError,
};
use std::sync::Arc;
use tokio::task::JoinSet;

fn entry(value: &'static str, revision: u64) -> Entry {
    Entry { value: Bytes::from_static(value.as_bytes()), revision }
}

pub(crate) async fn a_commit_happens_whole_or_not_at_all(store: Arc<dyn Store>, at: u64) {
    let both = Commit::new().expect("a", Expect::Absent).put("a", "1").put("b", "1").put_large("a", "large");
    assert_eq!(store.commit(both.clone()).await, Ok(at + 1));
    let again = store.commit(both.put("c", "1")).await;
    assert_eq!(again, Err(StoreError::Conflict { key: "a".into(), found: Some(at + 1) }));
    assert_eq!(store.get("c").await, Ok(None));
    let missing = Commit::new().expect("a", Expect::Revision(at + 1)).expect("c", Expect::Present).delete("a");
    let missing = store.commit(missing.delete_large("a")).await.unwrap_err();
    assert_eq!(missing.to_string(), "`c` was changed meanwhile (it is not there): read it again, and decide again");
    assert_eq!(store.get("a").await, Ok(Some(entry("1", at + 1))));
    assert_eq!(store.get_blob("a").await, Ok(Some(entry("large", at + 1))));
    let moved =
        Commit::new().expect("a", Expect::Revision(at + 1)).expect("b", Expect::Present).delete("a").put("c", "2");
    assert_eq!(store.commit(moved.delete_large("a")).await, Ok(at + 2));
    assert_eq!((store.get("a").await, store.get_blob("a").await), (Ok(None), Ok(None)));
    let all = vec![("b".to_owned(), entry("1", at + 1)), ("c".to_owned(), entry("2", at + 2))];
    assert_eq!(store.list("", None, 10).await, Ok(all));
    for never in [0, u64::MAX] {
        let never = store.commit(Commit::new().expect("a", Expect::Revision(never)).put("a", "3")).await;
        assert_eq!(never, Err(StoreError::Conflict { key: "a".into(), found: None }), "no commit has that revision");
    }
}

pub(crate) async fn what_changes_nothing_has_no_revision_of_its_own(store: Arc<dyn Store>, at: u64) {
    assert_eq!(store.commit(Commit::new()).await, Ok(at));
    assert_eq!(store.commit(Commit::new().put("a", "1")).await, Ok(at + 1));
    let vain = Commit::new().expect("a", Expect::Present).delete("b").delete_large("a");
    assert_eq!(store.commit(vain).await, Ok(at + 1));
    assert_eq!(store.commit(Commit::new().put("a", "1")).await, Ok(at + 2), "the same value is a new revision");
    assert_eq!(store.put_blob("x", Bytes::new()).await, Ok(at + 3));
    assert_eq!(*store.watch().borrow(), at + 3);
}

pub(crate) async fn pages_follow_each_other_and_stay_within_their_prefix(store: Arc<dyn Store>, _at: u64) {
    let keys: Vec<String> = (0..25).map(|n| format!("f/{n:02}")).collect();
    let others = ["e", "f", "f.", "f0", "g/1"].map(str::to_owned);
    for key in keys.iter().chain(&others) {
        store.commit(Commit::new().put(key, "").put_large(key, "")).await.unwrap();
    }
    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = store.list("f/", after.as_deref(), 10).await.unwrap();
        let large = store.list_blobs("f/", after.as_deref(), 10).await.unwrap();
        assert!(page.iter().map(|(key, entry)| (key, entry.revision)).eq(large.iter().map(|(key, at)| (key, *at))));
        seen.extend(page.iter().map(|(key, _)| key.clone()));
        if page.len() < 10 {
            break;
        }
        after = seen.last().cloned();
    }
    assert_eq!(seen, keys);
    assert_eq!(store.list("f/", Some("a"), 1).await.unwrap()[0].0, "f/00", "what comes before the prefix");
    assert_eq!(store.list("f/", Some("g"), 1).await, Ok(Vec::new()), "what comes after it");
    assert_eq!(store.list("", None, 0).await, Ok(Vec::new()));
}

pub(crate) async fn watchers_wake_for_what_is_new_and_see_the_end(store: Arc<dyn Store>, at: u64) {
    let mut watch = store.watch();
    assert_eq!(*watch.borrow_and_update(), at);
    let committing = tokio::spawn(async move {
        store.commit(Commit::new().put("a", "1")).await.unwrap();
        store
    });
    watch.changed().await.unwrap();
    let newest = *watch.borrow_and_update();
    let store = committing.await.unwrap();
    assert_eq!((newest, store.get("a").await), (at + 1, Ok(Some(entry("1", at + 1)))));
    assert!(store.commit(Commit::new().expect("a", Expect::Absent).put("a", "2")).await.is_err());
    assert!(!watch.has_changed().unwrap(), "a conflict wakes nobody");
    store.close().await.unwrap();
    assert!(watch.changed().await.is_err());
}

pub(crate) async fn a_closed_store_refuses_everything(store: Arc<dyn Store>, _at: u64) {
    store.commit(Commit::new().put("a", "1").put_large("a", "2")).await.unwrap();
    assert_eq!((store.close().await, store.close().await), (Ok(()), Ok(())));
    assert_eq!(store.commit(Commit::new().put("a", "2")).await, Err(StoreError::Closed));
    assert_eq!(store.get("a").await, Err(StoreError::Closed));
    assert_eq!(store.list("", None, 1).await, Err(StoreError::Closed));
    assert_eq!(store.get_blob("a").await, Err(StoreError::Closed));
    assert_eq!(store.list_blobs("", None, 1).await, Err(StoreError::Closed));
    assert!(store.watch().changed().await.is_err());
}

pub(crate) async fn what_can_never_be_done_is_told_before(store: Arc<dyn Store>, at: u64) {
    let zeros = |bytes| Bytes::from(vec![0; bytes]);
    let refused = async |commit: Commit, text: &str| {
        let found = store.commit(commit).await.unwrap_err().to_string();
        assert!(found.contains(text), "{found:?} is not {text:?}");
    };
    let largest = Commit::new().put("a", zeros(MAX_VALUE_BYTES)).put_large("a", zeros(MAX_LARGE_BYTES));
    assert_eq!(store.commit(largest).await, Ok(at + 1));
    let text = "the value of `a` has 262145 bytes, and the most is 262144: make it smaller, or keep it in parts";
    refused(Commit::new().put("a", zeros(MAX_VALUE_BYTES + 1)), text).await;
    refused(Commit::new().put_large("a", zeros(MAX_LARGE_BYTES + 1)), "the most is 2097152").await;
    refused(Commit::new().put("a", "1").delete("a"), "the commit changes `a` twice").await;
    refused(Commit::new().put_large("a", "1").put_large("a", "2"), "the commit changes `a` twice").await;
    refused(Commit::new().expect("", Expect::Absent), "a key of 0 bytes, and a key has 1 to 512").await;
    refused(Commit::new().put("k".repeat(513), ""), "a key of 513 bytes").await;
    let many = (0..=MAX_OPERATIONS).fold(Commit::new(), |commit, n| commit.delete(n.to_string()));
    refused(many, "changes 128 keys and expects something of 0, and the most is 127 of each").await;
    let each = MAX_COMMIT_BYTES / 4;
    let heavy = (0..4).fold(Commit::new(), |commit, n| commit.put_large(n.to_string(), zeros(each)));
    refused(heavy, "the commit has 8388612 bytes").await;
    assert_eq!(*store.watch().borrow(), at + 1);
}

/// As many changes and expectations as a commit may have, and the largest commit that there may be.
pub(crate) async fn what_is_at_the_limits_is_done(store: Arc<dyn Store>, at: u64) {
    let all = |n: usize| format!("k/{n:03}");
    let many =
        (0..MAX_OPERATIONS).fold(Commit::new(), |commit, n| commit.expect(all(n), Expect::Absent).put(all(n), "1"));
    assert_eq!(store.commit(many.clone()).await, Ok(at + 1));
    assert_eq!(
        store.commit(many).await,
        Err(StoreError::Conflict { key: all(0), found: Some(at + 1) }),
        "the first that does not hold is told"
    );
    let large = (0..3).fold(Commit::new(), |commit, n| commit.put_large(n.to_string(), vec![7; MAX_LARGE_BYTES]));
    assert_eq!(store.commit(large).await, Ok(at + 2));
    for n in 0..3 {
        let blob = store.get_blob(&n.to_string()).await.unwrap().unwrap();
        assert_eq!((blob.value.len(), blob.revision), (MAX_LARGE_BYTES, at + 2));
    }
}

/// Afterwards `n` is `"80"`, of the 80th commit.
pub(crate) async fn no_increment_is_lost_among_many_writers(store: Arc<dyn Store>, _at: u64) {
    let mut writers = JoinSet::new();
    for _ in 0..16 {
        let store = store.clone();
        writers.spawn(async move {
            for _ in 0..5 {
                loop {
                    let found = store.get("n").await.unwrap();
                    let (n, expect) = found.map_or((0, Expect::Absent), |entry| {
                        let n = String::from_utf8(entry.value.to_vec()).unwrap().parse().unwrap();
                        (n, Expect::Revision(entry.revision))
                    });
                    let next: u64 = n + 1;
                    match store.commit(Commit::new().expect("n", expect).put("n", next.to_string())).await {
                        Ok(revision) => {
                            // Its own write, or one after it.
                            assert!(store.get("n").await.unwrap().unwrap().revision >= revision);
                            break;
                        }
                        Err(StoreError::Conflict { found, .. }) => {
                            // What it conflicted with can be read.
                            assert!(store.get("n").await.unwrap().map(|entry| entry.revision) >= found);
                        }
                        Err(error) => panic!("{error}"),
                    }
                    // The store in memory never waits by itself.
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    writers.join_all().await;
}
