//! How a fleet and its agents reach each other: Unix sockets on one machine, TCP with TLS between machines.
//!
//! Called by the fleet and by the agent. Who the other side is, is known when a connection is made: on one machine by the
//! folder, which is open to one user alone, else by its certificate (see `tls`).

pub(crate) mod tls;

use crate::transport::tls::Identity;
use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

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
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Tcp(address) => f.write_str(address),
        }
    }
}

/// One half of a connection.
pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The other.
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

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
pub(crate) struct Cut(OwnedFd);

impl Cut {
    pub(crate) fn now(&self) {
        // One that has ended by itself needs no ending.
        let _ = rustix::net::shutdown(&self.0, rustix::net::Shutdown::Both);
    }
}

/// Accepts connections, whoever makes them.
pub(crate) enum Listener {
    Unix(UnixListener),
    Tcp(TcpListener),
}

/// A connection of which nothing is known yet.
pub(crate) enum Raw {
    Unix(UnixStream),
    Tcp(TcpStream, SocketAddr),
}

impl Listener {
    pub(crate) async fn accept(&self) -> io::Result<Raw> {
        match self {
            Self::Unix(listener) => Ok(Raw::Unix(listener.accept().await?.0)),
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                prepare(&stream)?;
                Ok(Raw::Tcp(stream, peer))
            }
        }
    }

    /// The address that it has; of TCP with the port that was free.
    pub(crate) fn tcp_address(&self) -> io::Result<Option<SocketAddr>> {
        match self {
            Self::Unix(_) => Ok(None),
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
pub(crate) async fn connect(address: &Address, identity: Option<&Identity>, name: &str) -> io::Result<Connection> {
    match address {
        Address::Unix(path) => {
            let stream = timeout(CONNECT_TIMEOUT, UnixStream::connect(path)).await??;
            let cut = Cut(stream.as_fd().try_clone_to_owned()?);
            let (from, to) = stream.into_split();
            Ok(Connection { from: Box::new(from), to: Box::new(to), cut, local: None })
        }
        Address::Tcp(address) => {
            let identity = identity.ok_or_else(|| io::Error::other("there is no certificate for TCP"))?;
            connect_tcp(address, identity.connector()?, name).await
        }
    }
}

/// Connects over TCP and TLS to the one with that name.
pub(crate) async fn connect_tcp(address: &str, connector: TlsConnector, name: &str) -> io::Result<Connection> {
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let shake = async {
        let stream = TcpStream::connect(address).await?;
        prepare(&stream)?;
        let cut = Cut(stream.as_fd().try_clone_to_owned()?);
        let local = stream.local_addr().ok();
        let (from, to) = tokio::io::split(connector.connect(name, stream).await?);
        Ok(Connection { from: Box::new(from), to: Box::new(to), cut, local })
    };
    timeout(CONNECT_TIMEOUT, shake).await?
}

/// Listens at an address; a folder's socket is named by `file`.
pub(crate) async fn listen(address: &Address, file: &str) -> io::Result<Listener> {
    match address {
        Address::Unix(folder) => Ok(Listener::Unix(UnixListener::bind(folder.join(file))?)),
        Address::Tcp(address) => Ok(Listener::Tcp(TcpListener::bind(address).await?)),
    }
}

/// A pair of sockets, of which a process gets one.
pub(crate) fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let (near, far) = std::os::unix::net::UnixStream::pair()?;
    near.set_nonblocking(true)?;
    Ok((UnixStream::from_std(near)?, far.into()))
}
