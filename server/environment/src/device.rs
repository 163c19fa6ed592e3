//! A device that several environments share: its time has one owner, who gives them turns.
//!
//! Held by the front end's side of each environment's link. An environment asks before each batch and says when the batch
//! has run; who is next is decided in `penstock_admission::Turns`. An environment that is lost gives its turns back.

use crate::frame::{Body, Outbox};
use parking_lot::Mutex;
use penstock_admission::Turns;
use penstock_proto::link::{self, header::Kind};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

/// One device. Clones are the same.
#[derive(Clone)]
pub struct Device(Arc<Mutex<State>>);

struct State {
    turns: Turns,
    seats: HashMap<u64, Outbox>,
    next: u64,
}

/// An environment's place at its device; given up when dropped.
pub(crate) struct Seat {
    device: Device,
    number: u64,
}

impl Device {
    /// A device that runs up to `depth` batches at once.
    pub fn new(depth: u32) -> Self {
        Self(Arc::new(Mutex::new(State { turns: Turns::new(depth), seats: HashMap::new(), next: 0 })))
    }

    /// A place for the environment behind `outbox`.
    pub(crate) fn seat(&self, weight: u32, outbox: Outbox) -> Seat {
        let mut state = self.0.lock();
        let number = state.next;
        state.next += 1;
        state.turns.join(number, weight);
        state.seats.insert(number, outbox);
        drop(state);
        Seat { device: self.clone(), number }
    }

    /// Changes whose turn it is, and tells whoever is given one. Its owner measures what is used of its time: from when
    /// it tells until it is told.
    fn change<G: IntoIterator<Item = u64>>(&self, change: impl FnOnce(&mut Turns, Instant) -> G) {
        let mut state = self.0.lock();
        let now = tokio::time::Instant::now().into_std();
        for member in change(&mut state.turns, now) {
            if let Some(outbox) = state.seats.get(&member) {
                outbox.send(0, Kind::Turn(link::Turn {}), Body::new());
            }
        }
    }

    /// Whether no environment is at it, nor will be.
    pub fn is_unused(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }
}

impl Seat {
    /// It wants to run a batch.
    pub(crate) fn wanted(&self) {
        self.device.change(|turns, now| turns.wanted(self.number, now));
    }

    /// It has run one, or gives a turn back; whether it asks for another.
    pub(crate) fn done(&self, again: bool) {
        self.device.change(|turns, now| turns.done(self.number, again, now));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.device.0.lock().seats.remove(&self.number);
        self.device.change(|turns, now| turns.leave(self.number, now));
    }
}
