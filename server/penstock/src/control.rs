//! The control plane of `penstock serve`: its store where the settings say, its packages in the data directory.
//!
//! Called by `serve` at start.

use crate::config::Config;
use crate::instances;
use crate::remote::Services;
use crate::state::{Opened, State};
use penstock_control::names::Account;
use penstock_control::{ControlOptions, ControlPlane};
use penstock_dispatch::House;
use penstock_instances::Fleets;
use penstock_packages::{ContentStore, PackageError};
use penstock_registry::store::OpenError;
use penstock_trust::Authority;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

/// Why there is no control plane.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlPlaneError {
    /// The store.
    #[error("data_dir: {0}")]
    Store(#[from] OpenError),
    /// The store in etcd.
    #[cfg(feature = "etcd")]
    #[error("etcd.endpoints: {0}")]
    Etcd(#[from] penstock_etcd::EtcdError),
    /// Certificates of the servers that share the store.
    #[cfg(feature = "etcd")]
    #[error("{0}")]
    Servers(#[from] std::io::Error),
    /// The packages.
    #[error("data_dir: {0}")]
    Packages(#[from] PackageError),
}

/// Opens what the data directory and the store hold. `address` is where this server hears others of the same state;
/// `gpus` are those of this machine. Blocks.
pub(crate) fn open(
    config: &Config,
    (state, address): (State, Option<SocketAddr>),
    services: Services,
    house: Arc<House>,
    (fleets, gpus): (Arc<Fleets>, u32),
) -> Result<(Arc<ControlPlane>, Option<Arc<Authority>>), ControlPlaneError> {
    let folder = config.path("data_dir").unwrap_or_else(|| PathBuf::from("."));
    let Opened { store, servers } = state.open(config, &folder, address)?;
    let mut content = ContentStore::open(folder.join("packages"))?;
    if let Some(contents) = services.contents {
        content = content.with_backing(Arc::new(contents));
    }
    let options = ControlOptions {
        destinations: folder.join("destinations"),
        remote: services.remote,
        package_bytes_max: config.integer("packages.max_package_bytes"),
        account: Account { region: config.text("lambda.region").into(), id: config.text("lambda.account").into() },
        cores: instances::vcpu_max(config)
            .unwrap_or_else(|| std::thread::available_parallelism().map_or(1, |cores| cores.get() as u32)),
        gpus,
        fleets,
        environment_concurrency: config.integer_u32("environments.concurrency"),
        concurrency: config.integer_u32("limits.concurrency"),
        clock: now,
    };
    Ok((ControlPlane::new(options, store, Arc::new(content), house), servers))
}

#[allow(clippy::disallowed_methods)]
fn now() -> SystemTime {
    SystemTime::now()
}
