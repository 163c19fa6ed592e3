//! A device that several environments share: its time has one owner, who gives them turns.
//!
//! Held by the front end's side of each environment's link. An environment asks before each batch and says when the batch
//! has run; who is next is decided in `penstock_admission::Turns`. An environment that is lost gives its turn back.

use crate::frame::{Body, Outbox};
use parking_lot::Mutex;
use penstock_admission::Turns;
use penstock_proto::link::{self, header::Kind};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// One device. Clones are the same.
#[derive(Clone, Default)]
pub struct Device(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    turns: Turns,
    seats: HashMap<u64, Outbox>,
    next: u64,
    /// When the turn that is taken was given: its owner measures what is used of its time.
    given: Option<Instant>,
}

/// An environment's place at its device; given up when dropped.
pub(crate) struct Seat {
    device: Device,
    number: u64,
}

impl Device {
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

    /// Changes whose turn it is, and tells whoever has one now.
    fn change(&self, change: impl FnOnce(&mut Turns) -> Option<u64>) {
        let mut state = self.0.lock();
        let holder = change(&mut state.turns);
        if let Some(outbox) = holder.and_then(|holder| state.seats.get(&holder)) {
            outbox.send(0, Kind::Turn(link::Turn {}), Body::new());
            state.given = Some(Instant::now());
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
        self.device.change(|turns| turns.wanted(self.number));
    }

    /// It has run one, or gives its turn back; whether it asks for another.
    pub(crate) fn done(&self, again: bool) {
        let given = self.device.0.lock().given;
        let used = given.map_or(Duration::ZERO, |given| given.elapsed());
        self.device.change(|turns| turns.done(self.number, used, again));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.device.0.lock().seats.remove(&self.number);
        self.device.change(|turns| turns.leave(self.number));
    }
}
