//! A fleet's talk with its agents: who may join, and what they say.

use super::{Fleet, TICK};
use crate::protocol::{Enrol, FromAgent, Join, ToAgent, read, write};
use crate::roster::Proof;
use crate::transport::tls::{self, is_named};
use crate::transport::{Address, Listener, Raw, Reader, Writer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_telemetry::{instance_event, instance_started};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};

/// How long an agent may take to say who it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Agents that have not said who they are.
const GREETING_MAX: usize = 64;
/// Messages that wait for an agent.
const WAITING_MAX: usize = 256;

/// How often it is looked whether certificates are to be renewed.
const RENEW_TICK: Duration = Duration::from_secs(5);

/// An agent that says who it is.
struct Caller {
    from: Reader,
    to: Writer,
    join: Join,
    /// It has shown the certificate of this name, from this address.
    shown: Option<SocketAddr>,
}

impl Fleet {
    pub(super) async fn listen(self: Arc<Self>, listener: Listener) {
        let greeting = Arc::new(Semaphore::new(GREETING_MAX));
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    // One more than may come at once is not an agent that was launched.
                    Ok(raw) => if let Ok(place) = greeting.clone().try_acquire_owned() {
                        tokio::spawn(self.clone().greet(raw, place));
                    },
                    Err(error) => {
                        tracing::warn!(%error, "an agent could not connect");
                        tokio::time::sleep(TICK).await;
                    }
                },
            }
        }
    }

    async fn greet(self: Arc<Self>, raw: Raw, greeting: OwnedSemaphorePermit) {
        match timeout(GREETING_TIMEOUT, self.hear_out(raw)).await {
            Ok(Ok(Some(caller))) => self.attend(caller, greeting).await,
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection to the fleet ended before it was an agent's"),
        }
    }

    /// What a connection is for: an agent's that may speak, or only to give it its certificate.
    async fn hear_out(&self, raw: Raw) -> io::Result<Option<Caller>> {
        let (stream, peer) = match raw {
            Raw::Unix(stream) => {
                let (from, to) = stream.into_split();
                let mut from: Reader = Box::new(from);
                let message = read(&mut from).await?;
                let FromAgent::Join(join) = message else { return Ok(None) };
                return Ok(Some(Caller { from, to: Box::new(to), join, shown: None }));
            }
            Raw::Tcp(stream, peer) => (stream, peer),
        };
        let Some(authority) = self.authority() else { return Ok(None) };
        let stream = authority.fleet().acceptor(true)?.accept::<TcpStream>(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().map(|shown| shown.to_vec());
        let (from, to) = tokio::io::split(stream);
        let (mut from, mut to): (Reader, Writer) = (Box::new(from), Box::new(to));
        match read(&mut from).await? {
            FromAgent::Enrol(enrol) => {
                let Enrol { name, token, public_key } = enrol;
                let known = self.roster.lock().enrol(&name, &token);
                if let Err(why) = known {
                    refused(&name, why);
                    return Ok(None);
                }
                write(&mut to, &ToAgent::Enrolled(authority.issue(&name, &public_key)?)).await?;
                to.shutdown().await?;
                Ok(None)
            }
            FromAgent::Join(join) if is_named(shown.as_deref(), &tls::instance_name(&join.name)) => {
                Ok(Some(Caller { from, to, join, shown: Some(peer) }))
            }
            FromAgent::Join(join) => {
                refused(&join.name, "it does not show its certificate");
                Ok(None)
            }
            _ => Ok(None),
        }
    }

    /// One agent, for as long as its connection lasts.
    async fn attend(self: Arc<Self>, caller: Caller, greeting: OwnedSemaphorePermit) {
        let Caller { mut from, mut to, join, shown } = caller;
        let Join { name, token, machine, address } = join;
        let (pid, devices) = (machine.pid, machine.devices.len());
        let is_own = match (&address, shown) {
            (Address::Unix(path), None) => *path == self.options.folder.join(format!("{name}.sock")),
            // Nobody is sent elsewhere by an instance.
            (Address::Tcp(address), Some(peer)) => {
                address.parse::<SocketAddr>().is_ok_and(|address| address.ip() == peer.ip())
            }
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
        instance_started(took);
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

    /// Certificates are renewed in time, and agents hear of authorities that are new.
    pub(super) async fn renew(self: Arc<Self>) {
        let Some(authority) = self.authority() else { return };
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(RENEW_TICK) => {}
            }
            let looked = authority.clone();
            match tokio::task::spawn_blocking(move || looked.refresh()).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => {
                    tracing::info!("the authority of instances' certificates has changed");
                    let agents: Vec<_> = self.agents.lock().values().cloned().collect();
                    // One that has so much to hear is told with its next certificate.
                    agents.iter().for_each(|agent| drop(agent.try_send(ToAgent::Renew)));
                }
                Ok(Err(error)) => tracing::error!(%error, "the authority cannot be read: the one before is kept"),
                Err(error) => tracing::error!(%error, "certificates are not renewed"),
            }
        }
    }

    async fn hear(&self, (id, name): (&str, &str), message: FromAgent) {
        match message {
            FromAgent::Enrol(_) | FromAgent::Join(_) => {}
            FromAgent::Renew { public_key } => {
                let Some(authority) = self.authority() else { return };
                match authority.issue(name, &public_key) {
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

fn refused(name: &str, why: &str) {
    tracing::warn!(instance = name, why, "an agent may not join");
    instance_event("not_joined");
}
