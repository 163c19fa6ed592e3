//! Each failure, and its rule.

use super::fake_aws::Failure;
use super::{NOW_UNIX_S, ROLE, SECRET, World, options};
use crate::Ec2Provider;
use crate::api::Api;
use std::time::Duration;

const G6: &[(&str, &str)] = &[("g6.xlarge", "a")];

#[tokio::test]
async fn what_is_throttled_or_fails_is_asked_once_more_in_the_same_words() {
    for failure in [
        Failure::Code(503, "RequestLimitExceeded"),
        Failure::Code(400, "Throttling"),
        Failure::Code(500, "InternalError"),
        Failure::Code(503, "Unavailable"),
        Failure::Code(502, ""),
        Failure::Unheard,
    ] {
        let world = World::open(|_| {}).await;
        world.aws.fail("CreateFleet", 3, failure.clone());
        let outcome = world.launch("o-1", 1, G6).await.unwrap();
        assert_eq!(outcome.launched.len(), 1, "{failure:?}");
        let bodies: Vec<String> = world.aws.asked("CreateFleet").into_iter().map(|asked| asked.body).collect();
        assert_eq!(bodies.len(), 4, "{failure:?}");
        assert!(bodies.iter().all(|body| *body == bodies[0]), "{failure:?}");
    }
}

#[tokio::test]
async fn trying_has_an_end_and_says_why() {
    let world = World::open(|options| options.timing.call = Duration::from_secs(2)).await;
    world.launch("o-0", 1, G6).await.unwrap();
    world.aws.fail("CreateFleet", u32::MAX, Failure::Code(503, "RequestLimitExceeded"));
    let begun = tokio::time::Instant::now();
    let error = world.launch("o-1", 1, G6).await.unwrap_err().to_string();
    assert_eq!(error, "EC2 CreateFleet: RequestLimitExceeded: No.");
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    assert!(world.aws.asked("CreateFleet").len() > 2);
}

#[tokio::test]
async fn an_answer_that_was_lost_is_asked_for_with_the_same_token_and_launches_once() {
    let world = World::open(|_| {}).await;
    world.aws.fail("CreateFleet", 1, Failure::Unanswered);
    let outcome = world.launch("o-1", 2, G6).await.unwrap();
    assert_eq!((outcome.launched.len(), world.aws.alive().len()), (2, 2));
    let tokens: Vec<String> =
        world.aws.asked("CreateFleet").iter().map(|asked| asked.param("ClientToken").to_owned()).collect();
    assert_eq!(tokens, ["o-1.0000000000000007"; 2]);
}

#[tokio::test]
async fn an_answer_that_never_comes_is_found_by_the_orders_tag() {
    let world = World::open(|options| options.timing.call = Duration::from_secs(2)).await;
    world.launch("o-0", 1, G6).await.unwrap();
    world.aws.fail("CreateFleet", 1, Failure::Unanswered);
    world.aws.fail("CreateFleet", u32::MAX, Failure::Unheard);
    let outcome = world.launch("o-1", 2, G6).await.unwrap();
    let mut names: Vec<_> = outcome.launched.iter().map(|one| one.name.clone()).collect();
    names.sort();
    let there: Vec<_> =
        world.aws.alive().into_iter().filter(|one| one.order.starts_with("o-1.")).map(|one| one.name).collect();
    assert_eq!(names, there);
    let error = world.launch("o-2", 1, G6).await.unwrap_err().to_string();
    assert!(error.starts_with("EC2 CreateFleet: no answer"), "{error}");
}

