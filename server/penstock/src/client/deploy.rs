//! `penstock deploy`: from a folder to a version that serves.
//!
//! Sends only contents that the server does not have, makes the function or gives it new code, publishes, waits, and moves the
//! alias last: until then whatever served before goes on. Interrupted and run again it goes on where it was.

use super::call::{Client, ClientError, part, with_query};
use super::package::{self, Local};
use super::show::{Progress, size, text};
use super::{Common, functions, show};
use clap::Args;
use http::Method;
use penstock_packages::ContentSha256;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often a version is looked at while it comes up.
const LOOK: Duration = Duration::from_millis(200);
/// How often, and after which pause, is tried what another change came before.
const OVERTAKEN: (u32, Duration) = (50, LOOK);
/// The same of what there is no room for.
const FULL: (u32, Duration) = (120, Duration::from_secs(1));
/// The role of functions that need none.
const ROLE: &str = "arn:aws:iam::000000000000:role/none";

/// The capacity provider of functions that name none.
const PROVIDER: &str = "local";

/// Sends a model's folder and lets it serve.
#[derive(Args)]
pub(crate) struct Deploy {
    /// The folder: as in a model repository (`1/model.onnx`, `config.pbtxt`), or a Hugging Face folder of an encoder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The function's name.
    #[arg(long, value_name = "NAME")]
    name: String,
    /// The alias that leads to the new version when it serves; empty for none.
    #[arg(long, value_name = "ALIAS", default_value = "live")]
    alias: String,
    /// onnx or candle; else as the files say.
    #[arg(long, value_name = "RUNTIME")]
    runtime: Option<String>,
    /// The execution role's ARN.
    #[arg(long, value_name = "ARN")]
    role: Option<String>,
    /// The capacity provider's name or ARN.
    #[arg(long, value_name = "NAME")]
    capacity_provider: Option<String>,
    /// The architecture of the instances that it runs on, x86_64 or arm64.
    #[arg(long, value_name = "NAME")]
    architecture: Option<String>,
    /// Host memory, in MiB.
    #[arg(long, value_name = "MIB")]
    memory_size: Option<u32>,
    /// Longest that an invocation may take, in seconds.
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u32>,
    /// Device memory of a GPU, in GiB.
    #[arg(long, value_name = "GIB")]
    accelerator_memory: Option<u32>,
    /// Invocations in flight in one environment.
    #[arg(long, value_name = "COUNT")]
    concurrency: Option<u32>,
    /// An environment variable, `NAME=VALUE`; may be given more than once. All together take the place of those that there are.
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// What the version is said to be.
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,
    /// Do not wait until the version serves; the alias stays where it is.
    #[arg(long)]
    no_wait: bool,
    /// Longest that is waited, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    wait_timeout: u64,
    #[command(flatten)]
    pub(super) common: Common,
}

/// What was sent.
struct Sent {
    manifest: String,
    files: usize,
    bytes: u64,
}

