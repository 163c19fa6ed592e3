//! What a store answers instead of an answer, and why one does not open.
//!
//! [`StoreError`] reaches the doors by way of `code()`; [`OpenError`] ends a start and reaches only whoever started it.

use penstock_domain::ErrorCode;
use std::path::PathBuf;

/// Why an operation of a store was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// What a commit expected of this key was not so. Nothing was changed.
    #[error("`{key}` was changed meanwhile ({}): read it again, and decide again", state(*found))]
    Conflict {
        /// The first key of which it was not so.
        key: String,
        /// The revision that last wrote it, if it is there.
        found: Option<u64>,
    },
    /// A value is larger than its kind may be. Nothing was changed.
    #[error("the value of `{key}` has {bytes} bytes, and the most is {max}: make it smaller, or keep it in parts")]
    TooLarge {
        /// Of which key.
        key: String,
        /// Bytes of the value.
        bytes: usize,
        /// Bytes that it may have.
        max: usize,
    },
    /// The commit can never be done as it is. Nothing was changed.
    #[error("the commit {what}")]
    Invalid {
        /// What was found and what would be right.
        what: String,
    },
    /// There is no room. Nothing was changed.
    #[error(
        "the store is full: {limit} would be {would}, and the most is {max}: delete what is not needed, or raise it"
    )]
    Full {
        /// The field of [`super::Limits`].
        limit: &'static str,
        /// What it would come to, in its unit.
        would: u64,
        /// What it may be, in its unit.
        max: u64,
    },
    /// What keeps it has no room. Nothing was changed.
    #[error("the store is full: {0}")]
    NoSpace(String),
    /// The store has been closed.
    #[error("the store is closed: this process is shutting down, so ask again when it is back")]
    Closed,
    /// Another server leads, or none does for now. Nothing was changed.
    #[error("{}: ask again in a moment", follows(leader.as_deref()))]
    NotLeading {
        /// Where the one that leads can be reached, if one does.
        leader: Option<String>,
    },
    /// What keeps it cannot be reached, or does not answer. Nothing was changed.
    #[error("the store cannot be reached: {0}; ask again in a moment")]
    Away(String),
    /// The disk failed, or what keeps it did not answer in time. A commit that is answered so may or may not have happened.
    #[error("the store failed: {0}")]
    Failed(String),
}

fn follows(leader: Option<&str>) -> String {
    leader.map_or_else(
        || "no server leads, so nothing can be changed".into(),
        |leader| format!("this server follows, and {leader} leads: changes are made there"),
    )
}

fn state(found: Option<u64>) -> String {
    found.map_or_else(|| "it is not there".into(), |revision| format!("it is of revision {revision}"))
}

impl StoreError {
    /// The file of a store on this machine failed: nothing is written after that.
    pub(super) fn file(why: impl std::fmt::Display) -> Self {
        let remedy = "see to its disk, then restart, which finds out what was written";
        StoreError::Failed(format!("its file could not be used: {why}; {remedy}"))
    }

    /// Which kind of error this is at a door.
    pub fn code(&self) -> ErrorCode {
        match self {
            StoreError::Conflict { .. } => ErrorCode::Conflict,
            StoreError::TooLarge { .. } => ErrorCode::TooLarge,
            StoreError::Invalid { .. } => ErrorCode::InvalidArgument,
            StoreError::Full { .. } | StoreError::NoSpace(_) => ErrorCode::Exhausted,
            StoreError::Closed | StoreError::NotLeading { .. } | StoreError::Away(_) => ErrorCode::Unavailable,
            StoreError::Failed(_) => ErrorCode::Internal,
        }
    }
}

/// Why the store's file could not be opened. Nothing is begun anew in its place.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The folder or the file cannot be had.
    #[error("{path} cannot be opened: {source}; see to its permissions and its disk, or choose another data directory")]
    Access {
        /// Folder or file.
        path: PathBuf,
        /// What the system said.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Another process has it.
    #[error("{file} is open in another process: stop that one, or choose another data directory for this one")]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// A newer Penstock wrote it.
    #[error(
        "{file} has format {found} and this version of Penstock knows up to {known}: use the newer one \
             again, or a copy of the file from before"
    )]
    Newer {
        /// The file.
        file: PathBuf,
        /// Its format.
        found: u64,
        /// The newest format that is known here.
        known: u64,
    },
    /// It is not what was written.
    #[error(
        "{file} is damaged ({what}): put a copy from before in its place, or move it away to begin with an empty state"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What was found.
        what: String,
    },
    /// More is in it than may be.
    #[error("{file} holds more than it may: {limit} is {found}, and the most is {max}: raise it")]
    OverLimit {
        /// The file.
        file: PathBuf,
        /// The field of [`super::Limits`].
        limit: &'static str,
        /// What it is, in its unit.
        found: u64,
        /// What it may be, in its unit.
        max: u64,
    },
}
