//! What is asked for, and what becomes of it.

use super::fake_aws::{Failure, FakeAws, Shortage};
use super::{World, missing, offer, options};
use crate::api::Api;
use crate::images::ImageFacts;
use crate::template::Templates;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_instances::Market;

const A: &str = "subnet-a2";

fn lack(instance_type: &'static str, subnet: &'static str, code: &'static str) -> Shortage {
    Shortage { instance_type, subnet, lifecycle: "on-demand", code }
}

#[tokio::test]
async fn an_order_is_one_request_with_what_would_do_in_order() {
    let world = World::open(|_| {}).await;
    let offers = [("g6.xlarge", "a"), ("g6.xlarge", "b"), ("c7g.large", "b"), ("x9.large", "a"), ("g6.xlarge", "z")];
    let outcome = world.launch("o-1", 2, &offers).await.unwrap();
    let names: Vec<_> = outcome.launched.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(names, ["o-1-0", "o-1-1"]);
    assert!(outcome.launched.iter().all(|one| one.offer == offer("g6.xlarge", "a") && one.market == Market::OnDemand));
    assert_eq!(missing(&outcome), [offer("x9.large", "a"), offer("g6.xlarge", "z")], "no such type, no subnet");
    let asked = world.aws.asked("CreateFleet");
    let [asked] = asked.as_slice() else { panic!("{} requests", asked.len()) };
    for (name, expected) in [
        ("Type", "instant"),
        ("Version", "2016-11-15"),
        ("ClientToken", "o-1.0000000000000007"),
        ("TargetCapacitySpecification.TotalTargetCapacity", "2"),
        ("TargetCapacitySpecification.SpotTargetCapacity", "0"),
        ("TargetCapacitySpecification.DefaultTargetCapacityType", "on-demand"),
        ("OnDemandOptions.AllocationStrategy", "prioritized"),
        ("SpotOptions.AllocationStrategy", ""),
        ("LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateId", "lt-1"),
        ("LaunchTemplateConfigs.1.Overrides.1.InstanceType", "g6.xlarge"),
        ("LaunchTemplateConfigs.1.Overrides.1.SubnetId", "subnet-a2"),
        ("LaunchTemplateConfigs.1.Overrides.1.ImageId", "ami-gpu"),
        ("LaunchTemplateConfigs.1.Overrides.1.Priority", "0"),
        ("LaunchTemplateConfigs.1.Overrides.2.SubnetId", "subnet-b1"),
        ("LaunchTemplateConfigs.1.Overrides.3.InstanceType", ""),
        // Its image has another root volume.
        ("LaunchTemplateConfigs.2.LaunchTemplateSpecification.LaunchTemplateId", "lt-2"),
        ("LaunchTemplateConfigs.2.Overrides.1.InstanceType", "c7g.large"),
        ("LaunchTemplateConfigs.2.Overrides.1.ImageId", "ami-arm"),
        ("LaunchTemplateConfigs.2.Overrides.1.Priority", "2"),
        ("TagSpecification.1.ResourceType", "instance"),
        ("TagSpecification.1.Tag.1.Key", "team"),
        ("TagSpecification.1.Tag.3.Key", "penstock:fleet"),
        ("TagSpecification.1.Tag.3.Value", "f1"),
        ("TagSpecification.1.Tag.4.Key", "penstock:order"),
        ("TagSpecification.1.Tag.4.Value", "o-1.0000000000000007"),
        ("TagSpecification.2.ResourceType", "volume"),
    ] {
        assert_eq!(asked.param(name), expected, "{name}");
    }
    let script = STANDARD
        .decode(asked.param("LaunchTemplateConfigs.1.LaunchTemplateSpecification.LaunchTemplateSpecificationUserData"));
    let script = String::from_utf8(script.unwrap()).unwrap();
    assert!(
        script.starts_with("#!/bin/bash\n")
            && script.contains("uri='s3://agents/arm'")
            && script.matches('@').count() == 1,
        "{script}"
    );
    assert!(script.contains(&STANDARD.encode("{\"token\":\"hush\"}\n")), "{script}");
    assert!(!world.aws.asked("CreateLaunchTemplate").iter().any(|asked| asked.body.contains("hush")));
}

