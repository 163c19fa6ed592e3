//! What befalls the machines of a cloud.

use super::cloud::{Cloud, Stage};
use super::machine::Host;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// Frozen for longer, a machine is lost for its fleet, which may miss its signs of life for a few seconds.
const UNNOTICED: Duration = Duration::from_secs(3);

impl Cloud {
    /// One of those that live.
    fn nth(&self, which: u32) -> Option<(String, Arc<Host>)> {
        let state = self.state.lock();
        let alive: Vec<_> = state.machines.iter().filter(|(_, one)| one.stage == Stage::Alive).collect();
        let (name, one) = alive.get(which as usize % alive.len().max(1))?;
        Some(((*name).clone(), one.host.clone()))
    }

    pub(super) fn kill(&self, which: u32) {
        if let Some((name, _)) = self.nth(which) {
            self.gone(&name);
        }
    }

    pub(super) fn freeze(self: &Arc<Self>, which: u32, long: Duration) {
        let Some((_, host)) = self.nth(which) else { return };
        if long > UNNOTICED {
            self.loses(long.min(Duration::from_secs(60)));
        }
        host.plug.freeze(true);
        tokio::spawn(async move {
            sleep(long).await;
            host.plug.freeze(false);
        });
    }

    pub(super) fn complain(&self, which: u32, long: Duration) {
        let Some((_, host)) = self.nth(which) else { return };
        host.complain(Some("its disk is full"));
        tokio::spawn(async move {
            sleep(long).await;
            host.complain(None);
        });
    }

    pub(super) fn notice(self: &Arc<Self>, which: u32, lead: Duration) {
        let Some((name, host)) = self.nth(which) else { return };
        host.tell_notice();
        let cloud = self.clone();
        tokio::spawn(async move {
            sleep(lead).await;
            cloud.gone(&name);
        });
    }

    pub(super) fn kill_environment(&self, which: u32) {
        if let Some((_, host)) = self.nth(which)
            && host.kill_environment(which)
        {
            self.loses(Duration::ZERO);
        }
    }
}
