//! Tags: what is the fleet's, and of which order.
//!
//! Called by whoever makes something. Pure.

use crate::api::query::Params;
use std::collections::BTreeMap;

/// On all that is a fleet's: its name.
pub const FLEET_TAG: &str = "penstock:fleet";
/// On instances: the order that they are of.
pub const ORDER_TAG: &str = "penstock:order";

/// Of everything; the provider's own first.
pub(crate) fn of_fleet(fleet: &str, own: &BTreeMap<String, String>) -> Vec<(String, String)> {
    let mut tags: Vec<(String, String)> = own.clone().into_iter().collect();
    if !own.contains_key("Name") {
        tags.push(("Name".to_owned(), format!("penstock {fleet}")));
    }
    tags.push((FLEET_TAG.to_owned(), fleet.to_owned()));
    tags
}

/// Adds a list of tags for one kind of resource, with the number `index`, from 1.
pub(crate) fn specification(params: Params, index: usize, resource: &str, tags: &[(String, String)]) -> Params {
    let list = format!("TagSpecification.{index}");
    let mut params = params.with(format!("{list}.ResourceType"), resource);
    for (at, (key, value)) in tags.iter().enumerate() {
        params.set(format!("{list}.Tag.{}.Key", at + 1), key);
        params.set(format!("{list}.Tag.{}.Value", at + 1), value);
    }
    params
}
