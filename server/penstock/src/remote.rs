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
    let own = |key: &&str| !config.text(key).is_empty();
    let s3_region_key = Some("s3.region").filter(own).unwrap_or("lambda.region");
    let options = RemoteOptions {
        s3_region: config.text(s3_region_key).to_owned(),
        s3_region_key,
        s3_endpoint: config.text("s3.endpoint_url").to_owned(),
        sqs_endpoint: config.text("sqs.endpoint_url").to_owned(),
        credentials: credentials(config)?,
        http_destinations: config.list("lambda.http_destinations").to_vec(),
        clock: now,
    };
    let remote = Remote::new(options).map_err(|error| error.to_string())?;
    let bucket = Some(config.text("packages.s3_bucket")).filter(|bucket| !bucket.is_empty());
    let contents = bucket.map(|bucket| remote.contents(bucket, config.text("packages.s3_prefix"))).transpose();
    let contents = contents.map_err(|error| error.to_string())?;
    Ok(Services { remote, contents })
}

/// Keys that were given, if any were.
pub(crate) fn credentials(config: &Config) -> Result<Option<CredentialSource>, String> {
    if let Some(file) = config.path("aws.credentials_file") {
        return Ok(Some(CredentialSource::File { file, profile: config.text("aws.profile").to_owned() }));
    }
    let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"];
    match names.map(variable) {
        [None, None] => Ok(None),
        [Some(access_key_id), Some(secret_access_key)] => Ok(Some(CredentialSource::Fixed(Credentials {
            access_key_id,
            secret_access_key,
            session_token: variable("AWS_SESSION_TOKEN"),
        }))),
        [first, _] => {
            let [set, other] = if first.is_some() { names } else { [names[1], names[0]] };
            Err(format!("{other}: it is not set, and {set} is; set both, or neither"))
        }
    }
}

/// Secrets are no settings: what is a setting is printed.
#[allow(clippy::disallowed_methods)]
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

#[allow(clippy::disallowed_methods)]
pub(crate) fn now() -> SystemTime {
    SystemTime::now()
}
