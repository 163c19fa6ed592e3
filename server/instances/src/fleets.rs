//! The fleets of a server: that of this machine, if it has instances, and one for each capacity provider that buys them.
//!
//! Told by the control plane which providers there are, asked by whoever starts an environment. A provider that cannot be reached
//! is tried again, for as long as it is wanted.

use crate::fleet::Fleet;
use crate::launch::OnInstances;
use async_trait::async_trait;
use parking_lot::RwLock;
use penstock_environment::{Launch, LaunchError, Specification, Started};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Before a provider is tried again: first and longest; it doubles.
const PAUSE: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(60));

/// Makes the fleet of a capacity provider.
#[async_trait]
pub trait OpenFleet: Send + Sync {
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
    /// It could not be made, and why; what may pass is tried again.
    Failed(String),
}

/// All fleets of a server.
pub struct Fleets {
    local: Option<Arc<Fleet>>,
    opener: Option<Arc<dyn OpenFleet>>,
    others: RwLock<BTreeMap<String, Held>>,
}

struct Held {
    standing: Standing,
    wanted: CancellationToken,
}

impl Fleets {
    /// With the instances of this machine, if it has any, and what makes those of providers; without it, providers are records
    /// alone, and their environments run as those of this machine do.
    pub fn new(local: Option<Arc<Fleet>>, opener: Option<Arc<dyn OpenFleet>>) -> Arc<Self> {
        Arc::new(Self { local, opener, others: RwLock::default() })
    }

    /// The instances of this machine.
    pub fn local(&self) -> Option<&Arc<Fleet>> {
        self.local.as_ref()
    }

    /// All that there are.
    pub fn all(&self) -> Vec<Arc<Fleet>> {
        let others = self.others.read();
        let open = others.values().filter_map(|held| match &held.standing {
            Standing::Open(fleet) => Some(fleet.clone()),
            Standing::Opening | Standing::Failed(_) => None,
        });
        self.local.iter().cloned().chain(open).collect()
    }

    /// Where that of a provider stands; `None` where providers are records alone, or it was not asked for.
    pub fn standing(&self, provider: &str) -> Option<Standing> {
        self.others.read().get(provider).map(|held| held.standing.clone())
    }

    /// The fleet of a provider is wanted. It is made in a task of its own.
    pub fn want(self: &Arc<Self>, provider: &str, settings: &Map<String, Value>) {
        let Some(opener) = self.opener.clone() else { return };
        let wanted = CancellationToken::new();
        let held = Held { standing: Standing::Opening, wanted: wanted.clone() };
        if let Some(before) = self.others.write().insert(provider.to_owned(), held) {
            before.wanted.cancel();
        }
        let (fleets, provider, settings) = (self.clone(), provider.to_owned(), settings.clone());
        tokio::spawn(async move {
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
                        (Standing::Failed(error.to_string()), error.kind() == io::ErrorKind::InvalidInput)
                    }
                };
                if let Some(Standing::Open(unwanted)) = fleets.stands(&provider, &wanted, standing) {
                    return unwanted.close().await;
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
        });
    }

    /// Takes note of where one stands; gives it back if it is not wanted any more.
    fn stands(&self, provider: &str, wanted: &CancellationToken, standing: Standing) -> Option<Standing> {
        let mut others = self.others.write();
        match others.get_mut(provider).filter(|_| !wanted.is_cancelled()) {
            Some(held) => {
                held.standing = standing;
                None
            }
            None => Some(standing),
        }
    }

    /// The fleet of a provider is not wanted any more: its instances are ended, in a task of its own.
    pub fn give_up(&self, provider: &str) {
        let held = self.others.write().remove(provider);
        let Some(Held { standing, wanted }) = held else { return };
        wanted.cancel();
        if let Standing::Open(fleet) = standing {
            tokio::spawn(async move { fleet.close().await });
        }
    }

    /// Ends all instances: call when nothing runs on them any more.
    pub async fn close(&self) {
        let fleets = self.all();
        let mut closing: JoinSet<()> = fleets.into_iter().map(|fleet| async move { fleet.close().await }).collect();
        std::mem::take(&mut *self.others.write()).values().for_each(|held| held.wanted.cancel());
        while closing.join_next().await.is_some() {}
    }
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
        let standing = specification.provider.as_ref().and_then(|name| Some((name, self.fleets.standing(name)?)));
        match standing {
            None => self.here.start(specification).await,
            Some((_, Standing::Open(fleet))) => OnInstances(fleet).start(specification).await,
            Some((name, Standing::Opening)) => {
                Err(LaunchError::NoRoom(format!("capacity provider {name} is not ready yet")))
            }
            Some((name, Standing::Failed(why))) => {
                Err(LaunchError::NoRoom(format!("capacity provider {name} cannot be used: {why}")))
            }
        }
    }
}
