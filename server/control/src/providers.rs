//! Operations on capacity providers, as objects: the rules by which instances are to come and go.
//!
//! Called by the front end. `local`, this machine, is always there.

use crate::check::{LOCAL_PROVIDER, between};
use crate::error::{ControlError, ErrorKind};
use crate::lead::Turn;
use crate::names::provider_name;
use crate::plane::{ControlPlane, Known, Writing};
use crate::requests::Page;
use crate::scaling::{ENVIRONMENTS_HERE_MAX, ENVIRONMENTS_MAX};
use crate::sources::cores_of;
use crate::unreachable::pauses;
use crate::versions::is_there;
use crate::view;
use penstock_dispatch::Targets;
use penstock_domain::{Architecture, VersionNumber};
use penstock_instances::Standing;
use penstock_registry::store::Commit;
use penstock_registry::{Configuration, FunctionRecord, ProviderRecord, State, VersionRecord, keys};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::sync::Weak;
use std::time::Duration;
use tokio::sync::watch;

/// Lambda's own.
const PROVIDERS_MAX: usize = 1000;
const PAGE_MAX: usize = 50;
/// A provider that could not be asked for anything, and was refused so often for what does not pass, is deleted all the same.
const REFUSED_MAX: u32 = 3;
/// Between two looks at whether a provider whose instances have ended is to be taken from the records, or has been.
const FORGET_PAUSE: Duration = Duration::from_secs(5);
/// Most virtual cores of a provider's instances, if nothing is said.
const VCPU_DEFAULT: u64 = 400;
/// What a policy may have a target for, on the CPU and on GPUs: how busy environments are.
const UTILIZATION: [&str; 2] =
    ["LambdaCapacityProviderAverageCPUUtilization", "LambdaCapacityProviderAverageGPUUtilization"];
/// Members that Create takes, and those that Update takes.
const CREATE: [&str; 7] = [
    "VpcConfig",
    "PermissionsConfig",
    "InstanceRequirements",
    "CapacityProviderScalingConfig",
    "KmsKeyArn",
    "PropagateTags",
    "TelemetryConfig",
];
const UPDATE: [&str; 3] = ["CapacityProviderScalingConfig", "PropagateTags", "TelemetryConfig"];

impl ControlPlane {
    /// A provider. Errors: there is none of this name.
    pub(crate) async fn provider(&self, name: &str) -> Result<Known<ProviderRecord>, ControlError> {
        if let Some(known) = self.read(&keys::provider(name)).await? {
            return Ok(known);
        }
        if name == LOCAL_PROVIDER {
            return Ok((self.local_provider(), 0));
        }
        let arn = self.options.account.provider_arn(name);
        Err(ControlError::not_found(format!("Capacity provider not found: {arn}")))
    }

    /// What runs on this machine.
    fn local_provider(&self) -> ProviderRecord {
        let role = format!("arn:aws:iam::{}:role/local", self.options.account.id);
        let settings = json!({
            "VpcConfig": { "SubnetIds": ["subnet-local"], "SecurityGroupIds": [] },
            "PermissionsConfig": { "CapacityProviderOperatorRoleArn": role },
            "CapacityProviderScalingConfig": { "MaxVCpuCount": self.cores(), "ScalingMode": "Auto" },
        });
        ProviderRecord {
            name: LOCAL_PROVIDER.into(),
            settings: settings.as_object().cloned().unwrap_or_default(),
            state: State::Active,
            last_modified: self.now_text(),
            tags: BTreeMap::new(),
        }
    }

