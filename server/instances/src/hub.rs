//! Where the agents of other machines come: one address for all fleets of a server, over TCP with TLS.
//!
//! Opened by the composition root, used by fleets. An agent's token gives it its certificate here, and its certificate leads it to
//! the fleet that launched it. Certificates are renewed, and who signs them may change, without an end to any connection.

use crate::fleet::Fleet;
use crate::fleet::agents::{Caller, refused};
use crate::protocol::{Enrol, FromAgent, ToAgent, read, write};
use crate::transport::{Address, GREETING_TIMEOUT, Listener, Raw, Reader, Writer, accept_all};
use parking_lot::Mutex;
use penstock_trust::{self as tls, Authority, is_named};
use std::io;
use std::sync::{Arc, Weak};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Hears the agents of other machines.
pub struct Hub {
    /// Where agents find it.
    address: String,
    /// Where agents listen.
    agents: String,
    authority: Arc<Authority>,
    fleets: Mutex<Vec<Weak<Fleet>>>,
    stop: CancellationToken,
}

impl Hub {
    /// Hears agents until `stop`. They know it by `advertise`, a host and perhaps a port, or else by the address where it listens;
    /// they listen themselves at `agents`, such as `0.0.0.0:8011`, where port 0 is one that is free. Errors: it cannot listen.
    pub fn open(
        listener: std::net::TcpListener,
        advertise: Option<&str>,
        agents: String,
        authority: Arc<Authority>,
        stop: CancellationToken,
    ) -> io::Result<Arc<Self>> {
        listener.set_nonblocking(true)?;
        let own = listener.local_addr()?;
        let has_port = |host: &str| host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let address = match advertise {
            Some(host) if has_port(host) => host.to_owned(),
            Some(host) => format!("{host}:{}", own.port()),
            None => own.to_string(),
        };
        let listener = Listener::Tcp(TcpListener::from_std(listener)?);
        let hub = Arc::new(Self { address, agents, authority, fleets: Mutex::default(), stop });
        tokio::spawn(hub.clone().listen(listener));
        tokio::spawn(hub.clone().renew());
        Ok(hub)
    }

    /// Where agents find it, and where they are to listen.
    pub(crate) fn addresses(&self) -> (Address, Address) {
        (Address::Tcp(self.address.clone()), Address::Tcp(self.agents.clone()))
    }

    pub(crate) fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Agents of this fleet are led to it from now on.
    pub(crate) fn add(&self, fleet: &Arc<Fleet>) {
        let mut fleets = self.fleets.lock();
        fleets.retain(|fleet| fleet.strong_count() > 0);
        fleets.push(Arc::downgrade(fleet));
    }

    fn all(&self) -> Vec<Arc<Fleet>> {
        self.fleets.lock().iter().filter_map(Weak::upgrade).collect()
    }

    /// The fleet that launched an instance.
    fn find(&self, name: &str) -> Option<Arc<Fleet>> {
        self.all().into_iter().find(|fleet| fleet.knows(name))
    }

    async fn listen(self: Arc<Self>, listener: Listener) {
        accept_all(listener, &self.stop, |raw, greeting| self.clone().greet(raw, greeting)).await;
    }

    async fn greet(self: Arc<Self>, raw: Raw, greeting: OwnedSemaphorePermit) {
        match timeout(GREETING_TIMEOUT, self.hear_out(raw)).await {
            Ok(Ok(Some((fleet, caller)))) => fleet.attend(caller, greeting).await,
            Ok(Ok(None)) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(%error, "a connection ended before it was an agent's"),
        }
    }

    /// What a connection is for: an agent's that may speak, or only to give it its certificate.
    async fn hear_out(&self, raw: Raw) -> io::Result<Option<(Arc<Fleet>, Caller)>> {
        let Raw::Tcp(stream, peer) = raw else { return Ok(None) };
        let stream = self.authority.own().acceptor(true)?.accept::<TcpStream>(stream).await?;
        let shown = stream.get_ref().1.peer_certificates().map(<[_]>::to_vec);
        let (from, to) = tokio::io::split(stream);
        let (mut from, mut to): (Reader, Writer) = (Box::new(from), Box::new(to));
        match read(&mut from).await? {
            FromAgent::Enrol(Enrol { name, token, public_key }) => {
                let fleet = self.find(&name);
                if let Err(why) =
                    fleet.map_or(Err("nobody launched it"), |fleet| fleet.enrol(&name, &token, &public_key))
                {
                    refused(&name, why);
                    return Ok(None);
                }
                write(&mut to, &ToAgent::Enrolled(self.authority.issue(&tls::instance_name(&name), &public_key)?))
                    .await?;
                to.shutdown().await?;
                Ok(None)
            }
            FromAgent::Join(join) => {
                let is_shown = is_named(shown.as_deref(), &tls::instance_name(&join.name));
                match self.find(&join.name).filter(|_| is_shown) {
                    Some(fleet) => Ok(Some((fleet, Caller { from, to, join, shown: Some(peer) }))),
                    None => {
                        refused(&join.name, "it does not show the certificate of an instance that was launched");
                        Ok(None)
                    }
                }
            }
            _ => Ok(None),
        }
    }

    /// Certificates are renewed in time, and agents hear of authorities that are new.
    async fn renew(self: Arc<Self>) {
        let changed = || self.all().iter().for_each(|fleet| fleet.tell_to_renew());
        self.stop.run_until_cancelled(tls::keep_fresh(Arc::downgrade(&self.authority), changed)).await;
    }
}