#[tokio::test]
async fn a_template_keeps_metadata_to_version_two_and_ends_with_the_machine() {
    let world = World::open(|options| options.efa = true).await;
    world.launch("o-1", 1, &[("g6.xlarge", "a"), ("p5.48xlarge", "a")]).await.unwrap();
    world.launch("o-2", 1, &[("g6.xlarge", "b")]).await.unwrap();
    let asked = world.aws.asked("CreateLaunchTemplate");
    let [plain, efa] = asked.as_slice() else { panic!("{} templates", asked.len()) };
    for (name, expected) in [
        ("LaunchTemplateData.MetadataOptions.HttpTokens", "required"),
        ("LaunchTemplateData.MetadataOptions.HttpPutResponseHopLimit", "1"),
        ("LaunchTemplateData.InstanceInitiatedShutdownBehavior", "terminate"),
        ("LaunchTemplateData.IamInstanceProfile.Name", "agents"),
        // The image has more than was asked for.
        ("LaunchTemplateData.BlockDeviceMapping.1.Ebs.VolumeSize", "75"),
        ("LaunchTemplateData.BlockDeviceMapping.1.Ebs.Encrypted", "true"),
        ("TagSpecification.1.ResourceType", "launch-template"),
    ] {
        assert_eq!((plain.param(name), efa.param(name)), (expected, expected), "{name}");
    }
    assert_eq!(plain.param("LaunchTemplateData.SecurityGroupId.1"), "sg-1");
    assert_eq!(plain.param("LaunchTemplateData.NetworkInterface.1.InterfaceType"), "");
    assert_eq!(efa.param("LaunchTemplateData.NetworkInterface.1.InterfaceType"), "efa");
    assert_eq!(efa.param("LaunchTemplateData.NetworkInterface.1.SecurityGroupId.1"), "sg-1");
    assert_ne!(plain.param("LaunchTemplateName"), efa.param("LaunchTemplateName"));
}

#[tokio::test]
async fn templates_of_before_are_used_again() {
    let aws = FakeAws::start();
    World::open_on(aws.clone(), |_| {}).await.launch("o-1", 1, &[("g6.xlarge", "a")]).await.unwrap();
    let world = World::open_on(aws, |_| {}).await;
    world.launch("o-2", 1, &[("g6.xlarge", "a")]).await.unwrap();
    assert_eq!(world.aws.asked("CreateLaunchTemplate").len(), 1);
}

#[tokio::test]
async fn templates_that_nobody_uses_are_deleted() {
    let aws = FakeAws::start();
    let (options, templates) = (options(&aws.url()), Templates::default());
    let api = Api::new(&options).unwrap();
    let image = ImageFacts { id: "ami-1".into(), root_device: "/dev/xvda".into(), volume_gib: 8 };
    let first = templates.find(&api, &options, (&image, false), &[]).await.unwrap();
    templates.sweep(&api).await;
    assert_eq!(templates.find(&api, &options, (&image, false), &[]).await.unwrap(), first);
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(2 * 3600)).await;
    tokio::time::resume();
    templates.sweep(&api).await;
    let deleted: Vec<_> =
        aws.asked("DeleteLaunchTemplate").iter().map(|asked| asked.param("LaunchTemplateId").to_owned()).collect();
    assert_eq!(deleted, [first]);
    templates.find(&api, &options, (&image, false), &[]).await.unwrap();
    assert_eq!(aws.asked("CreateLaunchTemplate").len(), 2);
}

#[tokio::test]
async fn agents_are_not_told_more_than_user_data_holds() {
    let world = World::open(|_| {}).await;
    let (ids, offers) = (["a".to_owned()], [offer("g6.xlarge", "a")]);
    let told = format!("\"{}\"", "x".repeat(16_000));
    let error = world.provider.launch_told("o-1", &ids, &offers, &told).await.unwrap_err().to_string();
    assert!(error.contains("EC2 takes at most 16384"), "{error}");
    assert!(world.provider.launch_told("o-2", &ids, &offers, &told[..8_000]).await.is_ok());
}

#[tokio::test]
async fn a_part_that_cannot_be_had_is_told_by_type_and_zone() {
    let world = World::open(|_| {}).await;
    world.aws.lack(lack("g6.xlarge", A, "InsufficientInstanceCapacity"));
    world.aws.lack(lack("g5.xlarge", A, "VcpuLimitExceeded"));
    let outcome = world.launch("o-1", 1, &[("g6.xlarge", "a"), ("g5.xlarge", "a"), ("g6.xlarge", "b")]).await.unwrap();
    assert_eq!(outcome.launched[0].offer, offer("g6.xlarge", "b"));
    assert_eq!(missing(&outcome), [offer("g6.xlarge", "a"), offer("g5.xlarge", "a")]);
    assert!(outcome.missing[0].reason.starts_with("InsufficientInstanceCapacity: We currently"), "{outcome:?}");
    let nothing = world.launch("o-2", 3, &[("g6.xlarge", "a")]).await.unwrap();
    assert_eq!((nothing.launched.len(), missing(&nothing)), (0, vec![offer("g6.xlarge", "a")]));
}

#[tokio::test]
async fn a_whole_request_without_capacity_is_told_of_each_part() {
    let world = World::open(|_| {}).await;
    world.aws.fail("CreateFleet", 1, Failure::Code(400, "InsufficientInstanceCapacity"));
    let outcome = world.launch("o-1", 1, &[("g6.xlarge", "a"), ("g6.xlarge", "b")]).await.unwrap();
    assert_eq!(missing(&outcome), [offer("g6.xlarge", "a"), offer("g6.xlarge", "b")]);
    assert_eq!(world.aws.asked("CreateFleet").len(), 1, "another type or zone is for the fleet to choose");
}

