//! A commit as one transaction of etcd, and what its answer says.
//!
//! Used by the store. Pure.

use crate::connection::{Trouble, revision};
use crate::keys::Keys;
use etcd_client::{Compare, CompareOp, GetOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};
use penstock_registry::store::{Commit, Expect, StoreError};

/// The changes, if this server leads in this term and all that is expected holds; else who leads, and the expected keys.
pub(crate) fn of(keys: &Keys, commit: &Commit, term: u64) -> Txn {
    let mut compares = vec![Compare::create_revision(keys.leader(), CompareOp::Equal, number(term))];
    compares.extend(commit.expectations().iter().map(|(key, expect)| compare(keys.of(false, key), *expect)));
    let mut changes: Vec<TxnOp> =
        commit.puts().map(|(is_blob, key, value)| TxnOp::put(keys.of(is_blob, key), value.to_vec(), None)).collect();
    changes.extend(commit.deletes().map(|(is_blob, key)| TxnOp::delete(keys.of(is_blob, key), None)));
    let mut looks = vec![TxnOp::get(keys.leader(), None)];
    let expected = commit.expectations().iter();
    looks.extend(expected.map(|(key, _)| TxnOp::get(keys.of(false, key), Some(GetOptions::new().with_keys_only()))));
    Txn::new().when(compares).and_then(changes).or_else(looks)
}

fn number(revision: u64) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

fn compare(key: Vec<u8>, expect: Expect) -> Compare {
    match expect {
        Expect::Absent => Compare::create_revision(key, CompareOp::Equal, 0),
        Expect::Present => Compare::create_revision(key, CompareOp::Greater, 0),
        // To etcd 0 would mean absent; to the store no commit ever had it.
        Expect::Revision(0) => Compare::create_revision(key, CompareOp::Less, 0),
        Expect::Revision(revision) => Compare::mod_revision(key, CompareOp::Equal, number(revision)),
    }
}

/// What became of a commit: its revision, or why nothing was changed.
pub(crate) fn outcome(commit: &Commit, term: u64, response: &TxnResponse) -> Result<u64, StoreError> {
    let failed = |trouble: Trouble| StoreError::Failed(trouble.to_string());
    if response.succeeded() {
        return revision(response.header()).map_err(failed);
    }
    let looks = response.op_responses();
    let mut found = looks.iter().map(|look| match look {
        TxnOpResponse::Get(got) => got.kvs().first(),
        _ => None,
    });
    let leader = found.next().flatten();
    if leader.is_none_or(|leader| leader.create_revision() != number(term)) {
        let leader = leader.and_then(|leader| leader.value_str().ok()).map(str::to_owned);
        return Err(StoreError::NotLeading { leader });
    }
    for ((key, expect), found) in commit.expectations().iter().zip(found) {
        let found = found.and_then(|entry| u64::try_from(entry.mod_revision()).ok());
        if !expect.holds(found) {
            return Err(StoreError::Conflict { key: key.clone(), found });
        }
    }
    Err(failed(Trouble::Odd("refused a commit, and all that it expected is so")))
}

/// What a commit that etcd did not answer, or refused, came to.
pub(crate) fn refused(commit: &Commit, trouble: &Trouble) -> StoreError {
    let said = trouble.said();
    if said.contains("request is too large") || said.contains("message larger than max") {
        let largest = commit.puts().max_by_key(|(_, _, value)| value.len());
        let (key, bytes) = largest.map_or(("", 0), |(_, key, value)| (key, value.len()));
        let what = format!(
            "has {} bytes, {bytes} of them in `{key}`, more than etcd takes: raise its --max-request-bytes",
            commit.bytes()
        );
        return StoreError::Invalid { what };
    }
    if said.contains("database space exceeded") {
        return StoreError::NoSpace(
            "etcd's space is used up: compact and defragment it, or raise its --quota-backend-bytes, then disarm its alarm"
                .into(),
        );
    }
    let before =
        ["no leader", "too many requests", "too many operations", "permission denied", "auth token", "user name"];
    match before.iter().any(|words| said.contains(words)) {
        true => StoreError::Away(trouble.to_string()),
        false => StoreError::Failed(format!("{trouble}: whether the change was made is not known")),
    }
}
