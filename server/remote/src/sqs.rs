//! Queues of SQS: a message is sent, by the JSON protocol.
//!
//! Called by `target`.

use crate::endpoint::is_region;
use crate::target::TellError;
use crate::{CredentialSource, Credentials, RemoteError};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use penstock_authority::Signer;
use reqwest::{Client, Response, Url};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::SystemTime;

/// Most bytes of an answer that are read for what it says.
const ANSWER_BYTES_MAX: usize = 4 << 10;

/// A queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Queue {
    region: String,
    account: String,
    name: String,
}

/// SQS, with one set of keys.
pub(crate) struct Sqs {
    pub(crate) client: Client,
    /// `None`: AWS's own of a queue's region.
    pub(crate) endpoint: Option<Url>,
    pub(crate) credentials: CredentialSource,
    pub(crate) clock: fn() -> SystemTime,
}

impl Queue {
    /// Reads `arn:aws:sqs:REGION:ACCOUNT:NAME`, of a standard queue.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.strip_prefix("arn:aws:sqs:")?.split(':').collect();
        let &[region, account, name] = parts.as_slice() else { return None };
        let digits = account.len() == 12 && account.chars().all(|c| c.is_ascii_digit());
        let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let named = (1..=80).contains(&name.len()) && name.chars().all(word);
        let queue = || Self { region: region.to_owned(), account: account.to_owned(), name: name.to_owned() };
        (is_region(region) && digits && named).then(queue)
    }

    pub(crate) fn arn(&self) -> String {
        let Self { region, account, name } = self;
        format!("arn:aws:sqs:{region}:{account}:{name}")
    }
}

impl Sqs {
    fn endpoint(&self, region: &str) -> Result<Url, RemoteError> {
        let own = || {
            let text = format!("https://sqs.{region}.amazonaws.com/");
            Url::parse(&text).map_err(|_| RemoteError::Setting {
                key: "sqs.endpoint_url",
                found: text,
                expected: "the address of a service",
            })
        };
        self.endpoint.clone().map_or_else(own, Ok)
    }

    fn signed(
        &self,
        credentials: &Credentials,
        queue: &Queue,
        endpoint: &Url,
        body: &[u8],
    ) -> Result<HeaderMap, String> {
        let Credentials { access_key_id, secret_access_key, session_token } = credentials;
        let signer = Signer::new(access_key_id, secret_access_key, session_token.as_deref(), &queue.region, "sqs");
        let signer = signer.map_err(|error| format!("the session token cannot be sent: {error}"))?;
        let uri: Uri = endpoint.as_str().parse().map_err(|error| format!("sqs.endpoint_url: {error}"))?;
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-amz-json-1.0"));
        headers.insert("x-amz-target", HeaderValue::from_static("AmazonSQS.SendMessage"));
        let now = (self.clock)().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let signed = signer.sign(&Method::POST, &uri, &mut headers, &Sha256::digest(body).into(), now);
        signed.map(|()| headers).map_err(|denied| denied.message)
    }

    /// Sends a message. Errors: SQS does not take it.
    pub(crate) async fn send(&self, queue: &Queue, message: &str) -> Result<(), TellError> {
        let endpoint = self.endpoint(&queue.region).map_err(TellError::told)?;
        let url = format!("{endpoint}{}/{}", queue.account, queue.name);
        let body = json!({ "QueueUrl": url, "MessageBody": message }).to_string();
        let credentials = self.credentials.read().map_err(TellError::told)?;
        let headers = self.signed(&credentials, queue, &endpoint, body.as_bytes()).map_err(TellError::told)?;
        let response =
            self.client.post(endpoint).headers(headers).body(body).send().await.map_err(TellError::failed)?;
        let status = response.status();
        let answer = read(response).await;
        match answer["MessageId"].is_string() && status.is_success() {
            true => Ok(()),
            false => {
                let error = TellError::told(format!("SQS answered {status}: {}", words(&answer)));
                Err(error.finally(is_of_the_message(kind(&answer))))
            }
        }
    }
}

