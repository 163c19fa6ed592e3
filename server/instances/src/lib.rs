//! Instances: asked for, watched, drained and given back; and the agent that runs on each.
//!
//! ```text
//!  dispatch: supervisor --seek--> fleet --decide--> roster (pure; asks the scaler's plan_instances)
//!      |                           | launch, terminate
//!      |                        provider: local
//!      |                           |
//!      +==== link =====> agent on an instance, which hands the connection to the environment's process
//! ```
//!
//! A supervisor that starts an environment asks the fleet for room and waits for it; the fleet has an instance launched where
//! there is none. What is lost with an instance is started again elsewhere by the same supervisors. Never inside a request.

pub mod agent;
mod cgroup;
mod contents;
mod cost;
mod fleet;
mod fleets;
mod hub;
mod launch;
mod local;
mod protocol;
mod provider;
mod roster;
mod transport;
mod view;

pub use cost::FunctionCost;
pub use fleet::{Fleet, FleetOptions, Listen, WIRED};
pub use fleets::{ByProvider, EndError, Fleets, OpenFleet, Standing};
pub use hub::Hub;
pub use launch::OnInstances;
pub use local::LocalProvider;
pub use protocol::{DeviceAccess, Told};
pub use provider::{Launched, Market, Missing, Offer, Order, Outcome, Provider};
pub use roster::{Deadlines, Gone};
pub use transport::{Address, Link, Reader, Wire, Wires, Writer};
pub use view::{DeviceView, InstanceView};

#[cfg(test)]
mod tests;