    /// CreateCapacityProvider.
    pub async fn create_provider(&self, request: Map<String, Value>) -> Result<Value, ControlError> {
        let name = request.get("CapacityProviderName").and_then(Value::as_str).unwrap_or_default();
        let name = provider_name(name)?.to_owned();
        let turn = self.turn().await?;
        let all = self.read_all::<ProviderRecord>(keys::PROVIDERS).await?;
        if name == LOCAL_PROVIDER || all.iter().any(|(other, _)| other.name == name) {
            return Err(ControlError::conflict(format!("Capacity provider already exists: {name}")));
        }
        if all.len() >= PROVIDERS_MAX {
            let text =
                format!("There are {PROVIDERS_MAX} capacity providers, the most: delete one that is not needed.");
            return Err(ControlError::new(ErrorKind::CapacityProviderLimitExceeded, text));
        }
        let mut settings: Map<String, Value> =
            request.iter().filter(|(key, value)| CREATE.contains(&key.as_str()) && !value.is_null()).map(own).collect();
        check(&mut settings)?;
        self.options.fleets.check(&name, &settings).map_err(ControlError::invalid)?;
        let tags = tags_of(&request)?;
        let record = ProviderRecord { name, settings, state: State::Active, last_modified: self.now_text(), tags };
        turn.commit(Commit::new().create(keys::provider(&record.name), &record)?).await?;
        self.follow_provider(&record);
        Ok(self.told(&record))
    }

    /// GetCapacityProvider.
    pub async fn get_provider(&self, name: &str) -> Result<Value, ControlError> {
        Ok(self.told(&self.provider(provider_name(name)?).await?.0))
    }

    /// UpdateCapacityProvider: scaling, tags to pass on and telemetry; the rest never changes.
    pub async fn update_provider(&self, name: &str, request: &Map<String, Value>) -> Result<Value, ControlError> {
        let name = provider_name(name)?;
        if let Some(fixed) = CREATE.iter().find(|key| !UPDATE.contains(key) && request.contains_key(**key)) {
            return Err(ControlError::invalid(format!(
                "{fixed} of a capacity provider never changes: create another."
            )));
        }
        let turn = self.turn().await?;
        let (mut record, revision) = self.provider(name).await?;
        is_to_stay(&record)?;
        let changes = request.iter().filter(|(key, value)| UPDATE.contains(&key.as_str()) && !value.is_null());
        record.settings.extend(changes.map(own));
        check(&mut record.settings)?;
        if name != LOCAL_PROVIDER {
            self.options.fleets.check(name, &record.settings).map_err(ControlError::invalid)?;
        }
        record.last_modified = self.now_text();
        write_provider(&turn, &record, revision).await?;
        self.follow_provider(&record);
        Ok(self.told(&record))
    }

    /// Cores of this machine, or of all its instances that there may be.
    fn cores(&self) -> u32 {
        self.options.fleets.local().map_or(self.options.cores, |fleet| fleet.vcpu_max())
    }

    /// Most environments that a version may have if nothing is said, and at all. Those on the CPU may be as many as have cores of
    /// their own where they run. Those on GPUs of this machine may be as many as it has, since another on the same GPU would get
    /// nothing that the first does not batch already; where instances are bought, GPUs come with them.
    pub(crate) fn room_of(&self, configuration: &Configuration) -> (u32, u32) {
        let by_cores = |cores: u32| cores / cores_of(configuration);
        match uses_other(configuration).and_then(|name| self.options.fleets.standing(name)) {
            None => match configuration.accelerator_config {
                Some(_) => (self.options.gpus.max(1), ENVIRONMENTS_HERE_MAX),
                None => (by_cores(self.cores()), ENVIRONMENTS_HERE_MAX),
            },
            Some(Standing::Open(fleet)) => (by_cores(fleet.vcpu_max()), ENVIRONMENTS_MAX as u32),
            // Its own limit is not known here yet, and holds all the same.
            Some(Standing::Opening | Standing::Failed { .. }) => (u32::MAX, ENVIRONMENTS_MAX as u32),
        }
    }

    /// Providers that are there after a restart are followed, too.
    pub(crate) async fn restore_providers(&self) -> Result<(), ControlError> {
        for (record, _) in self.read_all::<ProviderRecord>(keys::PROVIDERS).await? {
            // What is not finished is begun with all else, where several share the state.
            if !self.is_shared() || record.state != State::Deleting {
                self.follow_provider(&record);
            }
        }
        tokio::spawn(follow_fleets(self.this.clone(), self.options.fleets.changed()));
        Ok(())
    }

