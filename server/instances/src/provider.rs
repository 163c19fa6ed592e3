//! Who instances come from.
//!
//! Called by the fleet, from tasks of its own. A provider launches and ends; which and how many is not its business.

use crate::protocol::Told;
use async_trait::async_trait;
use std::io;

/// A source of instances.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Launches an instance, which is to run an agent with what it is told. Answers when it has been asked for; that it is there
    /// is said by its agent. Errors: it cannot be had now.
    async fn launch(&self, instance_type: &str, zone: &str, told: &Told) -> io::Result<()>;

    /// Ends an instance by force, if it is still there.
    async fn terminate(&self, id: &str);

    /// The name of the next instance that has ended by itself; never, if that is not known here.
    async fn ended(&self) -> String;

    /// The server ends: those that were told to stop have a moment for it, then they are ended.
    async fn close(&self);
}
