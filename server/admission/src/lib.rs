//! Admission: who may be in flight, and how long the others should stay away.
//!
//! Called by the dispatch room (slots, deadlines), by the front end before it buffers a body (byte shares) and by
//! environments (deadlines). Pure: no I/O, no clock, no queue; a refusal is immediate, because waiting for a permit would
//! be a queue nobody bounded.

mod adaptive;
mod backlog;
mod bytes;
mod callers;
mod caution;
mod drain_rate;
mod service_time;
mod slots;
mod turns;

pub use adaptive::AdaptiveLimit;
pub use backlog::{Backlog, Foretold, FullBatch, Queued};
pub use bytes::{ByteBudget, ByteShare};
pub use callers::{CallerFull, CallerSlot, Callers};
pub use caution::Caution;
pub use drain_rate::DrainRate;
pub use service_time::{ServiceLine, ServiceTime, usable};
pub use slots::{Slot, Slots};
pub use turns::Turns;

#[cfg(test)]
mod tests;