    /// What is said of a provider holds from now on.
    pub(crate) fn follow_provider(&self, record: &ProviderRecord) {
        let other = Some(record.name.as_str()).filter(|name| *name != LOCAL_PROVIDER);
        if record.state == State::Deleting {
            self.house.set_targets(other, Targets::default());
            return self.spawn_provider_end(record.name.clone(), None);
        }
        let scaling = record.settings.get("CapacityProviderScalingConfig").cloned().unwrap_or_default();
        let target = |metric: &str| {
            let policies = scaling["ScalingPolicies"].as_array().filter(|_| scaling["ScalingMode"] == "Manual")?;
            let policy = policies.iter().find(|policy| policy["PredefinedMetricType"] == metric)?;
            policy["TargetValue"].as_f64().map(|percent| percent / 100.0)
        };
        let [cpu, gpu] = UTILIZATION.map(target);
        self.house.set_targets(other, Targets { cpu, gpu });
        if other.is_some() {
            return self.options.fleets.want(&record.name, &record.settings);
        }
        let most = scaling["MaxVCpuCount"].as_u64().and_then(|most| u32::try_from(most).ok());
        most.into_iter().for_each(|most| self.options.fleets.set_local_vcpu_max(most));
    }

    /// DeleteCapacityProvider: one that no function uses. One that buys instances is there until they have ended.
    pub async fn delete_provider(&self, name: &str) -> Result<Value, ControlError> {
        let name = provider_name(name)?;
        let turn = self.turn().await?;
        let (mut record, revision) = self.provider(name).await?;
        if name == LOCAL_PROVIDER {
            return Err(ControlError::conflict("Capacity provider local is this machine, which is always there."));
        }
        if record.state == State::Deleting {
            return Ok(self.told(&record));
        }
        let mut users: Vec<String> = Vec::new();
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            let used = uses(&function.latest.configuration, name)
                || self.versions(&function.name).await?.iter().any(|(version, _)| {
                    // What serves while another takes its place, too.
                    let mut contents = std::iter::once(&version.content).chain(&version.serving);
                    contents.any(|content| uses(&content.configuration, name))
                });
            users.extend(used.then_some(function.name));
        }
        if !users.is_empty() {
            let text = format!("Capacity provider {name} is in use by functions: {}", users.join(", "));
            return Err(ControlError::conflict(text));
        }
        record.state = State::Deleting;
        if !self.options.fleets.buys() {
            turn.commit(Commit::new().delete(keys::provider(name))).await?;
            self.house.set_targets(Some(name), Targets::default());
            return Ok(self.told(&record));
        }
        write_provider(&turn, &record, revision).await?;
        // Of a state that is shared, all servers hear of it.
        if !self.is_shared() {
            self.follow_provider(&record);
        }
        Ok(self.told(&record))
    }

    /// Ends what a provider has here, in a task of its own, unless one is at it.
    pub(crate) fn spawn_provider_end(&self, name: String, settings: Option<Map<String, Value>>) {
        if !self.ending.lock().insert(name.clone()) {
            return;
        }
        let weak = self.this.clone();
        tokio::spawn(async move {
            end_provider(weak.clone(), name.clone(), settings).await;
            if let Some(plane) = weak.upgrade() {
                plane.ending.lock().remove(&name);
            }
        });
    }

    /// Takes a provider from the records whose instances have ended. Errors: this server does not lead.
    async fn forget_provider(&self, name: &str) -> Result<(), ControlError> {
        let turn = self.turn().await?;
        match self.read::<ProviderRecord>(&keys::provider(name)).await? {
            Some((record, _)) if record.state == State::Deleting => {
                turn.commit(Commit::new().delete(keys::provider(name))).await.map(drop)
            }
            _ => Ok(()),
        }
    }

    /// Versions may be as many as their fleets have room for now.
    async fn apply_room(&self) -> Result<(), ControlError> {
        for (version, _) in self.read_all::<VersionRecord>(keys::VERSIONS).await? {
            if version.requested_scaling.max_execution_environments.is_none() {
                self.scale_if_served(&version).await?;
            }
        }
        Ok(())
    }

    /// ListCapacityProviders, perhaps of one state.
    pub async fn list_providers(&self, state: Option<&str>, page: &Page) -> Result<Value, ControlError> {
        let mut all: Vec<ProviderRecord> =
            self.read_all::<ProviderRecord>(keys::PROVIDERS).await?.into_iter().map(|(provider, _)| provider).collect();
        if all.iter().all(|provider| provider.name != LOCAL_PROVIDER) {
            all.push(self.local_provider());
        }
        all.retain(|provider| state.is_none_or(|state| self.state_of(provider).name() == state));
        all.sort_by(|one, other| one.name.cmp(&other.name));
        let (items, next) = view::page(all, |provider| provider.name.clone(), page, PAGE_MAX);
        Ok(view::listed("CapacityProviders", items.iter().map(|provider| self.inner(provider)).collect(), next))
    }

    /// ListFunctionVersionsByCapacityProvider.
    pub async fn versions_by_provider(&self, name: &str, page: &Page) -> Result<Value, ControlError> {
        let (provider, _) = self.provider(provider_name(name)?).await?;
        let mut all = Vec::new();
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            for (version, _) in self.versions(&function.name).await? {
                if uses(&version.content.configuration, &provider.name) && is_there(&version) {
                    all.push(version);
                }
            }
        }
        let arn = |version: &VersionRecord| {
            self.options.account.qualified_arn(&version.function, &VersionNumber(version.number).to_string())
        };
        let marker = |version: &VersionRecord| format!("{}/{:020}", version.function, version.number);
        let (items, next) = view::page(all, marker, page, PAGE_MAX);
        let items = items.iter().map(|v| json!({ "FunctionArn": arn(v), "State": v.standing.state.name() })).collect();
        let mut told = view::listed("FunctionVersions", items, next);
        told["CapacityProviderArn"] = self.options.account.provider_arn(&provider.name).into();
        Ok(told)
    }

    /// Where a provider stands: by its fleet, if it has one.
    fn state_of(&self, provider: &ProviderRecord) -> State {
        match self.options.fleets.standing(&provider.name) {
            _ if provider.state == State::Deleting => State::Deleting,
            None => provider.state,
            Some(Standing::Opening) => State::Pending,
            Some(Standing::Open(_)) => State::Active,
            Some(Standing::Failed { .. }) => State::Failed,
        }
    }

    fn told(&self, provider: &ProviderRecord) -> Value {
        json!({ "CapacityProvider": self.inner(provider) })
    }

    fn inner(&self, provider: &ProviderRecord) -> Value {
        let mut told = provider.settings.clone();
        told.insert("CapacityProviderArn".into(), self.options.account.provider_arn(&provider.name).into());
        told.insert("State".into(), self.state_of(provider).name().into());
        told.insert("LastModified".into(), provider.last_modified.clone().into());
        Value::Object(told)
    }
}

