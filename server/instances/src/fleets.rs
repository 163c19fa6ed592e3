//! The fleets of a server: that of this machine, if it has instances, and one for each capacity provider that buys them.
//!
//! Told by the control plane which providers there are, asked by whoever starts an environment. A provider that cannot be reached
//! is tried again, for as long as it is wanted.

use crate::fleet::Fleet;
use crate::launch::OnInstances;
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use penstock_environment::{Launch, LaunchError, Specification, Started};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;

/// Before a provider is tried again: first and longest; it doubles.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));
/// How long a provider that is given up waits for the ends of the environments that it has.
const UNUSED_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two looks at whether it has any.
const UNUSED_LOOK: Duration = Duration::from_millis(200);
/// How long an environment waits for a fleet that is being made.
const OPEN_TIMEOUT: Duration = Duration::from_secs(120);
/// Members of a provider's settings that change nothing of its fleet, or what a fleet can change while it runs.
const SCALED: [&str; 3] = ["CapacityProviderScalingConfig", "PropagateTags", "TelemetryConfig"];

/// Makes the fleet of a capacity provider.
#[async_trait]
pub trait OpenFleet: Send + Sync {
    /// Judges what a provider is to be created with; calls nobody. Errors: the member that is wrong, and what would be right.
    fn check(&self, name: &str, settings: &Map<String, Value>) -> Result<(), String>;

    /// Most cores of all instances together that a fleet with these settings may have.
    fn vcpu_max(&self, settings: &Map<String, Value>) -> u32;

    /// Tags of the instances of a fleet with these settings.
    fn tags(&self, settings: &Map<String, Value>) -> BTreeMap<String, String>;

    /// `settings` are what the provider was created with, by Lambda's names. Errors: of the kind [`io::ErrorKind::InvalidInput`]
    /// if they are wrong, else what may pass.
    async fn open(&self, name: &str, settings: &Map<String, Value>) -> io::Result<Arc<Fleet>>;
}

/// Where the fleet of a provider stands.
#[derive(Clone)]
pub enum Standing {
    /// It is being made, for the first time.
    Opening,
    /// It takes environments.
    Open(Arc<Fleet>),
    /// It could not be made.
    Failed {
        /// Why.
        why: String,
        /// It is not tried again: what the provider was created with, or a setting, is wrong.
        is_final: bool,
    },
}

/// All fleets of a server.
pub struct Fleets {
    local: Option<Arc<Fleet>>,
    opener: Option<Arc<dyn OpenFleet>>,
    others: RwLock<BTreeMap<String, Held>>,
    /// Told whenever one stands otherwise, or may have more or fewer cores.
    changed: watch::Sender<()>,
    /// Fleets that were given up.
    closing: Mutex<JoinSet<()>>,
}

/// Why instances of a provider may be left.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct EndError {
    /// In words.
    pub why: String,
    /// Another try may do; else what the provider was created with is refused by who would have to look.
    pub may_pass: bool,
}

struct Held {
    standing: Standing,
    settings: Map<String, Value>,
    wanted: CancellationToken,
}

impl Held {
    /// Not wanted any more: the fleet, if there is one.
    fn give_up(self) -> Option<Arc<Fleet>> {
        self.wanted.cancel();
        match self.standing {
            Standing::Open(fleet) => Some(fleet),
            Standing::Opening | Standing::Failed { .. } => None,
        }
    }
}

impl Fleets {
    /// With the instances of this machine, if it has any, and what makes those of providers; without it, providers are records
    /// alone, and their environments run as those of this machine do.
    pub fn new(local: Option<Arc<Fleet>>, opener: Option<Arc<dyn OpenFleet>>) -> Arc<Self> {
        Arc::new(Self {
            local,
            opener,
            others: RwLock::default(),
            changed: watch::Sender::new(()),
            closing: Mutex::default(),
        })
    }

    /// The instances of this machine.
    pub fn local(&self) -> Option<&Arc<Fleet>> {
        self.local.as_ref()
    }

    /// Most cores of this machine's instances together, from now on.
    pub fn set_local_vcpu_max(&self, most: u32) {
        if let Some(fleet) = &self.local {
            fleet.set_vcpu_max(most);
            self.changed.send_replace(());
        }
    }

    /// Told whenever one stands otherwise, or may have more or fewer cores.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Judges what a provider is to be created with. Errors: the member that is wrong, and what would be right.
    pub fn check(&self, provider: &str, settings: &Map<String, Value>) -> Result<(), String> {
        self.opener.as_ref().map_or(Ok(()), |opener| opener.check(provider, settings))
    }

    /// Providers buy instances here; else they are records alone.
    pub fn buys(&self) -> bool {
        self.opener.is_some()
    }

