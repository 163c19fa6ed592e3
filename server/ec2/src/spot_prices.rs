//! What Spot costs now, by type and zone.
//!
//! Called by the provider when Spot instances were launched; believed for ten minutes.

use crate::api::Api;
use crate::api::query::Params;
use parking_lot::Mutex;
use penstock_instances::Offer;
use std::collections::BTreeMap;
use std::time::Duration;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

/// How long a price is believed.
const FRESH: Duration = Duration::from_secs(600);
/// Prices that are kept.
const KEPT_MAX: usize = 4096;

/// Prices that are known.
#[derive(Default)]
pub(crate) struct SpotPrices(Mutex<BTreeMap<Offer, (Instant, Option<f64>)>>);

impl SpotPrices {
    /// US dollars an hour; `None` if EC2 does not say.
    pub(crate) async fn of(&self, api: &Api, offer: &Offer) -> Option<f64> {
        if let Some((_, price)) = self.0.lock().get(offer).filter(|(since, _)| since.elapsed() < FRESH) {
            return *price;
        }
        let price = match ask(api, offer).await {
            Ok(price) => price,
            Err(error) => {
                tracing::warn!(%error, instance_type = offer.instance_type, zone = offer.zone, "no price of Spot");
                None
            }
        };
        let mut known = self.0.lock();
        if known.len() >= KEPT_MAX {
            known.clear();
        }
        known.insert(offer.clone(), (Instant::now(), price));
        price
    }
}

async fn ask(api: &Api, offer: &Offer) -> Result<Option<f64>, crate::ApiError> {
    let now = OffsetDateTime::from_unix_timestamp(api.now_unix_s()).ok().and_then(|now| now.format(&Rfc3339).ok());
    let mut params = Params::new()
        .list("InstanceType", [&offer.instance_type])
        .list("ProductDescription", ["Linux/UNIX"])
        .with("AvailabilityZone", &offer.zone);
    // From now on: the price that holds now, and no history.
    if let Some(now) = now {
        params.set("StartTime", now);
    }
    let answer = api.ec2("DescribeSpotPriceHistory", params).await?;
    let mut prices: Vec<(&str, f64)> = answer
        .items("spotPriceHistorySet")
        .filter(|item| item.text("instanceType") == Some(&offer.instance_type))
        .filter(|item| item.text("availabilityZone") == Some(&offer.zone))
        .filter_map(|item| Some((item.text("timestamp")?, item.parsed("spotPrice")?)))
        .collect();
    prices.sort_by(|a, b| a.0.cmp(b.0));
    Ok(prices.last().map(|(_, price)| *price))
}
