//! What environments read, where an instance does not share the server's disk: each content is sent once, by its SHA-256, and
//! kept.
//!
//! ```text
//!  fleet                               agent
//!    | Lay: manifests of folders  ------> |   which contents are not here?
//!    | <------  Lacking: their SHA-256    |
//!    | each content's bytes, in order --> |   hashed as they come, kept under their hash
//!    | <------  Laid: where they lie      |   folders of hard links
//! ```
//!
//! Called by both sides, on the connection that then becomes an environment's link. The environment is told the folders of its
//! instance in place of the server's.

mod catalog;
mod shelf;

pub(crate) use catalog::{Catalog, relocate};
pub(crate) use shelf::Shelf;

use penstock_packages::{ContentSha256, Manifest, PackageLimits};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// How long an answer, or a piece of a content, may stand still.
pub(crate) const STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// How often it is told that something lasts.
pub(crate) const BUSY_EVERY: Duration = Duration::from_secs(10);
/// What is sent is on the server's disk already: how large it may be was judged when it came there.
pub(crate) const LIMITS: PackageLimits = PackageLimits::large(u64::MAX);
/// Bytes of a content that are sent at once.
pub(crate) const PIECE_BYTES: usize = 256 * 1024;

/// What an agent is asked to lay out.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Lay {
    /// That of what it was told: environments may connect here, too.
    pub(crate) token: String,
    pub(crate) folders: Vec<Manifest>,
}

/// What the agent says to it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum Answer {
    /// These are to be sent, in this order.
    Lacking(Vec<ContentSha256>),
    /// It is at it, or waits for its turn: to be told as long as that lasts.
    Busy,
    /// Where the folders lie, in the order in which they were asked for.
    Laid(Vec<PathBuf>),
    /// Why they do not.
    Failed(String),
}
