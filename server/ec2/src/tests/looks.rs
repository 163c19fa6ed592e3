//! Looks at what there is: what is left over, launched twice or ended from outside is found.

use super::World;
use super::fake_aws::{Failure, FakeAws};
use penstock_instances::Provider;
use std::time::Duration;
use tokio::time::timeout;

const G6: &[(&str, &str)] = &[("g6.xlarge", "a")];
const SECOND: Duration = Duration::from_secs(1);

/// Looks often.
async fn looking(aws: std::sync::Arc<FakeAws>) -> World {
    World::open_on(aws, |options| options.timing.look_every = Duration::from_millis(20)).await
}

async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let waited = timeout(SECOND * 10, async {
        while !is() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not in time: {what}"));
}

#[tokio::test]
async fn what_a_crashed_server_left_is_ended_before_anything_is_launched() {
    let aws = FakeAws::start();
    let left = [aws.put("o-9"), aws.put("o-9"), aws.put("o-8")];
    aws.set_state(&left[2], "stopped");
    aws.fail("DescribeInstances", 2, Failure::Code(403, "UnauthorizedOperation"));
    let world = looking(aws).await;
    world.launch("o-1", 1, G6).await.unwrap();
    let alive: Vec<_> = world.aws.alive().into_iter().map(|one| one.order).collect();
    assert_eq!(alive, ["o-1.0000000000000007"]);
    let actions = world.aws.actions();
    let first = |name: &str| actions.iter().position(|action| action == name).unwrap();
    assert!(first("TerminateInstances") < first("CreateFleet"), "{actions:?}");
    assert_eq!(world.aws.asked("DescribeInstances")[0].param("Filter.1.Name"), "tag:penstock:fleet");
}

#[tokio::test]
async fn what_has_not_ended_counts_until_it_has() {
    let aws = FakeAws::start();
    aws.put("o-9");
    aws.fail("TerminateInstances", 10, Failure::Code(403, "UnauthorizedOperation"));
    let world = looking(aws).await;
    let blind = world.launch("o-1", 1, G6).await.unwrap_err().to_string();
    assert!(blind.contains("4 vCPU and have not ended yet") && world.provider.unknown_vcpu() == 4, "{blind}");
    until("it has ended", || world.provider.unknown_vcpu() == 0).await;
    assert_eq!(world.aws.alive().len(), 0);
}

#[tokio::test]
async fn what_an_order_without_an_answer_may_have_brought_counts_until_looks_have_shown_that_it_has_not() {
    let world = World::open_on(FakeAws::start(), |options| {
        (options.timing.call, options.timing.unseen) = (SECOND, SECOND);
        options.timing.look_every = Duration::from_millis(20);
    });
    let world = world.await;
    world.aws.fail("CreateFleet", u32::MAX, Failure::Unheard);
    assert!(world.launch("o-1", 2, G6).await.is_err());
    assert_eq!(world.provider.unknown_vcpu(), 8);
    until("they are not there", || world.provider.unknown_vcpu() == 0).await;
}

#[tokio::test]
async fn nothing_is_launched_before_a_look() {
    let aws = FakeAws::start();
    aws.fail("DescribeInstances", u32::MAX, Failure::Code(403, "UnauthorizedOperation"));
    let world = World::open_on(aws, |options| options.timing.call = Duration::from_secs(2)).await;
    let error = world.launch("o-1", 1, G6).await.unwrap_err().to_string();
    assert!(error.contains("before the instances") && error.contains("UnauthorizedOperation"), "{error}");
    assert_eq!(world.aws.asked("CreateFleet").len(), 0);
}

#[tokio::test]
async fn what_ends_from_outside_is_told_once_and_what_is_told_to_end_is_not() {
    let world = looking(FakeAws::start()).await;
    let outcome = world.launch("o-1", 3, G6).await.unwrap();
    let names: Vec<_> = outcome.launched.into_iter().map(|one| one.name).collect();
    world.provider.terminate(&names[1]).await;
    world.aws.set_state(&names[0], "terminated");
    assert_eq!(timeout(SECOND * 10, world.provider.ended()).await.unwrap(), names[0]);
    world.aws.set_state(&names[2], "stopped");
    assert_eq!(timeout(SECOND * 10, world.provider.ended()).await.unwrap(), names[2]);
    until("a stopped one is ended, too", || world.aws.alive().is_empty()).await;
    assert!(timeout(SECOND / 5, world.provider.ended()).await.is_err());
}

#[tokio::test]
async fn what_was_launched_twice_is_ended() {
    let world = looking(FakeAws::start()).await;
    let outcome = world.launch("o-1", 1, G6).await.unwrap();
    world.aws.fail("TerminateInstances", 3, Failure::Code(403, "UnauthorizedOperation"));
    let twice = world.aws.put("o-1.0000000000000007");
    until("its cores count", || world.provider.unknown_vcpu() == 4).await;
    until("one of two is ended", || world.aws.alive().len() == 1).await;
    until("and its cores count no more", || world.provider.unknown_vcpu() == 0).await;
    assert_eq!(world.aws.alive()[0].name, outcome.launched[0].name);
    let asked = world.aws.asked("TerminateInstances");
    assert!(asked.iter().all(|asked| asked.param("InstanceId.1") == twice), "{asked:?}");
}

#[tokio::test]
async fn ending_is_asked_for_until_it_is_seen() {
    let world = looking(FakeAws::start()).await;
    let outcome = world.launch("o-1", 2, G6).await.unwrap();
    world.aws.fail("TerminateInstances", 3, Failure::Code(403, "UnauthorizedOperation"));
    let ends = world.provider.terminate(&outcome.launched[0].name);
    assert!(timeout(SECOND / 50, ends).await.is_err(), "it has not ended");
    assert_eq!(world.aws.alive().len(), 2);
    world.provider.terminate(&outcome.launched[0].name).await;
    assert_eq!(world.aws.alive().len(), 1, "now it has");
    // One that is not there does not keep another from being ended.
    let api = crate::api::Api::new(world.provider.options()).unwrap();
    let names = ["i-0123456789abcdef0", &outcome.launched[1].name].map(str::to_owned);
    crate::machines::terminate(&api, &names).await.unwrap();
    assert_eq!(world.aws.alive().len(), 0);
}

#[tokio::test]
async fn the_end_of_the_server_ends_all() {
    let world = World::open(|options| options.timing.close = SECOND * 4).await;
    world.launch("o-1", 3, G6).await.unwrap();
    world.aws.put("o-0");
    world.aws.fail("TerminateInstances", 1, Failure::Code(403, "UnauthorizedOperation"));
    world.provider.close().await.unwrap();
    assert_eq!(world.aws.alive().len(), 0);
    assert!(world.launch("o-2", 1, G6).await.unwrap_err().to_string().contains("the server ends"));
}

#[tokio::test]
async fn an_order_that_is_under_way_when_the_server_ends_leaves_nothing() {
    let world = World::open(|options| options.timing.close = SECOND * 8).await;
    world.launch("o-1", 1, G6).await.unwrap();
    // Its answer is slow: it is asked for again and again meanwhile.
    world.aws.fail("CreateFleet", 1, Failure::Unanswered);
    world.aws.fail("CreateFleet", 8, Failure::Code(503, "RequestLimitExceeded"));
    let (order, closed) = tokio::join!(world.launch("o-2", 2, G6), world.provider.close());
    closed.unwrap();
    assert_eq!(world.aws.alive().len(), 0, "{order:?}");
}