/// The start of an answer, if it is JSON.
async fn read(mut response: Response) -> Value {
    let mut text = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        text.extend_from_slice(&chunk);
        if text.len() > ANSWER_BYTES_MAX {
            break;
        }
    }
    serde_json::from_slice(&text).unwrap_or_default()
}

/// The kind of an error, without the name space before it.
fn kind(answer: &Value) -> &str {
    answer["__type"].as_str().unwrap_or_default().rsplit('#').next().unwrap_or_default()
}

/// Whether a kind is about the message: it is too long (as of 2025 longer than 1 MiB), or has characters that SQS does not take.
fn is_of_the_message(kind: &str) -> bool {
    ["InvalidParameterValue", "InvalidMessageContents"].iter().any(|start| kind.starts_with(start))
}

fn words(answer: &Value) -> String {
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let message = if text("message").is_empty() { text("Message") } else { text("message") };
    match (kind(answer), message) {
        ("", "") => "it says no more".to_owned(),
        (kind, message) => format!("{kind} {message}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_server::{Answer, serve};

    #[test]
    fn only_standard_queues_are_named() {
        let queue = Queue::parse("arn:aws:sqs:eu-west-1:123456789012:ends_2-a").unwrap();
        assert_eq!(
            (queue.region.as_str(), queue.account.as_str(), queue.name.as_str()),
            ("eu-west-1", "123456789012", "ends_2-a")
        );
        for bad in [
            "arn:aws:sns:us-east-1:123456789012:q",
            "arn:aws:sqs:us-east-1:123456789012:q.fifo",
            "arn:aws:sqs:us-east-1:12345678901:q",
            "arn:aws:sqs:evil.com/:123456789012:q",
            "arn:aws:sqs:us-east-1:123456789012:",
            "arn:aws:sqs:us-east-1:123456789012:q:r",
        ] {
            assert_eq!(Queue::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test]
    async fn a_message_is_sent_signed() {
        let error =
            "{\"__type\":\"com.amazonaws.sqs#QueueDoesNotExist\",\"message\":\"The specified queue does not exist.\"}";
        let server = serve(vec![
            Answer::new(200, "", "{\"MessageId\":\"1\"}"),
            Answer::new(400, "", error),
            Answer::new(200, "", ""),
            Answer::new(
                400,
                "",
                "{\"__type\":\"InvalidParameterValueException\",\"message\":\"Message must be shorter.\"}",
            ),
        ]);
        let keys = crate::Credentials { access_key_id: "A".into(), secret_access_key: "s".into(), session_token: None };
        let sqs = Sqs {
            client: crate::client::client().unwrap(),
            endpoint: Some(Url::parse(&server.url).unwrap()),
            credentials: CredentialSource::Fixed(keys),
            clock: || SystemTime::UNIX_EPOCH,
        };
        let queue = Queue::parse("arn:aws:sqs:eu-west-1:123456789012:ends").unwrap();
        sqs.send(&queue, "{\"a\":1}").await.unwrap();
        let asked = server.asked().remove(0);
        assert!(asked.starts_with("POST / HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("Credential=A/19700101/eu-west-1/sqs/aws4_request"), "{asked}");
        assert!(asked.contains(&format!("\"QueueUrl\":\"{}123456789012/ends\"", server.url)), "{asked}");
        assert!(asked.contains("\"MessageBody\":\"{\\\"a\\\":1}\""), "{asked}");
        let error = sqs.send(&queue, "{}").await.unwrap_err();
        assert!(!error.is_final(), "it may be made");
        let error = error.to_string();
        assert!(error.contains("400") && error.contains("QueueDoesNotExist The specified queue"), "{error}");
        assert!(sqs.send(&queue, "{}").await.is_err(), "no id: nobody has it");
        assert!(sqs.send(&queue, "{}").await.unwrap_err().is_final(), "the message will not become shorter");
        assert_eq!(queue.arn(), "arn:aws:sqs:eu-west-1:123456789012:ends");
    }
}
