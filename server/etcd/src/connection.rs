//! The connection to etcd: each request with its deadline, each trouble in words.
//!
//! Used by all of this crate. It reconnects by itself; whoever asks is told what went wrong meanwhile, and decides.

use crate::options::{EtcdError, EtcdOptions};
use etcd_client::{
    Certificate, Client, ConnectOptions, GetOptions, GetResponse, Identity, KvClient, LeaseClient, TlsOptions, Txn,
    TxnResponse, WatchClient,
};
use std::time::Duration;

/// Largest answer that is read, in bytes: a page of the largest entries that there may be, and more.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// How often a connection is asked whether it is alive, and how long that may take. etcd ends connections that ask more
/// often than every five seconds.
const ALIVE: (Duration, Duration) = (Duration::from_secs(6), Duration::from_secs(3));

/// What a request came to instead of an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    /// No answer in time.
    #[error("etcd did not answer within {0:?}")]
    Late(Duration),
    /// etcd's word, or that of the way there.
    #[error("{}", words(.0))]
    Told(#[from] etcd_client::Error),
    /// An answer that is none.
    #[error("etcd {0}")]
    Odd(&'static str),
}

/// What went wrong, and why: the last of its sources says most.
fn words(error: &etcd_client::Error) -> String {
    let (mut text, mut source) = match error {
        etcd_client::Error::GRpcStatus(status) => (status.message().to_owned(), std::error::Error::source(status)),
        other => (other.to_string(), None),
    };
    while let Some(deeper) = source {
        if deeper.source().is_none() {
            text = format!("{text}: {deeper}");
        }
        source = deeper.source();
    }
    text
}

impl Trouble {
    /// etcd's own words, if it answered.
    pub(crate) fn said(&self) -> &str {
        match self {
            Trouble::Told(etcd_client::Error::GRpcStatus(status)) => status.message(),
            _ => "",
        }
    }
}

/// A connection.
#[derive(Clone)]
pub(crate) struct Connection {
    client: Client,
    kv: KvClient,
    timeout: Duration,
}

impl Connection {
    /// Sets it up; whether anybody is there is seen at the first request, unless a password is to be checked.
    pub(crate) async fn new(options: &EtcdOptions) -> Result<Self, EtcdError> {
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(options.timeout)
            .with_keep_alive(ALIVE.0, ALIVE.1)
            .with_keep_alive_while_idle(true)
            // A member that has lost the others says so, instead of telling what is old.
            .with_require_leader(true);
        if let Some((name, password)) = &options.user {
            connect = connect.with_user(name, password).with_auto_token_refresh(true);
        }
        let secure = options.endpoints.iter().filter(|endpoint| endpoint.starts_with("https://")).count();
        connect = match &options.tls {
            Some(_) if secure < options.endpoints.len() => {
                let what = "all endpoints begin with https:// where certificates are given, or none".into();
                return Err(EtcdError::Option { what });
            }
            Some(tls) => {
                let mut own = TlsOptions::new().ca_certificate(Certificate::from_pem(&tls.authorities));
                if let Some((certificate, key)) = &tls.identity {
                    own = own.identity(Identity::from_pem(certificate, key));
                }
                connect.with_tls(own)
            }
            None if secure > 0 => {
                let what = "https:// needs the certificate of an authority that is believed".into();
                return Err(EtcdError::Option { what });
            }
            None => connect,
        };
        let connecting = Client::connect(&options.endpoints, Some(connect));
        let client = match tokio::time::timeout(options.timeout, connecting).await {
            Ok(Ok(client)) => client,
            Ok(Err(error)) => return Err(unreachable(options, &error.into())),
            Err(_) => return Err(unreachable(options, &Trouble::Late(options.timeout))),
        };
        let kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
        Ok(Self { client, kv, timeout: options.timeout })
    }

    /// Waits for an answer, no longer than one may take.
    pub(crate) async fn within<T>(
        &self,
        request: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(self.timeout, request).await {
            Ok(answer) => Ok(answer?),
            Err(_) => Err(Trouble::Late(self.timeout)),
        }
    }

    pub(crate) async fn get(&self, key: Vec<u8>, options: GetOptions) -> Result<GetResponse, Trouble> {
        self.within(self.kv.clone().get(key, Some(options))).await
    }

    pub(crate) async fn transaction(&self, transaction: Txn) -> Result<TxnResponse, Trouble> {
        self.within(self.kv.clone().txn(transaction)).await
    }

    pub(crate) fn lease(&self) -> LeaseClient {
        self.client.lease_client()
    }

    pub(crate) fn watch(&self) -> WatchClient {
        self.client.watch_client()
    }
}

pub(crate) fn unreachable(options: &EtcdOptions, why: &Trouble) -> EtcdError {
    EtcdError::Unreachable { endpoints: options.endpoints.join(", "), why: why.to_string() }
}

/// The revision at which etcd answered.
pub(crate) fn revision(header: Option<&etcd_client::ResponseHeader>) -> Result<u64, Trouble> {
    let revision = header.map(etcd_client::ResponseHeader::revision);
    revision.and_then(|revision| u64::try_from(revision).ok()).ok_or(Trouble::Odd("answered without a revision"))
}

/// Pauses before something is tried again: they double.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> + Send {
    const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
    std::iter::successors(Some(PAUSE.0), |pause| Some((*pause * 2).min(PAUSE.1)))
}