    /// All that there are.
    pub fn all(&self) -> Vec<Arc<Fleet>> {
        let others = self.others.read();
        let open = others.values().filter_map(|held| match &held.standing {
            Standing::Open(fleet) => Some(fleet.clone()),
            Standing::Opening | Standing::Failed { .. } => None,
        });
        self.local.iter().cloned().chain(open).collect()
    }

    /// Share of the time that a GPU of any instance runs kernels; `None` if it is none of them, or does not tell.
    pub fn device_busy(&self, uuid: &str) -> Option<f64> {
        self.all().iter().find_map(|fleet| fleet.device_busy(uuid))
    }

    /// Where that of a provider stands; `None` where providers are records alone, or it was not asked for.
    pub fn standing(&self, provider: &str) -> Option<Standing> {
        self.others.read().get(provider).map(|held| held.standing.clone())
    }

    /// Providers whose fleet could not be made, and why.
    pub fn failed(&self) -> Vec<(String, String)> {
        let others = self.others.read();
        let failed = others.iter().filter_map(|(provider, held)| match &held.standing {
            Standing::Failed { why, .. } => Some((provider.clone(), why.clone())),
            Standing::Opening | Standing::Open(_) => None,
        });
        failed.collect()
    }

    /// The fleet of a provider is wanted, with these settings. It is made in a task of its own. One that there is stays, if only
    /// its scaling or its tags are others now; else it is given up for a new one.
    pub fn want(self: &Arc<Self>, provider: &str, settings: &Map<String, Value>) {
        let Some(opener) = self.opener.clone() else { return };
        let wanted = CancellationToken::new();
        let before = {
            let mut others = self.others.write();
            if let Some(held) = others.get_mut(provider) {
                let is_alike = alike(&held.settings, settings);
                match &held.standing {
                    Standing::Open(fleet) if is_alike => {
                        fleet.set_vcpu_max(opener.vcpu_max(settings));
                        fleet.set_tags(opener.tags(settings));
                        held.settings = settings.clone();
                        self.changed.send_replace(());
                        return;
                    }
                    // What is under way, or tried again, is what is wanted.
                    Standing::Opening | Standing::Failed { is_final: false, .. } if held.settings == *settings => {
                        return;
                    }
                    Standing::Open(_) | Standing::Opening | Standing::Failed { .. } => {}
                }
            }
            let held = Held { standing: Standing::Opening, settings: settings.clone(), wanted: wanted.clone() };
            others.insert(provider.to_owned(), held)
        };
        let (fleets, provider, settings) = (self.clone(), provider.to_owned(), settings.clone());
        tokio::spawn(async move {
            // Two of one name would end each other's instances.
            if let Some(fleet) = before.and_then(Held::give_up) {
                close(&fleet).await;
            }
            fleets.open(opener, provider, settings, wanted).await;
        });
    }

    async fn open(
        &self,
        opener: Arc<dyn OpenFleet>,
        provider: String,
        settings: Map<String, Value>,
        wanted: CancellationToken,
    ) {
        let mut pause = PAUSE.0;
        loop {
            let opened = tokio::select! {
                biased;
                () = wanted.cancelled() => return,
                opened = opener.open(&provider, &settings) => opened,
            };
            let (standing, is_final) = match opened {
                Ok(fleet) => (Standing::Open(fleet), true),
                Err(error) => {
                    tracing::error!(provider, %error, "a capacity provider cannot be used");
                    let is_final = error.kind() == io::ErrorKind::InvalidInput;
                    (Standing::Failed { why: error.to_string(), is_final }, is_final)
                }
            };
            if let Some(Standing::Open(unwanted)) = self.stands(&provider, &wanted, standing) {
                return close(&unwanted).await;
            }
            if is_final {
                return;
            }
            tokio::select! {
                biased;
                () = wanted.cancelled() => return,
                () = sleep(pause) => pause = (pause * 2).min(PAUSE.1),
            }
        }
    }

    /// Takes note of where one stands; gives it back if it is not wanted any more.
    fn stands(&self, provider: &str, wanted: &CancellationToken, standing: Standing) -> Option<Standing> {
        let mut others = self.others.write();
        let unwanted = match others.get_mut(provider).filter(|_| !wanted.is_cancelled()) {
            Some(held) => {
                held.standing = standing;
                None
            }
            None => Some(standing),
        };
        drop(others);
        self.changed.send_replace(());
        unwanted
    }

    /// What the fleet of a provider was wanted with, if it is.
    pub fn settings(&self, provider: &str) -> Option<Map<String, Value>> {
        self.others.read().get(provider).map(|held| held.settings.clone())
    }

