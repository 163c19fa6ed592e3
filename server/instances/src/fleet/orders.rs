//! A fleet's orders: what is asked of its provider, each in a task of its own.

use super::{Fleet, Listen};
use crate::protocol::Told;
use crate::provider::{Offer, Order};
use penstock_scaler::Shape;
use penstock_telemetry::instance_event;
use std::io;
use std::sync::Arc;
use tokio::time::Instant;

impl Fleet {
    /// Orders instances of a provider.
    pub(super) fn order(self: &Arc<Self>, ids: Vec<String>, offers: Vec<Offer>, shape: Shape) {
        let now = || Instant::now().into_std();
        let order = match self.draw_up(ids.clone(), offers, shape) {
            Ok(order) => order,
            Err(error) => {
                tracing::error!(%error, "instances have no token");
                let actions = self.roster.lock().not_ordered(&ids, now());
                return actions.into_iter().for_each(|action| self.carry_out(action));
            }
        };
        {
            let mut roster = self.roster.lock();
            ids.iter().for_each(|id| roster.expect(id, order.told.token.clone()));
        }
        let fleet = self.clone();
        tokio::spawn(async move {
            let outcome = fleet.provider.launch(&order).await;
            let actions = match &outcome {
                Ok(outcome) => {
                    for missing in &outcome.missing {
                        let Offer { instance_type, zone } = &missing.offer;
                        tracing::warn!(instance_type, zone, why = missing.reason, "an instance cannot be had");
                    }
                    for launched in &outcome.launched {
                        let (id, instance, Offer { instance_type, zone }) =
                            (&launched.id, &launched.name, &launched.offer);
                        tracing::info!(id, instance, instance_type, zone, market = ?launched.market, "an instance comes");
                    }
                    fleet.roster.lock().ordered(&order.ids, outcome, now())
                }
                Err(error) => {
                    tracing::warn!(%error, instances = order.ids.len(), "instances cannot be launched");
                    fleet.roster.lock().not_ordered(&order.ids, now())
                }
            };
            actions.into_iter().for_each(|action| fleet.carry_out(action));
            fleet.wake.notify_one();
            // Some may not be wanted any more: they have come for nothing, or do not come.
            let is_wanted = |id: &String| fleet.roster.lock().instances().contains_key(id);
            let launched = outcome.map(|outcome| outcome.launched).unwrap_or_default();
            for id in order.ids.iter().filter(|id| !is_wanted(id)) {
                if let Some(launched) = launched.iter().find(|launched| launched.id == *id) {
                    fleet.provider.terminate(&launched.name).await;
                }
                fleet.roster.lock().ended(id);
                fleet.wake.notify_one();
            }
        });
    }

    fn draw_up(&self, ids: Vec<String>, offers: Vec<Offer>, shape: Shape) -> io::Result<Order> {
        for id in &ids {
            let (instance_type, zone) = offers.first().map_or(("", ""), |offer| (&offer.instance_type, &offer.zone));
            tracing::info!(instance = id, instance_type, zone, "an instance is launched");
            instance_event("launched");
        }
        let (token, told) = ((self.options.token)()?, (self.options.token)()?);
        let (fleet, listen) = self.addresses.clone();
        let trust = match &self.options.listen {
            Listen::Folder | Listen::Wires(_) => None,
            Listen::Tcp(hub) => Some(hub.authority().trust()),
        };
        let disk = self.options.disk.clone();
        let told = Told { name: None, token: told, fleet, trust, listen, disk, group: None };
        Ok(Order { token, ids, offers, shape, told })
    }
}
