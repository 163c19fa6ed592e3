//! The whole house under a simulated clock: the real dispatch room, supervisors, links, queues and batchers; only models
//! and processes are played. A run is a seed, and says the same each time.
//!
//! Called by tests and by the `penstock-sim` program. A run goes `script` (what will happen, drawn from the seed) →
//! `world` (it happens) → `checkers` (what must hold of any run). `curve` asks how much useful work is done at which load. In
//! `fleet` the house is on instances.

pub mod arrivals;
pub mod checkers;
pub mod curve;
pub mod fleet;
mod model;
pub mod script;
pub mod stage;
pub mod world;