/// Ends what a provider has here until nothing is left of it, and takes it from the records if this server leads. `settings` are
/// those of one that is in the records no more.
async fn end_provider(plane: Weak<ControlPlane>, name: String, mut settings: Option<Map<String, Value>>) {
    let (mut has_ended, mut refused, mut may_pass) = (false, 0, false);
    for pause in pauses() {
        let Some(plane) = plane.upgrade() else { return };
        match plane.read::<ProviderRecord>(&keys::provider(&name)).await {
            Ok(Some((record, _))) if record.state == State::Deleting => settings = Some(record.settings),
            // One that was made anew ends what it does not know of the one before.
            Ok(Some(_)) => return,
            Ok(None) if has_ended || settings.is_none() => return,
            Ok(None) => {}
            Err(error) => tracing::debug!(provider = name, %error, "a capacity provider is not known for now"),
        }
        if let Some(settings) = settings.as_ref().filter(|_| !has_ended) {
            match plane.options.fleets.end(&name, settings).await {
                Ok(()) => has_ended = true,
                Err(error) => {
                    tracing::warn!(provider = name, %error, "a capacity provider is not deleted yet; it is tried again");
                    // Once it could be asked, there may be instances.
                    may_pass |= error.may_pass;
                    refused += 1;
                }
            }
            if refused == REFUSED_MAX && !may_pass {
                tracing::error!(
                    provider = name,
                    "a capacity provider is deleted without a look at what it may have left"
                );
                has_ended = true;
            }
        }
        // If another leads, that one does; this one sees that it has.
        if has_ended && plane.leadership().term().is_some() {
            match plane.forget_provider(&name).await {
                Ok(()) => return,
                Err(error) => tracing::warn!(provider = name, %error, "a capacity provider is not deleted yet"),
            }
        }
        drop(plane);
        tokio::time::sleep(if has_ended { FORGET_PAUSE } else { pause }).await;
    }
}

