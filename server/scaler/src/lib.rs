//! The scaler: from what was measured to how many environments each version is to have, and why. Pure: signals, what was seen
//! before and `now` in, a [`Plan`] out.
//!
//! Called by the control loop of the dispatch room on its own tick, and at once when a request finds no environment. Never
//! starts or stops anything, never asks for the time.
//!
//! What is wanted is measured in *slots*: requests that are in environments, wait for one, or were refused because all were
//! full. An environment has so many slots, of which the policy fills a part; the rest is headroom. Up is fast: the highest of
//! what is wanted now, on average and by its growth. Down is slow: never below the most that was wanted for a while, a
//! few at a time. That is level one, [`decide`]. Level two, [`plan_instances`], finds instances for these environments.

mod decide;
mod demand;
mod history;
mod instances;
mod shapes;

pub use decide::{Bounds, Plan, Reason, Step, Version, decide};
pub use demand::Signals;
pub use history::Scaler;
pub use instances::{Fleet, Held, Instance, Launch, Rules, Stage, Unavailable, Unmet, Why, Wish, plan_instances};
pub use penstock_domain::Architecture;
pub use shapes::{InstanceType, Needs, Shape, TypePattern, fullest_device};

use std::time::Duration;

/// How environments come and go.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Policy {
    /// Capacity beyond what is wanted, as a part of it: 0.5 takes a load that grows by half without one refusal.
    pub headroom: f64,
    /// Mean wait in queues above which there are to be more environments; or twice a batch, whichever is longer.
    pub queue_wait: Duration,
    /// Share of the time that workers run batches above which there are to be more environments; `None` for not to look at it. A
    /// worker that batches is busy whenever there is anything to do, so it says little where requests are batched.
    pub utilization: Option<f64>,
    /// How long less must be wanted before there is less.
    pub down_after: Duration,
    /// Between two steps down.
    pub down_every: Duration,
    /// How long nothing must have been wanted before the last environment goes, where none need be kept.
    pub idle_after: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            headroom: 0.5,
            queue_wait: Duration::from_millis(250),
            utilization: None,
            down_after: Duration::from_secs(120),
            down_every: Duration::from_secs(15),
            idle_after: Duration::from_secs(300),
        }
    }
}

#[cfg(test)]
mod tests;
