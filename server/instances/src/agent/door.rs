//! An agent's way to its fleet, and who comes to it.

use crate::contents::{Lay, Shelf};
use crate::protocol::{Begin, Enrol, FromAgent, FromFleet, Join, Machine, ToAgent, Told, read, write};
use crate::transport::{self, Address, Connection, GREETING_TIMEOUT, Link, Listener, Raw, Reader, Wires, Writer};
use penstock_packages::Hold;
use penstock_scaler::Shape;
use penstock_trust::{self as tls, FLEET, Identity, Issued, Key, is_named};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, copy_bidirectional_with_sizes};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

/// Messages that wait to be heard.
const WAITING_MAX: usize = 256;
/// From another machine: the fleet may not know the instance yet, whose launch was not answered, or others come at the same
/// time. How often it is asked, and the pause.
const TRIES: (u32, Duration) = (60, Duration::from_secs(2));
/// Bytes that are passed on at once, each way.
const RELAY_BYTES: usize = 64 * 1024;

/// An agent that has joined.
pub(super) struct Joined {
    pub(super) listener: Listener,
    pub(super) hear: mpsc::Receiver<ToAgent>,
    pub(super) to: Writer,
    pub(super) shape: Shape,
    pub(super) identity: Option<Arc<Identity>>,
    pub(super) renew_after: Option<Duration>,
}

/// Joins the fleet. Errors: it may not, or cannot listen.
pub(super) async fn join(told: &Told, machine: Machine, wires: Option<&dyn Wires>) -> io::Result<Joined> {
    let name = told.name.as_deref().ok_or_else(|| io::Error::other("nobody said what this instance is called"))?;
    let listen = match &told.listen {
        Address::Wire(_) => Address::Wire(name.to_owned()),
        other => other.clone(),
    };
    let listener = transport::listen(&listen, &format!("{name}.sock"), wires).await?;
    let (identity, renew_after) = match &told.fleet {
        Address::Unix(_) | Address::Wire(_) => (None, None),
        Address::Tcp(fleet) => {
            // One key for all tries: an answer that is lost is given again.
            let key = Key::generate()?;
            let issued = patiently(|| enrol(fleet, told, name, &key)).await?;
            let identity = key.with(&issued)?;
            (Some(Arc::new(identity)), Some(Duration::from_millis(issued.renew_after_ms)))
        }
    };
    let own = (listen, listener.tcp_address()?);
    let come = || introduce(told, (name, &machine), &own, identity.as_deref(), wires);
    let (from, to, shape) = match &told.fleet {
        // The fleet knows it before it starts.
        Address::Unix(_) => come().await?,
        Address::Tcp(_) | Address::Wire(_) => patiently(come).await?,
    };
    Ok(Joined { listener, hear: listen_to(from), to, shape, identity, renew_after })
}

/// Says who it is. Errors: the fleet is not there, or does not take it.
async fn introduce(
    told: &Told,
    (name, machine): (&str, &Machine),
    (listen, listened): &(Address, Option<SocketAddr>),
    identity: Option<&Identity>,
    wires: Option<&dyn Wires>,
) -> io::Result<(Reader, Writer, Shape)> {
    let Connection { mut from, mut to, local, cut: _ } =
        transport::connect(&told.fleet, identity, FLEET, wires).await?;
    let address = match (listen, listened.zip(local)) {
        // As the fleet sees it.
        (_, Some((own, local))) => {
            let ip = if own.ip().is_unspecified() { local.ip() } else { own.ip() };
            Address::Tcp(SocketAddr::new(ip, own.port()).to_string())
        }
        (Address::Unix(folder), None) => Address::Unix(folder.join(format!("{name}.sock"))),
        (Address::Wire(own), None) => Address::Wire(own.clone()),
        (Address::Tcp(_), None) => return Err(io::Error::other("an instance listens as its fleet does")),
    };
    let (name, token, machine) = (name.to_owned(), told.token.clone(), machine.clone());
    write(&mut to, &FromAgent::Join(Join { name, token, machine, address })).await?;
    match timeout(GREETING_TIMEOUT, read(&mut from)).await?? {
        ToAgent::Welcome { shape } => Ok((from, to, shape)),
        other => Err(unexpected(&other)),
    }
}

/// Messages, one after the other: reading is not cancelled in the middle of one.
fn listen_to(mut from: Reader) -> mpsc::Receiver<ToAgent> {
    let (heard, hear) = mpsc::channel(WAITING_MAX);
    tokio::spawn(async move {
        while let Ok(message) = read::<ToAgent>(&mut from).await {
            if heard.send(message).await.is_err() {
                return;
            }
        }
    });
    hear
}

