//! The request path behind the front end: admission, router, link, outcome; and the functions it serves.
//!
//! Called by the front end, which hands in an [`Invocation`](penstock_domain::Invocation) and gets an answer or a
//! refusal. Never parses a protocol and never runs a model. A request goes `house` → `invoke` → an
//! [`EnvironmentHandle`](penstock_environment::EnvironmentHandle); `accounting` records how it ended; `changes` opens
//! and stops versions; `scaling` has them follow their load, while requests that find nothing wait in `waiting`; `supervisor` keeps their environments alive and `log` passes their words on and `journal` keeps the last; `function` and
//! `statistics` are what people see.

mod accounting;
mod changes;
mod deployed;
mod function;
mod house;
mod invoke;
mod journal;
mod log;
mod scaling;
mod statistics;
mod supervisor;
mod waiting;

pub use accounting::Balance;
pub use deployed::{Deployment, Leaving};
pub use function::{ALIAS_LIVE, Cause, Health, Placed, ServedFunction, ServedVersion, Unavailable, VersionState};
pub use house::{DeviceBusy, House, HouseOptions, LoadOverride, Reply, Specify};
pub use journal::LogLine;
pub use penstock_repository::ControlMode;
pub use penstock_scaler::{Bounds, Policy as ScalingPolicy};
pub use scaling::Targets;
pub use statistics::{BatchStatistics, Duration as StatisticDuration, VersionStatistics};
