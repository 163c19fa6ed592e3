//! One call to the server: made, signed, sent, and what came back.
//!
//! Called by the commands. Never repeats a call: the commands know which of theirs may be repeated.

use futures_util::stream;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use parking_lot::Mutex;
use penstock_authority::Signer;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;

/// Where a server listens if nothing is said.
const ENDPOINT: &str = "http://127.0.0.1:8000";
/// The region that signatures are for if nothing is said; the server takes any.
const REGION: &str = "us-east-1";
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server may be silent: an invocation may take 5,400 seconds.
const SILENCE_MAX: Duration = Duration::from_secs(5_460);
/// How long a connection may be silent before it is asked whether it is there.
const KEEPALIVE: Duration = Duration::from_secs(30);
/// Read of a file at once, in bytes.
const CHUNK_BYTES: usize = 256 << 10;
/// Longest text of an answer that is no JSON that is shown, in characters.
const SHOWN_MAX: usize = 300;
/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// The command line.
    #[error("{0}")]
    Usage(String),
    /// Nobody answered.
    #[error("{endpoint} does not answer: {reason}. Is the server up? --endpoint or PENSTOCK_ENDPOINT names another.")]
    Unreachable {
        /// Where it was looked for.
        endpoint: String,
        /// Of the network.
        reason: String,
    },
    /// It was reached, and said nothing for too long.
    #[error("{endpoint} has not answered for {} s; what was asked for may still be going on", SILENCE_MAX.as_secs())]
    Silent {
        /// Who was asked.
        endpoint: String,
    },
    /// The server said no, or what was asked for failed.
    #[error("{message} ({code})")]
    Refused {
        /// Lambda's name of the error.
        code: String,
        /// In words.
        message: String,
        /// HTTP's.
        status: u16,
    },
    /// Something on this machine.
    #[error("{0}")]
    Local(String),
}

impl ClientError {
    /// For programs.
    pub(crate) fn json(&self) -> Value {
        let (code, message) = match self {
            ClientError::Usage(text) => ("Usage", text.clone()),
            ClientError::Unreachable { .. } => ("Unreachable", self.to_string()),
            ClientError::Silent { .. } => ("Silent", self.to_string()),
            ClientError::Refused { code, message, .. } => (code.as_str(), message.clone()),
            ClientError::Local(text) => ("Local", text.clone()),
        };
        json!({ "error": { "code": code, "message": message } })
    }

    /// There is no room for it now.
    pub(crate) fn is_throttled(&self) -> bool {
        matches!(self, ClientError::Refused { code, .. } if code == "TooManyRequestsException")
    }

    /// Another change came between, or stands in the way.
    pub(crate) fn is_overtaken(&self) -> bool {
        let ClientError::Refused { code, message, .. } = self else { return false };
        let codes = ["PreconditionFailedException", "ResourceConflictException"];
        codes.contains(&code.as_str()) || message.contains("is different from current CodeSHA256")
    }

    /// The server knows no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, ClientError::Refused { code, .. } if code == "ResourceNotFoundException")
    }
}

/// What the environment says of the server.
pub(crate) struct Where {
    pub(crate) endpoint: Option<String>,
    pub(crate) access_key_id: Option<String>,
    pub(crate) secret_access_key: Option<String>,
    pub(crate) session_token: Option<String>,
    pub(crate) region: Option<String>,
}

/// A server, as its client sees it.
pub(crate) struct Client {
    http: reqwest::Client,
    /// For files: the server's silence begins when all is sent.
    uploads: reqwest::Client,
    endpoint: String,
    signer: Option<Signer>,
    now: fn() -> i64,
}

