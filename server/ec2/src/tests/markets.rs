//! On-Demand and Spot.

use super::fake_aws::{Failure, Shortage};
use super::{World, missing, offer};
use penstock_instances::Market;

fn no_spot(subnet: &'static str) -> Shortage {
    Shortage { instance_type: "g6.xlarge", subnet, lifecycle: "spot", code: "InsufficientInstanceCapacity" }
}

#[tokio::test]
async fn a_share_is_spot_and_costs_what_spot_costs_now() {
    let world = World::open(|options| options.spot_percent = 50).await;
    let outcome = world.launch("o-1", 4, &[("g6.xlarge", "a")]).await.unwrap();
    let (spot, on_demand): (Vec<_>, Vec<_>) = outcome.launched.iter().partition(|one| one.market == Market::Spot);
    assert_eq!((spot.len(), on_demand.len()), (2, 2));
    assert!(spot.iter().all(|one| one.usd_per_hour == Some(0.31)), "the latest: {spot:?}");
    assert!(on_demand.iter().all(|one| one.usd_per_hour.is_none()));
    assert_eq!(world.aws.asked("DescribeSpotPriceHistory").len(), 1, "believed for a while");
    let asked = world.aws.asked("CreateFleet").remove(0);
    assert_eq!(asked.param("SpotOptions.AllocationStrategy"), "capacity-optimized-prioritized");
    assert_eq!(asked.param("SpotOptions.InstanceInterruptionBehavior"), "terminate");
}

#[tokio::test]
async fn spot_that_cannot_be_had_is_bought_on_demand_and_left_alone() {
    let world = World::open(|options| options.spot_percent = 50).await;
    world.aws.lack(no_spot("subnet-a2"));
    let outcome = world.launch("o-1", 4, &[("g6.xlarge", "a")]).await.unwrap();
    assert!(outcome.launched.len() == 4 && outcome.launched.iter().all(|one| one.market == Market::OnDemand));
    assert_eq!(missing(&outcome), [], "On-Demand has it");
    let tokens: Vec<_> =
        world.aws.asked("CreateFleet").iter().map(|asked| asked.param("ClientToken").to_owned()).collect();
    assert_eq!(tokens, ["o-1.0000000000000007", "o-1.0000000000000007.on-demand"]);
    world.launch("o-2", 2, &[("g6.xlarge", "a")]).await.unwrap();
    let asked = world.aws.asked("CreateFleet");
    assert_eq!((asked.len(), asked[2].param("TargetCapacitySpecification.SpotTargetCapacity")), (3, "0"));
    let outcome = world.launch("o-3", 2, &[("g6.xlarge", "b")]).await.unwrap();
    assert!(outcome.launched.iter().all(|one| one.market == Market::Spot), "another zone has it, and too few are Spot");
}

#[tokio::test]
async fn only_spot_is_never_anything_else() {
    let world = World::open(|options| options.spot_percent = 100).await;
    world.aws.lack(no_spot("subnet-a2"));
    for order in ["o-1", "o-2"] {
        let outcome = world.launch(order, 2, &[("g6.xlarge", "a")]).await.unwrap();
        assert_eq!((outcome.launched.len(), missing(&outcome)), (0, vec![offer("g6.xlarge", "a")]));
    }
    world.aws.fail("DescribeSpotPriceHistory", 1, Failure::Code(403, "UnauthorizedOperation"));
    let outcome = world.launch("o-3", 1, &[("g6.xlarge", "b")]).await.unwrap();
    assert_eq!((outcome.launched[0].market, outcome.launched[0].usd_per_hour), (Market::Spot, None));
}