/// Has versions follow what their fleets have room for, whenever that changes.
async fn follow_fleets(plane: Weak<ControlPlane>, mut changed: watch::Receiver<()>) {
    // The fleets are gone when the server is.
    while changed.changed().await.is_ok() {
        for pause in pauses() {
            let Some(plane) = plane.upgrade() else { return };
            match plane.apply_room().await {
                Ok(()) => break,
                Err(error) => tracing::warn!(%error, "how many environments versions may have is as before for now"),
            }
            drop(plane);
            tokio::time::sleep(pause).await;
        }
    }
}

/// Errors: it is on its way out.
pub(crate) fn is_to_stay(provider: &ProviderRecord) -> Result<(), ControlError> {
    match provider.state {
        State::Deleting => {
            Err(ControlError::conflict(format!("Capacity provider {} is being deleted.", provider.name)))
        }
        _ => Ok(()),
    }
}

/// Writes a provider that was looked up; this machine's own may not have been written yet.
pub(crate) async fn write_provider(
    turn: &Turn<'_>,
    record: &ProviderRecord,
    revision: u64,
) -> Result<(), ControlError> {
    let key = keys::provider(&record.name);
    let commit = match revision {
        0 => Commit::new().create(key, record)?,
        revision => Commit::new().replace(key, record, revision)?,
    };
    turn.commit(commit).await.map(drop)
}

fn own((key, value): (&String, &Value)) -> (String, Value) {
    (key.clone(), value.clone())
}

/// The provider of a function, if that is another than this machine.
pub(crate) fn uses_other(configuration: &Configuration) -> Option<&str> {
    let instances = &configuration.capacity_provider_config.lambda_managed_instances_capacity_provider_config;
    provider_name(&instances.capacity_provider_arn).ok().filter(|name| *name != LOCAL_PROVIDER)
}

fn uses(configuration: &Configuration, provider: &str) -> bool {
    let instances = &configuration.capacity_provider_config.lambda_managed_instances_capacity_provider_config;
    provider_name(&instances.capacity_provider_arn).is_ok_and(|name| name == provider)
}

fn tags_of(request: &Map<String, Value>) -> Result<BTreeMap<String, String>, ControlError> {
    let Some(tags) = request.get("Tags").filter(|tags| !tags.is_null()) else { return Ok(BTreeMap::new()) };
    let tags: BTreeMap<String, String> = serde_json::from_value(tags.clone())
        .map_err(|_| ControlError::validation(tags, "tags", "Member must be a map of strings"))?;
    crate::tags::check(&tags)?;
    Ok(tags)
}