impl Deploy {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let mut progress = Progress::new(self.common.json);
        let local = self.read(&mut progress)?;
        let sent = send(client, &local, &mut progress).await?;
        let (published, existed) = self.publish(client, &local, &sent.manifest).await?;
        progress.done(if existed { "function updated" } else { "function created" });
        let version = text(&published, "Version");
        let mut state = text(&published, "State");
        if !self.no_wait {
            state = self.wait(client, &version, &mut progress).await?;
            if !self.alias.is_empty() {
                self.lead(client, &version).await?;
                progress.done(&format!("{} leads to version {version}", self.alias));
            }
        }
        let alias = Some(&self.alias).filter(|alias| !self.no_wait && !alias.is_empty());
        match self.common.json {
            true => show::say(
                &json!({
                    "FunctionName": self.name, "Version": version, "State": state, "Alias": alias, "Manifest": sent.manifest,
                    "Files": local.manifest.files().len(), "Bytes": local.manifest.unpacked_bytes(),
                    "SentFiles": sent.files, "SentBytes": sent.bytes,
                })
                .to_string(),
            ),
            false => show::say(&format!("{}:{version} {state}", self.name)),
        };
        Ok(())
    }

    fn read(&self, progress: &mut Progress) -> Result<Local, ClientError> {
        let mut read = 0;
        let local = package::read(&self.folder, |bytes| {
            read += bytes;
            progress.now(&format!("reading {}: {}", self.folder.display(), size(read)));
        })?;
        let (files, bytes) = (local.manifest.files().len(), local.manifest.unpacked_bytes());
        let hidden = match local.hidden {
            0 => String::new(),
            count => format!(" ({count} hidden left out)"),
        };
        progress.done(&format!("{}: {files} files, {}{hidden}", self.folder.display(), size(bytes)));
        Ok(local)
    }

    /// Publishes this code with what the command line says, whoever else deploys meanwhile; whether the function was there before.
    async fn publish(&self, client: &Client, local: &Local, manifest: &str) -> Result<(Value, bool), ClientError> {
        again(ClientError::is_overtaken, OVERTAKEN, || self.publish_once(client, local, manifest)).await
    }

    /// Each step says which revision it follows: what is published is this code and no other's.
    async fn publish_once(&self, client: &Client, local: &Local, manifest: &str) -> Result<(Value, bool), ClientError> {
        let functions = "/2015-03-31/functions";
        let own = format!("{functions}/{}", part(&self.name));
        let there = match client.json(Method::GET, &own, None).await {
            Ok(there) => Some(there),
            Err(error) if error.is_not_found() => None,
            Err(error) => return Err(error),
        };
        let mut settings = self.settings(there.as_ref())?;
        // Lambda counts it to the code.
        let architectures = self.architecture.as_ref().map(|name| ("Architectures".to_owned(), json!([name])));
        let now = if let Some(there) = &there {
            let mut revision = there.pointer("/Configuration/RevisionId").cloned().unwrap_or_default();
            // Settings first: refused ones leave the code as it is.
            if !settings.is_empty() {
                settings.insert("RevisionId".into(), revision);
                let settings = Value::Object(settings);
                let changed = client.json(Method::PUT, &format!("{own}/configuration"), Some(&settings)).await?;
                revision = changed.get("RevisionId").cloned().unwrap_or_default();
            }
            let code = [("Manifest".to_owned(), json!(manifest)), ("RevisionId".to_owned(), revision)];
            let code: Map<String, Value> = code.into_iter().chain(architectures).collect();
            client.json(Method::PUT, &format!("{own}/code"), Some(&Value::Object(code))).await?
        } else {
            let onnx = local.manifest.files().iter().any(|file| file.path.ends_with(".onnx"));
            let guessed = || json!(if onnx { "onnx" } else { "candle" });
            settings.entry("Runtime").or_insert_with(guessed);
            settings.entry("Role").or_insert_with(|| json!(ROLE));
            settings.extend(architectures);
            settings.insert("FunctionName".into(), json!(self.name));
            settings.insert("Code".into(), json!({ "Manifest": manifest }));
            client.json(Method::POST, functions, Some(&Value::Object(settings))).await?
        };
        let mut publish = Map::new();
        for name in ["CodeSha256", "RevisionId"] {
            publish.extend(now.get(name).map(|value| (name.to_owned(), value.clone())));
        }
        publish.extend(self.description.iter().map(|text| ("Description".to_owned(), json!(text))));
        let published = client.json(Method::POST, &format!("{own}/versions"), Some(&Value::Object(publish))).await?;
        Ok((published, there.is_some()))
    }

    /// What the command line says of the function; of what is said in part the rest stays as it is `there`.
    fn settings(&self, there: Option<&Value>) -> Result<Map<String, Value>, ClientError> {
        let mut said = Map::new();
        let mut say = |name: &str, value: Option<Value>| {
            said.extend(value.map(|value| (name.to_owned(), value)));
        };
        say("Runtime", self.runtime.as_ref().map(|runtime| json!(runtime)));
        say("Role", self.role.as_ref().map(|role| json!(role)));
        say("Description", self.description.as_ref().map(|text| json!(text)));
        say("MemorySize", self.memory_size.map(|mib| json!(mib)));
        say("Timeout", self.timeout.map(|seconds| json!(seconds)));
        say("AcceleratorConfig", self.accelerator_memory.map(|gib| json!({ "AcceleratorMemorySize": gib })));
        if self.capacity_provider.is_some() || self.concurrency.is_some() {
            let own = "/Configuration/CapacityProviderConfig/LambdaManagedInstancesCapacityProviderConfig";
            let there = there.and_then(|there| there.pointer(own)).and_then(Value::as_object).cloned();
            let mut provider = there.unwrap_or_default();
            let name = self.capacity_provider.as_ref().map(|name| json!(name));
            match name {
                Some(name) => drop(provider.insert("CapacityProviderArn".into(), name)),
                None => drop(provider.entry("CapacityProviderArn").or_insert_with(|| json!(PROVIDER))),
            }
            if let Some(most) = self.concurrency {
                provider.insert("PerExecutionEnvironmentMaxConcurrency".into(), json!(most));
            }
            let whole = json!({ "LambdaManagedInstancesCapacityProviderConfig": provider });
            say("CapacityProviderConfig", Some(whole));
        }
        let mut variables = Map::new();
        for variable in &self.env {
            let Some((name, value)) = variable.split_once('=') else {
                return Err(ClientError::Usage(format!("--env: expected NAME=VALUE, found {variable:?}")));
            };
            variables.insert(name.to_owned(), json!(value));
        }
        say("Environment", Some(variables).filter(|v| !v.is_empty()).map(|v| json!({ "Variables": v })));
        Ok(said)
    }

    /// Waits until the version serves; its state.
    async fn wait(&self, client: &Client, version: &str, progress: &mut Progress) -> Result<String, ClientError> {
        let path = format!("/2015-03-31/functions/{}/configuration", part(&self.name));
        let path = with_query(&path, &[("Qualifier", Some(version))]);
        let began = Instant::now();
        loop {
            let found = client.json(Method::GET, &path, None).await?;
            let (state, seconds) = (text(&found, "State"), began.elapsed().as_secs_f64());
            match state.as_str() {
                "Pending" | "" => progress.now(&format!("version {version} comes up: {seconds:.0} s")),
                "Failed" => {
                    let (code, message) = (text(&found, "StateReasonCode"), text(&found, "StateReason"));
                    return Err(ClientError::Refused {
                        code,
                        message: format!("version {version}: {message}"),
                        status: 200,
                    });
                }
                _ => {
                    progress.done(&format!("version {version} is {state} after {seconds:.1} s"));
                    return Ok(state);
                }
            }
            if began.elapsed() >= Duration::from_secs(self.wait_timeout) {
                let text = format!("version {version} is still {state} after {} s (--wait-timeout)", self.wait_timeout);
                return Err(ClientError::Local(text));
            }
            sleep(LOOK).await;
        }
    }

    /// The alias leads to the version, whole.
    async fn lead(&self, client: &Client, version: &str) -> Result<(), ClientError> {
        let whole = json!({ "FunctionVersion": version, "RoutingConfig": { "AdditionalVersionWeights": {} } });
        let lead = || functions::set(client, &self.name, &self.alias, whole.clone());
        again(ClientError::is_overtaken, OVERTAKEN, lead).await.map(drop)
    }
}

