//! The generator's own clients: HTTP/2 for gRPC, HTTP/1.1 for the rest, each without a socket.
//!
//! Called by `drive`, which owns sockets and time. They exist so that the generator costs little beside the server it
//! measures: requests are encoded once, heads are repeated, nothing is decoded that is not recorded.

mod frame;
mod h2;
mod hpack;
mod http1;
mod huffman;
mod protobuf;
mod reply;
mod stream;
mod unary;

pub use http1::{Http1, Http1Error};
pub use reply::Reply;
pub use stream::{ID_DIGITS, ID_OFFSET, Stream};
pub use unary::Unary;

use bytes::Bytes;

/// A request in flight, as its sender remembers it. Times are microseconds from the start of the run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Ticket {
    /// When it should have been sent.
    pub intended_us: u32,
    /// When it was.
    pub sent_us: u32,
}

/// Why a request has no response.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Loss {
    /// The connection ended first.
    ConnectionLost,
    /// The peer reset the stream, or said goodbye without looking at it.
    StreamReset,
}

/// The end of one request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// The request.
    pub ticket: Ticket,
    /// What came back, or why nothing did.
    pub result: Result<Reply, Loss>,
}

/// Why a connection cannot be used any more.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// HTTP/2 went wrong.
    #[error(transparent)]
    H2(#[from] h2::H2Error),
    /// HTTP/1.1 went wrong.
    #[error(transparent)]
    Http1(#[from] Http1Error),
}

/// One connection's protocol.
pub enum Client {
    /// gRPC, one stream a request.
    Unary(Box<Unary>),
    /// gRPC, all requests on one stream.
    Stream(Box<Stream>),
    /// HTTP/1.1, one request at a time.
    Http1(Box<Http1>),
}

impl Client {
    /// Whether a request can be sent now.
    pub fn is_ready(&self) -> bool {
        match self {
            Client::Unary(client) => client.is_ready(),
            Client::Stream(client) => client.is_ready(),
            Client::Http1(client) => client.is_ready(),
        }
    }

    /// Whether the peer has said that it takes no more requests here, and all are answered.
    pub fn is_finished(&self) -> bool {
        match self {
            Client::Unary(client) => client.is_finished(),
            Client::Stream(client) => client.is_finished(),
            Client::Http1(client) => client.is_finished(),
        }
    }

    /// Requests without an answer yet.
    pub fn in_flight(&self) -> usize {
        match self {
            Client::Unary(client) => client.in_flight(),
            Client::Stream(client) => client.in_flight(),
            Client::Http1(client) => client.in_flight(),
        }
    }

    /// Puts a prepared request into [`Client::out`].
    pub fn send(&mut self, ticket: Ticket, body: &Bytes) {
        match self {
            Client::Unary(client) => client.send(ticket, body.clone()),
            Client::Stream(client) => client.send(ticket, body),
            Client::Http1(client) => client.send(ticket, body),
        }
    }

    /// Takes bytes from the peer; pushes the requests that ended with them.
    pub fn receive(&mut self, bytes: &[u8], answers: &mut Vec<Answer>) -> Result<(), WireError> {
        match self {
            Client::Unary(client) => client.receive(bytes, answers),
            Client::Stream(client) => client.receive(bytes, answers),
            Client::Http1(client) => client.receive(bytes, answers),
        }
    }

    /// Ends everything in flight, as the connection is gone.
    pub fn abandon(&mut self, answers: &mut Vec<Answer>) {
        match self {
            Client::Unary(client) => client.abandon(answers),
            Client::Stream(client) => client.abandon(answers),
            Client::Http1(client) => client.abandon(answers),
        }
    }

    /// Bytes to be written to the socket; the caller removes what it has written.
    pub fn out(&mut self) -> &mut Vec<u8> {
        match self {
            Client::Unary(client) => client.out(),
            Client::Stream(client) => client.out(),
            Client::Http1(client) => &mut client.out,
        }
    }
}