/// Judges settings and fills in what is left out.
fn check(settings: &mut Map<String, Value>) -> Result<(), ControlError> {
    let strings = |value: &Value, member: &str, most: usize| match value.as_array() {
        Some(items) if items.len() <= most && items.iter().all(Value::is_string) => Ok(items.clone()),
        _ => Err(ControlError::validation(value, member, format!("Member must be a list of at most {most} strings"))),
    };
    let vpc = settings.get("VpcConfig").cloned().unwrap_or_default();
    let subnets = strings(&vpc["SubnetIds"], "vpcConfig.subnetIds", 16)?;
    let named = |item: &Value, prefix: &str| item.as_str().is_some_and(|text| text.starts_with(prefix));
    if subnets.is_empty() || !subnets.iter().all(|subnet| named(subnet, "subnet-")) {
        let constraint = "Member must have length 1 to 16 and match subnet-[0-9a-z]*";
        return Err(ControlError::validation(&vpc["SubnetIds"], "vpcConfig.subnetIds", constraint));
    }
    strings(&vpc["SecurityGroupIds"], "vpcConfig.securityGroupIds", 5)?;
    let role = &settings.get("PermissionsConfig").cloned().unwrap_or_default()["CapacityProviderOperatorRoleArn"];
    if !role.as_str().is_some_and(|role| role.starts_with("arn:aws")) {
        let member = "permissionsConfig.capacityProviderOperatorRoleArn";
        return Err(ControlError::validation(role, member, "Member must be the ARN of a role"));
    }
    if let Some(requirements) = settings.get("InstanceRequirements") {
        let given = |key: &str| requirements.get(key).filter(|value| !value.is_null());
        for (key, member) in [("AllowedInstanceTypes", "allowed"), ("ExcludedInstanceTypes", "excluded")] {
            for item in given(key).map(|value| strings(value, member, 400)).transpose()?.unwrap_or_default() {
                let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '*' | '-');
                if !item.as_str().is_some_and(|text| (1..=30).contains(&text.len()) && text.chars().all(word)) {
                    return Err(ControlError::validation(item, member, "Member must match [a-zA-Z0-9\\.\\*\\-]{1,30}"));
                }
            }
        }
        for item in
            given("Architectures").map(|value| strings(value, "architectures", 2)).transpose()?.unwrap_or_default()
        {
            if item.as_str().and_then(Architecture::parse).is_none() {
                return Err(ControlError::validation(item, "architectures", "Member must be one of [x86_64, arm64]"));
            }
        }
        if given("AllowedInstanceTypes").is_some() && given("ExcludedInstanceTypes").is_some() {
            let text = "AllowedInstanceTypes and ExcludedInstanceTypes exclude each other: give one of them.";
            return Err(ControlError::invalid(text));
        }
    }
    let scaling = settings.entry("CapacityProviderScalingConfig").or_insert_with(|| json!({}));
    let Some(scaling) = scaling.as_object_mut() else {
        let constraint = "Member must be an object";
        return Err(ControlError::validation("", "capacityProviderScalingConfig", constraint));
    };
    let most = scaling.entry("MaxVCpuCount").or_insert_with(|| VCPU_DEFAULT.into());
    between("capacityProviderScalingConfig.maxVCpuCount", most.as_i64().unwrap_or(-1), 2, 15_000)?;
    let mode = scaling.entry("ScalingMode").or_insert_with(|| "Auto".into()).clone();
    if !matches!(mode.as_str(), Some("Auto" | "Manual")) {
        let constraint = "Member must satisfy enum value set: [Auto, Manual]";
        return Err(ControlError::validation(mode, "capacityProviderScalingConfig.scalingMode", constraint));
    }
    check_policies(scaling.get("ScalingPolicies"))
}

fn check_policies(policies: Option<&Value>) -> Result<(), ControlError> {
    let member = "capacityProviderScalingConfig.scalingPolicies";
    for policy in policies.and_then(Value::as_array).into_iter().flatten() {
        let metric = policy["PredefinedMetricType"].as_str().unwrap_or_default();
        if !UTILIZATION.contains(&metric) {
            let constraint = format!("Member must satisfy enum value set: [{}]", UTILIZATION.join(", "));
            return Err(ControlError::validation(metric, &format!("{member}.predefinedMetricType"), constraint));
        }
        if !policy["TargetValue"].as_f64().is_some_and(|target| (0.0..=100.0).contains(&target)) {
            let constraint = "Member must have value between 0 and 100";
            return Err(ControlError::validation(&policy["TargetValue"], &format!("{member}.targetValue"), constraint));
        }
    }
    Ok(())
}
