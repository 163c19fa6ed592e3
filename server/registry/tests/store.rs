//! What holds for every store: each test runs on one in memory and on one in a file.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;
mod conformance;

use bytes::Bytes;
use common::{Kept, both};
use penstock_registry::store::{Commit, Entry, Limits, StoreError};

#[tokio::test]
async fn a_commit_happens_whole_or_not_at_all() {
    both(Limits::default(), async |kept| {
        conformance::a_commit_happens_whole_or_not_at_all(kept.store().clone(), 0).await
    })
    .await;
}

#[tokio::test]
async fn what_changes_nothing_has_no_revision_of_its_own() {
    both(Limits::default(), async |kept| {
        conformance::what_changes_nothing_has_no_revision_of_its_own(kept.store().clone(), 0).await
    })
    .await;
}

#[tokio::test]
async fn pages_follow_each_other_and_stay_within_their_prefix() {
    both(Limits::default(), async |kept| {
        conformance::pages_follow_each_other_and_stay_within_their_prefix(kept.store().clone(), 0).await
    })
    .await;
}

#[tokio::test]
async fn watchers_wake_for_what_is_new_and_see_the_end() {
    both(Limits::default(), async |kept| {
        conformance::watchers_wake_for_what_is_new_and_see_the_end(kept.store().clone(), 0).await
    })
    .await;
}

#[tokio::test]
async fn a_closed_store_refuses_everything() {
    both(Limits::default(), async |kept| conformance::a_closed_store_refuses_everything(kept.store().clone(), 0).await)
        .await;
}

#[tokio::test]
async fn what_can_never_be_done_is_told_before() {
    both(Limits::default(), async |kept| {
        conformance::what_can_never_be_done_is_told_before(kept.store().clone(), 0).await
    })
    .await;
}

#[tokio::test]
async fn what_is_at_the_limits_is_done() {
    both(Limits::default(), async |kept| conformance::what_is_at_the_limits_is_done(kept.store().clone(), 0).await)
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
        conformance::no_increment_is_lost_among_many_writers(kept.store().clone(), 0).await;
        kept.reopen();
        assert_eq!(kept.store().get("n").await, Ok(Some(Entry { value: Bytes::from_static(b"80"), revision: 80 })));
    }
}
