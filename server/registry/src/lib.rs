//! Functions, versions, aliases and capacity providers: the state, and the store under it.
//!
//! Called by the control plane. [`records`](FunctionRecord) say what is kept, [`State`] where things may go from where they
//! stand, [`store`] keeps it. Never starts anything, never speaks to a client.

mod configuration;
mod records;
mod state;
pub mod store;

pub use configuration::{
    AcceleratorConfig, CapacityProviderConfig, Code, Configuration, Environment, EphemeralStorage, LoggingConfig,
    ManagedInstances, TracingConfig,
};
pub use records::{
    AliasRecord, Content, EventInvoke, FunctionRecord, ProviderRecord, Scaling, Standing, VersionRecord, keys,
};
pub use state::{Reason, State, UpdateStatus};
