//! How a provider of EC2 is set up, and what of it is checked before anybody is called.
//!
//! Made by the composition root from the settings. Pure.

use penstock_remote::CredentialSource;
use penstock_scaler::Architecture;
use reqwest::Url;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// Most tags of the provider's own: AWS allows 50 on a resource, and some are ours.
const TAGS_MAX: usize = 40;
/// Most security groups, by AWS's own limit of an interface.
const SECURITY_GROUPS_MAX: usize = 5;
/// Largest volume of the type gp3, in GiB.
const VOLUME_GIB_MAX: u32 = 16_384;

/// Everything that a provider needs to know.
#[derive(Clone, Debug)]
pub struct Ec2Options {
    /// Such as `eu-west-1`.
    pub region: String,
    /// Where the services are.
    pub endpoints: Endpoints,
    /// Whose calls these are.
    pub identity: Identity,
    /// The role that launches and ends instances, assumed through STS; `None`: the identity itself does.
    pub operator_role: Option<OperatorRole>,
    /// Marks all that is this fleet's, in the tag [`crate::FLEET_TAG`]. No two servers may have the same in one account and
    /// region: each ends what it does not know.
    pub fleet: String,
    /// Where instances are; each subnet's zone is asked for. Of several in one zone, the one with the most free addresses.
    pub subnets: Vec<String>,
    /// Who may reach them.
    pub security_groups: Vec<String>,
    /// Tags of instances and volumes, beside the fleet's own.
    pub tags: BTreeMap<String, String>,
    /// The name or the ARN of the instance profile: what the agent may do, which is to fetch itself.
    pub instance_profile: String,
    /// Their machine images.
    pub images: Images,
    /// The agent for each architecture; types of others are not launched.
    pub agents: BTreeMap<Architecture, AgentFile>,
    /// Arguments of the agent, which reads what it is told from its standard input.
    pub agent_arguments: Vec<String>,
    /// Of all instances, how many are to be Spot, in percent. Spot that cannot be had is bought On-Demand, unless this is 100.
    pub spot_percent: u8,
    /// The root volume, in GiB; at least what the image has.
    pub volume_gib: u32,
    /// Give types that have it an interface of the Elastic Fabric Adapter.
    pub efa: bool,
    /// Where facts of types are kept from one start to the next; `None`: nowhere.
    pub types_file: Option<PathBuf>,
    /// How long things may take.
    pub timing: Timing,
    /// The wall clock, for signatures.
    pub clock: fn() -> SystemTime,
    /// Another at each start: makes what EC2 is asked for this server's own, and is the seed of what is left to chance.
    pub seed: u64,
}

/// Addresses of services; `None`: AWS's own of the region.
#[derive(Clone, Debug, Default)]
pub struct Endpoints {
    /// `ec2.endpoint_url`.
    pub ec2: Option<String>,
    /// `sts.endpoint_url`.
    pub sts: Option<String>,
    /// `ssm.endpoint_url`.
    pub ssm: Option<String>,
    /// Instance metadata of the server's own machine.
    pub metadata: Option<String>,
}

/// Whose calls these are.
#[derive(Clone, Debug)]
pub enum Identity {
    /// Keys.
    Keys(CredentialSource),
    /// The instance profile of the machine that the server runs on, read from instance metadata.
    InstanceProfile,
}

/// A role to assume.
#[derive(Clone, Debug)]
pub struct OperatorRole {
    /// Its ARN.
    pub arn: String,
    /// What it asks to be told, if it does.
    pub external_id: Option<String>,
}

/// Where a machine image is named.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Image {
    /// The image itself, such as `ami-0123456789abcdef0`.
    Id(String),
    /// A parameter of SSM whose value it is; asked for again every hour.
    Parameter(String),
}

/// Machine images by what they are for.
#[derive(Clone, Debug)]
pub struct Images {
    /// Types without GPUs, x86_64.
    pub x86: Image,
    /// Types without GPUs, arm64.
    pub arm: Image,
    /// Types with GPUs, x86_64: has the driver.
    pub gpu_x86: Image,
    /// Types with GPUs, arm64: has the driver.
    pub gpu_arm: Image,
}

/// The agent's program as it is fetched by an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentFile {
    /// `s3://BUCKET/KEY`, read with the instance profile, or `https://…`. Where it ends with `.tar.gz` it is unpacked, and has
    /// `penstock` at its top; else it is the program.
    pub uri: String,
    /// 64 hexadecimal digits. What has another is not run.
    pub sha256: String,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Between two looks at the instances that there are.
    pub look_every: Duration,
    /// How long an instance that was launched may not be seen before it is taken for gone.
    pub unseen: Duration,
    /// How long one attempt of a call may take.
    pub attempt: Duration,
    /// How long a call may take with all its attempts.
    pub call: Duration,
    /// Before the second attempt, and the longest before any; it doubles.
    pub pause: (Duration, Duration),
    /// How long what was just made may not be known.
    pub not_yet: Duration,
    /// How long ending all instances may take when the server ends.
    pub close: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            look_every: Duration::from_secs(15),
            unseen: Duration::from_secs(60),
            attempt: Duration::from_secs(30),
            call: Duration::from_secs(90),
            pause: (Duration::from_millis(250), Duration::from_secs(10)),
            not_yet: Duration::from_secs(30),
            close: Duration::from_secs(30),
        }
    }
}

