//! The fleet of one provider: keeps the roster, asks the provider, listens to agents, and gives room to whoever starts
//! environments.
//!
//! Opened by the composition root; environments are started by dispatch's supervisors through [`penstock_environment::Launch`]
//! (see `launch`). Never inside a request. The roster's lock is never held across a wait.

use crate::contents::Catalog;
use crate::cost::{Costs, FunctionCost};
use crate::hub::Hub;
use crate::protocol::ToAgent;
use crate::provider::Provider;
use crate::roster::{Action, Deadlines, Entry, Gone, Place, Roster};
use crate::transport::{self, Address, Connection, Cut, Listener, Wires};
use crate::view::InstanceView;
use lease::Lease;
use parking_lot::Mutex;
use penstock_scaler::{InstanceType, Needs, Rules, Stage, Why};
use penstock_telemetry::instance_event;
use penstock_trust::{self as tls, Authority};
use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

pub(crate) mod agents;
mod folder;
mod lease;
mod orders;

/// How often the roster is looked at when nothing happens.
const TICK: Duration = Duration::from_millis(500);
/// Between two looks, from which this process is known to have stood still.
const STALL: Duration = Duration::from_secs(2);
/// The name under which a fleet listens at the end of wires.
pub const WIRED: &str = "fleet";

/// How a fleet is set up.
pub struct FleetOptions {
    /// The name of its capacity provider, for metrics.
    pub name: String,
    /// What may be bought.
    pub rules: Rules,
    /// What can be bought at all.
    pub types: Vec<InstanceType>,
    /// How long things may take.
    pub deadlines: Deadlines,
    /// A folder of its own, for its sockets: removed and made anew.
    pub folder: PathBuf,
    /// How agents come to it.
    pub listen: Listen,
    /// A folder on a disk of each instance's own, where it keeps what it is sent; `None` where all share the server's disk.
    pub disk: Option<PathBuf>,
    /// Makes what lets an instance join: nobody may guess it.
    pub token: fn() -> io::Result<String>,
}

/// Where a fleet listens.
pub enum Listen {
    /// In its folder: its instances are of this machine.
    Folder,
    /// Where all agents of other machines come.
    Tcp(Arc<Hub>),
    /// At the end of wires, under the name [`WIRED`]. It needs no folder.
    Wires(Arc<dyn Wires>),
}

/// Instances, and environments on them.
pub struct Fleet {
    options: FleetOptions,
    /// Where agents find it, and where they are to listen.
    addresses: (Address, Address),
    provider: Arc<dyn Provider>,
    roster: Mutex<Roster>,
    /// Those that wait for room.
    seekers: Mutex<HashMap<u64, oneshot::Sender<Result<Place, Why>>>>,
    environments: Mutex<HashMap<u64, Begun>>,
    costs: Mutex<Costs>,
    agents: Mutex<BTreeMap<String, mpsc::Sender<ToAgent>>>,
    /// What is sent to instances, where they have disks of their own.
    catalog: Option<Arc<Catalog>>,
    wake: Notify,
    stop: CancellationToken,
    /// One server has these instances.
    _lock: Option<File>,
}

/// An environment that was begun, as the fleet knows it.
pub(crate) struct Begun {
    pub(crate) instance: String,
    /// To end its link if its instance is lost: its process may live on. `None` until there is one.
    pub(crate) link: Option<Cut>,
    /// Where its log goes; `None` once it has ended.
    pub(crate) log: Option<mpsc::Sender<Vec<u8>>>,
    pub(crate) ended: Option<oneshot::Sender<String>>,
    /// It is to be somewhere else.
    pub(crate) leaving: CancellationToken,
}

impl Begun {
    /// It has ended, and says nothing any more.
    fn end(&mut self, status: String) {
        self.log = None;
        // Whoever started it may have left.
        let _ = self.ended.take().map(|ended| ended.send(status));
    }
}

