//! An environment while it runs: drained, listened to, taken off the list.
//!
//! Called by its supervisor.

use super::{EXIT_TIMEOUT, LISTEN_TIMEOUT, LOAD_INTERVAL};
use crate::function::ServedVersion;
use crate::log::LastWords;
use futures_util::future::BoxFuture;
use penstock_environment::{EnvironmentHandle, Life};
use penstock_telemetry::LoadSample;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// An environment that takes requests.
pub(super) struct Running {
    pub(super) environment: Arc<EnvironmentHandle>,
    pub(super) life: Life,
    pub(super) log: Log,
    /// Cancelled when it is to be somewhere else.
    pub(super) leaving: Option<CancellationToken>,
    pub(super) ready: Instant,
}

impl Running {
    /// Takes nothing new, answers what it has, and ends by itself or is ended.
    pub(super) async fn drain(self, version: Arc<ServedVersion>, drain_timeout: Duration) {
        let Self { environment, mut life, .. } = self;
        environment.drain();
        let _ = timeout(drain_timeout, environment.lost()).await;
        environment.cut();
        remove(&version, &environment);
        life.end(EXIT_TIMEOUT).await;
    }
}

/// What a process writes, as it is listened to.
pub(super) struct Log {
    pub(super) listening: Option<JoinHandle<()>>,
    pub(super) words: LastWords,
}

impl Log {
    /// Its process has ended: what it wrote before is read, unless a child of its own holds the pipe open.
    pub(super) async fn last_words(self) -> String {
        if let Some(listening) = self.listening {
            let _ = timeout(LISTEN_TIMEOUT, listening).await;
        }
        self.words.told()
    }
}

/// Completes when it does; never, if there is nothing.
pub(super) async fn ended(one: &mut Option<BoxFuture<'static, ()>>) {
    match one {
        Some(one) => one.await,
        None => std::future::pending().await,
    }
}

/// Completes when it does; at once, if there is nothing.
pub(super) async fn ended_if(one: Option<BoxFuture<'static, ()>>) {
    if let Some(one) = one {
        one.await;
    }
}

/// Never, if there is nothing that could be.
pub(super) async fn cancelled(token: Option<CancellationToken>) {
    match token {
        Some(token) => token.cancelled().await,
        None => std::future::pending().await,
    }
}

pub(super) fn remove(version: &ServedVersion, environment: &Arc<EnvironmentHandle>) {
    version
        .environments
        .rcu(|list| list.iter().filter(|other| !Arc::ptr_eq(&other.handle, environment)).cloned().collect::<Vec<_>>());
    version.metrics.environments(version.environments.load().len());
}

/// Passes the version's load on, for as long as it is polled.
pub(super) async fn watch_load(version: &ServedVersion) {
    loop {
        tell_load(version);
        sleep(LOAD_INTERVAL).await;
    }
}

/// Tells the metrics the load of the version: of all its environments together.
pub(super) fn tell_load(version: &ServedVersion) {
    let mut sum = LoadSample::default();
    for environment in version.environments.load().iter() {
        let load = environment.load();
        sum.concurrency_limit += environment.slots().limit();
        sum.queued_requests += load.queued_requests;
        sum.queued_items += load.queued_items;
        sum.queued_tokens += load.queued_tokens;
        sum.busy_workers += load.busy_workers;
        sum.resident_bytes += load.resident_bytes;
    }
    version.metrics.load(&sum);
}