impl Default for Images {
    /// Amazon Linux 2023; where there are GPUs, the Deep Learning Base AMI of it, which has NVIDIA's driver.
    fn default() -> Self {
        let plain = |name: &str| {
            Image::Parameter(format!("/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{name}"))
        };
        let gpu = |name: &str| {
            let image = "base-oss-nvidia-driver-gpu-amazon-linux-2023/latest/ami-id";
            Image::Parameter(format!("/aws/service/deeplearning/ami/{name}/{image}"))
        };
        Self { x86: plain("x86_64"), arm: plain("arm64"), gpu_x86: gpu("x86_64"), gpu_arm: gpu("arm64") }
    }
}

impl Images {
    /// Which one a type takes.
    pub(crate) fn of(&self, architecture: Architecture, has_gpus: bool) -> &Image {
        match (architecture, has_gpus) {
            (Architecture::X86, false) => &self.x86,
            (Architecture::Arm, false) => &self.arm,
            (Architecture::X86, true) => &self.gpu_x86,
            (Architecture::Arm, true) => &self.gpu_arm,
        }
    }
}

/// What is wrong with the options: the field, what was found and what would be right.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: found {found:?}, expected {expected}", said(field))]
pub struct WrongOption {
    /// The field.
    pub field: &'static str,
    /// What it has.
    pub found: String,
    /// What would be right.
    pub expected: &'static str,
}

/// What a field is called by who sets it: a setting of the server, or a member of what the provider was created with.
pub(crate) fn said(field: &str) -> String {
    match field {
        "subnets" => "VpcConfig.SubnetIds".into(),
        "security_groups" => "VpcConfig.SecurityGroupIds".into(),
        "tags" => "PropagateTags.ExplicitTags".into(),
        "operator_role" => "PermissionsConfig.CapacityProviderOperatorRoleArn".into(),
        "agents" => "ec2.agent_x86, ec2.agent_arm".into(),
        "images" => "ec2.image_*".into(),
        "agent_arguments" => "ec2.library_path".into(),
        setting => format!("ec2.{setting}"),
    }
}

impl Ec2Options {
    /// Options in which only what has a default is right: On-Demand alone, volumes of 100 GiB, Amazon Linux 2023. `seed` is another
    /// at each start.
    pub fn new(region: &str, fleet: &str, identity: Identity, clock: fn() -> SystemTime, seed: u64) -> Self {
        Self {
            region: region.to_owned(),
            endpoints: Endpoints::default(),
            identity,
            operator_role: None,
            fleet: fleet.to_owned(),
            subnets: Vec::new(),
            security_groups: Vec::new(),
            tags: BTreeMap::new(),
            instance_profile: String::new(),
            images: Images::default(),
            agents: BTreeMap::new(),
            agent_arguments: vec!["instance".to_owned()],
            spot_percent: 0,
            volume_gib: 100,
            efa: false,
            types_file: None,
            timing: Timing::default(),
            clock,
            seed,
        }
    }