/// What came back, whatever its status.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// A header, if it is there and text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Client {
    /// Errors: the endpoint is none.
    pub(crate) fn new(place: Where, now: fn() -> i64) -> Result<Self, ClientError> {
        let endpoint = place.endpoint.unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        let uri = endpoint.parse::<Uri>().ok();
        let whole = |uri: &Uri| {
            matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some() && uri.path() == "/"
        };
        if !uri.as_ref().is_some_and(whole) {
            let text = format!("--endpoint: expected http://HOST:PORT or https://HOST, found {endpoint:?}");
            return Err(ClientError::Usage(text));
        }
        let wrong = |error: &dyn std::fmt::Display| ClientError::Usage(format!("AWS_SESSION_TOKEN: {error}"));
        let signer = match (place.access_key_id, place.secret_access_key) {
            (Some(id), Some(secret)) => {
                let region = place.region.as_deref().unwrap_or(REGION);
                let signer = Signer::new(&id, &secret, place.session_token.as_deref(), region, "lambda");
                Some(signer.map_err(|error| wrong(&error))?)
            }
            (None, None) => None,
            _ => {
                let text = "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY: set both, or neither".to_owned();
                return Err(ClientError::Usage(text));
            }
        };
        // The first to come is kept: whoever set another did so on purpose.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // No proxy knows what listens here.
        let here = uri.as_ref().and_then(Uri::host).is_some_and(is_loopback);
        let build = |http: reqwest::ClientBuilder| {
            let http = http.connect_timeout(CONNECT_TIMEOUT).redirect(reqwest::redirect::Policy::none());
            let http = if here { http.no_proxy() } else { http };
            http.build().map_err(|error| ClientError::Local(format!("cannot start: {error}")))
        };
        let http = build(reqwest::Client::builder().read_timeout(SILENCE_MAX))?;
        // A time to read would count sending, too; a server that is gone is noticed by its silence on the wire.
        let uploads = build(reqwest::Client::builder().tcp_keepalive(KEEPALIVE))?;
        Ok(Self { http, uploads, endpoint, signer, now })
    }

    /// The same answer as JSON; of an empty one `null`. Errors: the server said no.
    pub(crate) async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, ClientError> {
        let body = body.map(|body| body.to_string().into_bytes()).unwrap_or_default();
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let answer = self.send(method, path, headers, body).await?;
        if !answer.status.is_success() {
            return Err(refused(&answer));
        }
        match &answer.body[..] {
            [] => Ok(Value::Null),
            bytes => serde_json::from_slice(bytes)
                .map_err(|error| ClientError::Local(format!("the answer to {path} is no JSON: {error}"))),
        }
    }

    /// Sends a body that is in memory.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<Answer, ClientError> {
        let sha256 = Sha256::digest(&body).into();
        self.exchange(&self.http, method, path, headers, &sha256, body.into()).await
    }

    /// Sends a file as it is; `sent` is told of each part that goes. Errors: the server said no.
    pub(crate) async fn send_file(
        &self,
        path: &str,
        file: &Path,
        sha256: &[u8; 32],
        bytes: u64,
        sent: impl Fn(u64) + Send + Sync + 'static,
    ) -> Result<(), ClientError> {
        let opened = tokio::fs::File::open(file).await;
        let opened = opened.map_err(|error| ClientError::Local(format!("{}: {error}", file.display())))?;
        // What is wrong with the file is not the server's silence.
        let wrong = Arc::new(Mutex::new(None));
        let noted = wrong.clone();
        let parts = stream::try_unfold((opened, bytes, sent), move |(mut file, left, sent)| {
            let noted = noted.clone();
            async move {
                let mut part = Vec::with_capacity(CHUNK_BYTES);
                let read = (&mut file).take(left.min(CHUNK_BYTES as u64)).read_to_end(&mut part).await;
                let read = read.inspect_err(|error| *noted.lock() = Some(error.to_string()))? as u64;
                if read == 0 && left > 0 {
                    *noted.lock() = Some("it changed while it was sent; deploy again".to_owned());
                }
                sent(read);
                Ok::<_, std::io::Error>((read > 0).then_some((part, (file, left - read, sent))))
            }
        });
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_LENGTH, bytes.into());
        let body = reqwest::Body::wrap_stream(parts);
        let answer = self.exchange(&self.uploads, Method::PUT, path, headers, sha256, body).await;
        if let Some(wrong) = wrong.lock().take() {
            return Err(ClientError::Local(format!("{}: {wrong}", file.display())));
        }
        let answer = answer?;
        if answer.status.is_success() { Ok(()) } else { Err(refused(&answer)) }
    }

    async fn exchange(
        &self,
        http: &reqwest::Client,
        method: Method,
        path: &str,
        mut headers: HeaderMap,
        sha256: &[u8; 32],
        body: reqwest::Body,
    ) -> Result<Answer, ClientError> {
        let url = format!("{}{path}", self.endpoint);
        if let Some(signer) = &self.signer {
            let uri: Uri = url.parse().map_err(|_| ClientError::Local(format!("{url} is no address")))?;
            let signed = signer.sign(&method, &uri, &mut headers, sha256, (self.now)());
            signed.map_err(|denied| ClientError::Local(denied.message))?;
        }
        let unreachable = |error: reqwest::Error| {
            if error.is_timeout() && !error.is_connect() {
                return ClientError::Silent { endpoint: self.endpoint.clone() };
            }
            // The innermost says why.
            let error = error.without_url();
            let mut reason: &dyn std::error::Error = &error;
            while let Some(source) = reason.source() {
                reason = source;
            }
            ClientError::Unreachable { endpoint: self.endpoint.clone(), reason: reason.to_string() }
        };
        let answer = http.request(method, &url).headers(headers).body(body).send().await.map_err(unreachable)?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let body = answer.bytes().await.map_err(unreachable)?.to_vec();
        Ok(Answer { status, headers, body })
    }
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// An answer that says no.
pub(crate) fn refused(answer: &Answer) -> ClientError {
    let told: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let text = |name: &str| told.get(name).and_then(Value::as_str).map(str::to_owned);
    let code = answer.header("x-amzn-errortype").and_then(|code| code.split(':').next()).map(str::to_owned);
    let plain = || String::from_utf8_lossy(&answer.body).chars().take(SHOWN_MAX).collect();
    let message = text("Message").or_else(|| text("message")).or_else(|| text("error")).unwrap_or_else(plain);
    let code = code.or_else(|| text("Type")).unwrap_or_else(|| answer.status.to_string());
    ClientError::Refused { code, message, status: answer.status.as_u16() }
}

/// A name as a part of a path.
pub(crate) fn part(name: &str) -> String {
    utf8_percent_encode(name, RESERVED).to_string()
}

/// A path with a query; parameters without a value are left out.
pub(crate) fn with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some(format!("{name}={}", part((*value)?))));
    let query: Vec<_> = given.collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

/// A header's name that is known to be one.
pub(crate) const fn named(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}
