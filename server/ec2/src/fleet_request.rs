//! One request for a fleet of type `instant`: what is asked, and what the answer says about each instance and each refusal.
//!
//! Called by the provider, once for a decision. Overrides are explicit: a type, a subnet, an image, and their order.

use crate::api::error::{Fault, fault};
use crate::api::query::Params;
use crate::api::xml::Element;
use crate::tags::{self, ORDER_TAG};
use penstock_instances::{Market, Offer};

/// Most bytes of a client token.
const TOKEN_BYTES_MAX: usize = 64;

/// Something that would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    pub(crate) offer: Offer,
    pub(crate) subnet: String,
    pub(crate) image: String,
    /// The launch template's id.
    pub(crate) template: String,
}

/// What is asked for. It has a secret, and no `Debug`.
#[derive(Clone)]
pub(crate) struct FleetRequest<'a> {
    pub(crate) token: &'a str,
    /// The order that instances are marked with.
    pub(crate) order: &'a str,
    pub(crate) on_demand: u32,
    pub(crate) spot: u32,
    /// The best first.
    pub(crate) overrides: &'a [Override],
    pub(crate) user_data: &'a str,
    /// Of all that comes of it.
    pub(crate) tags: &'a [(String, String)],
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FleetAnswer {
    pub(crate) instances: Vec<Bought>,
    pub(crate) refusals: Vec<Refusal>,
}

/// One instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bought {
    pub(crate) name: String,
    pub(crate) offer: Offer,
    pub(crate) market: Market,
}

/// Why one override was not launched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// `None` if the answer names none that was asked for.
    pub(crate) offer: Option<Offer>,
    pub(crate) market: Market,
    pub(crate) fault: Fault,
    pub(crate) words: String,
}

/// What an order of this server is called at EC2: no other server has called one so, nor has this one before it was started anew.
pub(crate) fn mark(order: &str, seed: u64) -> String {
    format!("{order}.{seed:016x}")
}

/// A client token of at most 64 characters; `part` tells calls of one order apart.
pub(crate) fn client_token(mark: &str, part: &str) -> String {
    use sha2::{Digest, Sha256};
    let whole = format!("{mark}{part}");
    let plain = whole.bytes().all(|byte| byte.is_ascii_graphic());
    if whole.len() <= TOKEN_BYTES_MAX && plain {
        return whole;
    }
    Sha256::digest(whole).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl FleetRequest<'_> {
    pub(crate) fn params(&self) -> Params {
        let (on_demand, spot) = (self.on_demand, self.spot);
        let mut params = Params::new()
            .with("Type", "instant")
            .with("ClientToken", self.token)
            .with("TargetCapacitySpecification.TotalTargetCapacity", on_demand + spot)
            .with("TargetCapacitySpecification.OnDemandTargetCapacity", on_demand)
            .with("TargetCapacitySpecification.SpotTargetCapacity", spot)
            .with(
                "TargetCapacitySpecification.DefaultTargetCapacityType",
                if on_demand > 0 { "on-demand" } else { "spot" },
            );
        if on_demand > 0 {
            params.set("OnDemandOptions.AllocationStrategy", "prioritized");
        }
        if spot > 0 {
            params.set("SpotOptions.AllocationStrategy", "capacity-optimized-prioritized");
            params.set("SpotOptions.InstanceInterruptionBehavior", "terminate");
        }
        let mut templates: Vec<&str> = Vec::new();
        for one in self.overrides {
            if !templates.contains(&one.template.as_str()) {
                templates.push(&one.template);
            }
        }
        for (at, template) in templates.into_iter().enumerate() {
            let config = format!("LaunchTemplateConfigs.{}", at + 1);
            let specification = format!("{config}.LaunchTemplateSpecification");
            params.set(format!("{specification}.LaunchTemplateId"), template);
            // One that is never changed has one version.
            params.set(format!("{specification}.Version"), "1");
            params.set(format!("{specification}.LaunchTemplateSpecificationUserData"), self.user_data);
            let all = self.overrides.iter().enumerate().filter(|(_, one)| one.template == template);
            for (number, (priority, one)) in all.enumerate() {
                let name = format!("{config}.Overrides.{}", number + 1);
                params.set(format!("{name}.InstanceType"), &one.offer.instance_type);
                params.set(format!("{name}.SubnetId"), &one.subnet);
                params.set(format!("{name}.ImageId"), &one.image);
                // The lower, the sooner.
                params.set(format!("{name}.Priority"), priority);
            }
        }
        let mut own = self.tags.to_vec();
        own.push((ORDER_TAG.to_owned(), self.order.to_owned()));
        for (at, resource) in ["instance", "volume"].into_iter().enumerate() {
            params = tags::specification(params, at + 1, resource, &own);
        }
        tags::specification(params, 3, "fleet", self.tags)
    }

    /// Reads the answer.
    pub(crate) fn read(&self, root: &Element) -> FleetAnswer {
        let mut answer = FleetAnswer::default();
        for item in root.items("fleetInstanceSet") {
            let asked = item.child("launchTemplateAndOverrides").child("overrides");
            let subnet = item.text("subnetId").or(asked.text("subnetId"));
            let zone = item.text("availabilityZone").or(asked.text("availabilityZone")).map(str::to_owned);
            let Some(zone) = zone.or_else(|| self.zone_of(subnet)) else { continue };
            let Some(instance_type) = item.text("instanceType").or(asked.text("instanceType")) else { continue };
            let offer = Offer { instance_type: instance_type.to_owned(), zone };
            let market = market(item);
            let names = item.items("instanceIds").map(|name| name.own_text().to_owned());
            answer.instances.extend(names.map(|name| Bought { name, offer: offer.clone(), market }));
        }
        for item in root.items("errorSet") {
            let asked = item.child("launchTemplateAndOverrides").child("overrides");
            let zone =
                asked.text("availabilityZone").map(str::to_owned).or_else(|| self.zone_of(asked.text("subnetId")));
            let named = asked.text("instanceType").zip(zone);
            let offer = named.map(|(instance_type, zone)| Offer { instance_type: instance_type.to_owned(), zone });
            let offer = offer.filter(|offer| self.overrides.iter().any(|one| one.offer == *offer));
            let (code, message) = (item.text("errorCode").unwrap_or("Unknown"), item.text("errorMessage"));
            let words = message.map_or_else(|| code.to_owned(), |message| format!("{code}: {message}"));
            answer.refusals.push(Refusal { offer, market: market(item), fault: fault(code, 400), words });
        }
        answer
    }

    fn zone_of(&self, subnet: Option<&str>) -> Option<String> {
        let one = self.overrides.iter().find(|one| Some(one.subnet.as_str()) == subnet)?;
        Some(one.offer.zone.clone())
    }
}

fn market(item: &Element) -> Market {
    match item.text("lifecycle") {
        Some("spot") => Market::Spot,
        _ => Market::OnDemand,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_short_and_of_one_order() {
        let mark = mark("o-1", 7);
        assert_eq!(client_token(&mark, ""), "o-1.0000000000000007");
        assert_eq!(client_token(&mark, ".on-demand"), "o-1.0000000000000007.on-demand");
        let long = "x".repeat(100);
        assert_eq!(client_token(&long, "").len(), TOKEN_BYTES_MAX);
        assert_ne!(client_token(&long, ""), client_token(&long, "."));
        assert_eq!(client_token("ü", "").len(), TOKEN_BYTES_MAX);
    }
}
