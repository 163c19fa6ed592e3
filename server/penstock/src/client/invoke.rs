//! `penstock invoke`: one call, its answer on standard output.

use super::call::{Answer, Client, ClientError, named, part, refused, with_query};
use super::{Common, show};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use http::{HeaderMap, HeaderValue, Method};
use serde_json::{Value, json};
use std::io::Read;

/// The alias that answers where none is named.
const LIVE: &str = "live";

/// Calls a function.
#[derive(Args)]
pub(crate) struct Invoke {
    /// The function.
    #[arg(value_name = "NAME")]
    name: String,
    /// A version or an alias.
    #[arg(long, value_name = "QUALIFIER")]
    qualifier: Option<String>,
    /// The payload: JSON, `@FILE`, or `-` for standard input.
    #[arg(long, value_name = "JSON", conflicts_with = "text")]
    payload: Option<String>,
    /// A text, for functions that take texts; may be given more than once.
    #[arg(long, value_name = "TEXT")]
    text: Vec<String>,
    /// Do not wait for the answer: it runs at least once, later.
    #[arg(long)]
    event: bool,
    /// Print the end of the invocation's log too, on standard error.
    #[arg(long, conflicts_with = "event")]
    tail: bool,
    #[command(flatten)]
    pub(super) common: Common,
}

impl Invoke {
    pub(super) async fn run(self, client: &Client) -> Result<(), ClientError> {
        let mut headers = HeaderMap::new();
        headers.insert(named("content-type"), HeaderValue::from_static("application/json"));
        let kind = if self.event { "Event" } else { "RequestResponse" };
        headers.insert(named("x-amz-invocation-type"), HeaderValue::from_static(kind));
        if self.tail {
            headers.insert(named("x-amz-log-type"), HeaderValue::from_static("Tail"));
        }
        let answer = self.call(client, headers).await?;
        let (version, failed) = (answer.header("x-amz-executed-version"), answer.header("x-amz-function-error"));
        let log = answer.header("x-amz-log-result").and_then(|log| STANDARD.decode(log).ok());
        let log = log.map(|log| String::from_utf8_lossy(&log).into_owned());
        if self.event {
            let id = answer.header("x-amzn-requestid").unwrap_or_default();
            match self.common.json {
                true => show::say(&json!({ "StatusCode": answer.status.as_u16(), "RequestId": id }).to_string()),
                false => show::say(&format!("accepted: {id}")),
            };
            return Ok(());
        }
        let body = String::from_utf8_lossy(&answer.body);
        if self.common.json {
            let payload = serde_json::from_str::<Value>(&body).unwrap_or_else(|_| json!(body));
            let whole = json!({
                "StatusCode": answer.status.as_u16(), "ExecutedVersion": version, "FunctionError": failed, "Payload": payload,
                "Log": log,
            });
            show::say(&whole.to_string());
        } else {
            show::say(body.trim_end());
            if let Some(log) = log {
                show::tell(log.trim_end());
            }
        }
        match failed {
            None => Ok(()),
            Some(kind) => {
                let told = serde_json::from_str::<Value>(&body).unwrap_or_default();
                let message = format!("the function failed: {}", show::text(&told, "errorMessage"));
                Err(ClientError::Refused { code: kind.to_owned(), message, status: 200 })
            }
        }
    }

    /// Where no version is named it is as over the other protocols: the alias `live` answers, if there is one.
    async fn call(&self, client: &Client, headers: HeaderMap) -> Result<Answer, ClientError> {
        let path = format!("/2015-03-31/functions/{}/invocations", part(&self.name));
        let payload = self.payload()?;
        let qualifiers = match self.qualifier.as_deref() {
            None => [Some(LIVE), None],
            named => [named, named],
        };
        let mut refusal = ClientError::Local("nothing was called".to_owned());
        for qualifier in qualifiers {
            let path = with_query(&path, &[("Qualifier", qualifier)]);
            let answer = client.send(Method::POST, &path, headers.clone(), payload.clone()).await?;
            if answer.status.is_success() {
                return Ok(answer);
            }
            refusal = refused(&answer);
            if !refusal.is_not_found() || qualifier == self.qualifier.as_deref() {
                break;
            }
        }
        Err(refusal)
    }

    fn payload(&self) -> Result<Vec<u8>, ClientError> {
        let unread = |name: &str, error: std::io::Error| ClientError::Local(format!("{name}: {error}"));
        match (self.payload.as_deref(), &self.text[..]) {
            (None, []) => Ok(b"{}".to_vec()),
            (None, [text]) => Ok(json!({ "inputs": text }).to_string().into_bytes()),
            (None, texts) => Ok(json!({ "inputs": texts }).to_string().into_bytes()),
            (Some("-"), _) => {
                let mut payload = Vec::new();
                std::io::stdin().read_to_end(&mut payload).map_err(|error| unread("standard input", error))?;
                Ok(payload)
            }
            (Some(payload), _) => match payload.strip_prefix('@') {
                Some(file) => std::fs::read(file).map_err(|error| unread(file, error)),
                None => Ok(payload.as_bytes().to_vec()),
            },
        }
    }
}
