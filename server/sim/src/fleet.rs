//! Instances under a simulated clock: the real fleet, roster and agents, the real house on them; only machines, the wires
//! between them and the provider are played.
//!
//! Called by tests and by the `penstock-sim` program. A run goes `script` (what will happen, drawn from the seed) → `world` (it
//! happens, on `machine`s of a `cloud`) → `checkers` (what must hold of any run).

pub mod checkers;
mod cloud;
mod faults;
mod machine;
mod orders;
pub mod script;
mod wires;
pub mod world;
