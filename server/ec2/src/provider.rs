//! The provider: buys what is ordered, looks at what there is, and ends what is not wanted.
//!
//! Opened by the composition root, called by the fleet. One task looks at the instances by tag, now and then; nothing is launched
//! before the first look, so that what an earlier server has left is not paid for beside it.

use crate::FLEET_TAG;
use crate::api::Api;
use crate::api::error::{ApiError, Fault};
use crate::fleet_request::Override;
use crate::images::KnownImages;
use crate::ledger::{Ledger, State};
use crate::machines;
use crate::market::SpotRefused;
use crate::network::Network;
use crate::options::Ec2Options;
use crate::spot_prices::SpotPrices;
use crate::tags;
use crate::template::Templates;
use crate::types::{FRESH_S, Offered, TypeFacts, Types};
use async_trait::async_trait;
use parking_lot::{Mutex, RwLock};
use penstock_instances::{Missing, Offer, Order, Outcome, Provider};
use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

mod orders;

/// Names of instances that have ended and were not asked for yet.
const ENDED_MAX: usize = 4096;
/// Looks between two times at which templates and facts of types are gone through.
const UPKEEP_EVERY: u64 = 40;
/// How long agents that were told to stop have for it, when the server ends.
const MOMENT: Duration = Duration::from_secs(2);
/// When the server ends: how long what was launched may not be seen before it counts as ended.
const CLOSE_UNSEEN: Duration = Duration::from_secs(10);
/// Between two looks when the server ends.
const CLOSE_LOOK: Duration = Duration::from_secs(1);
/// Overrides of a request, of EC2's limit of 300.
const OVERRIDES_MAX: usize = 200;

/// Instances of EC2.
pub struct Ec2Provider {
    inner: Arc<Inner>,
    ended: tokio::sync::Mutex<mpsc::Receiver<String>>,
    watch: JoinHandle<()>,
}

struct Inner {
    options: Ec2Options,
    api: Api,
    /// The provider's own, of what is launched from now on.
    tags: RwLock<BTreeMap<String, String>>,
    types: RwLock<Arc<Types>>,
    network: Network,
    images: KnownImages,
    templates: Templates,
    prices: SpotPrices,
    refused: Mutex<SpotRefused>,
    ledger: Mutex<Ledger>,
    /// How many looks there were, and why the last one failed.
    looks: watch::Sender<(u64, String)>,
    wake: Notify,
    tell: mpsc::Sender<String>,
    is_closing: AtomicBool,
}

impl Ec2Provider {
    /// Opens a provider: asks EC2 for the subnets' zones and, where they are not kept of today, the facts of types; begins to look
    /// at the instances. Errors: an option is wrong, the role may not be assumed, a subnet is not there; what to do is said.
    pub async fn open(options: Ec2Options) -> io::Result<Self> {
        options.check().map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let api = Api::new(&options)?;
        let network = Network::open(&api, &options.subnets).await?;
        let types = Types::open(&api, &options).await?;
        tracing::info!(fleet = options.fleet, region = options.region, types = types.count(), zones = ?network.zones(), "EC2 is asked");
        let (tell, ended) = mpsc::channel(ENDED_MAX);
        let inner = Arc::new(Inner {
            api,
            tags: RwLock::new(options.tags.clone()),
            types: RwLock::new(Arc::new(types)),
            network,
            images: KnownImages::default(),
            templates: Templates::default(),
            prices: SpotPrices::default(),
            refused: Mutex::default(),
            ledger: Mutex::default(),
            looks: watch::Sender::new((0, String::new())),
            wake: Notify::new(),
            tell,
            is_closing: AtomicBool::new(false),
            options,
        });
        let watch = tokio::spawn(inner.clone().watch());
        Ok(Self { inner, ended: tokio::sync::Mutex::new(ended), watch })
    }

    /// Zones in which there is a subnet.
    pub fn zones(&self) -> Vec<String> {
        self.inner.network.zones()
    }

    /// Facts of types.
    pub fn types(&self) -> Arc<Types> {
        self.inner.types()
    }

    /// What can be bought: types that may be, in zones of ours, for whose architecture there is an agent. `prices` are US dollars an
    /// hour; what becomes of types that have none is said by [`Offered`].
    pub fn offered(&self, prices: &BTreeMap<String, f64>, may_buy: impl Fn(&str) -> bool) -> Offered {
        let agents = &self.inner.options.agents;
        let may = |name: &str, facts: &TypeFacts| agents.contains_key(&facts.shape.architecture) && may_buy(name);
        self.types().offered(&self.zones(), prices, may)
    }

