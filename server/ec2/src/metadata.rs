//! Instance metadata of EC2, version 2: what a machine is, whose keys it has, and that it will be taken away.
//!
//! Asked by the agent of an instance for itself, and by a server that runs on EC2 for its keys. Only with a token (IMDSv2); the
//! address is link-local and answered by the hypervisor.

use crate::options::{WrongOption, endpoint};
use penstock_remote::Credentials;
use reqwest::{Client, StatusCode, Url};
use serde::Deserialize;
use serde_json::Value;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};

/// Where it is unless told otherwise.
const ENDPOINT: &str = "http://169.254.169.254/";
/// How long a token holds; a new one is taken in half of it.
const TOKEN: Duration = Duration::from_secs(21_600);
/// How long an answer may take: it comes from the same machine.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How often it is tried, and the pause between: the service is not there at once when a machine starts.
const TRIES: (u32, Duration) = (4, Duration::from_millis(300));
/// Between two looks for a notice, as AWS recommends: two minutes are left when it comes.
const NOTICE_EVERY: Duration = Duration::from_secs(5);
/// Of those looks, how many until events are looked for too, which are told days before.
const EVENTS_EVERY: u32 = 12;
/// Most bytes of an answer.
const ANSWER_BYTES_MAX: usize = 64 << 10;

const TOKEN_TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";
const TOKEN_HEADER: &str = "x-aws-ec2-metadata-token";

/// The metadata of this machine.
pub struct Metadata {
    client: Client,
    endpoint: Url,
    token: Mutex<Option<(String, Instant)>>,
    /// Between two looks for a notice.
    every: Duration,
}

