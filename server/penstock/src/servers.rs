//! Who servers of one state are to each other: certificates of one authority, which the first of them makes and leaves in etcd, or
//! which is the operator's own.
//!
//! Opened with the state. Whoever may read etcd has the state, and can be a server of it.

use crate::config::Config;
use crate::control::ControlPlaneError;
use penstock_etcd::EtcdStore;
use penstock_trust::{Authority, Pem, SERVER};
use std::io;
use std::sync::{Arc, Weak};
use std::time::Duration;
use time::OffsetDateTime;

/// How long a server's certificate is good for. It is renewed at half of it.
const LIFE: Duration = Duration::from_secs(86_400);
/// How often it is looked whether it is to be renewed, or files have changed.
const RENEW_TICK: Duration = Duration::from_secs(5);
/// Under which name the authority lies in etcd.
const NAME: &str = "authority";

/// The authority, whose certificates are renewed from now on.
pub(crate) async fn authority(config: &Config, store: &EtcdStore) -> Result<Arc<Authority>, ControlPlaneError> {
    let clock = OffsetDateTime::now_utc;
    let authority = match config.path("state.ca_file").zip(config.path("state.ca_key_file")) {
        Some((certificates, key)) => Authority::from_files(SERVER, certificates, key, LIFE, clock)
            .map_err(|error| io::Error::new(error.kind(), format!("state.ca_file, state.ca_key_file: {error}"))),
        None => {
            let new = serde_json::to_vec(&Authority::make(clock)?).map_err(io::Error::other)?;
            let kept = store.once(NAME, new).await.map_err(io::Error::other)?;
            let pem: Pem = serde_json::from_slice(&kept).map_err(io::Error::other)?;
            Authority::from_pem(SERVER, &pem, LIFE, clock)
                .map_err(|error| io::Error::new(error.kind(), format!("the servers' authority in etcd: {error}")))
        }
    };
    let authority = Arc::new(authority?);
    tokio::spawn(renew(Arc::downgrade(&authority)));
    Ok(authority)
}

async fn renew(authority: Weak<Authority>) {
    loop {
        tokio::time::sleep(RENEW_TICK).await;
        let Some(authority) = authority.upgrade() else { return };
        match tokio::task::spawn_blocking(move || authority.refresh()).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => tracing::info!("the authority of servers has changed"),
            Ok(Err(error)) => {
                tracing::error!(%error, "the authority of servers cannot be read: the one before is kept")
            }
            Err(error) => tracing::error!(%error, "the server's certificate is not renewed"),
        }
    }
}
