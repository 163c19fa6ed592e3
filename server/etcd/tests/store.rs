//! What holds for every store holds for one in etcd: the same tests, and the same model, on a real one.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;
#[path = "../../registry/tests/conformance/mod.rs"]
mod conformance;
#[path = "../../registry/tests/conformance/model.rs"]
mod model;

use bytes::Bytes;
use common::Etcd;
use model::{Reopens, asks, follow};
use penstock_registry::store::{Commit, Entry, Store, StoreError};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use std::sync::Arc;

macro_rules! on_etcd {
    ($($test:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $test() {
            let etcd = Etcd::start().await;
            let (store, at) = etcd.leading("penstock").await;
            conformance::$test(store, at).await;
        })*
    };
}

on_etcd!(
    a_commit_happens_whole_or_not_at_all,
    what_changes_nothing_has_no_revision_of_its_own,
    pages_follow_each_other_and_stay_within_their_prefix,
    watchers_wake_for_what_is_new_and_see_the_end,
    a_closed_store_refuses_everything,
    what_can_never_be_done_is_told_before,
    what_is_at_the_limits_is_done,
);

#[tokio::test]
async fn no_increment_is_lost_among_many_writers() {
    let etcd = Etcd::start().await;
    let (store, at) = etcd.leading("penstock").await;
    conformance::no_increment_is_lost_among_many_writers(store.clone(), at).await;
    store.close().await.unwrap();
    let other = etcd.store("penstock").await;
    assert_eq!(other.get("n").await, Ok(Some(Entry { value: Bytes::from_static(b"80"), revision: at + 80 })));
}

struct Kept<'a> {
    etcd: &'a Etcd,
    prefix: String,
    store: Arc<dyn Store>,
}

impl Reopens for Kept<'_> {
    fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    async fn revision(&self) -> u64 {
        self.store.commit(Commit::new()).await.unwrap()
    }

    async fn reopen(&mut self, revision: u64) -> u64 {
        self.store.close().await.unwrap();
        let (store, at) = self.etcd.leading(&self.prefix).await;
        self.store = store;
        assert_eq!(at, revision + 2, "one took its leave, and one came");
        at
    }
}

#[tokio::test]
async fn etcd_is_as_the_model() {
    const CASES: usize = 12;
    let etcd = Etcd::start().await;
    let mut runner = TestRunner::new(Config::default());
    for case in 0..CASES {
        let asks = asks().new_tree(&mut runner).unwrap().current();
        println!("{asks:?}");
        let prefix = format!("case/{case}");
        let (store, _) = etcd.leading(&prefix).await;
        follow(Kept { etcd: &etcd, prefix, store: store.clone() }, asks).await;
        // The next one's revisions are its own.
        store.close().await.unwrap();
    }
}

#[tokio::test]
async fn what_etcd_has_no_room_for_is_told_and_not_done() {
    let etcd = Etcd::start().await;
    let (store, _) = etcd.leading("penstock").await;
    let heavy = (0..3).fold(Commit::new(), |commit, n| commit.put_large(n.to_string(), vec![0; 2 << 20]));
    assert!(store.commit(heavy.clone()).await.is_ok(), "within what this one takes");
    let small = Etcd::start_with(&["--max-request-bytes", "1048576", "--quota-backend-bytes", "4194304"]).await;
    let (store, _) = small.leading("penstock").await;
    let refused = store.commit(heavy).await.unwrap_err();
    assert!(matches!(refused, StoreError::Invalid { .. }), "{refused:?}");
    assert!(
        refused.to_string().contains("2097152 of them in `2`") && refused.to_string().contains("--max-request-bytes")
    );
    assert_eq!(store.list_blobs("", None, 10).await, Ok(Vec::new()));
    let mut kept = 0;
    let refused = loop {
        match store.put_blob(&kept.to_string(), vec![kept; 900_000].into()).await {
            Ok(_) => kept += 1,
            Err(refused) => break refused,
        }
    };
    assert!(matches!(refused, StoreError::NoSpace(_)), "{refused:?}");
    assert!(refused.to_string().contains("--quota-backend-bytes"), "{refused}");
    assert_eq!(store.list_blobs("", None, 100).await.unwrap().len(), usize::from(kept));
}

#[tokio::test]
async fn what_is_written_once_is_the_firsts_whoever_leads() {
    let etcd = Etcd::start().await;
    let open = |own| penstock_etcd::EtcdStore::open(common::options(etcd.address(), "penstock", own));
    let (one, other) = (open("https://one").await.unwrap(), open("https://other").await.unwrap());
    let (first, second) = tokio::join!(other.once("name", b"1".to_vec()), one.once("name", b"2".to_vec()));
    assert_eq!(first.unwrap(), second.unwrap(), "both have what came first");
    assert_eq!(one.once("another", b"3".to_vec()).await.unwrap(), "3");
    assert!(one.list("", None, 10).await.unwrap().is_empty(), "it is no part of the state");
}