/// Sends what the server does not have.
async fn send(client: &Client, local: &Local, progress: &mut Progress) -> Result<Sent, ClientError> {
    let announced: Value = serde_json::from_slice(&local.manifest.json()).unwrap_or_default();
    let answer =
        again(ClientError::is_throttled, FULL, || client.json(Method::POST, "/2026-11-26/packages", Some(&announced)))
            .await?;
    let manifest = text(&answer, "Manifest");
    let missing: Vec<ContentSha256> = serde_json::from_value(answer.get("Missing").cloned().unwrap_or_default())
        .map_err(|error| ClientError::Local(format!("the server's answer has no list of what is missing: {error}")))?;
    let lengths = local.manifest.contents();
    let total: u64 = missing.iter().filter_map(|sha256| lengths.get(sha256)).sum();
    let sent = Arc::new(AtomicU64::new(0));
    for sha256 in &missing {
        let (Some(file), Some(bytes)) = (local.contents.get(sha256), lengths.get(sha256)) else {
            return Err(ClientError::Local(format!("the server asks for {sha256}, which is not in the folder")));
        };
        let path = format!("/2026-11-26/packages/{manifest}/contents/{sha256}");
        let (digest, before) = (sha256.digest(), sent.load(Ordering::Relaxed));
        let sending = again(ClientError::is_throttled, FULL, || {
            sent.store(before, Ordering::Relaxed);
            let sent = sent.clone();
            client.send_file(&path, file, &digest, *bytes, move |part| {
                sent.fetch_add(part, Ordering::Relaxed);
            })
        });
        let so_far =
            || format!("sending {} of {}: {}", size(sent.load(Ordering::Relaxed)), size(total), file.display());
        shown(progress, sending, so_far).await?;
    }
    let kept = lengths.len() - missing.len();
    progress.done(&format!("{} files sent, {}; {kept} were there", missing.len(), size(total)));
    Ok(Sent { manifest, files: missing.len(), bytes: total })
}

/// Shows how things stand until it is done.
async fn shown<T>(progress: &mut Progress, work: impl Future<Output = T>, text: impl Fn() -> String) -> T {
    tokio::pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            () = sleep(LOOK) => progress.now(&text()),
        }
    }
}

/// Repeats a call, with pauses, for as long as it fails in a way that may pass.
async fn again<T, F: Future<Output = Result<T, ClientError>>>(
    may_pass: fn(&ClientError) -> bool,
    (times, pause): (u32, Duration),
    call: impl Fn() -> F,
) -> Result<T, ClientError> {
    for _ in 0..times {
        match call().await {
            Err(error) if may_pass(&error) => sleep(pause).await,
            done => return done,
        }
    }
    call().await
}