#[tokio::test]
async fn what_lies_with_no_type_is_an_error() {
    let world = World::open(|_| {}).await;
    world.aws.lack(lack("g6.xlarge", A, "UnauthorizedOperation"));
    let error = world.launch("o-1", 1, &[("g6.xlarge", "a")]).await.unwrap_err().to_string();
    assert_eq!(error, "EC2 CreateFleet: UnauthorizedOperation: We currently do not have it.");
    let outcome = world.launch("o-2", 1, &[("g6.xlarge", "a"), ("g6.xlarge", "b")]).await.unwrap();
    assert_eq!((outcome.launched.len(), outcome.missing.len()), (1, 0));
}

#[test]
fn options_that_are_wrong_are_named_with_what_would_be_right() {
    let good = options("http://127.0.0.1:1");
    good.check().unwrap();
    let wrong = |change: fn(&mut crate::Ec2Options)| {
        let mut options = good.clone();
        change(&mut options);
        options.check().unwrap_err().to_string()
    };
    for (error, field) in [
        (wrong(|options| options.region = "eu west".into()), "ec2.region: found \"eu west\", expected the name"),
        (wrong(|options| options.fleet = "a/b".into()), "ec2.fleet: found \"a/b\""),
        (wrong(|options| options.subnets.clear()), "VpcConfig.SubnetIds: found \"\", expected one subnet"),
        (wrong(|options| options.subnets.push("vpc-1".into())), "VpcConfig.SubnetIds: found \"vpc-1\""),
        (wrong(|options| options.security_groups.clear()), "VpcConfig.SecurityGroupIds: found \"0\""),
        (
            wrong(|options| drop(options.tags.insert("aws:x".into(), "".into()))),
            "PropagateTags.ExplicitTags: found \"aws:x\"",
        ),
        (wrong(|options| options.instance_profile.clear()), "ec2.instance_profile: found"),
        (
            wrong(|options| options.spot_percent = 101),
            "ec2.spot_percent: found \"101\", expected a number from 0 to 100",
        ),
        (wrong(|options| options.volume_gib = 0), "ec2.volume_gib: found \"0\""),
        (wrong(|options| options.agents.clear()), "ec2.agent_x86, ec2.agent_arm: found \"\""),
        (
            wrong(|options| options.agents.values_mut().for_each(|file| file.sha256.push('a'))),
            "ec2.agent_x86, ec2.agent_arm: found \"abab",
        ),
        (
            wrong(|options| options.agents.values_mut().for_each(|file| file.uri = "s3://a/'; x".into())),
            "ec2.agent_x86, ec2.agent_arm: found \"s3://a/'",
        ),
        (wrong(|options| options.agent_arguments.push("$(x)".into())), "ec2.library_path: found \"$(x)\""),
        (wrong(|options| options.images.x86 = crate::Image::Id("x".into())), "ec2.image_*: found \"x\""),
        (wrong(|options| options.endpoints.sts = Some("http://me:word@h".into())), "ec2.sts_endpoint_url: found \"h\""),
        (
            wrong(|options| options.operator_role.as_mut().unwrap().arn = "me".into()),
            "PermissionsConfig.CapacityProviderOperatorRoleArn: found \"me\"",
        ),
    ] {
        assert!(error.starts_with(field), "{error}");
    }
}

#[tokio::test]
async fn an_image_that_is_not_there_keeps_nothing_else_from_coming() {
    let world = World::open(|_| {}).await;
    world.aws.fail("GetParameter", 1, Failure::Code(400, "ParameterNotFound"));
    let outcome = world.launch("o-1", 1, &[("c7g.large", "a"), ("g6.xlarge", "a")]).await.unwrap();
    assert_eq!(
        (outcome.launched[0].offer.clone(), missing(&outcome)),
        (offer("g6.xlarge", "a"), vec![offer("c7g.large", "a")])
    );
    assert!(outcome.missing[0].reason.contains("ec2.image_*: /images/arm"), "{outcome:?}");
}

#[tokio::test]
async fn types_without_an_agent_are_neither_offered_nor_asked_for() {
    let world = World::open(|options| drop(options.agents.remove(&penstock_scaler::Architecture::Arm))).await;
    let outcome = world.launch("o-1", 1, &[("c7g.large", "a")]).await.unwrap();
    assert_eq!(outcome.missing[0].reason, "there is no agent for its architecture (ec2.agent_x86, ec2.agent_arm)");
    let prices = [("c7g.large".to_owned(), 0.1), ("g6.xlarge".to_owned(), 0.8)].into();
    let names: Vec<_> = world.provider.offered(&prices, |_| true).types.into_iter().map(|one| one.name).collect();
    assert_eq!(names, ["g6.xlarge"]);
}
