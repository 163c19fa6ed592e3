//! The control plane: carries operations on functions out, and keeps what is served in step.
//!
//! Called by the front end's Lambda door, whose words it speaks in types: an operation reads records, judges, writes them
//! durably, and tells the house what is to be served. Never on an invocation's way, never parses HTTP.
//!
//! What belongs to a model repository can be looked at here and not changed. `$LATEST` of a function never serves:
//! only what was published does.

mod aliases;
mod check;
mod code;
mod destination;
mod due;
mod elsewhere;
mod ends;
mod error;
mod events;
mod fetched;
mod fleet;
mod follow;
mod functions;
mod invocable;
mod lead;
mod logs;
pub mod names;
mod plane;
mod providers;
mod queue;
mod repositories;
pub mod requests;
mod scaling;
mod serving;
mod sources;
mod tags;
mod unreachable;
mod uploads;
mod versions;
mod view;

/// As the store tells it.
pub use penstock_registry::store::Leadership;

pub use error::{ControlError, ErrorKind};
pub use plane::{ControlOptions, ControlPlane};
pub use queue::EventEnd;
pub use serving::Restored;
pub use uploads::{Coming, Wanted, content_digest};
