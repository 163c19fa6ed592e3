//! Whatever is asked of a store, it answers as a map would: random commits, conflicts, pages and reopenings.

use bytes::Bytes;
use penstock_registry::store::{Commit, Entry, Expect, Store, StoreError};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A store that can be closed and opened again.
pub(crate) trait Reopens {
    fn store(&self) -> &Arc<dyn Store>;
    /// The revision it is at.
    async fn revision(&self) -> u64;
    /// Gives the revision it is at then; before it was at this one.
    async fn reopen(&mut self, revision: u64) -> u64;
}

/// Keys that are prefixes of each other, sort badly, or have more than one byte a letter.
const KEYS: [&str; 9] = ["a", "a/", "a/b", "a/b/c", "a0", "aé", "b", "\u{7f}", "\u{10ffff}"];

#[derive(Clone, Copy, Debug)]
pub(crate) enum Guess {
    Absent,
    Present,
    Right,
    Wrong(u64),
}

#[derive(Clone, Debug)]
pub(crate) enum Ask {
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

pub(crate) fn asks() -> impl Strategy<Value = Vec<Ask>> {
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

/// Carries all of it out on an empty store, and compares it with the model after each step.
pub(crate) async fn follow(mut kept: impl Reopens, asks: Vec<Ask>) {
    let mut model = Model { revision: kept.revision().await, ..Model::default() };
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
            Ask::Reopen => model.revision = kept.reopen(model.revision).await,
        }
        compare(&kept, &model).await;
    }
    model.revision = kept.reopen(model.revision).await;
    compare(&kept, &model).await;
}

async fn compare(kept: &impl Reopens, model: &Model) {
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
