//! One signed request and its answer.
//!
//! Called by `session` with the identity's own keys, and by [`super::Api`] with those of the operator role. Never tries twice.

use super::error::{ApiError, Fault};
use super::query::Params;
use super::xml::Element;
use crate::options::{Ec2Options, WrongOption, endpoint};
use http::{HeaderMap, HeaderValue, Method, Uri, header};
use penstock_authority::Signer;
use penstock_remote::Credentials;
use reqwest::{Client, Response, Url};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::time::{Duration, SystemTime};

/// Most bytes of an answer: a thousand instances are two or three MiB.
const ANSWER_BYTES_MAX: usize = 32 << 20;

/// A service that is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Service {
    Ec2,
    Sts,
    Ssm,
}

impl Service {
    /// As it is called in signatures and addresses.
    const fn name(self) -> &'static str {
        match self {
            Self::Ec2 => "ec2",
            Self::Sts => "sts",
            Self::Ssm => "ssm",
        }
    }

    const fn title(self) -> &'static str {
        match self {
            Self::Ec2 => "EC2",
            Self::Sts => "STS",
            Self::Ssm => "SSM",
        }
    }

    /// Of the Query API.
    const fn version(self) -> &'static str {
        match self {
            Self::Ec2 => "2016-11-15",
            Self::Sts => "2011-06-15",
            Self::Ssm => "",
        }
    }
}

/// A call: the same each time it is sent. Among its parameters are secrets: it has no `Debug`.
pub(crate) struct Call {
    pub(crate) service: Service,
    pub(crate) action: &'static str,
    body: String,
}

impl Call {
    /// Of the Query API.
    pub(crate) fn query(service: Service, action: &'static str, params: Params) -> Self {
        let own = Params::new().with("Action", action).with("Version", service.version()).encode();
        let body = match params.encode() {
            more if more.is_empty() => own,
            more => format!("{own}&{more}"),
        };
        Self { service, action, body }
    }

    /// Of SSM, which speaks JSON.
    pub(crate) fn ssm(action: &'static str, body: &Value) -> Self {
        Self { service: Service::Ssm, action, body: body.to_string() }
    }

    /// The service and the action, as errors name them.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.service.title(), self.action)
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        let content = match self.service {
            Service::Ssm => "application/x-amz-json-1.1",
            Service::Ec2 | Service::Sts => "application/x-www-form-urlencoded; charset=utf-8",
        };
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content));
        if self.service == Service::Ssm {
            let target = HeaderValue::try_from(format!("AmazonSSM.{}", self.action));
            headers.insert("x-amz-target", target.expect("actions are words"));
        }
        headers
    }
}

/// What came back.
pub(crate) enum Answer {
    Xml(Element),
    Json(Value),
}

/// Where services are, and how they are reached.
pub(crate) struct Wire {
    pub(crate) client: Client,
    region: String,
    ec2: Url,
    sts: Url,
    ssm: Url,
    attempt: Duration,
    clock: fn() -> SystemTime,
}

impl Wire {
    pub(crate) fn new(client: Client, options: &Ec2Options) -> Result<Self, WrongOption> {
        let region = &options.region;
        let partition = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let of = |field, given: Option<&str>, service: Service| match endpoint(field, given)? {
            Some(url) => Ok(url),
            None => {
                let own = format!("https://{}.{region}.{partition}/", service.name());
                let expected = "the name of a region, such as us-east-1";
                Url::parse(&own).map_err(|_| WrongOption { field: "region", found: region.clone(), expected })
            }
        };
        let endpoints = &options.endpoints;
        Ok(Self {
            client,
            region: region.clone(),
            ec2: of("endpoint_url", endpoints.ec2.as_deref(), Service::Ec2)?,
            sts: of("sts_endpoint_url", endpoints.sts.as_deref(), Service::Sts)?,
            ssm: of("ssm_endpoint_url", endpoints.ssm.as_deref(), Service::Ssm)?,
            attempt: options.timing.attempt,
            clock: options.clock,
        })
    }

    /// The wall clock, in seconds since 1970.
    pub(crate) fn now_unix_s(&self) -> i64 {
        (self.clock)().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
    }

