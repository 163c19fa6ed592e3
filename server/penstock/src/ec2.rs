//! Capacity providers whose instances are of EC2: what each was created with, and the settings, made into a fleet.
//!
//! Called by `serve` at start; then by the fleets, when a provider is wanted.

use crate::config::Config;
use crate::{instances, remote};
use async_trait::async_trait;
use penstock_ec2::{AgentFile, Ec2Options, Ec2Provider, Endpoints, Identity, Image, Images, OperatorRole, Timing};
use penstock_instances::{Fleet, FleetOptions, Hub, Listen, OpenFleet};
use penstock_packages::ContentSha256;
use penstock_plan::{Prices, Rate};
use penstock_remote::CredentialSource;
use penstock_scaler::{Architecture, Rules, TypePattern};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Most characters of the name that marks a fleet.
const FLEET_NAME_MAX: usize = 64;

/// What marks fleets, if nothing is said.
const FLEET_DEFAULT: &str = "penstock";

/// Judges the settings; calls nobody. Errors: the first that is wrong, and what would be right.
pub(crate) fn check(config: &Config) -> Result<(), String> {
    let is_emulated = !config.text("ec2.endpoint_url").is_empty();
    for key in ["instances.listen", "instances.agent_listen"] {
        if !is_emulated && config.address(key).ip().is_loopback() {
            let found = config.text(key);
            return Err(format!("{key}: found {found}, expected an address beyond this machine, such as 0.0.0.0:8010"));
        }
    }
    let fleet = config.text("ec2.fleet");
    let wrong = |expected: &str| Err(format!("ec2.fleet: found '{fleet}', expected {expected}"));
    if fleet.is_empty() || !fleet.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')) {
        return wrong("letters, digits, - and _");
    }
    if config.text("state.store") == "etcd" && fleet == FLEET_DEFAULT {
        return wrong("another name for each server that shares a state: each ends instances that it does not know");
    }
    prices(config)?;
    // Of a provider that is right.
    let settings = json!({ "VpcConfig": { "SubnetIds": ["subnet-0"], "SecurityGroupIds": ["sg-0"] } });
    let options =
        options(config, remote::credentials(config)?, "provider", settings.as_object().unwrap_or(&Map::new()));
    options.check().map_err(|error| error.to_string())
}

/// Makes fleets of EC2.
pub(crate) struct OfEc2 {
    config: Arc<Config>,
    hub: Arc<Hub>,
    keys: Option<CredentialSource>,
    stop: CancellationToken,
}

impl OfEc2 {
    /// Listens for agents. The settings were judged. Errors: nobody can listen there.
    pub(crate) fn open(config: Arc<Config>, stop: CancellationToken) -> io::Result<Self> {
        let keys = remote::credentials(&config).map_err(io::Error::other)?;
        let hub = instances::hub(&config, stop.clone())?;
        Ok(Self { config, hub, keys, stop })
    }
}

#[async_trait]
impl OpenFleet for OfEc2 {
    fn check(&self, name: &str, settings: &Map<String, Value>) -> Result<(), String> {
        options(&self.config, self.keys.clone(), name, settings).check().map_err(|error| error.to_string())
    }

    fn vcpu_max(&self, settings: &Map<String, Value>) -> u32 {
        let scaling = settings.get("CapacityProviderScalingConfig").cloned().unwrap_or_default();
        let most = scaling["MaxVCpuCount"].as_u64().unwrap_or_default();
        u32::try_from(most * self.config.integer("ec2.vcpu_percent") / 100).unwrap_or(u32::MAX)
    }

    fn tags(&self, settings: &Map<String, Value>) -> BTreeMap<String, String> {
        tags(settings)
    }

