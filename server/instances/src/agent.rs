//! The agent of an instance: joins the fleet that launched it, tells it how the instance is, and starts environments there.
//!
//! Run by the executable in its role as an instance. A connection to it becomes the link of an environment: after the first
//! message, the connection itself is handed to the environment's process, so that nothing stands between the two; over TCP the
//! agent passes on what comes, because TLS ends with it. When the fleet is gone it ends, and with it its environments.

mod door;

use crate::contents::Shelf;
use crate::protocol::{Beat, Begin, FromAgent, ToAgent, Told, write};
use crate::transport::tls::Key;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_environment::Launcher;
use penstock_scaler::Shape;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

/// Between two signs of life.
pub const BEAT: Duration = Duration::from_secs(1);
/// Messages that wait to be told: then environments wait with what they write.
const WAITING_MAX: usize = 256;
/// Read of an environment's log at once.
const PIECE_BYTES: usize = 8 * 1024;
/// Connections that have not said yet what they are for.
const GREETING_MAX: usize = 64;
/// Of the disk that has to be free, in bytes.
const DISK_LEAST: u64 = 64 << 20;

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
}

/// Runs an agent until it is told to stop or its fleet is gone. `notice` ends when the machine is to be taken away, and says
/// why: then the instance says so, and is drained. Errors: it may not join, or cannot listen.
pub async fn run(told: Told, launcher: Launcher, notice: impl Future<Output = String>) -> io::Result<()> {
    let is_limited = match told.group.as_deref().map(crate::cgroup::enter) {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            tracing::warn!(%error, "an instance cannot enter its control group");
            false
        }
        None => false,
    };
    let door::Joined { listener, mut hear, mut to, shape, mut identity, renew_after } =
        door::join(&told, is_limited).await?;
    let shelf = match told.disk.clone() {
        Some(disk) => Some(Arc::new(spawn_blocking(move || Shelf::open(disk.join("contents"))).await??)),
        None => None,
    };
    let (say, mut said) = mpsc::channel(WAITING_MAX);
    let (greeted, mut begins) = mpsc::channel(GREETING_MAX);
    let mut agent = Agent::new(launcher, told.token.clone(), shape, say);
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut renewal = Renewal { key: None, at: renew_after.map(|after| Instant::now() + after) };
    let mut taken_away = None;
    tokio::pin!(notice);
    loop {
        tokio::select! {
            Some(message) = said.recv() => {
                if let FromAgent::Ended { environment, .. } = &message {
                    agent.forget(*environment);
                }
                write(&mut to, &message).await?;
            }
            message = hear.recv() => match message {
                Some(ToAgent::Welcome { .. } | ToAgent::Enrolled(_)) => {}
                Some(ToAgent::End { environment, patience_ms }) => {
                    agent.end(environment, Duration::from_millis(patience_ms)).await;
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
                let raw = accepted?;
                if let Ok(place) = greeted.clone().try_reserve_owned() {
                    let (token, identity, shelf) = (told.token.clone(), identity.clone(), shelf.clone());
                    tokio::spawn(async move {
                        match (door::Door { token, identity, shelf }).greet(raw).await {
                            Ok(begin) => drop(place.send(begin)),
                            Err(error) => tracing::debug!(%error, "a connection to an instance came to nothing"),
                        }
                    });
                }
            }
            Some((begin, link)) = begins.recv() => agent.begin(begin, link).await,
            () = renewal.due() => write(&mut to, &FromAgent::Renew { public_key: renewal.begin()? }).await?,
            why = &mut notice, if taken_away.is_none() => taken_away = Some(why),
            _ = beats.tick() => {
                let beat = agent.beat(told.disk.as_deref(), taken_away.clone());
                write(&mut to, &FromAgent::Beat(beat)).await?;
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

/// Memory of this machine, in MiB.
pub fn machine_memory_mib() -> u64 {
    let system = rustix::system::sysinfo();
    (system.totalram as u64).saturating_mul(u64::from(system.mem_unit).max(1)) >> 20
}

struct Agent {
    launcher: Launcher,
    token: String,
    room: Room,
    held: BTreeMap<u64, Held>,
    say: mpsc::Sender<FromAgent>,
}

impl Agent {
    fn new(launcher: Launcher, token: String, shape: Shape, say: mpsc::Sender<FromAgent>) -> Self {
        let (vcpu, memory_mib) = shape.for_environments();
        Self { launcher, token, room: Room { vcpu, memory_mib }, held: BTreeMap::new(), say }
    }

    /// Starts an environment on a connection, if there is room for it.
    async fn begin(&mut self, begin: Begin, link: OwnedFd) {
        let Begin { token, environment, variables, accelerated, vcpu, memory_mib } = begin;
        if token != self.token || self.held.contains_key(&environment) {
            tracing::warn!(environment, "somebody else wants to begin an environment");
            return;
        }
        let refused = |status: String| FromAgent::Ended { environment, status };
        if vcpu > self.room.vcpu || memory_mib > self.room.memory_mib {
            let (has_vcpu, has_mib) = (self.room.vcpu, self.room.memory_mib);
            let text = format!("it does not fit: {vcpu} vCPU and {memory_mib} MiB of {has_vcpu} and {has_mib} free");
            let _ = self.say.try_send(refused(text));
            return;
        }
        let mut child = match self.launcher.launch_on(link, &variables, accelerated) {
            Ok(child) => child,
            Err(error) => {
                let _ = self.say.try_send(refused(format!("it could not be started: {error}")));
                return;
            }
        };
        let (end, ends) = mpsc::channel(4);
        self.room.vcpu -= vcpu;
        self.room.memory_mib -= memory_mib;
        self.held.insert(environment, Held { end, vcpu, memory_mib });
        let log = child.stderr.take();
        tokio::spawn(live(environment, child, log, ends, self.say.clone()));
    }

    async fn end(&self, environment: u64, patience: Duration) {
        match self.held.get(&environment) {
            // One that has been told often enough needs no more telling.
            Some(held) => drop(held.end.try_send(patience)),
            None => {
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

    fn beat(&self, disk: Option<&Path>, taken_away: Option<String>) -> Beat {
        let system = rustix::system::sysinfo();
        let unit = u64::from(system.mem_unit).max(1);
        let unhealthy = disk.and_then(|disk| match rustix::fs::statvfs(disk) {
            Ok(found) if found.f_bavail.saturating_mul(found.f_frsize) < DISK_LEAST => {
                Some(format!("its disk is full ({})", disk.display()))
            }
            Ok(_) => None,
            Err(error) => Some(format!("its disk cannot be used ({}): {error}", disk.display())),
        });
        Beat {
            environments: u32::try_from(self.held.len()).unwrap_or(u32::MAX),
            memory_free_mib: (system.freeram as u64).saturating_mul(unit) >> 20,
            // Linux counts in parts of 65536.
            load: system.loads[0] as f64 / 65536.0,
            unhealthy: taken_away.or(unhealthy),
        }
    }
}

/// Passes on what an environment writes, and how it ends.
async fn live(
    environment: u64,
    mut child: Child,
    log: Option<impl AsyncRead + Unpin + Send + 'static>,
    mut ends: mpsc::Receiver<Duration>,
    say: mpsc::Sender<FromAgent>,
) {
    let listening = log.map(|log| tokio::spawn(pass_on(environment, log, say.clone())));
    let status = tokio::select! {
        status = child.wait() => said_of(status),
        Some(patience) = ends.recv() => match timeout(patience, child.wait()).await {
            Ok(status) => said_of(status),
            Err(_) => match child.kill().await {
                Ok(()) => "killed".to_owned(),
                Err(error) => format!("could not be killed: {error}"),
            },
        },
    };
    if let Some(listening) = listening {
        // Unless a child of its own holds the pipe open.
        let _ = timeout(Duration::from_millis(200), listening).await;
    }
    let _ = say.send(FromAgent::Ended { environment, status }).await;
}

fn said_of(status: io::Result<ExitStatus>) -> String {
    status.map_or_else(|error| error.to_string(), |status| status.to_string())
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
