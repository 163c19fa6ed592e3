//! On-Demand or Spot: how many of an order are to be which, and what Spot has refused of late. Pure: `now` is an argument.
//!
//! Kept by the provider.

use penstock_instances::Offer;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long Spot is not asked again for a type in a zone after it had none.
const AWAY: Duration = Duration::from_secs(180);

/// How many of an order are to be Spot, so that the whole fleet comes as near to its share as whole instances can.
pub(crate) fn spot_of(order: u32, percent: u8, (spot, all): (u32, u32)) -> u32 {
    let wanted = (u64::from(all + order) * u64::from(percent) + 50) / 100;
    let more = wanted.saturating_sub(u64::from(spot));
    u32::try_from(more).unwrap_or(u32::MAX).min(order)
}

/// What Spot has refused.
#[derive(Default)]
pub(crate) struct SpotRefused(BTreeMap<Offer, Instant>);

impl SpotRefused {
    pub(crate) fn refuse(&mut self, offer: Offer, now: Instant) {
        self.0.retain(|_, until| *until > now);
        self.0.insert(offer, now + AWAY);
    }

    /// Whether there is one among them that Spot may have.
    pub(crate) fn leaves<'a>(&self, mut offers: impl Iterator<Item = &'a Offer>, now: Instant) -> bool {
        offers.any(|offer| self.0.get(offer).is_none_or(|until| *until <= now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fleet_comes_near_to_its_share() {
        for percent in [0, 1, 30, 50, 70, 99, 100] {
            let (mut spot, mut all) = (0u32, 0u32);
            for order in [1, 1, 1, 1, 5, 1, 20, 3] {
                let more = spot_of(order, percent, (spot, all));
                assert!(more <= order);
                (spot, all) = (spot + more, all + order);
                let off = f64::from(spot) - f64::from(all) * f64::from(percent) / 100.0;
                assert!(off.abs() <= 0.5, "{percent} %: {spot} of {all}");
            }
        }
        assert_eq!(spot_of(4, 50, (10, 10)), 0, "too many already");
        assert_eq!(spot_of(4, 50, (0, 10)), 4, "too few so far");
    }

    #[test]
    fn what_spot_refused_is_not_asked_for_at_once() {
        let (now, mut refused) = (tokio::time::Instant::now().into_std(), SpotRefused::default());
        let offers = ["a", "b"].map(|zone| Offer { instance_type: "g6.xlarge".into(), zone: zone.into() });
        refused.refuse(offers[0].clone(), now);
        assert!(refused.leaves(offers.iter(), now));
        refused.refuse(offers[1].clone(), now);
        assert!(!refused.leaves(offers.iter(), now));
        assert!(refused.leaves(offers.iter(), now + AWAY));
    }
}