    /// The options that it was opened with.
    pub fn options(&self) -> &Ec2Options {
        &self.inner.options
    }

    /// [`Provider::launch`] with what agents are told as text.
    pub async fn launch_told(&self, token: &str, ids: &[String], offers: &[Offer], told: &str) -> io::Result<Outcome> {
        self.inner.order(token, ids, offers, told).await
    }
}

impl Drop for Ec2Provider {
    fn drop(&mut self) {
        self.watch.abort();
    }
}

#[async_trait]
impl Provider for Ec2Provider {
    async fn launch(&self, order: &Order) -> io::Result<Outcome> {
        let told = serde_json::to_string(&order.told).map_err(io::Error::other)?;
        self.launch_told(&order.token, &order.ids, &order.offers, &told).await
    }

    async fn terminate(&self, name: &str) {
        let inner = &self.inner;
        let mut looks = inner.looks.subscribe();
        // The fleet counts its cores until this completes.
        inner.ledger.lock().leave(name, 0, Instant::now().into_std());
        if let Err(error) = inner.end(&[name.to_owned()]).await {
            // Each look asks again.
            tracing::warn!(instance = name, %error, "an instance is not ended yet");
        }
        while inner.ledger.lock().lingers(name) && !inner.is_closing.load(Ordering::SeqCst) {
            // The sender lives as long as this.
            let _ = looks.changed().await;
        }
    }

    fn set_tags(&self, tags: BTreeMap<String, String>) {
        *self.inner.tags.write() = tags;
    }

    fn unknown_vcpu(&self) -> u32 {
        self.inner.ledger.lock().unknown_vcpu()
    }

    async fn ended(&self) -> String {
        match self.ended.lock().await.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }

    async fn close(&self) -> io::Result<()> {
        self.inner.is_closing.store(true, Ordering::SeqCst);
        self.watch.abort();
        self.inner.looks.send_modify(|_| {});
        sleep(MOMENT.min(self.inner.options.timing.close / 4)).await;
        match timeout(self.inner.options.timing.close, self.inner.end_all()).await {
            Ok(()) => {
                tracing::info!(fleet = self.inner.options.fleet, "all instances are ended");
                Ok(())
            }
            Err(_) => {
                let text =
                    format!("instances may be left: those with the tag {FLEET_TAG} {}", self.inner.options.fleet);
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }
}

impl Inner {
    /// Looks, for as long as the provider lives.
    async fn watch(self: Arc<Self>) {
        let every = self.options.timing.look_every;
        if let Err(error) = self.templates.adopt(&self.api, &self.options).await {
            tracing::warn!(%error, "launch templates of before cannot be taken over");
        }
        for number in 0u64.. {
            if let Err(error) = self.look().await {
                tracing::warn!(%error, "the instances cannot be looked at");
                self.looks.send_modify(|looks| looks.1 = error.to_string());
            }
            if number % UPKEEP_EVERY == UPKEEP_EVERY - 1 {
                self.upkeep().await;
            }
            // Whether there is anything to do is seen by looking.
            let _ = timeout(every, self.wake.notified()).await;
        }
    }

    async fn look(&self) -> io::Result<()> {
        let begun = Instant::now().into_std();
        let seen = machines::of_fleet(&self.api, &self.options.fleet, &self.types()).await?;
        let now = Instant::now().into_std();
        let looked = self.ledger.lock().look(&seen, self.options.timing.unseen, begun, now);
        for (name, _) in looked.terminate.iter().filter(|(_, is_known)| !is_known) {
            tracing::warn!(
                instance = name,
                "an instance that nobody here knows is ended: launched twice, or left behind"
            );
        }
        for name in looked.ended {
            tracing::warn!(instance = name, "an instance has ended by itself");
            // If nobody asks, it is found by its agent's silence.
            let _ = self.tell.try_send(name);
        }
        let names: Vec<String> = looked.terminate.into_iter().map(|(name, _)| name).collect();
        if !names.is_empty()
            && let Err(error) = self.end(&names).await
        {
            tracing::warn!(%error, "instances are not ended yet");
        }
        self.looks.send_modify(|looks| *looks = (looks.0 + 1, String::new()));
        Ok(())
    }

    fn types(&self) -> Arc<Types> {
        self.types.read().clone()
    }

    /// Of what is launched now.
    fn tags(&self) -> Vec<(String, String)> {
        tags::of_fleet(&self.options.fleet, &self.tags.read())
    }

    /// Has instances ended. They do when this has succeeded, but for those that EC2 does not know: looks show what became of
    /// them. Errors: some may not.
    async fn end(&self, names: &[String]) -> Result<(), ApiError> {
        let unknown = machines::terminate(&self.api, names).await?;
        self.ledger.lock().end(names.iter().filter(|name| !unknown.contains(name)));
        Ok(())
    }

    async fn upkeep(&self) {
        self.templates.sweep(&self.api).await;
        let is_old = self.types.read().age_s(self.api.now_unix_s()) >= FRESH_S;
        if is_old {
            match Types::open(&self.api, &self.options).await {
                Ok(types) => *self.types.write() = Arc::new(types),
                Err(error) => tracing::warn!(%error, "facts of instance types are those of before"),
            }
        }
    }

    /// Waits for the first look. Errors: there was none in time, and why.
    async fn looked(&self) -> io::Result<()> {
        let mut looks = self.looks.subscribe();
        match timeout(self.options.timing.call, looks.wait_for(|looks| looks.0 > 0)).await {
            Ok(_) => Ok(()),
            Err(_) => {
                let why = self.looks.borrow().1.clone();
                let text = format!("nothing is launched before the instances that there are were looked at: {why}");
                Err(io::Error::new(io::ErrorKind::TimedOut, text))
            }
        }
    }

    /// What of the offers can be asked for, and why the others cannot.
    async fn overrides(
        &self,
        offers: &[Offer],
        tags: &[(String, String)],
    ) -> io::Result<(Vec<Override>, Vec<Missing>)> {
        let types = self.types();
        let subnets = self.network.roomiest(&self.api).await;
        let (mut overrides, mut missing, mut no_image) = (Vec::new(), Vec::new(), None);
        for offer in offers.iter().take(OVERRIDES_MAX) {
            let mut miss = |reason: &str| missing.push(Missing { offer: offer.clone(), reason: reason.to_owned() });
            let Some(facts) = types.get(&offer.instance_type) else {
                miss("EC2 has no such type in this region");
                continue;
            };
            let Some(subnet) = subnets.get(&offer.zone) else {
                miss("none of the provider's subnets is in this zone");
                continue;
            };
            let architecture = facts.shape.architecture;
            if !self.options.agents.contains_key(&architecture) {
                miss("there is no agent for its architecture (ec2.agent_x86, ec2.agent_arm)");
                continue;
            }
            let image = self.options.images.of(architecture, facts.shape.devices > 0);
            let image = match self.images.find(&self.api, image).await {
                Ok(image) => image,
                Err(error) if error.fault == Fault::NotFound => {
                    miss(&error.to_string());
                    no_image = Some(error);
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let efa = self.options.efa && facts.efa;
            let template = self.templates.find(&self.api, &self.options, (&image, efa), tags).await?;
            overrides.push(Override { offer: offer.clone(), subnet: subnet.clone(), image: image.id, template });
        }
        match no_image.filter(|_| overrides.is_empty()) {
            Some(error) => Err(error.into()),
            None => Ok((overrides, missing)),
        }
    }

    /// Ends all instances of the fleet, and waits until they are seen to end.
    async fn end_all(&self) {
        let begun = Instant::now();
        let mut left = BTreeSet::new();
        loop {
            // Before it is looked: what is answered after that is in the next look.
            let is_quiet = !self.ledger.lock().is_ordering();
            {
                let mut ledger = self.ledger.lock();
                ledger.leave_all(Instant::now().into_std());
                left.extend(ledger.leaving());
            }
            match machines::of_fleet(&self.api, &self.options.fleet, &self.types()).await {
                Ok(seen) => {
                    let (gone, alive): (Vec<_>, Vec<_>) = seen.into_iter().partition(|one| one.state == State::Gone);
                    left.retain(|name| gone.iter().all(|one| one.name != *name));
                    if begun.elapsed() > CLOSE_UNSEEN {
                        left.clear();
                    }
                    // What was launched just now may not be seen yet.
                    let mut names: BTreeSet<String> = alive.into_iter().map(|one| one.name).collect();
                    names.extend(left.iter().cloned());
                    let names: Vec<String> = names.into_iter().collect();
                    if names.is_empty() && is_quiet {
                        return;
                    }
                    if !names.is_empty()
                        && let Err(error) = machines::terminate(&self.api, &names).await
                    {
                        tracing::warn!(%error, "instances are not ended yet");
                    }
                }
                Err(error) => tracing::warn!(%error, "the instances cannot be looked at"),
            }
            sleep(CLOSE_LOOK.min(self.options.timing.look_every)).await;
        }
    }
}