impl Fleet {
    /// Opens a fleet that has no instances yet. Errors: its folder cannot be made, or nobody can listen there or at its address.
    pub fn open(options: FleetOptions, provider: Arc<dyn Provider>, stop: CancellationToken) -> io::Result<Arc<Self>> {
        let lock = match &options.listen {
            Listen::Wires(_) => None,
            Listen::Folder | Listen::Tcp(_) => Some(folder::take_over(&options.folder)?),
        };
        let addresses = match &options.listen {
            Listen::Folder => (Address::Unix(options.folder.join("fleet.sock")), Address::Unix(options.folder.clone())),
            Listen::Tcp(hub) => hub.addresses(),
            // Each instance under its own name.
            Listen::Wires(_) => (Address::Wire(WIRED.into()), Address::Wire(String::new())),
        };
        let roster = Roster::new(options.rules.clone(), options.types.clone(), options.deadlines);
        let catalog = options.disk.is_some().then(Arc::default);
        let fleet = Arc::new(Self {
            catalog,
            options,
            addresses,
            provider,
            roster: Mutex::new(roster),
            seekers: Mutex::default(),
            environments: Mutex::default(),
            costs: Mutex::default(),
            agents: Mutex::default(),
            wake: Notify::new(),
            stop,
            _lock: lock,
        });
        tokio::spawn(fleet.clone().notice());
        let listener = match (&fleet.options.listen, &fleet.addresses.0) {
            (Listen::Tcp(hub), _) => {
                hub.add(&fleet);
                None
            }
            (Listen::Wires(wires), _) => Some(Listener::Wires(wires.listen(WIRED)?)),
            (Listen::Folder, Address::Unix(socket)) => Some(Listener::Unix(UnixListener::bind(socket)?)),
            (Listen::Folder, _) => None,
        };
        if let Some(listener) = listener {
            tokio::spawn(fleet.clone().listen(listener));
        }
        tokio::spawn(fleet.clone().follow());
        Ok(fleet)
    }

    /// Ends all instances: call when nothing runs on them any more. Errors: some may be left.
    pub async fn close(&self) -> io::Result<()> {
        self.stop.cancel();
        let seekers = std::mem::take(&mut *self.seekers.lock());
        seekers.into_values().for_each(|seeker| drop(seeker.send(Err(Why::Unavailable))));
        let agents = std::mem::take(&mut *self.agents.lock());
        agents.values().for_each(|agent| drop(agent.try_send(ToAgent::Stop)));
        let closed = self.provider.close().await;
        let none = ["launching", "ready", "draining"].map(|stage| (stage, 0));
        penstock_telemetry::instances(&self.options.name, &none, 0);
        penstock_telemetry::instance_gpus(&self.options.name, Default::default());
        self.tell(&mut self.costs.lock(), |_| 0.0);
        penstock_telemetry::instances_unreplaced(&self.options.name, 0);
        closed
    }

    fn tell(&self, costs: &mut Costs, rate: impl Fn(&FunctionCost) -> f64) {
        for cost in costs.of_all() {
            let more = costs.untold_microusd(&cost);
            penstock_telemetry::cost(&self.options.name, &cost.function, rate(&cost), more);
        }
    }

    /// Whether any environment has room on an instance.
    pub(crate) fn is_used(&self) -> bool {
        self.roster.lock().instances().values().any(|entry| !entry.leases.is_empty())
    }

    /// Replaces all instances that there are, one after the other, without an end to what they serve.
    pub fn replace_all(&self) {
        self.roster.lock().replace_all(Instant::now().into_std());
        self.wake.notify_one();
    }

    /// Most cores of all instances together, from now on. What there is beyond stays until its environments end.
    pub fn set_vcpu_max(&self, vcpu_max: u32) {
        self.roster.lock().set_vcpu_max(vcpu_max);
        self.wake.notify_one();
    }

    /// Tags of what is launched from now on.
    pub fn set_tags(&self, tags: BTreeMap<String, String>) {
        self.provider.set_tags(tags);
    }

    /// Most cores of all instances together.
    pub fn vcpu_max(&self) -> u32 {
        self.roster.lock().vcpu_max()
    }

    /// Its capacity provider.
    pub fn name(&self) -> &str {
        &self.options.name
    }

    /// Where instances stand.
    pub fn instances(&self) -> Vec<InstanceView> {
        let (now, name) = (Instant::now().into_std(), self.name());
        self.roster.lock().instances().iter().map(|(id, entry)| InstanceView::of(name, id, entry, now)).collect()
    }

    /// What they cost, and whom for.
    pub fn costs(&self) -> Vec<FunctionCost> {
        self.costs.lock().of_all()
    }

    /// Room for one environment, on an instance that is ready: waits for one. Errors: there can be none.
    pub(crate) async fn seek(&self, version: String, needs: Needs) -> Result<(Place, Lease<'_>), Why> {
        let (give, given) = oneshot::channel();
        let lease = {
            let mut roster = self.roster.lock();
            if self.stop.is_cancelled() {
                return Err(Why::Unavailable);
            }
            let number = roster.seek(version, needs);
            self.seekers.lock().insert(number, give);
            Lease::new(self, number)
        };
        self.wake.notify_one();
        match given.await {
            Ok(place) => place.map(|place| (place, lease)),
            Err(_) => Err(Why::Unavailable),
        }
    }

