//! Looking at functions and changing what is around them: `functions`, `versions`, `alias`, `delete`, `logs`.

use super::call::{Client, ClientError, part, with_query};
use super::show::{size, table, text};
use super::{Common, show};
use clap::Args;
use http::Method;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::sleep;

/// How often new lines of a log are asked for.
const FOLLOW: Duration = Duration::from_millis(500);

/// Lists the functions.
#[derive(Args)]
pub(crate) struct List {
    #[command(flatten)]
    pub(super) common: Common,
}

/// Lists a function's versions.
#[derive(Args)]
pub(crate) struct Versions {
    /// The function.
    #[arg(value_name = "NAME")]
    name: String,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Lists, sets or deletes aliases.
#[derive(Args)]
pub(crate) struct Alias {
    /// The function.
    #[arg(value_name = "NAME")]
    name: String,
    /// The alias; without it all are listed.
    #[arg(value_name = "ALIAS")]
    alias: Option<String>,
    /// The version that it is to lead to.
    #[arg(value_name = "VERSION")]
    version: Option<String>,
    /// A second version and its part of the calls, such as `2=0.1`.
    #[arg(long, value_name = "VERSION=PART", requires = "version")]
    weight: Option<String>,
    /// Delete the alias.
    #[arg(long, requires = "alias", conflicts_with = "version")]
    delete: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Deletes a function, or a version.
#[derive(Args)]
pub(crate) struct Delete {
    /// The function.
    #[arg(value_name = "NAME")]
    name: String,
    /// One version of it.
    #[arg(long, value_name = "VERSION")]
    qualifier: Option<String>,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Prints a function's log.
#[derive(Args)]
pub(crate) struct Logs {
    /// The function.
    #[arg(value_name = "NAME")]
    name: String,
    /// Only of this version.
    #[arg(long, value_name = "VERSION")]
    qualifier: Option<String>,
    /// Go on with what comes, until it is interrupted.
    #[arg(long, short)]
    follow: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

/// Lists the instances, and what they cost.
#[derive(Args)]
pub(crate) struct Instances {
    /// Replace all that there are, one after the other, a new one first: for a new executable or a patched machine.
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

/// All entries of a list, over its pages.
async fn all(client: &Client, path: &str, name: &str) -> Result<Vec<Value>, ClientError> {
    let (mut entries, mut marker) = (Vec::new(), None::<String>);
    loop {
        let page = client.json(Method::GET, &with_query(path, &[("Marker", marker.as_deref())]), None).await?;
        entries.extend(page.get(name).and_then(Value::as_array).cloned().unwrap_or_default());
        match page.get("NextMarker").and_then(Value::as_str) {
            Some(next) if !next.is_empty() => marker = Some(next.to_owned()),
            _ => return Ok(entries),
        }
    }
}

fn print(json: bool, entries: Vec<Value>, heads: &[&str], row: impl Fn(&Value) -> Vec<String>) {
    match json {
        true => {
            show::say(&Value::Array(entries).to_string());
        }
        false => table(heads, &entries.iter().map(row).collect::<Vec<_>>()),
    }
}

fn bytes(of: &Value) -> String {
    of.get("CodeSize").and_then(Value::as_u64).map(size).unwrap_or_default()
}

/// A version and, of an alias with two, the other with its part.
fn leads_to(alias: &Value) -> String {
    let weights = alias.get("RoutingConfig").and_then(|routing| routing.get("AdditionalVersionWeights"));
    let extra = weights.and_then(Value::as_object).and_then(|weights| weights.iter().next());
    match extra {
        None => text(alias, "FunctionVersion"),
        Some((version, part)) => format!("{} and {version} ({part})", text(alias, "FunctionVersion")),
    }
}

impl List {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let functions = all(client, "/2015-03-31/functions", "Functions").await?;
        print(self.common.json, functions, &["NAME", "RUNTIME", "SIZE", "MODIFIED", "DESCRIPTION"], |function| {
            let told = |name| text(function, name);
            vec![told("FunctionName"), told("Runtime"), bytes(function), told("LastModified"), told("Description")]
        });
        Ok(())
    }
}

/// The devices of an instance, each with its instance's name.
fn devices(instance: &Value) -> Vec<Value> {
    let mut devices = instance.get("Devices").and_then(Value::as_array).cloned().unwrap_or_default();
    for device in devices.iter_mut().filter_map(Value::as_object_mut) {
        device.insert("InstanceId".to_owned(), text(instance, "InstanceId").into());
    }
    devices
}

impl Instances {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let told = match self.replace {
            true => client.json(Method::POST, "/2026-11-26/instances/replacement", None).await?,
            false => client.json(Method::GET, "/2026-11-26/instances", None).await?,
        };
        if self.common.json {
            show::say(&told.to_string());
            return Ok(());
        }
        let list = |name: &str| told.get(name).and_then(Value::as_array).cloned().unwrap_or_default();
        let heads = ["INSTANCE", "PROVIDER", "TYPE", "STATE", "VCPU", "MEMORY", "AGE", "ENVIRONMENTS"];
        print(false, list("Instances"), &heads, |instance| {
            let told = |name| text(instance, name);
            let age = instance.get("AgeSeconds").and_then(Value::as_f64).unwrap_or_default();
            let environments = instance.get("Environments").and_then(Value::as_object);
            let each = environments.into_iter().flatten().map(|(version, count)| format!("{count} x {version}"));
            let memory = format!("{} MiB", told("MemoryMiB"));
            let environments = each.collect::<Vec<_>>().join(", ");
            let (id, provider) = (told("InstanceId"), told("CapacityProviderName"));
            let (of_type, state) = (told("InstanceType"), told("State"));
            vec![id, provider, of_type, state, told("VCpu"), memory, format!("{age:.0} s"), environments]
        });
        let devices: Vec<Value> = list("Instances").iter().flat_map(devices).collect();
        if !devices.is_empty() {
            show::say("");
            let heads = ["DEVICE", "INSTANCE", "NAME", "MEMORY", "GIVEN", "USED", "FAULT"];
            print(false, devices, &heads, |device| {
                let told = |name: &str| text(device, name);
                let mib = |name: &str| {
                    device.get(name).and_then(Value::as_u64).map_or(String::new(), |mib| format!("{mib} MiB"))
                };
                let (memory, given, used) = (mib("MemoryMiB"), mib("MemoryGivenMiB"), mib("MemoryUsedMiB"));
                vec![told("DeviceId"), told("InstanceId"), told("Name"), memory, given, used, told("Fault")]
            });
        }
        let failed = list("Failed");
        if !failed.is_empty() {
            show::say("");
            print(false, failed, &["PROVIDER", "WHY IT HAS NO INSTANCES"], |provider| {
                vec![text(provider, "CapacityProviderName"), text(provider, "StateReason")]
            });
        }
        let usd = |cost: &Value, name: &str| cost.get(name).and_then(Value::as_f64);
        let costs: Vec<Value> =
            list("Costs").into_iter().filter(|cost| usd(cost, "Usd").is_some_and(|usd| usd > 0.0)).collect();
        if !costs.is_empty() {
            show::say("");
            let heads = ["FUNCTION", "PROVIDER", "USD/H", "USD", "INVOCATIONS", "USD/MILLION"];
            print(false, costs, &heads, |cost| {
                let providers = cost.get("CapacityProviderNames").and_then(Value::as_array);
                let providers: Vec<&str> = providers.into_iter().flatten().filter_map(Value::as_str).collect();
                let function = match text(cost, "FunctionName") {
                    none if none.is_empty() => "(nobody's)".to_owned(),
                    function => function,
                };
                let amount = |name: &str| usd(cost, name).map_or(String::new(), |usd| format!("{usd:.4}"));
                let (per_hour, in_all) = (amount("UsdPerHour"), amount("Usd"));
                let (done, per_million) = (text(cost, "Invocations"), amount("UsdPerMillionInvocations"));
                vec![function, providers.join(", "), per_hour, in_all, done, per_million]
            });
        }
        Ok(())
    }
}

impl Versions {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let own = format!("/2015-03-31/functions/{}", part(&self.name));
        let versions = all(client, &format!("{own}/versions"), "Versions").await?;
        let aliases = all(client, &format!("{own}/aliases"), "Aliases").await?;
        let mut whole = Vec::with_capacity(versions.len());
        for mut version in versions {
            let number = text(&version, "Version");
            // A list has no states; each version has.
            let path = with_query(&format!("{own}/configuration"), &[("Qualifier", Some(&number))]);
            let found = match client.json(Method::GET, &path, None).await {
                // It went meanwhile.
                Err(error) if error.is_not_found() => continue,
                found => found?,
            };
            let leading = aliases.iter().filter(|alias| {
                let extra = alias.pointer("/RoutingConfig/AdditionalVersionWeights").and_then(Value::as_object);
                text(alias, "FunctionVersion") == number || extra.is_some_and(|extra| extra.contains_key(&number))
            });
            let leading: Vec<_> = leading.map(|alias| text(alias, "Name")).collect();
            if let Some(version) = version.as_object_mut() {
                for name in ["State", "StateReason", "StateReasonCode"] {
                    version.extend(found.get(name).map(|value| (name.to_owned(), value.clone())));
                }
                version.insert("Aliases".into(), json!(leading));
            }
            whole.push(version);
        }
        print(self.common.json, whole, &["VERSION", "STATE", "ALIASES", "SIZE", "MODIFIED", "REASON"], |version| {
            let told = |name| text(version, name);
            let aliases = version.get("Aliases").and_then(Value::as_array);
            let aliases: Vec<_> = aliases.into_iter().flatten().filter_map(Value::as_str).collect();
            let (state, reason) = (told("State"), told("StateReason"));
            vec![told("Version"), state, aliases.join(", "), bytes(version), told("LastModified"), reason]
        });
        Ok(())
    }
}

impl Alias {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let aliases = format!("/2015-03-31/functions/{}/aliases", part(&self.name));
        let Some(alias) = &self.alias else {
            let found = all(client, &aliases, "Aliases").await?;
            print(self.common.json, found, &["ALIAS", "VERSION", "DESCRIPTION"], |alias| {
                vec![text(alias, "Name"), leads_to(alias), text(alias, "Description")]
            });
            return Ok(());
        };
        let own = format!("{aliases}/{}", part(alias));
        if self.delete {
            client.json(Method::DELETE, &own, None).await?;
            deleted(self.common.json, &self.name, alias);
            return Ok(());
        }
        let found = match &self.version {
            None => client.json(Method::GET, &own, None).await?,
            Some(version) => {
                let weights = match &self.weight {
                    None => json!({}),
                    Some(weight) => {
                        let wrong = || ClientError::Usage(format!("--weight: expected VERSION=PART, found {weight:?}"));
                        let (version, part) = weight.split_once('=').ok_or_else(wrong)?;
                        json!({ version: part.parse::<f64>().map_err(|_| wrong())? })
                    }
                };
                let routing = json!({ "AdditionalVersionWeights": weights });
                let moved = json!({ "FunctionVersion": version, "RoutingConfig": routing });
                set(client, &self.name, alias, moved).await?
            }
        };
        match self.common.json {
            true => show::say(&found.to_string()),
            false => show::say(&format!("{alias} leads to version {}", leads_to(&found))),
        };
        Ok(())
    }
}

/// Lets an alias lead where `to` says: made, if it is not there.
pub(super) async fn set(client: &Client, name: &str, alias: &str, mut to: Value) -> Result<Value, ClientError> {
    let aliases = format!("/2015-03-31/functions/{}/aliases", part(name));
    let own = format!("{aliases}/{}", part(alias));
    match client.json(Method::GET, &own, None).await {
        Ok(_) => client.json(Method::PUT, &own, Some(&to)).await,
        Err(error) if error.is_not_found() => {
            to["Name"] = json!(alias);
            client.json(Method::POST, &aliases, Some(&to)).await
        }
        Err(error) => Err(error),
    }
}

fn deleted(json: bool, name: &str, what: &str) {
    let whole = if what.is_empty() { name.to_owned() } else { format!("{name}:{what}") };
    match json {
        true => show::say(&json!({ "Deleted": whole }).to_string()),
        false => show::say(&format!("{whole} deleted")),
    };
}

impl Delete {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let path = format!("/2015-03-31/functions/{}", part(&self.name));
        client.json(Method::DELETE, &with_query(&path, &[("Qualifier", self.qualifier.as_deref())]), None).await?;
        deleted(self.common.json, &self.name, self.qualifier.as_deref().unwrap_or_default());
        Ok(())
    }
}

impl Logs {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let path = format!("/2026-11-26/functions/{}/log", part(&self.name));
        let mut after = None::<String>;
        loop {
            let query = [("Qualifier", self.qualifier.as_deref()), ("After", after.as_deref())];
            let page = client.json(Method::GET, &with_query(&path, &query), None).await?;
            for line in page.get("Lines").and_then(Value::as_array).into_iter().flatten() {
                let told = |name| text(line, name);
                let text = match self.common.json {
                    true => line.to_string(),
                    false => format!("{} {:>7} {}", told("Time"), told("Version"), told("Text")),
                };
                if !show::say(&text) {
                    return Ok(());
                }
            }
            after = page.get("Last").map(Value::to_string).or(after);
            if !self.follow {
                return Ok(());
            }
            sleep(FOLLOW).await;
        }
    }
}
