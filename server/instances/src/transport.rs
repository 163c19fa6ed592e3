//! How a fleet and its agents reach each other: Unix sockets on one machine, TCP with TLS between machines. A simulation brings
//! [`Wires`] of its own.
//!
//! Called by the fleet and by the agent. Who the other side is, is known when a connection is made: on one machine by the
//! folder, which is open to one user alone, else by its certificate (see `penstock_trust`).

use async_trait::async_trait;
use penstock_trust::Identity;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What was sent is to be confirmed by the other machine within this time: else it is not there any more.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// Where somebody listens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Address {
    /// A socket's file.
    Unix(PathBuf),
    /// A host and a port.
    Tcp(String),
    /// A name that [`Wires`] know.
    Wire(String),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) | Self::Wire(address) => f.write_str(address),
        }
    }
}

/// One half of a connection.
pub type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The other.
pub type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// A way between a fleet and its agents that is neither a folder nor TCP. It knows who is who: whoever gets a wire may speak.
#[async_trait]
pub trait Wires: Send + Sync {
    /// The wires that are laid to a name from now on, this side of each. Errors: somebody listens there already.
    fn listen(&self, name: &str) -> io::Result<mpsc::Receiver<Wire>>;

    /// Lays a wire to whoever listens at a name. Errors: nobody does.
    async fn connect(&self, name: &str) -> io::Result<Wire>;
}

/// One side of a wire.
pub struct Wire {
    /// What comes.
    pub from: Reader,
    /// What goes.
    pub to: Writer,
    /// Ends both, whoever has them.
    pub cut: Box<dyn Fn() + Send + Sync>,
}

/// What becomes the link of an environment.
pub enum Link {
    /// A socket that blocks: its process's end.
    Socket(OwnedFd),
    /// A wire.
    Wire(Wire),
}

/// A connection to a process that has shown who it is.
pub(crate) struct Connection {
    pub(crate) from: Reader,
    pub(crate) to: Writer,
    /// Ends both halves, whoever has them.
    pub(crate) cut: Cut,
    /// This side's address, over TCP.
    pub(crate) local: Option<SocketAddr>,
}

/// Ends a connection.
pub(crate) enum Cut {
    Socket(OwnedFd),
    Wire(Box<dyn Fn() + Send + Sync>),
}

impl Cut {
    pub(crate) fn now(&self) {
        match self {
            // One that has ended by itself needs no ending.
            Self::Socket(socket) => drop(rustix::net::shutdown(socket, rustix::net::Shutdown::Both)),
            Self::Wire(cut) => cut(),
        }
    }
}

/// Accepts connections, whoever makes them.
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
    Wires(mpsc::Receiver<Wire>),
}

/// A connection of which nothing is known yet.
pub(crate) enum Raw {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
    Wire(Wire),
}

impl Listener {
    pub(crate) async fn accept(&mut self) -> io::Result<Raw> {
        match self {
            Self::Unix(listener) => Ok(Raw::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                prepare(&stream)?;
                Ok(Raw::Tcp(stream, peer))
            }
            Self::Wires(wires) => match wires.recv().await {
                Some(wire) => Ok(Raw::Wire(wire)),
                None => std::future::pending().await,
            },
        }
    }

    /// The address that it has; of TCP with the port that was free.
    pub(crate) fn tcp_address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Unix(_) | Self::Wires(_) => Ok(None),
            Self::Tcp(listener) => listener.local_addr().map(Some),
        }
    }
}

/// Small messages go at once, and a machine that is gone is noticed.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    rustix::net::sockopt::set_tcp_user_timeout(stream, CONFIRM_TIMEOUT.as_millis() as u32)?;
    rustix::net::sockopt::set_socket_keepalive(stream, true)?;
    rustix::net::sockopt::set_tcp_keepidle(stream, CONFIRM_TIMEOUT)?;
    Ok(rustix::net::sockopt::set_tcp_keepintvl(stream, CONFIRM_TIMEOUT)?)
}

/// Connects to an address within [`CONNECT_TIMEOUT`]; over TCP to the one with that name in its certificate, as the one that
/// `identity` is. Errors: nobody is there, or somebody else.
pub(crate) async fn connect(
    address: &Address,
    identity: Option<&Identity>,
    name: &str,
    wires: Option<&dyn Wires>,
) -> io::Result<Connection> {
    match address {
        Address::Unix(path) => {
            let stream = timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await??;
            let cut = Cut::Socket(stream.as_fd().try_clone_to_owned()?);
            let (from, to) = stream.into_split();
            Ok(Connection { from: Box::new(from), to: Box::new(to), cut, local: None })
        }
        Address::Tcp(address) => {
            let identity = identity.ok_or_else(|| io::Error::other("there is no certificate for TCP"))?;
            connect_tcp(address, identity.connector()?, name).await
        }
        Address::Wire(other) => {
            let wires = wires.ok_or_else(no_wires)?;
            let Wire { from, to, cut } = timeout(CONNECT_TIMEOUT, wires.connect(other)).await??;
            Ok(Connection { from, to, cut: Cut::Wire(cut), local: None })
        }
    }
}

fn no_wires() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "there are no wires here")
}

/// Connects over TCP and TLS to the one with that name.
pub(crate) async fn connect_tcp(address: &str, connector: TlsConnector, name: &str) -> io::Result<Connection> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let shake = async {
        let stream = TcpStream::connect(address).await?;
        prepare(&stream)?;
        let cut = Cut::Socket(stream.as_fd().try_clone_to_owned()?);
        let local = stream.local_addr().ok();
        let (from, to) = tokio::io::split(connector.connect(name, stream).await?);
        Ok(Connection { from: Box::new(from), to: Box::new(to), cut, local })
    };
    timeout(CONNECT_TIMEOUT, shake).await?
}

/// Listens at an address; a folder's socket is named by `file`.
pub(crate) async fn listen(address: &Address, file: &str, wires: Option<&dyn Wires>) -> io::Result<Listener> {
    match address {
        Address::Unix(folder) => Ok(Listener::Unix(UnixListener::bind(folder.join(file))?)),
        Address::Tcp(address) => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
        Address::Wire(name) => Ok(Listener::Wires(wires.ok_or_else(no_wires)?.listen(name)?)),
    }
}

/// A pair of sockets, of which a process gets one.
pub(crate) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    near.set_nonblocking(true)?;
    Ok((UnixStream::from_std(near)?, far.into()))
}

/// How long an agent may take to say who it is.
pub(crate) const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Agents that have not said who they are.
const GREETING_MAX: usize = 64;
/// After a connection that could not be accepted.
const PAUSE: Duration = Duration::from_millis(500);

/// Accepts agents until `stop`, and has each greeted in a task of its own, which gives its place back once it knows who it is. One
/// more than may come at once comes again.
pub(crate) async fn accept_all<F: Future<Output = ()> + Send + 'static>(
    mut listener: Listener,
    stop: &CancellationToken,
    greet: impl Fn(Raw, OwnedSemaphorePermit) -> F,
) {
    let greeting = Arc::new(Semaphore::new(GREETING_MAX));
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => match accepted {
                Ok(raw) => if let Ok(place) = greeting.clone().try_acquire_owned() {
                    tokio::spawn(greet(raw, place));
                },
                Err(error) => {
                    tracing::warn!(%error, "an agent could not connect");
                    sleep(PAUSE).await;
                }
            },
        }
    }
}
