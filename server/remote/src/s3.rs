//! S3-compatible storage: one object read into a file.
//!
//! Called by the control plane for code that lies in S3. What it is worth is not judged here.

use crate::client::Connector;
use crate::{CredentialSource, RemoteError};
use async_trait::async_trait;
use futures_util::StreamExt;
use object_store::aws::{AmazonS3, AmazonS3Builder, AwsCredential};
use object_store::path::Path as Key;
use object_store::{BackoffConfig, CredentialProvider, GetOptions, GetResult, ObjectStore, RetryConfig};
use reqwest::{Client, Url};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Until an object's head is there, tries again included.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// A request is tried again so often, within this time, after pauses that double up to the last.
const RETRIES: (usize, Duration, Duration) = (3, Duration::from_secs(30), Duration::from_secs(2));
/// An object that comes slower than this over its whole length is given up, in bytes a second; and what is added to that.
const SLOWEST: (u64, Duration) = (1 << 20, Duration::from_secs(60));
/// Objects that are read into files at once, each a connection and as much disk as it has bytes.
const FETCHES_MAX: usize = 4;

/// Storage, with one set of keys.
pub struct S3 {
    client: Client,
    region: String,
    /// `None`: AWS's own of the region.
    endpoint: Option<Url>,
    credentials: Arc<Provider>,
    places: Arc<Semaphore>,
}

/// An object that is about to be read.
pub struct S3Object {
    found: GetResult,
    _place: OwnedSemaphorePermit,
}

/// Why an object was not read.
#[derive(Debug, thiserror::Error)]
pub enum S3Error {
    /// S3 said so.
    #[error("S3 Error Code: {code}. S3 Error Message: {message}")]
    Told {
        /// S3's own code, or the one that it has for this.
        code: String,
        /// Words.
        message: String,
    },
    /// S3 did not say anything, or that it cannot just now.
    #[error("S3 Error Code: {code}. S3 Error Message: {message}")]
    Away {
        /// S3's own code, or the one that it has for this.
        code: String,
        /// Words.
        message: String,
    },
    /// The object is larger than the caller takes.
    #[error("the object has {bytes} bytes, at most {bytes_max} are taken")]
    TooLarge {
        /// Of the object.
        bytes: u64,
        /// That are taken.
        bytes_max: u64,
    },
    /// As many objects are being read as may be at once.
    #[error("{FETCHES_MAX} packages are being read from S3, which is the most at once; try again when one has ended")]
    Busy,
    /// The file cannot be written.
    #[error("cannot write {}: {source}", path.display())]
    File {
        /// Where.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

impl S3 {
    pub(crate) fn new(client: Client, region: String, endpoint: Option<Url>, credentials: CredentialSource) -> Self {
        let credentials = Arc::new(Provider(credentials));
        Self { client, region, endpoint, credentials, places: Arc::new(Semaphore::new(FETCHES_MAX)) }
    }

    /// A bucket, which is not asked for.
    pub(crate) fn bucket(&self, bucket: &str) -> Result<AmazonS3, RemoteError> {
        if !is_bucket(bucket) {
            let expected = "the name of a bucket: 3 to 63 letters, digits, dots, hyphens and underscores";
            return Err(RemoteError::Setting { key: "packages.s3_bucket", found: bucket.to_owned(), expected });
        }
        self.build(bucket).map_err(|source| RemoteError::S3 { source })
    }

    fn build(&self, bucket: &str) -> object_store::Result<AmazonS3> {
        let (max_retries, retry_timeout, max_backoff) = RETRIES;
        let backoff = BackoffConfig { max_backoff, ..BackoffConfig::default() };
        let mut builder = AmazonS3Builder::new()
            .with_http_connector(Connector(self.client.clone()))
            .with_credentials(self.credentials.clone())
            .with_region(&self.region)
            .with_bucket_name(bucket)
            .with_retry(RetryConfig { backoff, max_retries, retry_timeout });
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_endpoint(endpoint.as_str());
        }
        builder.build()
    }

    /// Asks for an object, of a version if one is named. At most `bytes_max` bytes. Errors: it is not there, may not be read,
    /// is too large; S3 cannot be reached or does not answer in time; too many are being read.
    pub async fn open(
        &self,
        bucket: &str,
        key: &str,
        version: Option<String>,
        bytes_max: u64,
    ) -> Result<S3Object, S3Error> {
        if !is_bucket(bucket) {
            return Err(told("InvalidBucketName", "The specified bucket is not valid."));
        }
        // The client drops slashes at the ends: another object would be read.
        let path = Key::parse(key).ok().filter(|path| path.as_ref() == key && !key.is_empty());
        let Some(path) = path else {
            let text = "Keys with a slash at an end, or with a part that is empty, '.' or '..', cannot be read here; copy the \
                        object to a plain key.";
            return Err(told("InvalidArgument", text));
        };
        let place = self.places.clone().try_acquire_owned().map_err(|_| S3Error::Busy)?;
        let store = self.build(bucket).map_err(|error| self.failed(&error))?;
        let options = GetOptions { version, ..GetOptions::default() };
        let found = match timeout(HEAD_TIMEOUT, store.get_opts(&path, options)).await {
            Ok(found) => found.map_err(|error| self.failed(&error))?,
            Err(_) => return Err(self.late(HEAD_TIMEOUT)),
        };
        match found.meta.size {
            bytes if bytes > bytes_max => Err(S3Error::TooLarge { bytes, bytes_max }),
            _ => Ok(S3Object { found, _place: place }),
        }
    }

    fn late(&self, limit: Duration) -> S3Error {
        told("RequestTimeout", format!("{} did not answer within {} s.", self.place(), limit.as_secs()))
    }

    fn place(&self) -> String {
        match &self.endpoint {
            Some(endpoint) => format!("s3.endpoint_url ({endpoint})"),
            None => format!("S3 of {}", self.region),
        }
    }

    /// S3's own words, where there are any.
    fn failed(&self, error: &object_store::Error) -> S3Error {
        use object_store::Error;
        let text = error.to_string();
        if let Some(code) = element(&text, "Code") {
            return told(code, element(&text, "Message").unwrap_or("It says no more."));
        }
        match error {
            Error::NotFound { .. } => told("NoSuchKey", "The specified key does not exist."),
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => told("AccessDenied", "Access Denied"),
            _ if text.contains("redirect") || text.contains("status code: 30") => told(
                "PermanentRedirect",
                format!("The bucket is not in {}; set s3.region to the one it is in.", self.region),
            ),
            _ => told("ServiceUnavailable", format!("{} failed: {}", self.place(), innermost(error))),
        }
    }
}

impl S3Object {
    /// Bytes that it has.
    pub fn bytes(&self) -> u64 {
        self.found.meta.size
    }

