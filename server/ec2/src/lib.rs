//! Instances of EC2.
//!
//! ```text
//!  fleet --launch--> provider --CreateFleet (instant)--> EC2
//!                       |  ^
//!                       |  +--DescribeInstances by tag-- look, every 15 s: ledger (pure) says who is gone and who is unknown
//!                       +--- images (SSM), template, network (subnets by zone), types (facts and zones of what can be bought)
//! ```
//!
//! Called by the fleet, through [`penstock_instances::Provider`], and by the agent of an instance, which asks the [`Metadata`] of
//! its machine. Signs by itself and assumes the operator role; nobody else sees those keys. Decides neither how many instances
//! there are nor of which types.

mod api;
mod fleet_request;
mod images;
mod ledger;
mod machines;
mod market;
mod metadata;
mod network;
mod options;
mod provider;
mod spot_prices;
mod tags;
mod template;
mod types;
mod user_data;

pub use api::error::{ApiError, Fault};
pub use metadata::{MachineIdentity, Metadata, MetadataError};
pub use options::{AgentFile, Ec2Options, Endpoints, Identity, Image, Images, OperatorRole, Timing, WrongOption};
pub use provider::Ec2Provider;
pub use tags::{FLEET_TAG, ORDER_TAG};
pub use types::{Offered, TypeFacts, Types};

#[cfg(test)]
mod tests;