    pub(crate) fn release(&self, lease: u64) {
        self.seekers.lock().remove(&lease);
        self.environments.lock().remove(&lease);
        self.roster.lock().release(lease, Instant::now().into_std());
        self.wake.notify_one();
    }

    /// Whether an instance that may be bought would have room for one that needs this.
    pub(crate) fn may_hold(&self, needs: &Needs) -> bool {
        self.roster.lock().may_hold(needs)
    }

    /// Share of the time that a GPU of the instances runs kernels; `None` if it is none of them, or does not tell.
    pub fn device_busy(&self, uuid: &str) -> Option<f64> {
        self.roster.lock().device_busy(uuid)
    }

    /// Whether there can ever be such an instance, as things are.
    pub(crate) fn may_ever_hold(&self, needs: &Needs) -> bool {
        self.roster.lock().may_ever_hold(needs)
    }

    /// An environment turned out to take another amount of its device. Errors: there is not so much left.
    pub(crate) fn resize(&self, lease: u64, device_memory_mib: u64) -> Result<(), String> {
        self.roster.lock().resize(lease, device_memory_mib)?;
        self.wake.notify_one();
        Ok(())
    }

    /// An environment is about to be begun. Its instance may be leaving by now, or be gone.
    pub(crate) fn begun(&self, lease: u64, begun: Begun) {
        let instance = begun.instance.clone();
        self.environments.lock().insert(lease, begun);
        // After it is known: what happens from here on finds it, and what happened before is seen.
        let stage = self.roster.lock().instances().get(&instance).map(|entry| entry.stage);
        if let Some(begun) = self.environments.lock().get_mut(&lease) {
            match stage {
                None => begun.end("its instance is gone".into()),
                Some(Stage::Draining) => begun.leaving.cancel(),
                Some(Stage::Launching | Stage::Ready) => {}
            }
        }
    }

    /// It has its link.
    pub(crate) fn linked(&self, lease: u64, link: Cut) {
        if let Some(begun) = self.environments.lock().get_mut(&lease) {
            if begun.ended.is_none() {
                // Its instance went meanwhile.
                link.now();
            }
            begun.link = Some(link);
        }
    }

    /// A connection to the agent of an instance, which is shown to be that one's. Errors: it does not answer, or is another's.
    pub(crate) async fn connect(&self, place: &Place) -> io::Result<Connection> {
        let identity = self.authority().map(|authority| authority.own());
        transport::connect(&place.address, identity.as_deref(), &tls::instance_name(&place.name), self.wires()).await
    }

    fn wires(&self) -> Option<&dyn Wires> {
        match &self.options.listen {
            Listen::Wires(wires) => Some(wires.as_ref()),
            Listen::Folder | Listen::Tcp(_) => None,
        }
    }

    /// What is sent to instances; `None` where they share the server's disk.
    pub(crate) fn catalog(&self) -> Option<&Arc<Catalog>> {
        self.catalog.as_ref()
    }

    fn authority(&self) -> Option<&Arc<Authority>> {
        match &self.options.listen {
            Listen::Folder | Listen::Wires(_) => None,
            Listen::Tcp(hub) => Some(hub.authority()),
        }
    }

    /// Tells the agent that has an environment; whether there is one.
    pub(crate) async fn tell_about(&self, lease: u64, message: ToAgent) -> bool {
        let instance = self.environments.lock().get(&lease).map(|begun| begun.instance.clone());
        let agent = instance.and_then(|instance| self.agents.lock().get(&instance).cloned());
        match agent {
            Some(agent) => agent.send(message).await.is_ok(),
            None => false,
        }
    }