    /// Writes all of it into a new file, which is not flushed and stays if this fails. Errors: it ends too soon, stands still,
    /// comes too slowly; the file cannot be written.
    pub async fn save(self, path: &Path) -> Result<(), S3Error> {
        let bytes = self.bytes();
        let limit = slowest(bytes);
        let saved = timeout(limit, save(self.found, path, bytes)).await;
        saved.unwrap_or_else(|_| {
            Err(told("RequestTimeout", format!("{bytes} bytes did not come within {} s.", limit.as_secs())))
        })
    }
}

async fn save(found: GetResult, path: &Path, bytes: u64) -> Result<(), S3Error> {
    let failed = |source| S3Error::File { path: path.to_owned(), source };
    let mut file = tokio::fs::File::create_new(path).await.map_err(failed)?;
    let (mut chunks, mut come) = (found.into_stream(), 0u64);
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|error| told("IncompleteBody", format!("Reading it failed: {}", innermost(&error))))?;
        come += chunk.len() as u64;
        file.write_all(&chunk).await.map_err(failed)?;
    }
    file.flush().await.map_err(failed)?;
    match come == bytes {
        true => Ok(()),
        false => Err(told("IncompleteBody", format!("It has {bytes} bytes, and {come} came."))),
    }
}

/// Keys as they are now, for the client.
#[derive(Debug)]
struct Provider(CredentialSource);

#[async_trait]
impl CredentialProvider for Provider {
    type Credential = AwsCredential;

    async fn get_credential(&self) -> object_store::Result<Arc<AwsCredential>> {
        let keys =
            self.0.read().map_err(|source| object_store::Error::Generic { store: "S3", source: source.into() })?;
        let (key_id, secret_key, token) = (keys.access_key_id, keys.secret_access_key, keys.session_token);
        Ok(Arc::new(AwsCredential { key_id, secret_key, token }))
    }
}

fn told(code: impl Into<String>, message: impl Into<String>) -> S3Error {
    let (code, message) = (code.into(), message.into());
    match PASSING.contains(&code.as_str()) {
        true => S3Error::Away { code, message },
        false => S3Error::Told { code, message },
    }
}

/// Codes that S3 has for what may be otherwise in a moment.
const PASSING: [&str; 5] = ["InternalError", "ServiceUnavailable", "SlowDown", "RequestTimeout", "IncompleteBody"];

/// How long so many bytes may take.
pub(crate) fn slowest(bytes: u64) -> Duration {
    SLOWEST.1 + Duration::from_secs(bytes / SLOWEST.0)
}

/// What began it: clients wrap what the network said many times.
pub(crate) fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// The text of an element of S3's error, which is XML without attributes.
pub(crate) fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(&format!("<{name}>"))?;
    rest.split_once(&format!("</{name}>")).map(|(text, _)| text)
}