    /// Errors: the first field that is wrong. Calls nobody.
    pub fn check(&self) -> Result<(), WrongOption> {
        let is = |right: bool, field, found: &str, expected| match right {
            true => Ok(()),
            false => Err(WrongOption { field, found: found.to_owned(), expected }),
        };
        let region = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let named = (1..=32).contains(&self.region.len()) && self.region.chars().all(region);
        is(named, "region", &self.region, "the name of a region, such as us-east-1")?;
        let fleet = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let named = (1..=64).contains(&self.fleet.len()) && self.fleet.chars().all(fleet);
        is(named, "fleet", &self.fleet, "1 to 64 letters, digits, '-', '_' or '.', which no other server uses")?;
        let subnets = self.subnets.iter().find(|id| !is_id(id, "subnet-"));
        is(!self.subnets.is_empty(), "subnets", "", "one subnet or more, such as subnet-0123456789abcdef0")?;
        is(
            subnets.is_none(),
            "subnets",
            subnets.map_or("", |id| id),
            "ids of subnets, such as subnet-0123456789abcdef0",
        )?;
        let groups = self.security_groups.iter().find(|id| !is_id(id, "sg-"));
        is(groups.is_none(), "security_groups", groups.map_or("", |id| id), "ids of security groups, such as sg-0123")?;
        let count = self.security_groups.len();
        let expected = "1 to 5 security groups; the agents' port is open to the server alone";
        is((1..=SECURITY_GROUPS_MAX).contains(&count), "security_groups", &count.to_string(), expected)?;
        is(self.tags.len() <= TAGS_MAX, "tags", &self.tags.len().to_string(), "at most 40 tags")?;
        let ours =
            |key: &str| key.is_empty() || key.len() > 128 || key.starts_with("aws:") || key.starts_with("penstock:");
        let tag = self.tags.iter().find(|(key, value)| ours(key) || value.len() > 256);
        let expected =
            "keys of 1 to 128 characters that do not begin with aws: or penstock:, and values of at most 256";
        is(tag.is_none(), "tags", tag.map_or("", |(key, _)| key), expected)?;
        let expected = "the name or the ARN of an instance profile that may read the agent's file";
        is(!self.instance_profile.is_empty(), "instance_profile", "", expected)?;
        is(self.spot_percent <= 100, "spot_percent", &self.spot_percent.to_string(), "a number from 0 to 100")?;
        let is_volume = (1..=VOLUME_GIB_MAX).contains(&self.volume_gib);
        is(is_volume, "volume_gib", &self.volume_gib.to_string(), "GiB from 1 to 16384")?;
        if let Some(role) = &self.operator_role {
            let is_role = role.arn.starts_with("arn:aws") && role.arn.contains(":iam::") && role.arn.contains(":role/");
            is(
                is_role,
                "operator_role",
                &role.arn,
                "the ARN of a role, such as arn:aws:iam::123456789012:role/penstock",
            )?;
        }
        self.check_agents()?;
        self.check_images()?;
        for (field, url) in [
            ("endpoint_url", &self.endpoints.ec2),
            ("sts_endpoint_url", &self.endpoints.sts),
            ("ssm_endpoint_url", &self.endpoints.ssm),
            ("metadata_endpoint_url", &self.endpoints.metadata),
        ] {
            endpoint(field, url.as_deref())?;
        }
        Ok(())
    }

    fn check_agents(&self) -> Result<(), WrongOption> {
        let wrong = |field, found: &str, expected| Err(WrongOption { field, found: found.to_owned(), expected });
        if self.agents.is_empty() {
            return wrong("agents", "", "the agent's file for one architecture or both");
        }
        for AgentFile { uri, sha256 } in self.agents.values() {
            // They become words of a script.
            let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/:+=@%,?&".contains(c);
            if !(uri.starts_with("s3://") || uri.starts_with("https://")) || !uri.chars().all(plain) {
                return wrong(
                    "agents",
                    uri,
                    "s3://BUCKET/KEY or https://HOST/PATH, of letters, digits and -._~/:+=@%,?&",
                );
            }
            if sha256.len() != 64 || !sha256.chars().all(|c| c.is_ascii_digit() || ('a'..='f').contains(&c)) {
                return wrong(
                    "agents",
                    sha256,
                    "the SHA-256 of the file, 64 digits from 0 to f, as sha256sum prints it",
                );
            }
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "-._/:=".contains(c);
        match self.agent_arguments.iter().find(|word| word.is_empty() || !word.chars().all(plain)) {
            Some(word) => wrong("agent_arguments", word, "words of letters, digits and -._/:="),
            None => Ok(()),
        }
    }

    fn check_images(&self) -> Result<(), WrongOption> {
        let Images { x86, arm, gpu_x86, gpu_arm } = &self.images;
        for image in [x86, arm, gpu_x86, gpu_arm] {
            let (right, found) = match image {
                Image::Id(id) => (is_id(id, "ami-"), id),
                Image::Parameter(name) => (name.starts_with('/') && name.len() <= 1011, name),
            };
            if !right {
                let expected =
                    "the id of an image, such as ami-0123456789abcdef0, or a parameter of SSM, such as /my/image";
                return Err(WrongOption { field: "images", found: found.clone(), expected });
            }
        }
        Ok(())
    }
}

/// An id of EC2: the kind and hexadecimal digits, or what emulators make of it.
fn is_id(text: &str, kind: &str) -> bool {
    let digits = text.strip_prefix(kind).unwrap_or_default();
    (1..=64).contains(&digits.len()) && digits.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
}

/// Reads the address of a service: a scheme and a host, and a port if need be.
pub(crate) fn endpoint(field: &'static str, text: Option<&str>) -> Result<Option<Url>, WrongOption> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    let bare = |url: &Url| {
        let plain = url.username().is_empty() && url.password().is_none() && url.query().is_none();
        matches!(url.scheme(), "http" | "https") && url.has_host() && plain && url.path() == "/"
    };
    // What is not an address may be a secret.
    let found = text.rsplit('@').next().unwrap_or_default().to_owned();
    let expected = "http:// or https:// with a host, a port if need be, and nothing after it";
    let url = Url::parse(text).ok().filter(bare);
    url.map(Some).ok_or(WrongOption { field, found, expected })
}
