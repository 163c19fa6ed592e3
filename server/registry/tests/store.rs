//! What holds for every store: each test runs on one in memory and on one in a file.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use bytes::Bytes;
use common::{Kept, both};
use penstock_registry::store::{
    Commit, Entry, Expect, Limits, MAX_COMMIT_BYTES, MAX_LARGE_BYTES, MAX_OPERATIONS, MAX_VALUE_BYTES, StoreError,
};
use tokio::task::JoinSet;

fn entry(value: &'static str, revision: u64) -> Entry {
    Entry { value: Bytes::from_static(value.as_bytes()), revision }
}

#[tokio::test]
async fn a_commit_happens_whole_or_not_at_all() {
    both(Limits::default(), async |kept| {
        let store = kept.store();
        let both = Commit::new().expect("a", Expect::Absent).put("a", "1").put("b", "1").put_large("a", "large");
        assert_eq!(store.commit(both.clone()).await, Ok(1));
        let again = store.commit(both.put("c", "1")).await;
        assert_eq!(again, Err(StoreError::Conflict { key: "a".into(), found: Some(1) }));
        assert_eq!(store.get("c").await, Ok(None));
        let missing = Commit::new().expect("a", Expect::Revision(1)).expect("c", Expect::Present).delete("a");
        let missing = store.commit(missing.delete_large("a")).await.unwrap_err();
        assert_eq!(missing.to_string(), "`c` was changed meanwhile (it is not there): read it again, and decide again");
        assert_eq!(store.get("a").await, Ok(Some(entry("1", 1))));
        assert_eq!(store.get_blob("a").await, Ok(Some(entry("large", 1))));
        let moved =
            Commit::new().expect("a", Expect::Revision(1)).expect("b", Expect::Present).delete("a").put("c", "2");
        assert_eq!(store.commit(moved.delete_large("a")).await, Ok(2));
        assert_eq!((store.get("a").await, store.get_blob("a").await), (Ok(None), Ok(None)));
        let all = vec![("b".to_owned(), entry("1", 1)), ("c".to_owned(), entry("2", 2))];
        assert_eq!(store.list("", None, 10).await, Ok(all));
    })
    .await;
}

#[tokio::test]
async fn what_changes_nothing_has_no_revision_of_its_own() {
    both(Limits::default(), async |kept| {
        let store = kept.store();
        assert_eq!(store.commit(Commit::new()).await, Ok(0));
        assert_eq!(store.commit(Commit::new().put("a", "1")).await, Ok(1));
        let vain = Commit::new().expect("a", Expect::Present).delete("b").delete_large("a");
        assert_eq!(store.commit(vain).await, Ok(1));
        assert_eq!(store.commit(Commit::new().put("a", "1")).await, Ok(2), "the same value is a new revision");
        assert_eq!(store.put_blob("x", Bytes::new()).await, Ok(3));
        assert_eq!(*store.watch().borrow(), 3);
    })
    .await;
}

#[tokio::test]
async fn pages_follow_each_other_and_stay_within_their_prefix() {
    both(Limits::default(), async |kept| {
        let store = kept.store();
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
    })
    .await;
}

#[tokio::test]
async fn watchers_wake_for_what_is_new_and_see_the_end() {
    both(Limits::default(), async |kept| {
        let store = kept.store().clone();
        let mut watch = store.watch();
        assert_eq!(*watch.borrow_and_update(), 0);
        let committing = tokio::spawn(async move {
            store.commit(Commit::new().put("a", "1")).await.unwrap();
            store
        });
        watch.changed().await.unwrap();
        let newest = *watch.borrow_and_update();
        let store = committing.await.unwrap();
        assert_eq!((newest, store.get("a").await), (1, Ok(Some(entry("1", 1)))));
        assert!(store.commit(Commit::new().expect("a", Expect::Absent).put("a", "2")).await.is_err());
        assert!(!watch.has_changed().unwrap(), "a conflict wakes nobody");
        store.close().await.unwrap();
        assert!(watch.changed().await.is_err());
    })
    .await;
}