    /// The fleet of a provider is not wanted any more: ends its instances, and those too that an earlier server has left. Goes on
    /// in a task of its own, whoever waits. Errors: some may be left; to be called again.
    pub async fn end(&self, provider: &str, settings: &Map<String, Value>) -> Result<(), EndError> {
        let Some(opener) = self.opener.clone() else { return Ok(()) };
        let held = self.others.write().remove(provider);
        self.changed.send_replace(());
        let (provider, settings) = (provider.to_owned(), settings.clone());
        let (tell, told) = oneshot::channel();
        {
            let mut closing = self.closing.lock();
            while closing.try_join_next().is_some() {}
            closing.spawn(async move {
                let ended = end(opener, held, &provider, &settings).await;
                // Whoever waited may have left.
                let _ = tell.send(ended);
            });
        }
        told.await.unwrap_or_else(|_| Err(EndError { why: "the server ends".into(), may_pass: true }))
    }

    /// Ends all instances: call when nothing runs on them any more.
    pub async fn close(&self) {
        let others = std::mem::take(&mut *self.others.write());
        self.changed.send_replace(());
        let others = others.into_values().filter_map(Held::give_up);
        let fleets: Vec<Arc<Fleet>> = self.local.iter().cloned().chain(others).collect();
        let mut closing = std::mem::take(&mut *self.closing.lock());
        for fleet in fleets {
            closing.spawn(async move { close(&fleet).await });
        }
        while closing.join_next().await.is_some() {}
    }

    /// The fleet of a provider, as soon as it is open. Errors: it cannot be, or not within [`OPEN_TIMEOUT`].
    async fn opened(&self, provider: &str) -> Result<Arc<Fleet>, LaunchError> {
        let (mut changed, until) = (self.changed.subscribe(), Instant::now() + OPEN_TIMEOUT);
        loop {
            let why = match self.standing(provider) {
                None => return Err(LaunchError::NeverRoom(format!("there is no capacity provider {provider}"))),
                Some(Standing::Open(fleet)) => return Ok(fleet),
                Some(Standing::Opening) => format!("capacity provider {provider} is not ready yet"),
                Some(Standing::Failed { why, is_final }) => {
                    let why = format!("capacity provider {provider} cannot be used: {why}");
                    if is_final {
                        return Err(LaunchError::NeverRoom(why));
                    }
                    why
                }
            };
            // The sender lives as long as this.
            if timeout_at(until, changed.changed()).await.is_err() {
                return Err(LaunchError::NoRoom(why));
            }
        }
    }
}

async fn close(fleet: &Fleet) {
    if let Err(error) = fleet.close().await {
        tracing::error!(%error, "end them, or start the server again");
    }
}

/// Ends what a provider has, if need be by opening it for that alone.
async fn end(
    opener: Arc<dyn OpenFleet>,
    held: Option<Held>,
    provider: &str,
    settings: &Map<String, Value>,
) -> Result<(), EndError> {
    let fleet = match held.and_then(Held::give_up) {
        Some(fleet) => {
            // What was taken from it just now may have requests still.
            let until = Instant::now() + UNUSED_TIMEOUT;
            while fleet.is_used() && Instant::now() < until {
                sleep(UNUSED_LOOK).await;
            }
            fleet
        }
        // What cannot even be asked for was never launched.
        None if opener.check(provider, settings).is_err() => return Ok(()),
        None => opener.open(provider, settings).await.map_err(|error| EndError {
            may_pass: !matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied),
            why: error.to_string(),
        })?,
    };
    fleet.close().await.map_err(|error| EndError { why: error.to_string(), may_pass: true })
}

/// Whether two settings make the same fleet but for its scaling.
fn alike(one: &Map<String, Value>, other: &Map<String, Value>) -> bool {
    let fixed = |settings: &Map<String, Value>| {
        let mut settings = settings.clone();
        SCALED.iter().for_each(|member| drop(settings.remove(*member)));
        settings
    };
    fixed(one) == fixed(other)
}

/// Starts environments on the fleet of their capacity provider, and those that have none where this machine has them run.
pub struct ByProvider {
    /// All fleets.
    pub fleets: Arc<Fleets>,
    /// What starts environments of this machine.
    pub here: Arc<dyn Launch>,
}

#[async_trait]
impl Launch for ByProvider {
    async fn start(&self, specification: &Specification) -> Result<Started, LaunchError> {
        match specification.provider.as_deref().filter(|_| self.fleets.opener.is_some()) {
            None => self.here.start(specification).await,
            Some(provider) => {
                let fleet = self.fleets.opened(provider).await?;
                OnInstances(fleet).start(specification).await
            }
        }
    }
}