    /// Instances that end by themselves.
    async fn notice(self: Arc<Self>) {
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                name = self.provider.ended() => self.ended(&name),
            }
        }
    }

    async fn follow(self: Arc<Self>) {
        let mut looked = Instant::now();
        while !self.stop.is_cancelled() {
            let now = Instant::now();
            let gap = now.saturating_duration_since(std::mem::replace(&mut looked, now));
            if gap > STALL {
                // This process stood still: what agents said meanwhile has not been read yet.
                tracing::warn!(gap_ms = gap.as_millis() as u64, "the server stood still");
                self.roster.lock().stood_still(gap);
            }
            let actions = {
                let mut roster = self.roster.lock();
                roster.set_unknown_vcpu(self.provider.unknown_vcpu());
                roster.decide(now.into_std())
            };
            for action in actions {
                self.carry_out(action);
            }
            self.count();
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {}
                // Whether there is anything to do is seen by looking.
                _ = timeout(TICK, self.wake.notified()) => {}
            }
        }
    }

    fn count(&self) {
        let roster = self.roster.lock();
        let stages = [("launching", Stage::Launching), ("ready", Stage::Ready), ("draining", Stage::Draining)];
        let of = |stage: Stage| roster.instances().values().filter(|entry| entry.stage == stage).count();
        let counts = stages.map(|(name, stage)| (name, of(stage)));
        penstock_telemetry::instances(&self.options.name, &counts, roster.vcpu());
        penstock_telemetry::instance_gpus(&self.options.name, roster.gpus());
        let price =
            |name: &str| self.options.types.iter().find(|one| one.name == name).map_or(0.0, |one| one.usd_per_hour);
        let price = |entry: &Entry| entry.usd_per_hour.unwrap_or_else(|| price(&entry.instance_type));
        let mut costs = self.costs.lock();
        let now = Instant::now().into_std();
        costs.look(roster.instances(), price, now);
        self.tell(&mut costs, |cost| cost.usd_per_hour);
        penstock_telemetry::instances_unreplaced(&self.options.name, roster.unreplaced(now));
    }

    fn carry_out(self: &Arc<Self>, action: Action) {
        match action {
            Action::Launch { ids, offers, shape } => self.order(ids, offers, shape),
            Action::Give { seeker, place } => self.answer(seeker, Ok(place)),
            Action::Refuse { seeker, why } => self.answer(seeker, Err(why)),
            Action::Leave { lease } => {
                if let Some(begun) = self.environments.lock().get(&lease) {
                    begun.leaving.cancel();
                }
            }
            Action::Stop { id } => {
                let agent = self.agents.lock().get(&id).cloned();
                // If it cannot be told, its deadline ends it.
                let _ = agent.map(|agent| agent.try_send(ToAgent::Stop));
            }
            Action::Forget { id } => {
                tracing::warn!(instance = id, "an instance does not come");
                instance_event(Gone::Refused.name());
            }
            Action::Terminate { id, name, is_answered, leases, why } => {
                self.terminate((id, name, is_answered), leases, why);
            }
        }
    }

    fn answer(&self, seeker: u64, answer: Result<Place, Why>) {
        let waits = self.seekers.lock().remove(&seeker);
        if let Some(waits) = waits {
            // One that has left since gives its room back by itself.
            let _ = waits.send(answer);
        }
    }

    fn terminate(self: &Arc<Self>, (id, name, is_answered): (String, String, bool), leases: Vec<u64>, why: Gone) {
        let (reason, environments) = (why.name(), leases.len());
        match why {
            Gone::Empty | Gone::Aged | Gone::TakenAway => {
                tracing::info!(instance = name, reason, "an instance is gone")
            }
            _ => tracing::warn!(instance = name, reason, environments, "an instance is gone"),
        }
        instance_event(reason);
        self.agents.lock().remove(&id);
        for lease in leases {
            let mut environments = self.environments.lock();
            let Some(begun) = environments.get_mut(&lease) else { continue };
            // Its supervisor finds the link at its end.
            begun.link.iter().for_each(Cut::now);
            begun.end(format!("its instance {name} is gone: {reason}"));
        }
        if matches!(self.options.listen, Listen::Folder) {
            let _ = std::fs::remove_file(self.options.folder.join(format!("{id}.sock")));
        }
        let fleet = self.clone();
        tokio::spawn(async move {
            fleet.provider.terminate(&name).await;
            // What its order comes to is known when that is answered.
            if is_answered {
                fleet.roster.lock().ended(&id);
                fleet.wake.notify_one();
            }
        });
    }

    /// An instance has ended, says its provider.
    fn ended(self: &Arc<Self>, name: &str) {
        let id = self.roster.lock().id_of(name);
        id.iter().for_each(|id| self.gone(id));
    }

    fn gone(self: &Arc<Self>, id: &str) {
        if self.stop.is_cancelled() {
            // All of them go.
            return;
        }
        let action = self.roster.lock().gone(id, Instant::now().into_std());
        if let Some(action) = action {
            self.carry_out(action);
        }
        self.wake.notify_one();
    }

    #[cfg(test)]
    pub(crate) fn addresses(&self) -> (Address, Address) {
        self.addresses.clone()
    }

    #[cfg(test)]
    pub(crate) fn address_of(&self, id: &str) -> Option<Address> {
        self.roster.lock().instances().get(id).and_then(Entry::address)
    }

    /// Where its sockets are.
    pub fn folder(&self) -> &Path {
        &self.options.folder
    }
}
