//! Turns at a device that the environment shares: asked for when a batch could be formed, over when it has run.
//!
//! Called by the room's loop. Where the device is not shared there is nothing to ask.

use super::Room;
use crate::frame::Body;
use penstock_proto::link::{self, header::Kind};
use std::time::Instant;

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
    /// A batch is chosen: whether it may run now. Else a turn is asked for, and it is chosen anew when that is given.
    pub(super) fn may_run(&mut self, now: Instant) -> bool {
        if self.turn == Turn::None {
            self.outbox.send(0, Kind::TurnWanted(link::TurnWanted {}), Body::new());
            self.turn = Turn::Asked(now);
        }
        matches!(self.turn, Turn::Own | Turn::Given(_))
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

    /// The batch has run. If more waits the next turn is asked for in the same breath, so that it is weighed against those
    /// of the others.
    pub(super) fn turn_over(&mut self, now: Instant) {
        if self.turn == Turn::Used {
            let again = !self.queue.is_empty();
            self.outbox.send(0, Kind::TurnDone(link::TurnDone { again }), Body::new());
            self.turn = if again { Turn::Asked(now) } else { Turn::None };
        }
    }

    /// There is nothing to run, or not yet.
    pub(super) fn give_back_turn(&mut self) {
        if let Turn::Given(_) = self.turn {
            self.outbox.send(0, Kind::TurnDone(link::TurnDone { again: false }), Body::new());
            self.turn = Turn::None;
        }
    }
}
