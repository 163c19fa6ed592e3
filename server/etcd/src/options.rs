//! How etcd is reached, and why it is not.
//!
//! Made by the composition root from settings. Plain values.

use std::time::Duration;

/// How a store in etcd is opened.
#[derive(Clone)]
pub struct EtcdOptions {
    /// Its members, such as `http://10.0.0.5:2379`; with TLS `https://…`.
    pub endpoints: Vec<String>,
    /// What all keys begin with: servers with the same prefix share one state.
    pub prefix: String,
    /// Where other servers reach this one when it leads.
    pub address: String,
    /// Name and password, where etcd asks for them.
    pub user: Option<(String, String)>,
    /// Needed for `https://`.
    pub tls: Option<EtcdTls>,
    /// How long one request may take.
    pub timeout: Duration,
    /// How long a leader that is not heard of stays one. Whole seconds; etcd itself takes 2 at least.
    pub lease: Duration,
}

/// Keys and certificates, in PEM.
#[derive(Clone)]
pub struct EtcdTls {
    /// Of those whose certificates are believed.
    pub authorities: Vec<u8>,
    /// This server's own certificate and its key, where etcd asks for one.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

/// Why a store in etcd could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// An option that cannot be right.
    #[error("{what}")]
    Option {
        /// What was found and what would be right.
        what: String,
    },
    /// It cannot be reached, or refuses.
    #[error("etcd cannot be reached at {endpoints}: {why}; see to it that it runs, or name other endpoints")]
    Unreachable {
        /// All of them.
        endpoints: String,
        /// What was found.
        why: String,
    },
}
