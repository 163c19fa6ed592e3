//! The agent of an instance: joins the fleet that launched it, tells it how the instance is, and starts environments there.
//!
//! Run by the executable in its role as an instance. A connection to it becomes the link of an environment: after the first
//! message, the connection itself is handed to the environment's process, so that nothing stands between the two; over TCP the
//! agent passes on what comes, because TLS ends with it. When the fleet is gone it ends, and with it its environments.

mod devices;
mod door;
mod host;

pub use host::{Host, Vitals, machine_memory_mib};

pub use devices::DeviceOptions;

use crate::contents::Shelf;
use crate::protocol::{Beat, Begin, DeviceBeat, FromAgent, ToAgent, Told, write};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use devices::Devices;
use door::Greeted;
use penstock_environment::Life;
use penstock_packages::Hold;
use penstock_scaler::Shape;
use penstock_trust::Key;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout};

/// Between two signs of life.
pub const BEAT: Duration = Duration::from_secs(1);
/// Messages that wait to be told: then environments wait with what they write.
const WAITING_MAX: usize = 256;
/// After a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Read of an environment's log at once.
const PIECE_BYTES: usize = 8 * 1024;
/// Environments that were to end before they began.
const UNWANTED_MAX: usize = 256;
/// Connections that have not said yet what they are for.
const GREETING_MAX: usize = 64;

/// What is free here.
struct Room {
    vcpu: u32,
    memory_mib: u64,
}

/// An environment of this instance.
struct Held {
    end: mpsc::Sender<Duration>,
    vcpu: u32,
    memory_mib: u64,
    /// What it reads stays here as long as it does.
    _contents: Vec<Hold>,
}

/// Runs an agent until it is told to stop or its fleet is gone. `notice` ends when the machine is to be taken away, and says
/// why: then the instance says so, and is drained. Errors: it may not join, or cannot listen.
pub async fn run(
    told: Told,
    host: impl Host,
    devices: DeviceOptions,
    notice: impl Future<Output = String>,
) -> io::Result<()> {
    let host: Arc<dyn Host> = Arc::new(host);
    let is_limited = match told.group.as_deref().map(crate::cgroup::enter) {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            tracing::warn!(%error, "an instance cannot enter its control group");
            false
        }
        None => false,
    };
    let devices = Devices::find(devices).await?;
    let door::Joined { mut listener, mut hear, mut to, shape, mut identity, renew_after } =
        door::join(&told, devices.machine(is_limited), host.wires()).await?;
    let shelf = match told.disk.clone() {
        Some(disk) => Some(Arc::new(spawn_blocking(move || Shelf::open(disk.join("contents"))).await??)),
        None => None,
    };
    let (say, mut said) = mpsc::channel(WAITING_MAX);
    let (greeted, mut begins) = mpsc::channel(GREETING_MAX);
    let mut agent = Agent::new(host, told.token.clone(), shape, say);
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut renewal = Renewal { key: None, at: renew_after.map(|after| Instant::now() + after) };
    let mut taken_away = None;
    tokio::pin!(notice);
    loop {
        tokio::select! {
            biased;
            // First, and what environments write last: a flood of it does not make an instance silent.
            _ = beats.tick() => {
                let beat = agent.beat(&told, devices.beats(), taken_away.clone());
                write(&mut to, &FromAgent::Beat(beat)).await?;
            }
            message = hear.recv() => match message {
                Some(ToAgent::Welcome { .. } | ToAgent::Enrolled(_)) => {}
                Some(ToAgent::End { environment, patience_ms }) => {
                    agent.end(environment, Duration::from_millis(patience_ms));
                }
                Some(ToAgent::Renew) => renewal.at = Some(Instant::now()),
                Some(ToAgent::Renewed(issued)) => if let Some(key) = renewal.key.take() {
                    identity = Some(key.with(&issued)?.into());
                    renewal.at = Some(Instant::now() + Duration::from_millis(issued.renew_after_ms));
                },
                // What still runs ends with this process.
                Some(ToAgent::Stop) | None => return Ok(()),
            },
            accepted = listener.accept() => {
                let raw = match accepted {
                    Ok(raw) => raw,
                    Err(error) => {
                        tracing::warn!(%error, "nobody can connect to an instance");
                        sleep(ACCEPT_PAUSE).await;
                        continue;
                    }
                };
                if let Ok(place) = greeted.clone().try_reserve_owned() {
                    let (token, identity, shelf) = (told.token.clone(), identity.clone(), shelf.clone());
                    tokio::spawn(async move {
                        match (door::Door { token, identity, shelf }).greet(raw).await {
                            Ok(greeted) => drop(place.send(greeted)),
                            Err(error) => tracing::debug!(%error, "a connection to an instance came to nothing"),
                        }
                    });
                }
            }
            Some(greeted) = begins.recv() => agent.begin(greeted).await,
            () = renewal.due() => write(&mut to, &FromAgent::Renew { public_key: renewal.begin()? }).await?,
            why = &mut notice, if taken_away.is_none() => taken_away = Some(why),
            Some(message) = said.recv() => {
                if let FromAgent::Ended { environment, .. } = &message {
                    agent.forget(*environment);
                }
                write(&mut to, &message).await?;
            }
        }
    }
}

