//! A fleet's talk with its agents: who may join, and what they say.

use super::Fleet;
use crate::protocol::{FromAgent, Join, ToAgent, read, write};
use crate::roster::Proof;
use crate::transport::{Address, GREETING_TIMEOUT, Listener, Raw, Reader, Wire, Writer, accept_all};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_telemetry::{instance_event, instance_started};
use penstock_trust::instance_name;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, timeout};

/// Messages that wait for an agent.
const WAITING_MAX: usize = 256;

/// An agent that says who it is.
pub(crate) struct Caller {
    pub(crate) from: Reader,
    pub(crate) to: Writer,
    pub(crate) join: Join,
    /// It has shown the certificate of its name, and comes from this address.
    pub(crate) shown: Option<SocketAddr>,
}

impl Fleet {
    /// Hears agents of this machine, or at the other end of wires.
    pub(super) async fn listen(self: Arc<Self>, listener: Listener) {
        accept_all(listener, &self.stop, |raw, greeting| self.clone().greet(raw, greeting)).await;
    }

    async fn greet(self: Arc<Self>, raw: Raw, greeting: OwnedSemaphorePermit) {
        let (mut from, to): (Reader, Writer) = match raw {
            Raw::Unix(stream) => {
                let (from, to) = stream.into_split();
                (Box::new(from), Box::new(to))
            }
            Raw::Wire(Wire { from, to, cut: _ }) => (from, to),
            Raw::Tcp(..) => return,
        };
        if let Ok(Ok(FromAgent::Join(join))) = timeout(GREETING_TIMEOUT, read(&mut from)).await {
            self.attend(Caller { from, to, join, shown: None }, greeting).await;
        }
    }

    /// One agent, for as long as its connection lasts.
    pub(crate) async fn attend(self: Arc<Self>, caller: Caller, greeting: OwnedSemaphorePermit) {
        let Caller { mut from, mut to, join, shown } = caller;
        let Join { name, token, machine, address } = join;
        let (pid, devices) = (machine.pid, machine.devices.len());
        let is_own = match (&address, shown) {
            (Address::Unix(path), None) => *path == self.options.folder.join(format!("{name}.sock")),
            (Address::Wire(own), None) => self.wires().is_some() && *own == name,
            // Nobody is sent elsewhere by an instance.
            (Address::Tcp(address), Some(peer)) => address
                .parse::<SocketAddr>()
                .is_ok_and(|address| address.ip().to_canonical() == peer.ip().to_canonical()),
            _ => false,
        };
        let proof = if shown.is_some() { Proof::Certificate } else { Proof::Token(&token) };
        let joined = match is_own {
            true => self.roster.lock().join((&name, proof), machine, address, Instant::now().into_std()),
            false => Err("its address is another"),
        };
        let (id, took) = match joined {
            Ok(joined) => joined,
            Err(why) => return refused(&name, why),
        };
        drop(greeting);
        tracing::info!(instance = name, pid, devices, took_ms = took.as_millis() as u64, "an instance is ready");
        instance_started(&self.options.name, took);
        instance_event("ready");
        let (tell, mut told) = mpsc::channel(WAITING_MAX);
        self.agents.lock().insert(id.clone(), tell);
        let shape = self.roster.lock().instances().get(&id).map(|entry| entry.shape);
        let Some(shape) = shape else {
            // It was ended in that moment.
            self.agents.lock().remove(&id);
            return;
        };
        let telling = tokio::spawn(async move {
            write(&mut to, &ToAgent::Welcome { shape }).await?;
            while let Some(message) = told.recv().await {
                write(&mut to, &message).await?;
            }
            to.shutdown().await
        });
        self.wake.notify_one();
        while let Ok(message) = read::<FromAgent>(&mut from).await {
            self.hear((&id, &name), message).await;
        }
        telling.abort();
        self.gone(&id);
    }

    /// An agent over TCP wants a certificate. Errors: why it gets none.
    pub(crate) fn enrol(&self, name: &str, token: &str, public_key: &str) -> Result<(), &'static str> {
        self.roster.lock().enrol(name, token, public_key, Instant::now().into_std())
    }

    /// Whether an instance of this name was launched, and is not gone.
    pub(crate) fn knows(&self, name: &str) -> bool {
        self.roster.lock().id_of(name).is_some()
    }

    /// Agents hear that others sign certificates now.
    pub(crate) fn tell_to_renew(&self) {
        let agents: Vec<_> = self.agents.lock().values().cloned().collect();
        // One that has so much to hear is told with its next certificate.
        agents.iter().for_each(|agent| drop(agent.try_send(ToAgent::Renew)));
    }

    async fn hear(&self, (id, name): (&str, &str), message: FromAgent) {
        match message {
            FromAgent::Enrol(_) | FromAgent::Join(_) => {}
            FromAgent::Renew { public_key } => {
                let Some(authority) = self.authority() else { return };
                match authority.issue(&instance_name(name), &public_key) {
                    Ok(issued) => {
                        let agent = self.agents.lock().get(id).cloned();
                        if let Some(agent) = agent {
                            // It asks again if it hears nothing.
                            let _ = agent.try_send(ToAgent::Renewed(issued));
                        }
                    }
                    Err(error) => tracing::warn!(instance = name, %error, "an instance's key cannot be certified"),
                }
            }
            FromAgent::Beat(beat) => {
                let unhealthy = beat.unhealthy.clone();
                let was = {
                    let mut roster = self.roster.lock();
                    let was = roster.instances().get(id).and_then(|entry| entry.beat.unhealthy.clone());
                    roster.beat(id, beat, Instant::now().into_std());
                    was
                };
                if let Some(why) = unhealthy {
                    if was.is_none() {
                        tracing::warn!(instance = name, why, "an instance says that it should not be used any more");
                    }
                    self.wake.notify_one();
                }
            }
            FromAgent::Log { environment, piece } => {
                let environments = self.environments.lock();
                let begun = environments.get(&environment).filter(|begun| begun.instance == id);
                let log = begun.and_then(|begun| begun.log.clone());
                drop(environments);
                if let Some((log, piece)) = log.zip(STANDARD.decode(piece).ok()) {
                    // A flood that is not read in time is not kept.
                    let _ = log.try_send(piece);
                }
            }
            FromAgent::Ended { environment, status } => {
                let mut environments = self.environments.lock();
                if let Some(begun) = environments.get_mut(&environment).filter(|begun| begun.instance == id) {
                    begun.end(status);
                }
            }
        }
    }
}

pub(crate) fn refused(name: &str, why: &str) {
    tracing::warn!(instance = name, why, "an agent may not join");
    instance_event("not_joined");
}
