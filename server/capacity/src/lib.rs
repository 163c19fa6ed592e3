//! Capacity: what an instance has, and which environment has how much of it.
//!
//! Called by dispatch before it starts an environment. Pure but for a lock: no device is asked, nothing is started here.

mod placement;

pub use placement::{Grant, NoRoom, Placement, Wanted};
