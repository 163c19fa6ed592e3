//! Whatever is asked of a store, it answers as a map would: random commits, conflicts, pages and reopenings.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;
#[path = "conformance/model.rs"]
mod model;

use common::Kept;
use model::{Reopens, asks, follow};
use penstock_registry::store::{Commit, Expect, Limits, Store};
use proptest::collection::btree_set;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

impl Reopens for Kept {
    fn store(&self) -> &Arc<dyn Store> {
        Kept::store(self)
    }

    async fn revision(&self) -> u64 {
        0
    }

    async fn reopen(&mut self, revision: u64) -> u64 {
        Kept::reopen(self);
        revision
    }
}

fn run(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(test);
}

/// Commits that do not touch each other, all at once.
async fn at_once(keys: BTreeSet<String>) {
    let kept = Kept::local(Limits::default());
    let mut committing = tokio::task::JoinSet::new();
    for key in keys.clone() {
        let store = kept.store().clone();
        committing.spawn(async move {
            let revision =
                store.commit(Commit::new().expect(&key, Expect::Absent).put(&key, key.clone())).await.unwrap();
            (key, revision)
        });
    }
    let told: BTreeMap<String, u64> = committing.join_all().await.into_iter().collect();
    let found = kept.store().list("", None, 1000).await.unwrap();
    assert_eq!(found.iter().map(|(key, entry)| (key.clone(), entry.revision)).collect::<BTreeMap<_, _>>(), told);
    let revisions: BTreeSet<u64> = told.into_values().collect();
    assert!(revisions.into_iter().eq(1..=keys.len() as u64), "one revision each, and none left out");
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn memory_is_as_the_model(asks in asks()) {
        run(follow(Kept::memory(Limits::default()), asks));
    }
}

proptest! {
    // Each commit waits for the disk.
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn a_file_is_as_the_model(asks in asks()) {
        run(follow(Kept::local(Limits::default()), asks));
    }

    #[test]
    fn each_of_a_group_has_its_own_revision(keys in btree_set("[a-z]{1,8}", 1..200)) {
        run(at_once(keys));
    }
}
