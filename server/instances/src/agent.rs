//! The agent of an instance: joins the fleet that launched it, tells it how the instance is, and starts environments there.
//!
//! Run by the executable in its role as an instance. A connection to it becomes the link of an environment: after the first
//! message, the connection itself is handed to the environment's process, so that nothing stands between the two. When the
//! fleet is gone it ends, and with it its environments.

use crate::protocol::{Beat, Begin, FromAgent, Join, ToAgent, Told, read, write};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_environment::Launcher;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::process::ExitStatus;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::process::Child;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, timeout};

/// Between two signs of life.
pub const BEAT: Duration = Duration::from_secs(1);
/// How long joining may take, and the first message on a connection.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
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

/// Runs an agent until it is told to stop or its fleet is gone. Errors: it may not join, or cannot listen.
pub async fn run(told: Told, launcher: Launcher) -> io::Result<()> {
    let is_limited = match told.group.as_deref().map(crate::cgroup::enter) {
        Some(Ok(())) => true,
        Some(Err(error)) => {
            tracing::warn!(%error, "an instance cannot enter its control group");
            false
        }
        None => false,
    };
    let listener = UnixListener::bind(&told.listen)?;
    let (mut from, mut to) = timeout(GREETING_TIMEOUT, join(&told, is_limited)).await??.into_split();
    let (say, mut said) = mpsc::channel(WAITING_MAX);
    let (heard, mut hear) = mpsc::channel(WAITING_MAX);
    // Reading is not cancelled in the middle of a message.
    tokio::spawn(async move {
        while let Ok(message) = read::<ToAgent>(&mut from).await {
            if heard.send(message).await.is_err() {
                return;
            }
        }
    });
    let (greeted, mut begins) = mpsc::channel(GREETING_MAX);
    let mut agent = Agent { launcher, token: told.token.clone(), room: room_of(&told), held: BTreeMap::new(), say };
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            Some(message) = said.recv() => {
                if let FromAgent::Ended { environment, .. } = &message {
                    agent.forget(*environment);
                }
                write(&mut to, &message).await?;
            }
            message = hear.recv() => match message {
                Some(ToAgent::Welcome) => {}
                Some(ToAgent::End { environment, patience_ms }) => {
                    agent.end(environment, Duration::from_millis(patience_ms)).await;
                }
                // What still runs ends with this process.
                Some(ToAgent::Stop) | None => return Ok(()),
            },
            accepted = listener.accept() => {
                let (link, _) = accepted?;
                if let Ok(place) = greeted.clone().try_reserve_owned() {
                    tokio::spawn(async move {
                        let mut link = link;
                        if let Ok(Ok(begin)) = timeout(GREETING_TIMEOUT, read::<Begin>(&mut link)).await {
                            place.send((begin, link));
                        }
                    });
                }
            }
            Some((begin, link)) = begins.recv() => agent.begin(begin, link).await,
            _ = beats.tick() => write(&mut to, &FromAgent::Beat(agent.beat(told.disk.as_deref()))).await?,
        }
    }
}

async fn join(told: &Told, is_limited: bool) -> io::Result<UnixStream> {
    let mut stream = UnixStream::connect(&told.fleet).await?;
    let (id, token) = (told.id.clone(), told.token.clone());
    let join = Join { id, token, pid: std::process::id(), is_limited, address: told.listen.clone() };
    write(&mut stream, &FromAgent::Join(join)).await?;
    match read(&mut stream).await? {
        ToAgent::Welcome => Ok(stream),
        other => Err(io::Error::new(io::ErrorKind::InvalidData, format!("not a welcome: {other:?}"))),
    }
}

/// Memory of this machine, in MiB.
pub fn machine_memory_mib() -> u64 {
    let system = rustix::system::sysinfo();
    (system.totalram as u64).saturating_mul(u64::from(system.mem_unit).max(1)) >> 20
}

fn room_of(told: &Told) -> Room {
    let (vcpu, memory_mib) = told.shape.for_environments();
    Room { vcpu, memory_mib }
}

struct Agent {
    launcher: Launcher,
    token: String,
    room: Room,
    held: BTreeMap<u64, Held>,
    say: mpsc::Sender<FromAgent>,
}

impl Agent {
    /// Starts an environment on a connection, if there is room for it.
    async fn begin(&mut self, begin: Begin, link: UnixStream) {
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
        let launched = link.into_std().and_then(|link| {
            link.set_nonblocking(false)?;
            self.launcher.launch_on(link.into(), &variables, accelerated)
        });
        let mut child = match launched {
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

    fn beat(&self, disk: Option<&Path>) -> Beat {
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
            unhealthy,
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
