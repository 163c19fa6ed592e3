//! Whatever is asked of a store, it answers as a map would: random commits, conflicts, pages and reopenings.

#![allow(clippy::unwrap_used)] // helpers of tests

mod common;

use bytes::Bytes;
use common::Kept;
use penstock_registry::store::{Commit, Entry, Expect, Limits, StoreError};
use proptest::collection::{btree_map, btree_set, vec};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Keys that are prefixes of each other, sort badly, or have more than one byte a letter.
const KEYS: [&str; 9] = ["a", "a/", "a/b", "a/b/c", "a0", "aé", "b", "\u{7f}", "\u{10ffff}"];

#[derive(Clone, Copy, Debug)]
enum Guess {
    Absent,
    Present,
    Right,
    Wrong(u64),
}

#[derive(Clone, Debug)]
enum Ask {
    Commit {
        guesses: Vec<(&'static str, Guess)>,
        changes: BTreeMap<&'static str, Option<Vec<u8>>>,
        large: BTreeMap<&'static str, Option<Vec<u8>>>,
    },
    List(&'static str, Option<&'static str>, usize),
    Reopen,
}

#[derive(Default)]
struct Model {
    entries: BTreeMap<String, Entry>,
    blobs: BTreeMap<String, Entry>,
    revision: u64,
}

impl Model {
    fn revision_of(&self, key: &str) -> Option<u64> {
        self.entries.get(key).map(|entry| entry.revision)
    }

    fn commit(
        &mut self,
        expects: &[(&str, Expect)],
        ask: [&BTreeMap<&str, Option<Vec<u8>>>; 2],
    ) -> Result<u64, StoreError> {
        for (key, expect) in expects {
            let found = self.revision_of(key);
            let holds = match expect {
                Expect::Absent => found.is_none(),
                Expect::Present => found.is_some(),
                Expect::Revision(revision) => found == Some(*revision),
            };
            if !holds {
                return Err(StoreError::Conflict { key: (*key).to_owned(), found });
            }
        }
        let mut changed = false;
        let revision = self.revision + 1;
        for (map, changes) in [&mut self.entries, &mut self.blobs].into_iter().zip(ask) {
            for (key, value) in changes {
                changed |= match value {
                    Some(value) => {
                        let value = Bytes::from(value.clone());
                        map.insert((*key).to_owned(), Entry { value, revision });
                        true
                    }
                    None => map.remove(*key).is_some(),
                };
            }
        }
        self.revision += u64::from(changed);
        Ok(self.revision)
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Vec<(String, Entry)> {
        let all = self.entries.iter().filter(|(key, _)| key.starts_with(prefix));
        let rest = all.filter(|(key, _)| after.is_none_or(|after| key.as_str() > after));
        rest.take(limit).map(|(key, entry)| (key.clone(), entry.clone())).collect()
    }
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let key = || prop::sample::select(&KEYS[..]);
    let guess = prop_oneof![
        1 => Just(Guess::Absent),
        1 => Just(Guess::Present),
        4 => Just(Guess::Right),
        1 => (0..30u64).prop_map(Guess::Wrong),
    ];
    let changes = || btree_map(key(), prop::option::weighted(0.7, vec(any::<u8>(), 0..40)), 0..4);
    let commit = (vec((key(), guess), 0..3), changes(), changes()).prop_map(|(guesses, changes, large)| Ask::Commit {
        guesses,
        changes,
        large,
    });
    let list = (prop::sample::select(&["", "a", "a/", "b", "c"][..]), prop::option::of(key()), 0..6usize)
        .prop_map(|(prefix, after, limit)| Ask::List(prefix, after, limit));
    vec(prop_oneof![12 => commit, 4 => list, 1 => Just(Ask::Reopen)], 1..40)
}

async fn follow(mut kept: Kept, asks: Vec<Ask>) {
    let mut model = Model::default();
    for ask in asks {
        match ask {
            Ask::Commit { guesses, changes, large } => {
                let expect = |(key, guess): &(&'static str, Guess)| {
                    let expect = match guess {
                        Guess::Absent => Expect::Absent,
                        Guess::Present => Expect::Present,
                        Guess::Right => model.revision_of(key).map_or(Expect::Absent, Expect::Revision),
                        Guess::Wrong(revision) => Expect::Revision(*revision),
                    };
                    (*key, expect)
                };
                let expects: Vec<_> = guesses.iter().map(expect).collect();
                let mut commit = Commit::new();
                for (key, expect) in &expects {
                    commit = commit.expect(*key, *expect);
                }
                for (key, value) in &changes {
                    commit = match value {
                        Some(value) => commit.put(*key, value.clone()),
                        None => commit.delete(*key),
                    };
                }
                for (key, value) in &large {
                    commit = match value {
                        Some(value) => commit.put_large(*key, value.clone()),
                        None => commit.delete_large(*key),
                    };
                }
                let wanted = model.commit(&expects, [&changes, &large]);
                assert_eq!(kept.store().commit(commit).await, wanted);
            }
            Ask::List(prefix, after, limit) => {
                let found = kept.store().list(prefix, after, limit).await.unwrap();
                assert_eq!(found, model.list(prefix, after, limit));
            }
            Ask::Reopen => kept.reopen(),
        }
        compare(&kept, &model).await;
    }
    kept.reopen();
    compare(&kept, &model).await;
}

async fn compare(kept: &Kept, model: &Model) {
    let store = kept.store();
    assert_eq!(*store.watch().borrow(), model.revision);
    assert_eq!(store.list("", None, 100).await.unwrap(), model.list("", None, 100));
    for key in KEYS {
        assert_eq!(store.get(key).await.unwrap().as_ref(), model.entries.get(key));
        assert_eq!(store.get_blob(key).await.unwrap().as_ref(), model.blobs.get(key));
    }
    let blobs: Vec<(String, u64)> = model.blobs.iter().map(|(key, blob)| (key.clone(), blob.revision)).collect();
    assert_eq!(store.list_blobs("", None, 100).await.unwrap(), blobs);
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
