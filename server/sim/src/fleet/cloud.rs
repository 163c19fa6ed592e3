//! A provider that is played: what it truly runs, what it answers, and what it knows of that.
//!
//! It keeps what is promised of a provider: what it has no answer for, or carried out twice, it ends at its next look; nothing
//! comes of an order after it was answered. It counts for itself what runs, and whether that was allowed.

use super::machine::{Host, OnHost, Specifications};
use super::script::{Script, Temper};
use super::wires::Net;
use super::world::Plant;
use async_trait::async_trait;
use parking_lot::Mutex;
use penstock_instances::{Offer, Order, Outcome, Provider, Told, agent};
use penstock_scaler::Shape;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};

/// How often it looks at what there is.
pub(super) const LOOK: Duration = Duration::from_secs(15);
/// How long a link may be silent before those that wait on it hear that it is lost.
const SILENCE: Duration = Duration::from_secs(12);

/// See the module.
pub(super) struct Cloud {
    pub(super) shapes: BTreeMap<String, Shape>,
    temper: Temper,
    pub(super) start_timeout: Duration,
    pub(super) net: Arc<Net>,
    specifications: Specifications,
    plant: Option<Plant>,
    pub(super) began: Instant,
    pub(super) state: Mutex<State>,
    tell: mpsc::UnboundedSender<String>,
    ended: tokio::sync::Mutex<mpsc::UnboundedReceiver<String>>,
    /// Told when a machine is gone.
    gone: Notify,
}

pub(super) struct State {
    pub(super) random: SmallRng,
    /// The faults are over.
    is_calm: bool,
    /// By name, in the order in which they came.
    pub(super) machines: BTreeMap<String, Known>,
    pub(super) next: u32,
    /// Orders that were not answered yet: the cores that they may come to.
    pub(super) orders: BTreeMap<String, u32>,
    pub(super) droughts: Vec<(Option<String>, Option<String>, Instant)>,
    /// Limits that held, and from when on.
    pub(super) limits: Vec<(Duration, u32)>,
    pub(super) most_vcpu: u32,
    /// Cores of what nobody knows, as they were told last.
    pub(super) unknown_vcpu: u32,
    pub(super) losses: Vec<(Duration, Duration)>,
    pub(super) broken: Vec<String>,
    pub(super) is_closed: bool,
}

/// A machine, as its provider knows it.
pub(super) struct Known {
    pub(super) host: Arc<Host>,
    pub(super) instance_type: String,
    pub(super) order: String,
    pub(super) task: Option<AbortHandle>,
    pub(super) stage: Stage,
    /// It was named in an answer, and when.
    pub(super) answered: Option<Duration>,
    /// Since when nobody can know of it.
    pub(super) orphan_since: Option<Duration>,
    /// When it ended.
    pub(super) gone_at: Option<Duration>,
    /// That it has ended was told, or need not be.
    pub(super) is_told: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Stage {
    Alive,
    /// It was asked to end.
    Leaving,
    Gone,
}

impl Cloud {
    pub(super) fn new(
        script: &Script,
        net: Arc<Net>,
        specifications: Specifications,
        plant: Option<Plant>,
    ) -> Arc<Self> {
        let (tell, ended) = mpsc::unbounded_channel();
        let state = State {
            random: SmallRng::seed_from_u64(script.seed ^ 0x000c_100d),
            is_calm: false,
            machines: BTreeMap::new(),
            next: 1,
            orders: BTreeMap::new(),
            droughts: Vec::new(),
            limits: vec![(Duration::ZERO, script.vcpu_max)],
            most_vcpu: 0,
            unknown_vcpu: 0,
            losses: Vec::new(),
            broken: Vec::new(),
            is_closed: false,
        };
        let cloud = Arc::new(Self {
            shapes: script.types.iter().map(|one| (one.name.clone(), one.shape)).collect(),
            temper: script.temper.clone(),
            start_timeout: script.start_timeout,
            net,
            specifications,
            plant,
            began: Instant::now(),
            state: Mutex::new(state),
            tell,
            ended: tokio::sync::Mutex::new(ended),
            gone: Notify::new(),
        });
        tokio::spawn(cloud.clone().watch());
        cloud
    }

