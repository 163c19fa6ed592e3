//! Where requests go and in which protocol: `grpc://host:port`, `grpc-stream://`, `http://`, `http-json://`,
//! `embeddings://`. Called by the command line, `payload` and `drive`.

use crate::wire::{Client, Stream, Unary};
use std::net::{SocketAddr, ToSocketAddrs};

/// What is spoken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    /// `ModelInfer`.
    Grpc,
    /// `ModelStreamInfer`, one stream a connection.
    GrpcStream,
    /// OIP over HTTP/1.1, tensors after the JSON.
    Http,
    /// OIP over HTTP/1.1, tensors in the JSON.
    HttpJson,
    /// `POST /v1/embeddings`.
    Embeddings,
}

/// One server to load.
#[derive(Clone, Debug)]
pub struct Target {
    /// What is spoken.
    pub protocol: Protocol,
    /// As given.
    pub url: String,
    /// `host:port`.
    pub authority: String,
    /// The address it resolved to.
    pub address: SocketAddr,
}

/// A target that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The form is wrong.
    #[error("target `{0}`: give grpc://, grpc-stream://, http://, http-json:// or embeddings://, then HOST:PORT")]
    Form(String),
    /// The host is not known.
    #[error("target `{0}` does not resolve")]
    Resolve(String, #[source] std::io::Error),
    /// The host has no address.
    #[error("target `{0}` has no address")]
    NoAddress(String),
}

impl Target {
    /// Reads and resolves a target.
    pub fn parse(url: &str) -> Result<Self, TargetError> {
        let (scheme, rest) = url.split_once("://").ok_or_else(|| TargetError::Form(url.to_owned()))?;
        let protocol = match scheme {
            "grpc" => Protocol::Grpc,
            "grpc-stream" => Protocol::GrpcStream,
            "http" => Protocol::Http,
            "http-json" => Protocol::HttpJson,
            "embeddings" => Protocol::Embeddings,
            _ => return Err(TargetError::Form(url.to_owned())),
        };
        let authority = rest.trim_end_matches('/').to_owned();
        if !authority.contains(':') || authority.contains('/') {
            return Err(TargetError::Form(url.to_owned()));
        }
        let mut addresses = authority.to_socket_addrs().map_err(|error| TargetError::Resolve(url.to_owned(), error))?;
        let address = addresses.next().ok_or_else(|| TargetError::NoAddress(url.to_owned()))?;
        Ok(Self { protocol, url: url.to_owned(), authority, address })
    }

    /// A client for one new connection. `deadline_ms` travels as `grpc-timeout` where each request has a head of its own.
    pub fn client(&self, deadline_ms: Option<u32>) -> Client {
        let timeout = deadline_ms.map(|ms| format!("{ms}m"));
        let head = |path| {
            let mut head = vec![
                (":method", "POST"),
                (":scheme", "http"),
                (":path", path),
                (":authority", self.authority.as_str()),
                ("content-type", "application/grpc"),
                ("te", "trailers"),
                ("user-agent", concat!("penstock-loadtest/", env!("CARGO_PKG_VERSION"))),
            ];
            head.extend(timeout.as_deref().map(|text| ("grpc-timeout", text)));
            head
        };
        match self.protocol {
            Protocol::Grpc => Client::Unary(Box::new(Unary::new(&head("/inference.GRPCInferenceService/ModelInfer")))),
            Protocol::GrpcStream => {
                let mut head = head("/inference.GRPCInferenceService/ModelStreamInfer");
                // It would end the stream; each message carries its own.
                head.retain(|(name, _)| *name != "grpc-timeout");
                Client::Stream(Box::new(Stream::new(&head)))
            }
            Protocol::Http | Protocol::HttpJson | Protocol::Embeddings => Client::Http1(Box::default()),
        }
    }

    /// Whether a connection carries one request at a time.
    pub fn is_serial(&self) -> bool {
        !matches!(self.protocol, Protocol::Grpc | Protocol::GrpcStream)
    }
}