#[tokio::test]
async fn credentials_that_are_refused_are_renewed_once() {
    for code in ["ExpiredToken", "RequestExpired", "AuthFailure"] {
        let world = World::open(|_| {}).await;
        world.launch("o-0", 1, G6).await.unwrap();
        assert_eq!(world.aws.asked("AssumeRole").len(), 1, "one session for all calls");
        world.aws.fail("CreateFleet", 1, Failure::Code(400, code));
        assert_eq!(world.launch("o-1", 1, G6).await.unwrap().launched.len(), 1, "{code}");
        assert_eq!(world.aws.asked("AssumeRole").len(), 2, "{code}");
        let signed = world.aws.asked("CreateFleet").last().unwrap().head.clone();
        assert!(signed.contains("Credential=ASIALENT2/") && signed.contains("x-amz-security-token: lent-token-2"));
        world.aws.fail("CreateFleet", 2, Failure::Code(400, code));
        let error = world.launch("o-2", 1, G6).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied, "{error}");
        assert_eq!(world.aws.asked("AssumeRole").len(), 3, "{code}");
    }
}

#[tokio::test]
async fn the_role_is_assumed_with_the_identitys_keys_and_no_secret_is_shown() {
    let world = World::open(|_| {}).await;
    let asked = world.aws.asked("AssumeRole").remove(0);
    assert!(
        asked.head.contains("Credential=AKIATESTTESTTESTTEST/20270115/eu-west-1/sts/aws4_request"),
        "{}",
        asked.head
    );
    let params = ["RoleArn", "RoleSessionName", "DurationSeconds", "ExternalId"].map(|name| asked.param(name));
    assert_eq!(params, [ROLE, "penstock-f1", "3600", "outside"]);
    assert_eq!(NOW_UNIX_S, 1_800_000_000, "the date that is signed");
    let options = world.provider.options();
    let shown = format!("{options:?} {:?}", Api::new(options).unwrap().session());
    assert!(!shown.contains(SECRET) && !shown.contains("lent"), "{shown}");
    let denied = super::FakeAws::start();
    denied.fail("AssumeRole", 1, Failure::Code(403, "AccessDenied"));
    let error = Ec2Provider::open(super::options(&denied.url())).await.err().unwrap();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (std::io::ErrorKind::PermissionDenied, "STS AssumeRole: AccessDenied: No.")
    );
}

#[tokio::test]
async fn what_was_just_made_may_not_be_known_yet() {
    let world = World::open(|_| {}).await;
    world.aws.fail("CreateFleet", 2, Failure::Code(400, "InvalidLaunchTemplateId.NotFound"));
    assert_eq!(world.launch("o-1", 1, G6).await.unwrap().launched.len(), 1);
    let world = World::open(|options| options.timing.not_yet = Duration::ZERO).await;
    world.aws.fail("CreateFleet", 1, Failure::Code(400, "InvalidLaunchTemplateId.NotFound"));
    assert!(world.launch("o-1", 1, G6).await.is_err());
    assert_eq!(world.launch("o-2", 1, G6).await.unwrap().launched.len(), 1, "it is looked for anew");
}

#[tokio::test]
async fn what_is_not_allowed_is_not_asked_twice() {
    let world = World::open(|_| {}).await;
    world.aws.fail("CreateFleet", 1, Failure::Code(403, "UnauthorizedOperation"));
    let error = world.launch("o-1", 1, G6).await.unwrap_err();
    assert_eq!((error.kind(), world.aws.asked("CreateFleet").len()), (std::io::ErrorKind::PermissionDenied, 1));
    world.aws.fail("GetParameter", 1, Failure::Code(400, "ParameterNotFound"));
    let error = world.launch("o-2", 1, &[("c7g.large", "a")]).await.unwrap_err().to_string();
    assert_eq!(error, "SSM GetParameter: ParameterNotFound: ec2.image_*: /images/arm: No.");
}

#[tokio::test]
async fn a_provider_that_cannot_be_opened_says_why() {
    let open = async |change: fn(&mut crate::Ec2Options)| {
        let aws = super::FakeAws::start();
        let mut options = options(&aws.url());
        change(&mut options);
        Ec2Provider::open(options).await.err().unwrap().to_string()
    };
    let error = open(|options| options.subnets.push("subnet-other".into())).await;
    assert!(error.contains("VpcConfig.SubnetIds: subnet-other is not there"), "{error}");
    let error = open(|options| options.spot_percent = 200).await;
    assert!(error.starts_with("ec2.spot_percent: "), "{error}");
}