/// A certificate's next one.
struct Renewal {
    /// Its key, while it was asked for.
    key: Option<Key>,
    /// When it is to be asked for; `None` where there are no certificates.
    at: Option<Instant>,
}

impl Renewal {
    /// How long an answer may take before it is asked again.
    const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

    async fn due(&self) {
        match self.at {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn begin(&mut self) -> io::Result<String> {
        let key = Key::generate()?;
        let public_key = key.public();
        self.key = Some(key);
        self.at = Some(Instant::now() + Self::ANSWER_TIMEOUT);
        Ok(public_key)
    }
}

struct Agent {
    host: Arc<dyn Host>,
    token: String,
    room: Room,
    held: BTreeMap<u64, Held>,
    /// Those that were to end and were not here: some may not have begun yet.
    unwanted: BTreeSet<u64>,
    say: mpsc::Sender<FromAgent>,
}

impl Agent {
    fn new(host: Arc<dyn Host>, token: String, shape: Shape, say: mpsc::Sender<FromAgent>) -> Self {
        let (vcpu, memory_mib) = shape.for_environments();
        Self { host, token, room: Room { vcpu, memory_mib }, held: BTreeMap::new(), unwanted: BTreeSet::new(), say }
    }

    /// Starts an environment on a connection, if there is room for it.
    async fn begin(&mut self, Greeted { begin, contents, link }: Greeted) {
        let Begin { token, environment, variables, accelerated, vcpu, memory_mib } = begin;
        if token != self.token || self.held.contains_key(&environment) {
            tracing::warn!(environment, "somebody else wants to begin an environment");
            return;
        }
        if self.unwanted.remove(&environment) {
            // That it has ended is said.
            return;
        }
        let refused = |status: String| FromAgent::Ended { environment, status };
        if vcpu > self.room.vcpu || memory_mib > self.room.memory_mib {
            let (has_vcpu, has_mib) = (self.room.vcpu, self.room.memory_mib);
            let text = format!("it does not fit: {vcpu} vCPU and {memory_mib} MiB of {has_vcpu} and {has_mib} free");
            let _ = self.say.try_send(refused(text));
            return;
        }
        let (life, log) = match self.host.start(link, &variables, accelerated) {
            Ok(started) => started,
            Err(error) => {
                let _ = self.say.try_send(refused(format!("it could not be started: {error}")));
                return;
            }
        };
        let (end, ends) = mpsc::channel(4);
        self.room.vcpu -= vcpu;
        self.room.memory_mib -= memory_mib;
        self.held.insert(environment, Held { end, vcpu, memory_mib, _contents: contents });
        tokio::spawn(live(environment, life, log, ends, self.say.clone()));
    }

    fn end(&mut self, environment: u64, patience: Duration) {
        match self.held.get(&environment) {
            // One that has been told often enough needs no more telling.
            Some(held) => drop(held.end.try_send(patience)),
            None => {
                self.unwanted.insert(environment);
                if self.unwanted.len() > UNWANTED_MAX {
                    // Numbers ascend.
                    self.unwanted.pop_first();
                }
                let _ = self.say.try_send(FromAgent::Ended { environment, status: "not here".into() });
            }
        }
    }

    fn forget(&mut self, environment: u64) {
        if let Some(held) = self.held.remove(&environment) {
            self.room.vcpu += held.vcpu;
            self.room.memory_mib += held.memory_mib;
        }
    }

    fn beat(&self, told: &Told, devices: Vec<DeviceBeat>, taken_away: Option<String>) -> Beat {
        let Vitals { memory_free_mib, load, complaint } = self.host.vitals(told.disk.as_deref());
        let faults = devices.iter().filter_map(|device| device.fault.clone());
        Beat {
            environments: u32::try_from(self.held.len()).unwrap_or(u32::MAX),
            memory_free_mib,
            load,
            is_taken_away: taken_away.is_some(),
            unhealthy: taken_away.into_iter().chain(complaint).chain(faults).next(),
            devices,
        }
    }
}

/// Passes on what an environment writes, and how it ends.
async fn live(
    environment: u64,
    mut life: Life,
    log: Option<impl AsyncRead + Unpin + Send + 'static>,
    mut ends: mpsc::Receiver<Duration>,
    say: mpsc::Sender<FromAgent>,
) {
    let listening = log.map(|log| tokio::spawn(pass_on(environment, log, say.clone())));
    let status = tokio::select! {
        biased;
        status = life.ended() => status,
        Some(patience) = ends.recv() => life.end(patience).await,
    };
    if let Some(listening) = listening {
        // Unless a child of its own holds the pipe open.
        let _ = timeout(Duration::from_millis(200), listening).await;
    }
    let _ = say.send(FromAgent::Ended { environment, status }).await;
}

async fn pass_on(environment: u64, mut log: impl AsyncRead + Unpin, say: mpsc::Sender<FromAgent>) {
    let mut buffer = vec![0; PIECE_BYTES];
    while let Ok(bytes @ 1..) = log.read(&mut buffer).await {
        let piece = STANDARD.encode(&buffer[..bytes]);
        if say.send(FromAgent::Log { environment, piece }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Link;
    use crate::transport::Reader;
    use penstock_domain::Variables;
    use penstock_scaler::Architecture;
    use std::os::unix::net::UnixStream;
    use std::path::Path;

    /// Its environments are there until they are ended.
    struct Patient;

    impl Host for Patient {
        fn start(&self, link: Link, _: &Variables, _: bool) -> io::Result<(Life, Option<Reader>)> {
            let task = tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(link);
            });
            Ok((Life::Task(task), None))
        }

        fn vitals(&self, _: Option<&Path>) -> Vitals {
            Vitals::default()
        }
    }

    #[tokio::test]
    async fn one_that_was_to_end_before_it_began_is_not_begun() {
        let shape =
            Shape { vcpu: 3, memory_mib: 4096, devices: 0, device_memory_mib: 0, architecture: Architecture::OWN };
        let (say, mut said) = mpsc::channel(8);
        let mut agent = Agent::new(Arc::new(Patient), "token".into(), shape, say);
        let begin = |environment| Begin {
            token: "token".into(),
            environment,
            variables: Variables::default(),
            accelerated: false,
            vcpu: 2,
            memory_mib: 1,
        };
        let link = || Link::Socket(UnixStream::pair().unwrap().0.into());
        let greeted = |environment| Greeted { begin: begin(environment), contents: Vec::new(), link: link() };
        agent.end(7, Duration::ZERO);
        agent.begin(greeted(7)).await;
        agent.begin(greeted(8)).await;
        agent.end(8, Duration::ZERO);
        for (number, ending, free) in [(7, "not here", 0), (8, "aborted", 2)] {
            let Some(FromAgent::Ended { environment, status }) = said.recv().await else { panic!("{number}") };
            agent.forget(environment);
            assert_eq!((environment, &*status, agent.room.vcpu), (number, ending, free));
        }
    }
}
