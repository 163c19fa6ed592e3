//! All services that are called, as the settings have them.
//!
//! Made once by the composition root, before a port opens.

use crate::client::client;
use crate::endpoint::{endpoint, is_region};
use crate::sqs::Sqs;
use crate::target::prefixes;
use crate::{CredentialSource, CredentialsError, S3};
use reqwest::{Client, Url};
use std::time::SystemTime;

/// What the settings say. The default is that nothing is called.
#[derive(Clone, Debug)]
pub struct RemoteOptions {
    /// Where buckets are.
    pub s3_region: String,
    /// The setting that says so.
    pub s3_region_key: &'static str,
    /// `s3.endpoint_url`; empty: AWS's own of the region.
    pub s3_endpoint: String,
    /// `sqs.endpoint_url`; empty: AWS's own of a queue's region.
    pub sqs_endpoint: String,
    /// Keys for S3 and SQS; without any neither is called.
    pub credentials: Option<CredentialSource>,
    /// `lambda.http_destinations`: prefixes of URLs that clients may have told the ends of invocations.
    pub http_destinations: Vec<String>,
    /// The wall clock, for signatures.
    pub clock: fn() -> SystemTime,
}

impl Default for RemoteOptions {
    fn default() -> Self {
        Self {
            s3_region: "us-east-1".to_owned(),
            s3_region_key: "s3.region",
            s3_endpoint: String::new(),
            sqs_endpoint: String::new(),
            credentials: None,
            http_destinations: Vec::new(),
            clock: || SystemTime::UNIX_EPOCH,
        }
    }
}

/// What is wrong with the settings.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs)] // its words say what each is
pub enum RemoteError {
    #[error("{key}: found '{found}', expected {expected}")]
    Setting { key: &'static str, found: String, expected: &'static str },
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    #[error(
        "the system's certificates cannot be read, and without them nobody can be called: {source}; install ca-certificates"
    )]
    Client { source: reqwest::Error },
    #[error("S3: {source}")]
    S3 { source: object_store::Error },
    #[error(
        "S3 is not set up on this server: its operator sets aws.credentials_file (or AWS_ACCESS_KEY_ID and \
         AWS_SECRET_ACCESS_KEY), and s3.endpoint_url and s3.region unless it is AWS's of us-east-1"
    )]
    NoS3,
}

/// The services.
pub struct Remote {
    pub(crate) client: Option<Client>,
    s3: Option<S3>,
    pub(crate) sqs: Option<Sqs>,
    pub(crate) http_destinations: Vec<Url>,
}

impl Remote {
    /// Errors: a setting is wrong, there are no such keys, or the system has no certificates. Calls nobody.
    pub fn new(options: RemoteOptions) -> Result<Self, RemoteError> {
        let (s3_endpoint, sqs_endpoint) =
            (endpoint("s3.endpoint_url", &options.s3_endpoint)?, endpoint("sqs.endpoint_url", &options.sqs_endpoint)?);
        let http_destinations = prefixes(&options.http_destinations)?;
        // What lambda.region says is words in ARNs to those who call nobody.
        let is_used = options.credentials.is_some() || options.s3_region_key == "s3.region";
        if is_used && !is_region(&options.s3_region) {
            let expected = "the name of a region, such as us-east-1 (buckets are in s3.region, or in lambda.region where that is empty)";
            return Err(RemoteError::Setting { key: options.s3_region_key, found: options.s3_region, expected });
        }
        let Some(credentials) = options.credentials else {
            let client = (!http_destinations.is_empty()).then(client).transpose();
            let client = client.map_err(|source| RemoteError::Client { source })?;
            return Ok(Self { client, s3: None, sqs: None, http_destinations });
        };
        credentials.read()?;
        let client = client().map_err(|source| RemoteError::Client { source })?;
        let s3 = S3::new(client.clone(), options.s3_region, s3_endpoint, credentials.clone());
        let sqs = Sqs { client: client.clone(), endpoint: sqs_endpoint, credentials, clock: options.clock };
        Ok(Self { client: Some(client), s3: Some(s3), sqs: Some(sqs), http_destinations })
    }

    /// Storage. Errors: there are no keys for it.
    pub fn s3(&self) -> Result<&S3, RemoteError> {
        self.s3.as_ref().ok_or(RemoteError::NoS3)
    }
}
