//! Who servers of one state are to each other: certificates of one authority, which the first of them makes and leaves in etcd, or
//! which is the operator's own.
//!
//! Opened with the state. Whoever may read etcd has the state, and can be a server of it.

use crate::certificates::own_authority;
use crate::config::Config;
use crate::control::ControlPlaneError;
use crate::state::is_loopback;
use penstock_etcd::EtcdStore;
use penstock_trust::{Authority, Pem, SERVER, keep_fresh};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// How long a server's certificate is good for. It is renewed at half of it.
const LIFE: Duration = Duration::from_secs(86_400);
/// Under which name the authority lies in etcd.
const NAME: &str = "authority";

/// The operator's own authority, if there is one. Errors: the setting that is wrong.
pub(crate) fn own(config: &Config) -> io::Result<Option<Authority>> {
    own_authority(config, ["state.ca_file", "state.ca_key_file"], SERVER, LIFE)
}

/// The authority, whose certificates are renewed from now on.
pub(crate) async fn authority(config: &Config, store: &EtcdStore) -> Result<Arc<Authority>, ControlPlaneError> {
    let authority = match own(config)? {
        Some(own) => own,
        None => kept(config, store).await.map_err(|error| {
            let (kind, key) = (error.kind(), format!("{}/once/{NAME}", config.text("etcd.prefix")));
            let remedy = "if it is damaged or too old, remove it from etcd and start all servers again";
            io::Error::new(kind, format!("etcd.endpoints: the servers' authority ({key}): {error}; {remedy}"))
        })?,
    };
    let authority = Arc::new(authority);
    tokio::spawn(keep_fresh(Arc::downgrade(&authority), || {}));
    Ok(authority)
}

/// The one that the first server has left in etcd.
async fn kept(config: &Config, store: &EtcdStore) -> io::Result<Authority> {
    let clock = OffsetDateTime::now_utc;
    let new = serde_json::to_vec(&Authority::make(clock)?).map_err(io::Error::other)?;
    let kept = store.once(NAME, new).await.map_err(io::Error::other)?;
    let pem: Pem = serde_json::from_slice(&kept).map_err(io::Error::other)?;
    let is_plain = |endpoint: &&String| endpoint.starts_with("http://") && !is_loopback(endpoint);
    if let Some(endpoint) = config.list("etcd.endpoints").iter().find(is_plain) {
        tracing::warn!(
            endpoint,
            "the key of the servers' authority crosses the network in clear: use https://, or state.ca_file"
        );
    }
    Authority::from_pem(SERVER, &pem, LIFE, clock)
}
