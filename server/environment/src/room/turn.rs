//! Turns at a device that the environment shares: asked for when a batch could be formed, over when it has run.
//!
//! Called by the room's loop. Where the device is not shared there is nothing to ask. One turn is asked for at a time; where
//! the device has room for several, the next as soon as that is used, if a worker is idle and more waits.

use super::Room;
use crate::frame::Body;
use penstock_proto::link::{self, header::Kind};
use std::time::{Duration, Instant};

/// Where the environment stands with its next turn. Those with which batches run are in what the workers run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has the device for itself.
    Own,
    /// It has not asked.
    None,
    /// It has asked; the batch waits since then.
    Asked(Instant),
    /// It may run a batch, which has waited since then.
    Given(Instant),
}

impl Room {
    /// A batch is chosen: whether it may run now. Else a turn is asked for, and it is chosen anew when that is given.
    pub(super) fn may_run(&mut self, now: Instant) -> bool {
        if self.turn == Turn::None && self.turns_used() < self.turns_max() {
            self.outbox.send(0, Kind::TurnWanted(link::TurnWanted {}), Body::new());
            self.turn = Turn::Asked(self.waits_since(now));
        }
        matches!(self.turn, Turn::Own | Turn::Given(_))
    }

    /// It is this environment's turn.
    pub(super) fn turn_given(&mut self, now: Instant) {
        self.turn = match self.turn {
            Turn::Asked(since) => Turn::Given(since),
            // Not asked for: nobody waits for it.
            _ => Turn::Given(now),
        };
    }

    /// A batch is formed and takes the turn that was given; since when it has waited for it. `None` where the device is
    /// not shared.
    pub(super) fn use_turn(&mut self) -> Option<Instant> {
        let Turn::Given(since) = self.turn else { return None };
        self.turn = Turn::None;
        Some(since)
    }

    /// A batch that had a turn has run. If more waits the next turn is asked for in the same breath, so that it is weighed
    /// against those of the others.
    pub(super) fn turn_over(&mut self, now: Instant) {
        let again = self.turn == Turn::None && !self.queue.is_empty() && !self.keeps_still();
        self.outbox.send(0, Kind::TurnDone(link::TurnDone { again }), Body::new());
        if again {
            self.turn = Turn::Asked(self.waits_since(now));
        }
    }

    /// There is nothing to run, or not yet.
    pub(super) fn give_back_turn(&mut self) {
        if let Turn::Given(_) = self.turn {
            self.outbox.send(0, Kind::TurnDone(link::TurnDone { again: false }), Body::new());
            self.turn = Turn::None;
        }
    }

    /// How many it may have at once.
    fn turns_max(&self) -> usize {
        self.specification.device.as_ref().map_or(0, |share| share.depth.max(1) as usize)
    }

    fn turns_used(&self) -> usize {
        self.running.iter().flatten().filter(|running| running.has_turn).count()
    }

    /// Since when the next batch waits for its turn. Beside a batch that runs it may have waited before a turn could be
    /// asked for: since it was due and a worker was idle.
    fn waits_since(&self, now: Instant) -> Instant {
        let (Some((_, oldest)), Some(idle_since)) = (self.queue.first(), self.idle_since.front()) else { return now };
        if self.turns_used() == 0 {
            return now;
        }
        let due = oldest.ready + Duration::from_micros(self.specification.batching.max_delay_us);
        due.max(*idle_since).min(now)
    }
}