    /// Sends a call once. Errors: no answer came in time, or not the one that was hoped for.
    pub(crate) async fn send(&self, call: &Call, keys: &Credentials) -> Result<Answer, ApiError> {
        let name = call.name();
        let url = match call.service {
            Service::Ec2 => &self.ec2,
            Service::Sts => &self.sts,
            Service::Ssm => &self.ssm,
        };
        let headers = self.signed(call, url, keys).map_err(|words| ApiError::new(&name, Fault::Wrong, words))?;
        let lost = |error: reqwest::Error| ApiError::new(&name, Fault::Lost, words(&error));
        let request = self.client.post(url.clone()).headers(headers).body(call.body.clone()).timeout(self.attempt);
        let response = request.send().await.map_err(lost)?;
        let status = response.status();
        let text = read(response, &name).await?;
        match call.service {
            Service::Ssm => of_json(&name, &text, status.as_u16()),
            Service::Ec2 | Service::Sts => of_xml(&name, &text, status.as_u16()),
        }
    }

    fn signed(&self, call: &Call, url: &Url, keys: &Credentials) -> Result<HeaderMap, String> {
        let Credentials { access_key_id, secret_access_key, session_token } = keys;
        let service = call.service.name();
        let signer = Signer::new(access_key_id, secret_access_key, session_token.as_deref(), &self.region, service);
        let signer = signer.map_err(|error| format!("the session token cannot be sent: {error}"))?;
        let uri: Uri = url.as_str().parse().map_err(|error| format!("its address is wrong: {error}"))?;
        let mut headers = call.headers();
        let body = Sha256::digest(&call.body).into();
        let signed = signer.sign(&Method::POST, &uri, &mut headers, &body, self.now_unix_s());
        signed.map(|()| headers).map_err(|denied| denied.message)
    }
}

/// The innermost reason: those around it say only that something failed.
fn words(error: &reqwest::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(inner) = source.source() {
        source = inner;
    }
    match error.is_timeout() {
        true => format!("no answer in time: {source}"),
        false => format!("no answer: {source}"),
    }
}

async fn read(mut response: Response, name: &str) -> Result<String, ApiError> {
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| ApiError::new(name, Fault::Lost, words(&error)))? {
        text.extend_from_slice(&chunk);
        if text.len() > ANSWER_BYTES_MAX {
            return Err(ApiError::new(name, Fault::Wrong, format!("an answer of more than {ANSWER_BYTES_MAX} bytes")));
        }
    }
    String::from_utf8(text).map_err(|_| ApiError::new(name, Fault::Lost, "an answer that is not UTF-8"))
}

/// EC2 says `Response/Errors/Error`, STS `ErrorResponse/Error`.
fn of_xml(name: &str, text: &str, status: u16) -> Result<Answer, ApiError> {
    let root = Element::read(text);
    if (200..300).contains(&status) {
        return root.map(Answer::Xml).map_err(|error| ApiError::new(name, Fault::Lost, format!("not XML: {error}")));
    }
    let root = root.unwrap_or_default();
    let error = match root.child("Errors").child("Error") {
        found if found.text("Code").is_some() => found,
        _ => root.child("Error"),
    };
    let message = error.text("Message").map_or_else(|| format!("HTTP status {status}"), str::to_owned);
    Err(ApiError::refused(name, error.text("Code").unwrap_or_default(), &message, status))
}

fn of_json(name: &str, text: &str, status: u16) -> Result<Answer, ApiError> {
    let value: Result<Value, _> = serde_json::from_str(text);
    if (200..300).contains(&status) {
        return value.map(Answer::Json).map_err(|error| ApiError::new(name, Fault::Lost, format!("not JSON: {error}")));
    }
    let value = value.unwrap_or_default();
    let code = value["__type"].as_str().unwrap_or_default().rsplit('#').next().unwrap_or_default();
    let message = value["message"].as_str().or(value["Message"].as_str()).filter(|text| !text.is_empty());
    let message = message.map_or_else(|| format!("HTTP status {status}"), str::to_owned);
    Err(ApiError::refused(name, code, &message, status))
}