#[tokio::test]
async fn a_closed_store_refuses_everything() {
    both(Limits::default(), async |kept| {
        let store = kept.store();
        store.commit(Commit::new().put("a", "1").put_large("a", "2")).await.unwrap();
        assert_eq!((store.close().await, store.close().await), (Ok(()), Ok(())));
        assert_eq!(store.commit(Commit::new().put("a", "2")).await, Err(StoreError::Closed));
        assert_eq!(store.get("a").await, Err(StoreError::Closed));
        assert_eq!(store.list("", None, 1).await, Err(StoreError::Closed));
        assert_eq!(store.get_blob("a").await, Err(StoreError::Closed));
        assert_eq!(store.list_blobs("", None, 1).await, Err(StoreError::Closed));
        assert!(store.watch().changed().await.is_err());
    })
    .await;
}

#[tokio::test]
async fn what_can_never_be_done_is_told_before() {
    both(Limits::default(), async |kept| {
        let store = kept.store();
        let zeros = |bytes| Bytes::from(vec![0; bytes]);
        let refused = async |commit: Commit, text: &str| {
            let found = store.commit(commit).await.unwrap_err().to_string();
            assert!(found.contains(text), "{found:?} is not {text:?}");
        };
        let largest = Commit::new().put("a", zeros(MAX_VALUE_BYTES)).put_large("a", zeros(MAX_LARGE_BYTES));
        assert_eq!(store.commit(largest).await, Ok(1));
        let text = "the value of `a` has 262145 bytes, and the most is 262144: make it smaller, or keep it in parts";
        refused(Commit::new().put("a", zeros(MAX_VALUE_BYTES + 1)), text).await;
        refused(Commit::new().put_large("a", zeros(MAX_LARGE_BYTES + 1)), "the most is 2097152").await;
        refused(Commit::new().put("a", "1").delete("a"), "the commit changes `a` twice").await;
        refused(Commit::new().put_large("a", "1").put_large("a", "2"), "the commit changes `a` twice").await;
        refused(Commit::new().expect("", Expect::Absent), "a key of 0 bytes, and a key has 1 to 512").await;
        refused(Commit::new().put("k".repeat(513), ""), "a key of 513 bytes").await;
        let many = (0..=MAX_OPERATIONS).fold(Commit::new(), |commit, n| commit.delete(n.to_string()));
        refused(many, "changes 129 keys and expects something of 0, and the most is 128 of each").await;
        let each = MAX_COMMIT_BYTES / 4;
        let heavy = (0..4).fold(Commit::new(), |commit, n| commit.put_large(n.to_string(), zeros(each)));
        refused(heavy, "the commit has 8388612 bytes").await;
        assert_eq!(*store.watch().borrow(), 1);
    })
    .await;
}

#[tokio::test]
async fn a_full_store_takes_what_makes_it_less_full() {
    // An entry of one byte of key and none of value weighs 129 bytes.
    let limits = Limits { entry_bytes: 3 * 129, blob_count: 2, blob_bytes: 10 };
    both(limits, async |kept| {
        let store = kept.store();
        let three = Commit::new().put("a", "").put("b", "").put("c", "").put_large("a", "12345").put_large("b", "1234");
        assert_eq!(store.commit(three).await, Ok(1));
        let full = |limit, would, max| Err(StoreError::Full { limit, would, max });
        assert_eq!(store.commit(Commit::new().put("d", "")).await, full("entry_bytes", 516, 387));
        assert_eq!(store.commit(Commit::new().put("a", "1")).await, full("entry_bytes", 388, 387));
        assert_eq!(store.commit(Commit::new().put_large("c", "")).await, full("blob_count", 3, 2));
        assert_eq!(store.commit(Commit::new().put_large("b", "123456")).await, full("blob_bytes", 11, 10));
        assert_eq!(store.commit(Commit::new().delete("c").put("d", "").put_large("b", "12345")).await, Ok(2));
        let swapped = Commit::new().delete_large("a").put_large("c", "54321");
        assert_eq!(store.commit(swapped).await, Ok(3));
        assert_eq!(store.list_blobs("", None, 9).await, Ok(vec![("b".to_owned(), 2), ("c".to_owned(), 3)]));
    })
    .await;
}

#[tokio::test]
async fn no_increment_is_lost_among_many_writers() {
    for mut kept in [Kept::memory(Limits::default()), Kept::local(Limits::default())] {
        let mut writers = JoinSet::new();
        for _ in 0..16 {
            let store = kept.store().clone();
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
        kept.reopen();
        assert_eq!(kept.store().get("n").await, Ok(Some(entry("80", 80))));
    }
}
