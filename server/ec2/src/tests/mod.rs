//! The provider against a small EC2 of the tests' own, which answers as the real one does and fails as it is told to.

mod failures;
mod fake_aws;
mod looks;
mod markets;
mod orders;
pub(crate) mod server;
mod types;

use crate::{AgentFile, Ec2Options, Ec2Provider, Endpoints, Identity, Image, Images, OperatorRole, Timing};
use fake_aws::FakeAws;
use penstock_instances::{Offer, Outcome};
use penstock_remote::{CredentialSource, Credentials};
use penstock_scaler::Architecture;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// A clock of the tests: an hour before what the small EC2 lends ends.
const NOW_UNIX_S: u64 = 1_800_000_000;
const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCY";
const ROLE: &str = "arn:aws:iam::123456789012:role/operator";

/// Options for a service at an address.
pub(crate) fn options(url: &str) -> Ec2Options {
    let endpoint = Some(url.to_owned());
    let keys = Credentials {
        access_key_id: "AKIATESTTESTTESTTEST".into(),
        secret_access_key: SECRET.into(),
        session_token: None,
    };
    let file = |name: &str| AgentFile { uri: format!("s3://agents/{name}"), sha256: "ab".repeat(32) };
    let image = |name: &str| Image::Parameter(format!("/images/{name}"));
    let clock = || SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_UNIX_S);
    let identity = Identity::Keys(CredentialSource::Fixed(keys));
    Ec2Options {
        endpoints: Endpoints {
            ec2: endpoint.clone(),
            sts: endpoint.clone(),
            ssm: endpoint.clone(),
            metadata: endpoint,
        },
        operator_role: Some(OperatorRole { arn: ROLE.into(), external_id: Some("outside".into()) }),
        subnets: ["subnet-a1", "subnet-a2", "subnet-b1"].map(str::to_owned).to_vec(),
        security_groups: vec!["sg-1".into()],
        tags: BTreeMap::from([("team".into(), "inference".into())]),
        instance_profile: "agents".into(),
        images: Images { x86: image("x86"), arm: image("arm"), gpu_x86: image("gpu"), gpu_arm: image("gpu-arm") },
        agents: BTreeMap::from([(Architecture::X86, file("x86")), (Architecture::Arm, file("arm"))]),
        volume_gib: 60,
        timing: Timing {
            look_every: Duration::from_secs(3600),
            unseen: Duration::from_secs(60),
            attempt: Duration::from_secs(5),
            call: Duration::from_secs(20),
            pause: (Duration::from_millis(1), Duration::from_millis(5)),
            not_yet: Duration::from_secs(10),
            close: Duration::from_secs(10),
        },
        ..Ec2Options::new("eu-west-1", "f1", identity, clock, 7)
    }
}

/// A provider and the service that it has.
struct World {
    aws: Arc<FakeAws>,
    provider: Ec2Provider,
}

impl World {
    async fn open(change: impl FnOnce(&mut Ec2Options)) -> Self {
        let aws = FakeAws::start();
        Self::open_on(aws, change).await
    }

    async fn open_on(aws: Arc<FakeAws>, change: impl FnOnce(&mut Ec2Options)) -> Self {
        let mut options = options(&aws.url());
        change(&mut options);
        let provider = Ec2Provider::open(options).await.unwrap();
        Self { aws, provider }
    }

    async fn launch(&self, token: &str, count: usize, offers: &[(&str, &str)]) -> io::Result<Outcome> {
        let ids: Vec<String> = (0..count).map(|number| format!("{token}-{number}")).collect();
        let offers: Vec<Offer> = offers.iter().map(|(name, zone)| offer(name, zone)).collect();
        self.provider.launch_told(token, &ids, &offers, "{\"token\":\"hush\"}").await
    }
}

fn offer(name: &str, zone: &str) -> Offer {
    Offer { instance_type: name.into(), zone: zone.into() }
}

fn missing(outcome: &Outcome) -> Vec<Offer> {
    outcome.missing.iter().map(|one| one.offer.clone()).collect()
}