    async fn open(&self, name: &str, settings: &Map<String, Value>) -> io::Result<Arc<Fleet>> {
        let requirements = settings.get("InstanceRequirements").cloned().unwrap_or_default();
        let patterns = |key: &str| strings(&requirements[key]).into_iter().map(TypePattern::new).collect::<Vec<_>>();
        let start_timeout = Duration::from_secs(self.config.integer("ec2.start_timeout_s"));
        // Another at each start: what was asked before it is not answered as it was then.
        let seed = instances::token()?.get(..16).and_then(|digits| u64::from_str_radix(digits, 16).ok());
        let options = Ec2Options {
            seed: seed.ok_or_else(|| io::Error::other("no seed"))?,
            ..options(&self.config, self.keys.clone(), name, settings)
        };
        let invalid = |error: String| io::Error::new(io::ErrorKind::InvalidInput, error);
        let (prices, efa) = (prices(&self.config).map_err(invalid)?, options.efa);
        let architectures = strings(&requirements["Architectures"]);
        let provider = Ec2Provider::open(options).await?;
        let rules = Rules {
            vcpu_max: self.vcpu_max(settings),
            allowed: patterns("AllowedInstanceTypes"),
            excluded: patterns("ExcludedInstanceTypes"),
            zones: provider.zones(),
            start_timeout,
            empty_after: Duration::from_secs(self.config.integer("instances.empty_s")),
        };
        let types = provider.types();
        let may_buy = |name: &str| {
            let Some(facts) = types.get(name) else { return false };
            let name_of = facts.shape.architecture.name();
            let is_wanted = architectures.is_empty() || architectures.iter().any(|wanted| wanted == name_of);
            rules.may_buy(name) && is_wanted && (!efa || facts.efa)
        };
        let mut offered = provider.offered(&prices, may_buy);
        // As their agents keep it.
        let kept_mib = self.config.integer("devices.kept_bytes").div_ceil(1 << 20);
        for shape in offered.types.iter_mut().map(|one| &mut one.shape) {
            shape.device_memory_mib = shape.device_memory_mib.saturating_sub(kept_mib);
        }
        if offered.types.is_empty() {
            let text = format!(
                "no instance type is left in {}: see InstanceRequirements, ec2.agent_x86 and ec2.agent_arm, ec2.efa",
                rules.zones.join(", ")
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        if offered.is_guessed {
            tracing::warn!(provider = name, "no type has a price (ec2.prices_file): what costs are told is a guess");
        }
        tracing::info!(provider = name, types = offered.types.len(), zones = ?rules.zones, "a capacity provider is open");
        let fleet = FleetOptions {
            name: name.to_owned(),
            rules,
            types: offered.types,
            deadlines: instances::deadlines(&self.config, start_timeout),
            folder: instances::folder(&self.config, name)?,
            listen: Listen::Tcp(self.hub.clone()),
            disk: self.config.path("ec2.disk"),
            token: instances::token,
        };
        Fleet::open(fleet, Arc::new(provider), self.stop.child_token())
    }
}

/// What a provider of EC2 is opened with, but for what tells one start from another.
fn options(config: &Config, keys: Option<CredentialSource>, name: &str, settings: &Map<String, Value>) -> Ec2Options {
    let text = |key: &str| config.text(key);
    let given = |key: &str| Some(text(key).to_owned()).filter(|text| !text.is_empty());
    let of = |member: &str, key: &str| settings.get(member).map(|value| value[key].clone()).unwrap_or_default();
    let agents = [(Architecture::X86, "ec2.agent_x86"), (Architecture::Arm, "ec2.agent_arm")];
    let agents = agents.into_iter().filter_map(|(architecture, key)| Some((architecture, given(key)?)));
    let agents = agents.map(|(architecture, file)| {
        // Checked with the rest.
        let (uri, sha256) = file.split_once(' ').unwrap_or((&file, ""));
        (architecture, AgentFile { uri: uri.to_owned(), sha256: sha256.trim().to_owned() })
    });
    let image = |key: &str, usual: Image| match given(key) {
        None => usual,
        Some(text) if text.starts_with('/') => Image::Parameter(text),
        Some(text) => Image::Id(text),
    };
    let usual = Images::default();
    let images = Images {
        x86: image("ec2.image_x86", usual.x86),
        arm: image("ec2.image_arm", usual.arm),
        gpu_x86: image("ec2.image_gpu_x86", usual.gpu_x86),
        gpu_arm: image("ec2.image_gpu_arm", usual.gpu_arm),
    };
    let role = of("PermissionsConfig", "CapacityProviderOperatorRoleArn");
    Ec2Options {
        region: given("ec2.region").unwrap_or_else(|| text("lambda.region").to_owned()),
        endpoints: Endpoints {
            ec2: given("ec2.endpoint_url"),
            sts: given("ec2.sts_endpoint_url"),
            ssm: given("ec2.ssm_endpoint_url"),
            metadata: given("ec2.metadata_endpoint_url"),
        },
        identity: keys.map_or(Identity::InstanceProfile, Identity::Keys),
        operator_role: role
            .as_str()
            .map(|arn| OperatorRole { arn: arn.to_owned(), external_id: given("ec2.external_id") }),
        fleet: fleet_name(text("ec2.fleet"), name),
        subnets: strings(&of("VpcConfig", "SubnetIds")),
        security_groups: strings(&of("VpcConfig", "SecurityGroupIds")),
        tags: tags(settings),
        instance_profile: text("ec2.instance_profile").to_owned(),
        images,
        agents: agents.collect(),
        agent_arguments: agent_arguments(config),
        spot_percent: u8::try_from(config.integer("ec2.spot_percent")).unwrap_or(100),
        volume_gib: config.integer_u32("ec2.volume_gib"),
        efa: text("ec2.efa") == "yes",
        types_file: Some(PathBuf::from(text("cache_dir")).join("ec2-types.json")),
        timing: Timing::default(),
        clock: remote::now,
        seed: 0,
    }
}

/// What the agent is told on its command line.
fn agent_arguments(config: &Config) -> Vec<String> {
    let mut arguments =
        ["instance", "--ec2", "--kept-bytes", config.text("devices.kept_bytes")].map(String::from).to_vec();
    for folder in config.list("ec2.library_path") {
        arguments.extend(["--library-path".to_owned(), folder.to_owned()]);
    }
    arguments
}

/// Tags that a provider's instances are to have.
fn tags(settings: &Map<String, Value>) -> BTreeMap<String, String> {
    let tags = settings.get("PropagateTags").filter(|tags| tags["Mode"] == "Explicit");
    let tags = tags.and_then(|tags| tags["ExplicitTags"].as_object().cloned()).unwrap_or_default();
    tags.into_iter().filter_map(|(key, value)| Some((key, value.as_str()?.to_owned()))).collect()
}

/// US dollars an hour, by type.
fn prices(config: &Config) -> Result<BTreeMap<String, f64>, String> {
    let rate = match config.text("ec2.rate") {
        "savings_plan" => Rate::SavingsPlan,
        _ => Rate::OnDemand,
    };
    let built_in = Prices::built_in();
    let own = match config.path("ec2.prices_file") {
        None => None,
        Some(file) => {
            let wrong = |text: String| format!("ec2.prices_file: {}: {text}", file.display());
            let text = std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
            Some(Prices::parse(&text).map_err(|error| wrong(error.to_string()))?)
        }
    };
    let mut prices = BTreeMap::new();
    // A type of which this rate is not known costs what it costs On-Demand.
    let (built_in, own) = (Some(&built_in), own.as_ref());
    for (table, rate) in [(built_in, Rate::OnDemand), (built_in, rate), (own, Rate::OnDemand), (own, rate)] {
        let offers = table.into_iter().flat_map(|table| table.at(rate, &[]).offers);
        prices.extend(offers.map(|offer| (offer.instance_type.name.clone(), offer.instance_type.usd_per_hour)));
    }
    Ok(prices)
}

/// What marks the fleet of a provider: shortened where it would be too long.
fn fleet_name(server: &str, provider: &str) -> String {
    let name = format!("{server}.{provider}");
    if name.len() <= FLEET_NAME_MAX {
        return name;
    }
    let digest = ContentSha256::of(name.as_bytes()).to_string();
    let kept: String = name.chars().take(FLEET_NAME_MAX - 17).collect();
    format!("{kept}.{}", &digest[..16])
}

fn strings(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}
