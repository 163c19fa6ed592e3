//! Subnets: in which zone each is, and how much room it has.
//!
//! Called by the provider before each order. Of several subnets in one zone an order takes the one with the most free addresses:
//! a fleet that names two of one zone is refused (`duplicate instance pools`).

use crate::api::Api;
use crate::api::error::{ApiError, Fault};
use crate::api::query::Params;
use crate::options::said;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long the count of free addresses is believed.
const FRESH: Duration = Duration::from_secs(60);

/// One subnet.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Subnet {
    id: String,
    zone: String,
    free: u32,
}

/// The provider's subnets.
pub(crate) struct Network {
    ids: Vec<String>,
    subnets: Mutex<(Instant, Vec<Subnet>)>,
}

impl Network {
    /// Errors: EC2 does not say, or a subnet is not there.
    pub(crate) async fn open(api: &Api, ids: &[String]) -> Result<Self, ApiError> {
        let subnets = ask(api, ids).await?;
        Ok(Self { ids: ids.to_vec(), subnets: Mutex::new((Instant::now(), subnets)) })
    }

    /// Zones in which there is a subnet.
    pub(crate) fn zones(&self) -> Vec<String> {
        let mut zones: Vec<String> = self.subnets.lock().1.iter().map(|subnet| subnet.zone.clone()).collect();
        zones.sort_unstable();
        zones.dedup();
        zones
    }

    /// By zone, the subnet with the most free addresses.
    pub(crate) async fn roomiest(&self, api: &Api) -> BTreeMap<String, String> {
        let is_old = self.subnets.lock().0.elapsed() > FRESH;
        if is_old {
            match ask(api, &self.ids).await {
                Ok(subnets) => *self.subnets.lock() = (Instant::now(), subnets),
                // Those of before are still subnets.
                Err(error) => tracing::warn!(%error, "free addresses of subnets cannot be counted"),
            }
        }
        roomiest(&self.subnets.lock().1)
    }
}

fn roomiest(subnets: &[Subnet]) -> BTreeMap<String, String> {
    let mut best: BTreeMap<&str, &Subnet> = BTreeMap::new();
    for subnet in subnets {
        let known = best.entry(&subnet.zone).or_insert(subnet);
        if subnet.free > known.free {
            *known = subnet;
        }
    }
    best.into_iter().map(|(zone, subnet)| (zone.to_owned(), subnet.id.clone())).collect()
}

async fn ask(api: &Api, ids: &[String]) -> Result<Vec<Subnet>, ApiError> {
    let pages = api.pages("DescribeSubnets", Params::new().list("SubnetId", ids)).await?;
    let items = pages.iter().flat_map(|page| page.items("subnetSet"));
    let subnets: Vec<Subnet> = items
        .filter_map(|item| {
            Some(Subnet {
                id: item.text("subnetId")?.to_owned(),
                zone: item.text("availabilityZone")?.to_owned(),
                free: item.parsed("availableIpAddressCount").unwrap_or(0),
            })
        })
        .collect();
    match ids.iter().find(|id| !subnets.iter().any(|subnet| subnet.id == **id)) {
        None => Ok(subnets),
        Some(id) => {
            let text = format!("{}: {id} is not there; expected subnets of this account and region", said("subnets"));
            Err(ApiError::new("EC2 DescribeSubnets", Fault::Wrong, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_subnet_a_zone() {
        let subnet = |id: &str, zone: &str, free| Subnet { id: id.into(), zone: zone.into(), free };
        let subnets = [subnet("s-1", "a", 3), subnet("s-2", "b", 0), subnet("s-3", "a", 9), subnet("s-4", "a", 9)];
        let expected = [("a", "s-3"), ("b", "s-2")].map(|(zone, id)| (zone.to_owned(), id.to_owned()));
        assert_eq!(roomiest(&subnets), BTreeMap::from(expected));
    }
}
