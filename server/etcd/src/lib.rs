//! The registry's store in etcd, which several servers share: one of them leads and changes the state, the others follow.
//!
//! Opened by the composition root, used by the control plane by way of `penstock_registry::store::Store`. A server leads
//! for as long as a key of etcd lives that its lease holds; every commit is one transaction that compares that key, so one
//! that has lost its lease changes nothing, whatever its clock says; one that has not been answered begins a new term, in which
//! nothing of the old one can happen any more. Reads are etcd's own, linearizable; nothing is kept in
//! memory. Never decides what the state means.

mod connection;
mod follow;
mod keys;
mod lead;
mod newest;
mod options;
mod store;
mod transaction;

pub use options::{EtcdError, EtcdOptions, EtcdTls};
pub use store::EtcdStore;
