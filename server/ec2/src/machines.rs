//! The instances that there are: looked at by tag, and ended.
//!
//! Called by the provider.

use crate::FLEET_TAG;
use crate::ORDER_TAG;
use crate::api::Api;
use crate::api::error::{ApiError, Fault};
use crate::api::query::Params;
use crate::api::xml::Element;
use crate::ledger::{Seen, State};
use crate::types::Types;
use penstock_instances::{Market, Offer};

/// Instances of a page, as many as EC2 gives.
const PAGE: u32 = 1000;
/// Instances that are ended with one call.
const TERMINATE_MAX: usize = 100;

/// All instances of a fleet, those that ended not long ago included.
pub(crate) async fn of_fleet(api: &Api, fleet: &str, types: &Types) -> Result<Vec<Seen>, ApiError> {
    let params = Params::new().with("MaxResults", PAGE).filter(1, &format!("tag:{FLEET_TAG}"), [fleet]);
    read(&api.pages("DescribeInstances", params).await?, types)
}

/// Those of one order.
pub(crate) async fn of_order(api: &Api, fleet: &str, order: &str, types: &Types) -> Result<Vec<Seen>, ApiError> {
    let params = Params::new().with("MaxResults", PAGE).filter(1, &format!("tag:{FLEET_TAG}"), [fleet]).filter(
        2,
        &format!("tag:{ORDER_TAG}"),
        [order],
    );
    read(&api.pages("DescribeInstances", params).await?, types)
}

fn read(pages: &[Element], types: &Types) -> Result<Vec<Seen>, ApiError> {
    let reservations = pages.iter().flat_map(|page| page.items("reservationSet"));
    let all = reservations.flat_map(|reservation| reservation.items("instancesSet"));
    let unread = || ApiError::new("EC2 DescribeInstances", Fault::Wrong, "an instance without an id or a state");
    // One that cannot be read would look as if it were gone.
    all.map(|item| seen(item, types).ok_or_else(unread)).collect()
}

fn seen(item: &Element, types: &Types) -> Option<Seen> {
    let instance_type = item.text("instanceType").unwrap_or_default();
    let tag = item.items("tagSet").find(|tag| tag.text("key") == Some(ORDER_TAG));
    Some(Seen {
        name: item.text("instanceId")?.to_owned(),
        state: match item.child("instanceState").text("name")? {
            "shutting-down" | "terminated" => State::Gone,
            "stopping" | "stopped" => State::Stopped,
            _ => State::Alive,
        },
        vcpu: types.vcpu_of(instance_type),
        offer: Offer {
            instance_type: instance_type.to_owned(),
            zone: item.child("placement").text("availabilityZone").unwrap_or_default().to_owned(),
        },
        market: match item.text("instanceLifecycle") {
            Some("spot") => Market::Spot,
            _ => Market::OnDemand,
        },
        order: tag.and_then(|tag| tag.text("value")).map(str::to_owned),
    })
}

/// Has instances ended: the names of those that EC2 does not know, now or any more. Errors: some of them may not be; they are to
/// be asked for again.
pub(crate) async fn terminate(api: &Api, names: &[String]) -> Result<Vec<String>, ApiError> {
    let (mut failed, mut unknown) = (None, Vec::new());
    for some in names.chunks(TERMINATE_MAX) {
        let error = match terminate_some(api, some).await {
            Ok(()) => continue,
            Err(error) => error,
        };
        // One that is not there, or may not be ended, keeps all others of the call from being ended.
        match error.fault {
            Fault::NotFound | Fault::Denied | Fault::Wrong if some.len() > 1 => {
                for name in some {
                    match terminate_some(api, std::slice::from_ref(name)).await {
                        Err(error) if error.fault == Fault::NotFound => unknown.push(name.clone()),
                        tried => failed = failed.or(tried.err()),
                    }
                }
            }
            Fault::NotFound => unknown.extend_from_slice(some),
            _ => failed = Some(error),
        }
    }
    failed.map_or(Ok(unknown), Err)
}

async fn terminate_some(api: &Api, names: &[String]) -> Result<(), ApiError> {
    api.ec2("TerminateInstances", Params::new().list("InstanceId", names)).await.map(drop)
}