/// What a machine is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MachineIdentity {
    /// Such as `i-0123456789abcdef0`: what [`penstock_instances::Launched::name`] is.
    pub instance_id: String,
    /// Its address in its network.
    pub private_ip: String,
    /// Such as `g6.xlarge`.
    pub instance_type: String,
    /// Such as `eu-west-1a`.
    pub availability_zone: String,
    /// Such as `eu-west-1`.
    pub region: String,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum MetadataError {
    /// Nobody answers.
    #[error(
        "instance metadata does not answer at {endpoint}: {source}; this machine is not of EC2, or its metadata is switched off"
    )]
    Unreachable {
        /// Where.
        endpoint: String,
        /// What the client says.
        source: reqwest::Error,
    },
    /// The answer is another one.
    #[error("instance metadata answers {path} with {status}")]
    Refused {
        /// What was asked for.
        path: String,
        /// The HTTP status.
        status: u16,
    },
    /// The answer is not understood.
    #[error("instance metadata answers {path} with something else than {expected}")]
    Content {
        /// What was asked for.
        path: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Metadata {
    /// `endpoint` is the setting `AWS_EC2_METADATA_SERVICE_ENDPOINT`, if there is one. Errors: it is wrong, or the system has no
    /// certificates. Asks nobody.
    pub fn new(endpoint: Option<&str>) -> std::io::Result<Self> {
        let client = penstock_remote::client().map_err(std::io::Error::other)?;
        Self::with_client(client, endpoint)
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidInput, error))
    }

    pub(crate) fn with_client(client: Client, given: Option<&str>) -> Result<Self, WrongOption> {
        let endpoint = match endpoint("metadata_endpoint_url", given)? {
            Some(url) => url,
            None => Url::parse(ENDPOINT).expect("it is one"),
        };
        Ok(Self { client, endpoint, token: Mutex::default(), every: NOTICE_EVERY })
    }

    /// What this machine is.
    pub async fn identity(&self) -> Result<MachineIdentity, MetadataError> {
        const PATH: &str = "dynamic/instance-identity/document";
        let text = self.required(PATH).await?;
        serde_json::from_str(&text)
            .map_err(|_| MetadataError::Content { path: PATH.to_owned(), expected: "the identity of an instance" })
    }

    /// Resolves when this machine is to be taken away: in which words AWS says so. Never, if it is not. What cannot be asked is
    /// asked again.
    pub async fn interruption(&self) -> String {
        let (mut looks, mut is_told) = (0u32, false);
        loop {
            let found = match self.notice().await {
                Ok(None) if looks % EVENTS_EVERY == 0 => self.event().await,
                found => found,
            };
            match found {
                Ok(Some(words)) => return words,
                Ok(None) => is_told = false,
                Err(error) if !is_told => {
                    tracing::warn!(%error, "it cannot be asked whether this machine is to be taken away");
                    is_told = true;
                }
                Err(_) => {}
            }
            looks = looks.wrapping_add(1);
            sleep(self.every).await;
        }
    }

    /// A notice that Spot takes it back.
    async fn notice(&self) -> Result<Option<String>, MetadataError> {
        let Some(notice) = self.json("meta-data/spot/instance-action").await? else { return Ok(None) };
        let time = notice["time"].as_str().unwrap_or("soon");
        Ok(notice["action"].as_str().map(|action| format!("Spot takes the instance back: {action} at {time}")))
    }

    /// An event that AWS has planned for it: retirement, a stop or a reboot.
    async fn event(&self) -> Result<Option<String>, MetadataError> {
        let events = self.json("meta-data/events/maintenance/scheduled").await?.unwrap_or_default();
        let mut events = events.as_array().into_iter().flatten();
        let word = |event: &Value, key: &str| event[key].as_str().unwrap_or_default().to_owned();
        Ok(events.find(|event| event["State"] == "active").map(|event| {
            let [code, from, words] = ["Code", "NotBefore", "Description"].map(|key| word(event, key));
            format!("AWS has planned {code} from {from}: {words}")
        }))
    }

    /// Keys of the machine's instance profile, and until when they hold.
    pub(crate) async fn credentials(&self) -> Result<(Credentials, String), MetadataError> {
        const PATH: &str = "meta-data/iam/security-credentials/";
        let wrong = || MetadataError::Content { path: PATH.to_owned(), expected: "keys of an instance profile" };
        let roles = self.required(PATH).await?;
        let role = roles.lines().next().map(str::trim).filter(|role| !role.is_empty()).ok_or_else(wrong)?;
        let answer: Value =
            serde_json::from_str(&self.required(&format!("{PATH}{role}")).await?).map_err(|_| wrong())?;
        let text = |key: &str| answer[key].as_str().map(str::to_owned).ok_or_else(wrong);
        let keys = Credentials {
            access_key_id: text("AccessKeyId")?,
            secret_access_key: text("SecretAccessKey")?,
            session_token: Some(text("Token")?),
        };
        Ok((keys, text("Expiration")?))
    }

    /// JSON, if there is any.
    async fn json(&self, path: &str) -> Result<Option<Value>, MetadataError> {
        let wrong = |_| MetadataError::Content { path: path.to_owned(), expected: "JSON" };
        self.get(path).await?.map(|text| serde_json::from_str(&text).map_err(wrong)).transpose()
    }

    async fn required(&self, path: &str) -> Result<String, MetadataError> {
        let found = self.get(path).await?;
        found.ok_or_else(|| MetadataError::Refused { path: path.to_owned(), status: 404 })
    }

    /// `None` if there is no such thing.
    async fn get(&self, path: &str) -> Result<Option<String>, MetadataError> {
        let mut tries = 1;
        loop {
            let answer = match self.get_once(path).await {
                Ok((StatusCode::OK, text)) => return Ok(Some(text)),
                Ok((StatusCode::NOT_FOUND, _)) => return Ok(None),
                Ok((status, _)) => {
                    if status == StatusCode::UNAUTHORIZED {
                        *self.token.lock().await = None;
                    }
                    Err(MetadataError::Refused { path: path.to_owned(), status: status.as_u16() })
                }
                Err(source) => Err(MetadataError::Unreachable {
                    endpoint: self.endpoint.to_string(),
                    source: source.without_url(),
                }),
            };
            if tries == TRIES.0 {
                return answer;
            }
            tries += 1;
            sleep(TRIES.1).await;
        }
    }

    async fn get_once(&self, path: &str) -> Result<(StatusCode, String), reqwest::Error> {
        let token = self.token().await?;
        let url = format!("{}latest/{path}", self.endpoint);
        let mut response = self.client.get(url).header(TOKEN_HEADER, token).timeout(TIMEOUT).send().await?;
        let mut text = Vec::new();
        while let Some(chunk) = response.chunk().await? {
            if text.len() + chunk.len() > ANSWER_BYTES_MAX {
                break;
            }
            text.extend_from_slice(&chunk);
        }
        Ok((response.status(), String::from_utf8_lossy(&text).into_owned()))
    }

    async fn token(&self) -> Result<String, reqwest::Error> {
        let mut token = self.token.lock().await;
        if let Some((token, _)) = token.as_ref().filter(|(_, since)| since.elapsed() < TOKEN / 2) {
            return Ok(token.clone());
        }
        let url = format!("{}latest/api/token", self.endpoint);
        let request = self.client.put(url).header(TOKEN_TTL, TOKEN.as_secs()).timeout(TIMEOUT);
        let text = request.send().await?.error_for_status()?.text().await?;
        *token = Some((text.clone(), Instant::now()));
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
