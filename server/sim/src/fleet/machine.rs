//! A machine that is played: an agent that is real, environments as tasks, and what befalls both.
//!
//! Run by the cloud; asked by its agent.

use super::script::Function;
use super::wires::{Net, Plug};
use crate::model::Echo;
use async_trait::async_trait;
use parking_lot::Mutex;
use penstock_domain::Variables;
use penstock_environment::{Act, Life, Play, Specification, rehearse};
use penstock_instances::agent::{self, Vitals};
use penstock_instances::{Link, Reader, Wire, Wires};
use penstock_scaler::Shape;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// The variable that tells a machine which function an environment is of.
pub(super) const FUNCTION: &str = "FUNCTION";
/// Items of a batch.
pub(super) const BATCH_ITEMS: u32 = 8;

/// What environments are told, by function.
pub(super) type Specifications = Arc<BTreeMap<String, (Function, Specification)>>;

/// One machine.
pub(super) struct Host {
    pub(super) shape: Shape,
    pub(super) plug: Arc<Plug>,
    net: Arc<Net>,
    specifications: Specifications,
    state: Mutex<State>,
    notice: watch::Sender<Option<String>>,
}

#[derive(Default)]
struct State {
    environments: Vec<Running>,
    complaint: Option<String>,
    /// What was begun here that there is no room for.
    broken: Vec<String>,
    is_off: bool,
}

struct Running {
    function: Function,
    task: AbortHandle,
}

impl Host {
    pub(super) fn new(shape: Shape, net: Arc<Net>, specifications: Specifications) -> Arc<Self> {
        let (plug, state, notice) = (Arc::default(), Mutex::default(), watch::Sender::new(None));
        Arc::new(Self { shape, plug, net, specifications, state, notice })
    }

    /// Ends when the machine is told that it will be taken away.
    pub(super) fn notice(&self) -> impl Future<Output = String> + Send + use<> {
        let mut noticed = self.notice.subscribe();
        async move {
            match noticed.wait_for(Option::is_some).await.map(|why| why.clone()) {
                Ok(Some(why)) => why,
                _ => std::future::pending().await,
            }
        }
    }

    pub(super) fn tell_notice(&self) {
        self.notice.send_replace(Some("it will be taken away".into()));
    }

    pub(super) fn complain(&self, complaint: Option<&str>) {
        self.state.lock().complaint = complaint.map(str::to_owned);
    }

    /// How many environments of each function run here.
    pub(super) fn environments(&self) -> BTreeMap<String, u32> {
        let mut state = self.state.lock();
        state.environments.retain(|one| !one.task.is_finished());
        let mut counts = BTreeMap::new();
        for one in &state.environments {
            *counts.entry(one.function.name.as_str().to_owned()).or_default() += 1;
        }
        counts
    }

    /// Ends one environment; whether there was one.
    pub(super) fn kill_environment(&self, which: u32) -> bool {
        let mut state = self.state.lock();
        state.environments.retain(|one| !one.task.is_finished());
        let count = state.environments.len().max(1);
        let one = state.environments.get(which as usize % count);
        one.inspect(|one| one.task.abort()).is_some()
    }

    /// The agent has ended, and with it its environments.
    pub(super) fn end_environments(&self) {
        self.state.lock().environments.drain(..).for_each(|one| one.task.abort());
    }

    /// Nothing of it is left.
    pub(super) fn switch_off(&self) {
        self.state.lock().is_off = true;
        self.end_environments();
        self.plug.pull();
    }

    pub(super) fn broken(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().broken)
    }

    fn begin(&self, wire: Wire, function: &str) -> io::Result<Life> {
        let unknown = || io::Error::other(format!("there is no function {function}"));
        let (function, specification) = self.specifications.get(function).ok_or_else(unknown)?.clone();
        let mut state = self.state.lock();
        if state.is_off {
            return Err(io::Error::other("this machine is off"));
        }
        state.environments.retain(|one| !one.task.is_finished());
        let batch = function.batch;
        let play: Play = Arc::new(move |_| Act::Takes(batch));
        let load = function.load;
        let task = tokio::spawn(async move {
            sleep(load).await;
            rehearse(wire.from, wire.to, specification, Arc::new(Echo::new(BATCH_ITEMS)), play).await;
        });
        state.environments.push(Running { function, task: task.abort_handle() });
        let vcpu: u32 = state.environments.iter().map(|one| one.function.vcpu).sum();
        let memory_mib: u64 = state.environments.iter().map(|one| one.function.memory_mib).sum();
        let room = self.shape.for_environments();
        if vcpu > room.0 || memory_mib > room.1 {
            state.broken.push(format!("{vcpu} vCPU and {memory_mib} MiB on a machine that has {room:?}"));
        }
        Ok(Life::Task(task))
    }
}

/// A machine, as its agent sees it.
pub(super) struct OnHost(pub(super) Arc<Host>);

impl agent::Host for OnHost {
    fn start(&self, link: Link, variables: &Variables, _accelerated: bool) -> io::Result<(Life, Option<Reader>)> {
        let Link::Wire(wire) = link else { return Err(io::ErrorKind::Unsupported.into()) };
        let function =
            variables.iter().find(|(name, _)| name.as_str() == FUNCTION).map(|(_, function)| function.as_str());
        let life = self.0.begin(wire, function.unwrap_or_default())?;
        Ok((life, None))
    }

    fn vitals(&self, _disk: Option<&Path>) -> Vitals {
        let complaint = self.0.state.lock().complaint.clone();
        Vitals { complaint, ..Vitals::default() }
    }

    fn wires(&self) -> Option<&dyn Wires> {
        Some(self)
    }
}

#[async_trait]
impl Wires for OnHost {
    fn listen(&self, name: &str) -> io::Result<mpsc::Receiver<Wire>> {
        self.0.net.listen_on(name, Some(self.0.plug.clone()))
    }

    async fn connect(&self, name: &str) -> io::Result<Wire> {
        self.0.net.lay(name, Some(self.0.plug.clone()))
    }
}
