//! The house: everything that is served, and the one way through it.

use crate::function::{Health, ServedFunction, ServedVersion};
use penstock_domain::{Answer, Invocation, Refusal};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// API sketch.
pub struct House {}

/// How the model repository is followed (Triton's model control modes).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ControlMode {
    /// Everything is loaded at start, nothing afterwards.
    #[default]
    None,
    /// Nothing is loaded unless asked for, by option or API.
    Explicit,
    /// The repository is looked at again and again.
    Poll,
}

/// Options.
pub struct HouseOptions {}
/// Builder.
pub struct RuntimeBuilder {}

/// What a load request may carry instead of the files in the repository.
#[derive(Clone, Debug, Default)]
pub struct LoadOverride {
    /// JSON of a model configuration that replaces `config.pbtxt`.
    pub config_json: Option<String>,
}

impl House {
    /// Runs one invocation: admission, router, link, environment and back. Dropping the future cancels it.
    /// `received` is when the request was read. Every end is counted here, once.
    pub async fn invoke(&self, _invocation: Invocation, _received: Instant) -> Result<Answer, Refusal> {
        unimplemented!()
    }

    /// The version a request means: NotFound for an unknown name or version. Ready or not is not asked.
    pub fn resolve(&self, _function: &str, _version: Option<u64>) -> Result<Arc<ServedVersion>, Refusal> {
        unimplemented!()
    }

    /// Everything known by name, ready or not.
    pub fn functions(&self) -> Arc<BTreeMap<String, Arc<ServedFunction>>> {
        unimplemented!()
    }

    /// The whole server takes requests: started, not draining.
    pub fn is_ready(&self) -> bool {
        unimplemented!()
    }

    /// Health of the server (`""`), or of a function by name; the value changes as it changes.
    pub fn health(&self, _service: &str) -> Health {
        unimplemented!()
    }

    /// Completes when the health of anything may have changed; call [`House::health`] again then.
    pub async fn health_changed(&self) {
        unimplemented!()
    }

    /// Loads or reloads a function from the repository and waits until it is ready, or says why not.
    pub async fn load(&self, _function: &str, _load: LoadOverride) -> Result<(), Refusal> {
        unimplemented!()
    }

    /// Unloads a function: drains its environments and ends their processes. Unknown names are fine.
    pub async fn unload(&self, _function: &str) -> Result<(), Refusal> {
        unimplemented!()
    }
}
