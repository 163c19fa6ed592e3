//! The request path behind the front end: admission, router, link, outcome; and the functions it serves.
//!
//! Called by the front end, which hands in an [`Invocation`](penstock_domain::Invocation) and gets an answer or a
//! refusal. Never parses a protocol and never runs a model.

mod function;
mod house;
mod statistics;
mod supervisor;

pub use function::{Health, ServedFunction, ServedVersion, VersionState};
pub use house::{ControlMode, House, HouseOptions, LoadOverride, RuntimeBuilder};
pub use statistics::{BatchStatistics, Duration as StatisticDuration, VersionStatistics};