fn unexpected(message: &ToAgent) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the fleet said something else: {message:?}"))
}

async fn patiently<T, F: Future<Output = io::Result<T>>>(ask: impl Fn() -> F) -> io::Result<T> {
    for _ in 1..TRIES.0 {
        match ask().await {
            Ok(answer) => return Ok(answer),
            Err(error) => tracing::debug!(%error, "the fleet does not take this instance yet"),
        }
        sleep(TRIES.1).await;
    }
    ask().await
}

/// Gets a certificate for the token.
async fn enrol(fleet: &str, told: &Told, name: &str, key: &Key) -> io::Result<Issued> {
    let trust = told.trust.as_deref().ok_or_else(|| io::Error::other("nobody said whom to believe"))?;
    let Connection { mut from, mut to, .. } =
        transport::connect_tcp(fleet, tls::unknown_connector(trust)?, FLEET).await?;
    let (name, token, public_key) = (name.to_owned(), told.token.clone(), key.public());
    write(&mut to, &FromAgent::Enrol(Enrol { name, token, public_key })).await?;
    match timeout(GREETING_TIMEOUT, read(&mut from)).await?? {
        ToAgent::Enrolled(issued) => Ok(issued),
        other => Err(unexpected(&other)),
    }
}

/// Who may come to an agent, and with what.
pub(super) struct Door {
    pub(super) token: String,
    pub(super) identity: Option<Arc<Identity>>,
    /// What it was sent; `None` where the fleet's disk is its own.
    pub(super) shelf: Option<Arc<Shelf>>,
}

/// An environment that is to begin.
pub(super) struct Greeted {
    pub(super) begin: Begin,
    /// What it reads, as long as it is here.
    pub(super) contents: Vec<Hold>,
    pub(super) link: Link,
}

impl Door {
    /// Hears what a connection is for: an environment, and what is to be its link. Errors: it is somebody else's, or says nothing
    /// in time.
    pub(super) async fn greet(self, raw: Raw) -> io::Result<Greeted> {
        match raw {
            Raw::Unix(mut stream) => {
                let (begin, contents) = self.hear_out(&mut stream).await?;
                let link = stream.into_std()?;
                link.set_nonblocking(false)?;
                Ok(Greeted { begin, contents, link: Link::Socket(link.into()) })
            }
            Raw::Wire(mut wire) => {
                let (begin, contents) = self.hear_out(&mut tokio::io::join(&mut wire.from, &mut wire.to)).await?;
                Ok(Greeted { begin, contents, link: Link::Wire(wire) })
            }
            Raw::Tcp(stream, _) => {
                let identity = self.identity.as_ref().ok_or_else(|| io::Error::other("there is no certificate yet"))?;
                let mut stream = timeout(GREETING_TIMEOUT, identity.acceptor(false)?.accept(stream)).await??;
                if !is_named(stream.get_ref().1.peer_certificates(), FLEET) {
                    return Err(denied("only the fleet begins environments"));
                }
                let (begin, contents) = self.hear_out(&mut stream).await?;
                let (near, far) = transport::pair()?;
                tokio::spawn(pass_on(stream, near));
                Ok(Greeted { begin, contents, link: Link::Socket(far) })
            }
        }
    }

    /// Lays out what it is told to, until it is told to begin an environment.
    async fn hear_out(&self, stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<(Begin, Vec<Hold>)> {
        let mut contents = Vec::new();
        loop {
            match timeout(GREETING_TIMEOUT, read(stream)).await?? {
                FromFleet::Begin(begin) => return Ok((begin, contents)),
                FromFleet::Lay(Lay { token, .. }) if token != self.token => {
                    return Err(denied("somebody else wants something laid out"));
                }
                FromFleet::Lay(Lay { folders, .. }) => match &self.shelf {
                    Some(shelf) => contents.extend(shelf.lay(folders, stream).await?),
                    None => return Err(io::Error::other("this instance has no disk of its own")),
                },
            }
        }
    }
}

fn denied(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::PermissionDenied, text)
}

/// Passes on what comes, both ways, until both have ended or one breaks.
async fn pass_on(mut outer: impl AsyncRead + AsyncWrite + Unpin, mut inner: UnixStream) {
    // Both ends see it, and each says what it makes of it.
    let _ = copy_bidirectional_with_sizes(&mut outer, &mut inner, RELAY_BYTES, RELAY_BYTES).await;
}
