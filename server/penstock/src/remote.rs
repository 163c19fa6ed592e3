//! Other services, as the settings name them, and the keys for them.
//!
//! Called by `serve` before a port opens. Never prints a secret.

use crate::config::Config;
use penstock_remote::{CredentialSource, Credentials, Remote, RemoteOptions, S3Contents};
use std::time::SystemTime;

/// What is called.
pub(crate) struct Services {
    pub(crate) remote: Remote,
    /// Where packages are kept too.
    pub(crate) contents: Option<S3Contents>,
}

/// The services. Errors: which setting is wrong.
pub(crate) fn open(config: &Config) -> Result<Services, String> {
    let region = Some(config.text("s3.region")).filter(|region| !region.is_empty());
    let options = RemoteOptions {
        s3_region: region.unwrap_or(config.text("lambda.region")).to_owned(),
        s3_endpoint: config.text("s3.endpoint_url").to_owned(),
        sqs_endpoint: config.text("sqs.endpoint_url").to_owned(),
        credentials: credentials(config),
        http_destinations: config.list("lambda.http_destinations").to_vec(),
        clock: now,
    };
    let remote = Remote::new(options).map_err(|error| error.to_string())?;
    let bucket = Some(config.text("packages.s3_bucket")).filter(|bucket| !bucket.is_empty());
    let contents = bucket.map(|bucket| remote.contents(bucket, config.text("packages.s3_prefix"))).transpose();
    let contents = contents.map_err(|error| error.to_string())?;
    Ok(Services { remote, contents })
}

fn credentials(config: &Config) -> Option<CredentialSource> {
    if let Some(file) = config.path("aws.credentials_file") {
        return Some(CredentialSource::File { file, profile: config.text("aws.profile").to_owned() });
    }
    Some(CredentialSource::Fixed(Credentials {
        access_key_id: variable("AWS_ACCESS_KEY_ID")?,
        secret_access_key: variable("AWS_SECRET_ACCESS_KEY")?,
        session_token: variable("AWS_SESSION_TOKEN"),
    }))
}

/// Secrets are no settings: what is a setting is printed.
#[allow(clippy::disallowed_methods)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[allow(clippy::disallowed_methods)]
fn now() -> SystemTime {
    SystemTime::now()
}
