//! Turns at a device that the environment shares: asked for before a batch is formed, given back when it has run.
//!
//! Called by the room's loop. Where the device is not shared there is nothing to ask.

use super::Room;
use crate::frame::Body;
use penstock_proto::link::{self, header::Kind};
use std::time::{Duration, Instant};

/// Where the environment stands with its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has the device for itself.
    Own,
    /// It has not asked.
    None,
    /// It has asked, then.
    Asked(Instant),
    /// It may run a batch; it had asked then.
    Given(Instant),
    /// It runs one.
    Used,
}

impl Room {
    /// Whether a batch may be formed now; else a turn is asked for if there is work for one.
    pub(super) fn may_run(&mut self, now: Instant) -> bool {
        match self.turn {
            Turn::Own => true,
            Turn::Given(_) if self.queue.is_empty() => {
                self.turn_over(Duration::ZERO);
                false
            }
            Turn::Given(_) => true,
            Turn::None if !self.queue.is_empty() => {
                self.outbox.send(0, Kind::TurnWanted(link::TurnWanted {}), Body::new());
                self.turn = Turn::Asked(now);
                false
            }
            Turn::None | Turn::Asked(_) | Turn::Used => false,
        }
    }

    /// It is this environment's turn.
    pub(super) fn turn_given(&mut self, now: Instant) {
        self.turn = match self.turn {
            Turn::Asked(at) => Turn::Given(at),
            // Not asked for: nobody waits for it.
            _ => Turn::Given(now),
        };
    }

    /// A batch is formed; since when it has waited for its turn.
    pub(super) fn use_turn(&mut self, now: Instant) -> Instant {
        match self.turn {
            Turn::Given(asked) => {
                self.turn = Turn::Used;
                asked
            }
            _ => now,
        }
    }

    /// The turn has been used for so long; or it is of no use, as there is nothing to run yet.
    pub(super) fn turn_over(&mut self, used: Duration) {
        if matches!(self.turn, Turn::Given(_) | Turn::Used) {
            let used_us = u64::try_from(used.as_micros()).unwrap_or(u64::MAX);
            self.outbox.send(0, Kind::TurnDone(link::TurnDone { used_us }), Body::new());
            self.turn = Turn::None;
        }
    }
}
