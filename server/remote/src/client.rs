//! The one HTTP client.
//!
//! Made by `remote`, used by `s3`, `sqs` and `target`, and by whoever calls EC2. TLS is rustls on ring, with the system's certificates.

use object_store::ClientOptions;
use object_store::client::{HttpClient, HttpConnector};
use reqwest::Client;
use reqwest::redirect::Policy;
use std::time::Duration;

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long an answer may stand still, its head or any part of its body. The head's time begins with the request, so a part of an
/// object that is sent counts too: eight of 16 MiB at once, at a mebibyte a second. What tells of ends has less.
const STALL_TIMEOUT: Duration = Duration::from_secs(180);
/// How long a connection that nobody uses stays open, and how many of one host.
const IDLE: (Duration, usize) = (Duration::from_secs(60), 16);

/// A client. Redirects are not followed: a destination that was allowed could else lead to one that was not. Errors: the
/// system's certificates cannot be read.
pub fn client() -> Result<Client, reqwest::Error> {
    // Fails if the process has chosen before, and then that is taken.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .user_agent(concat!("penstock/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(STALL_TIMEOUT)
        .pool_idle_timeout(IDLE.0)
        .pool_max_idle_per_host(IDLE.1)
        .build()
}

/// Gives the S3 client that same client.
#[derive(Debug)]
pub(crate) struct Connector(pub(crate) Client);

impl HttpConnector for Connector {
    fn connect(&self, _: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(self.0.clone()))
    }
}