/// As Lambda takes them.
fn is_bucket(name: &str) -> bool {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (3..=63).contains(&name.len()) && name.chars().all(word) && !name.ends_with('.') && !name.starts_with('.')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::client;
    use crate::test_server::{Answer, serve};

    fn storage(endpoint: &str) -> S3 {
        let keys = crate::Credentials { access_key_id: "A".into(), secret_access_key: "s".into(), session_token: None };
        let endpoint = Some(Url::parse(endpoint).unwrap());
        S3::new(client().unwrap(), "us-east-1".into(), endpoint, CredentialSource::Fixed(keys))
    }

    #[tokio::test]
    async fn an_object_is_read_into_a_file() {
        let server =
            serve(vec![Answer::new(200, "Last-Modified: Thu, 26 Nov 2026 12:00:00 GMT\r\nETag: \"a\"\r\n", "content")]);
        let storage = storage(&server.url);
        let object = storage.open("bucket", "a/b c+ä.zip", Some("v1".into()), 100).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object");
        assert_eq!(object.bytes(), 7);
        object.save(&path).await.unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "content");
        let asked = server.asked().remove(0);
        assert!(asked.starts_with("GET /bucket/a/b%20c%2B%C3%A4.zip?versionId=v1 HTTP/1.1\r\n"), "{asked}");
        assert!(asked.contains("Credential=A/") && !asked.contains("Credential=A/s"), "{asked}");
    }

    #[tokio::test]
    async fn what_s3_says_is_told_in_lambda_words() {
        let body = "<?xml version=\"1.0\"?><Error><Code>NoSuchKey</Code><Message>The specified key does not exist.</Message></Error>";
        let told = "S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist.";
        for (answer, words) in [
            (Answer::new(404, "", body), told),
            (Answer::new(404, "", ""), told),
            (Answer::new(403, "", ""), "S3 Error Code: AccessDenied. S3 Error Message: Access Denied"),
            (
                Answer::new(301, "", ""),
                "S3 Error Code: PermanentRedirect. S3 Error Message: The bucket is not in us-east-1",
            ),
            (Answer::new(301, "Location: http://127.0.0.1:1/\r\n", ""), "S3 Error Code: PermanentRedirect"),
        ] {
            let server = serve(vec![answer]);
            let error = storage(&server.url).open("bucket", "key", None, 100).await.err().unwrap().to_string();
            assert!(error.starts_with(words), "{error}");
        }
    }

    #[tokio::test]
    async fn what_may_pass_is_told_apart() {
        let server = serve(vec![Answer::new(500, "", "<Error><Code>InternalError</Code></Error>"); 4]);
        let error = storage(&server.url).open("bucket", "key", None, 100).await.err().unwrap();
        assert!(matches!(error, S3Error::Away { .. }), "{error}");
        let error = storage("http://127.0.0.1:1").open("bucket", "key", None, 100).await.err().unwrap();
        assert!(matches!(error, S3Error::Away { .. }) && error.to_string().contains("s3.endpoint_url"), "{error}");
    }

    #[tokio::test]
    async fn what_is_too_large_short_or_many_is_refused() {
        let head = "Last-Modified: Thu, 26 Nov 2026 12:00:00 GMT\r\n";
        let server = serve(vec![Answer::new(200, head, "content"); 8]);
        let storage = storage(&server.url);
        let error = storage.open("bucket", "key", None, 6).await.err().unwrap();
        assert_eq!(error.to_string(), "the object has 7 bytes, at most 6 are taken");
        let mut held = Vec::new();
        for _ in 0..FETCHES_MAX {
            held.push(storage.open("bucket", "key", None, 100).await.unwrap());
        }
        assert!(matches!(storage.open("bucket", "key", None, 100).await.err().unwrap(), S3Error::Busy));
        held.pop();
        let again = storage.open("bucket", "key", None, 100).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(again.save(folder.path()).await.unwrap_err(), S3Error::File { .. }));
    }

    #[tokio::test]
    async fn no_other_object_is_read_than_was_named() {
        let storage = storage("http://127.0.0.1:1");
        for key in ["", "/a", "a/", "a//b", "a/../b", "./a"] {
            let error = storage.open("bucket", key, None, 1).await.err().unwrap().to_string();
            assert!(error.starts_with("S3 Error Code: InvalidArgument"), "{key:?}: {error}");
        }
        for bucket in ["", "a", "..", "a/b", "bucket?", "bu cket", "bucket."] {
            let error = storage.open(bucket, "key", None, 1).await.err().unwrap().to_string();
            assert!(error.starts_with("S3 Error Code: InvalidBucketName"), "{bucket:?}: {error}");
        }
    }
}