    pub(super) fn now(&self) -> Duration {
        self.began.elapsed()
    }

    /// How it behaves now.
    pub(super) fn temper(&self) -> Temper {
        let Temper { call, boot, ending, .. } = self.temper.clone();
        match self.state.lock().is_calm {
            false => self.temper.clone(),
            true => Temper {
                call,
                boot,
                ending,
                fails: 0.0,
                loses_answers: 0.0,
                doubles: 0.0,
                is_short: 0.0,
                is_late: 0.0,
                never_ready: 0.0,
                dies_at_launch: 0.0,
                crashes: 0.0,
                clings: 0.0,
                tells_ends: 1.0,
                fails_to_end: 0.0,
            },
        }
    }

    pub(super) fn chance(&self, chance: f64) -> bool {
        self.state.lock().random.random_bool(chance.clamp(0.0, 1.0))
    }

    pub(super) fn between(&self, (least, most): (Duration, Duration)) -> Duration {
        let share = self.state.lock().random.random_range(0.0..1.0);
        least + most.saturating_sub(least).mul_f64(share)
    }

    /// All faults are over.
    pub(super) fn calm(&self) {
        let mut state = self.state.lock();
        state.is_calm = true;
        state.droughts.clear();
        for one in state.machines.values() {
            one.host.complain(None);
        }
    }

    /// One more machine, and who it says it is.
    pub(super) fn boot(self: &Arc<Self>, offer: &Offer, order: &str, told: &Told) -> String {
        let temper = self.temper();
        let boot = self.between(temper.boot);
        let (never_ready, dies) = (self.chance(temper.never_ready), self.chance(temper.dies_at_launch));
        let (clings, linger) = (self.chance(temper.clings), self.between((Duration::ZERO, Duration::from_secs(20))));
        let crash = self.between((Duration::ZERO, Duration::from_secs(60)));
        let crash = self.chance(temper.crashes).then_some(crash);
        let mut shape = self.shapes[&offer.instance_type];
        if self.plant == Some(Plant::SmallMachines) {
            shape.vcpu -= 1;
        }
        let host = Host::new(shape, self.net.clone(), self.specifications.clone());
        let name = {
            let mut state = self.state.lock();
            let name = format!("m-{:04}", state.next);
            state.next += 1;
            let known = Known {
                host: host.clone(),
                instance_type: offer.instance_type.clone(),
                order: order.to_owned(),
                task: None,
                stage: Stage::Alive,
                answered: None,
                orphan_since: None,
                gone_at: None,
                is_told: false,
            };
            state.machines.insert(name.clone(), known);
            name
        };
        host.plug.clings.store(clings, std::sync::atomic::Ordering::Relaxed);
        let (cloud, told, own) = (self.clone(), Told { name: Some(name.clone()), ..told.clone() }, name.clone());
        let task = tokio::spawn(async move {
            match (never_ready, dies) {
                (true, _) => std::future::pending().await,
                (false, true) => sleep(boot / 2).await,
                (false, false) => {
                    sleep(boot).await;
                    let none = agent::DeviceOptions { only: Some(Vec::new()), ..Default::default() };
                    let run = || agent::run(told.clone(), OnHost(host.clone()), none.clone(), host.notice());
                    if let Some(after) = crash
                        && timeout(after, run()).await.is_err()
                    {
                        if !host.environments().is_empty() {
                            cloud.loses(Duration::ZERO);
                        }
                        host.end_environments();
                        host.plug.pull();
                    }
                    // One that has ended by itself, and is started again, is not taken any more.
                    let _ = run().await;
                    host.end_environments();
                    if clings {
                        sleep(linger).await;
                        host.plug.let_go();
                    }
                }
            }
            cloud.gone(&own);
        });
        if let Some(known) = self.state.lock().machines.get_mut(&name) {
            known.task = Some(task.abort_handle());
        }
        name
    }

    /// A machine is not there any more.
    pub(super) fn gone(&self, name: &str) {
        let (temper, now) = (self.temper(), self.now());
        let tells = self.chance(temper.tells_ends);
        let mut state = self.state.lock();
        let Some(known) = state.machines.get_mut(name).filter(|known| known.stage != Stage::Gone) else { return };
        let (was_alive, host) = (known.stage == Stage::Alive, known.host.clone());
        (known.stage, known.gone_at) = (Stage::Gone, Some(now));
        if let Some(task) = known.task.take() {
            task.abort();
        }
        if was_alive && known.answered.is_some() && tells {
            known.is_told = true;
            let _ = self.tell.send(name.to_owned());
        }
        let broken = host.broken();
        state.broken.extend(broken);
        if was_alive && !host.environments().is_empty() {
            state.losses.push((now, now + SILENCE));
        }
        drop(state);
        host.switch_off();
        self.gone.notify_waiters();
    }

    /// Requests may fail because of something that happens now.
    pub(super) fn loses(&self, long: Duration) {
        let now = self.now();
        self.state.lock().losses.push((now, now + long + SILENCE));
    }

    async fn watch(self: Arc<Self>) {
        while !self.state.lock().is_closed {
            sleep(LOOK).await;
            self.look();
        }
    }

    /// Ends what nobody knows, ends again what was to end, and tells what has ended.
    fn look(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let (mut end, mut ended) = (Vec::new(), Vec::new());
        let State { machines, orders, .. } = &mut *state;
        for (name, known) in machines {
            match known.stage {
                Stage::Alive if known.answered.is_none() && !orders.contains_key(&known.order) => {
                    end.push(name.clone())
                }
                Stage::Leaving => end.push(name.clone()),
                Stage::Gone if known.answered.is_some() && !known.is_told => {
                    known.is_told = true;
                    ended.push(name.clone());
                }
                Stage::Alive | Stage::Gone => {}
            }
        }
        drop(state);
        ended.into_iter().for_each(|name| drop(self.tell.send(name)));
        end.into_iter().for_each(|name| self.end(&name));
    }

    /// Asks a machine to end, which it does after a while.
    fn end(self: &Arc<Self>, name: &str) {
        let temper = self.temper();
        let (fails, takes) = (self.chance(temper.fails_to_end), self.between((Duration::ZERO, temper.ending)));
        let mut state = self.state.lock();
        let Some(known) = state.machines.get_mut(name).filter(|known| known.stage != Stage::Gone) else { return };
        (known.stage, known.is_told) = (Stage::Leaving, true);
        drop(state);
        if !fails {
            let (cloud, name) = (self.clone(), name.to_owned());
            tokio::spawn(async move {
                sleep(takes).await;
                cloud.gone(&name);
            });
        }
    }
}

/// The provider, as the fleet sees it.
pub(super) struct OfCloud(pub(super) Arc<Cloud>);

#[async_trait]
impl Provider for OfCloud {
    async fn launch(&self, order: &Order) -> io::Result<Outcome> {
        self.0.launch(order).await
    }

    async fn terminate(&self, name: &str) {
        let is_known = self.0.state.lock().machines.contains_key(name);
        if !is_known {
            self.0.state.lock().broken.push(format!("{name} is to end, and no machine has that name"));
        }
        if self.0.plant != Some(Plant::EndsNothing) {
            self.0.end(name);
        }
        sleep(self.0.between(self.0.temper().call)).await;
        loop {
            let gone = self.0.gone.notified();
            let is_there = |one: &Known| one.stage != Stage::Gone;
            if !self.0.state.lock().machines.get(name).is_some_and(is_there) {
                return;
            }
            gone.await;
        }
    }

    fn unknown_vcpu(&self) -> u32 {
        self.0.tell_unknown_vcpu()
    }

    async fn ended(&self) -> String {
        match self.0.ended.lock().await.recv().await {
            Some(name) => name,
            None => std::future::pending().await,
        }
    }

    async fn close(&self) -> io::Result<()> {
        let names: Vec<String> = {
            let mut state = self.0.state.lock();
            state.is_closed = true;
            state.machines.keys().cloned().collect()
        };
        names.iter().for_each(|name| self.0.gone(name));
        Ok(())
    }
}
