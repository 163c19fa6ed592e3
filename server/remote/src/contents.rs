//! Contents and manifests of packages, kept in a bucket.
//!
//! Called by the content store, on threads of the runtime that may block; made by the composition root. Never removes an object.

use crate::s3::{innermost, slowest};
use crate::{Remote, RemoteError};
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt, stream};
use object_store::aws::AmazonS3;
use object_store::path::Path as Key;
use object_store::{Error, MultipartUpload, ObjectStoreExt, PutPayload};
use penstock_packages::{BackedFile, Backing};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::future::Future;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

/// How long the head of an object may take, tries again included: an answer of a few bytes, for which a start may wait.
const HEAD_TIMEOUT: Duration = Duration::from_secs(20);
/// Sent at once, in bytes; a larger file goes in parts of so many.
const PART_BYTES: u64 = 16 << 20;
/// Most parts of an object, by S3's own limit.
const PARTS_MAX: u64 = 10_000;
/// Parts in memory, of all files together.
const PARTS_AT_ONCE: usize = 8;
/// Files of one package that are looked at, and sent, at once.
const FILES_AT_ONCE: usize = 8;

/// A bucket, and what names in it begin with.
pub struct S3Contents {
    store: AmazonS3,
    prefix: String,
    place: String,
    parts: Arc<Semaphore>,
}

impl Remote {
    /// Contents in a bucket, below a prefix; the bucket is not asked for. Errors: there are no keys, or the names cannot be
    /// used.
    pub fn contents(&self, bucket: &str, prefix: &str) -> Result<S3Contents, RemoteError> {
        let store = self.s3()?.bucket(bucket)?;
        let prefix = prefix.trim_matches('/').to_owned();
        let as_key = Key::from_iter(prefix.split('/').filter(|_| !prefix.is_empty()));
        if as_key.as_ref() != prefix || prefix.split('/').any(str::is_empty) != prefix.is_empty() || prefix.len() > 512
        {
            let expected = "the start of keys, such as penstock/models, of letters, digits, '-', '_' and '.', with no part empty, '.' \
                            or '..'";
            return Err(RemoteError::Setting { key: "packages.s3_prefix", found: prefix, expected });
        }
        let place = format!("s3://{bucket}/{prefix}");
        Ok(S3Contents { store, prefix, place, parts: Arc::new(Semaphore::new(PARTS_AT_ONCE)) })
    }
}

impl S3Contents {
    fn key(&self, name: &str) -> Key {
        // Both were checked: hexadecimal digits, and the prefix.
        Key::from_iter(self.prefix.split('/').chain(name.split('/')).filter(|part| !part.is_empty()))
    }

    fn failed(&self, name: &str, error: &Error) -> io::Error {
        io::Error::other(format!("{}/{name}: {}", self.place, words(error)))
    }

    /// Within what so many bytes may take.
    async fn within<T>(&self, name: &str, bytes: u64, work: impl Future<Output = Result<T, Error>>) -> io::Result<T> {
        self.limited(name, slowest(bytes), work).await
    }

    async fn limited<T>(
        &self,
        name: &str,
        limit: Duration,
        work: impl Future<Output = Result<T, Error>>,
    ) -> io::Result<T> {
        match timeout(limit, work).await {
            Ok(done) => done.map_err(|error| self.failed(name, &error)),
            Err(_) => Err(late(&self.place, limit)),
        }
    }

    async fn put_one(&self, file: &BackedFile) -> io::Result<()> {
        let (key, name) = (self.key(&file.name), file.name.as_str());
        let there = self.limited(name, HEAD_TIMEOUT, async {
            match self.store.head(&key).await {
                Ok(found) => Ok(Some(found.size)),
                Err(Error::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        });
        if there.await? == Some(file.bytes) {
            return Ok(());
        }
        let part_bytes = PART_BYTES.max(file.bytes.div_ceil(PARTS_MAX));
        if file.bytes <= part_bytes {
            let _place = self.parts.acquire().await.map_err(io::Error::other)?;
            let (content, read) = read_part(file, 0, file.bytes, Sha256::new()).await?;
            check(file, read)?;
            return self.within(name, file.bytes, async { self.store.put(&key, content).await.map(drop) }).await;
        }
        let mut upload = self.within(name, 0, self.store.put_multipart(&key)).await?;
        let sent = match self.send_parts(upload.as_mut(), file, part_bytes).await {
            Ok(()) => self.within(name, 0, async { upload.complete().await.map(drop) }).await,
            Err(error) => Err(error),
        };
        if sent.is_err() {
            // What stays of it costs its owner; the error that led here is the one to tell.
            let _ = self.within(name, 0, upload.abort()).await;
        }
        sent
    }

    /// Sends a file in parts, each within what it may take once it has a place, and hashes it on its way.
    async fn send_parts(&self, upload: &mut dyn MultipartUpload, file: &BackedFile, part_bytes: u64) -> io::Result<()> {
        let mut sending = stream::FuturesUnordered::new();
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < file.bytes {
            while sending.len() >= PARTS_AT_ONCE / 2 {
                sending.try_next().await?;
            }
            let place = match self.parts.clone().try_acquire_owned() {
                Ok(place) => place,
                // Not while parts of this file wait to be sent: they hold places.
                Err(_) if sending.try_next().await?.is_some() => continue,
                Err(_) => self.parts.clone().acquire_owned().await.map_err(io::Error::other)?,
            };
            let bytes = part_bytes.min(file.bytes - at);
            let content;
            (content, hash) = read_part(file, at, bytes, hash).await?;
            let part = upload.put_part(content);
            sending.push(async move {
                let _place = place;
                self.within(&file.name, bytes, part).await
            });
            at += bytes;
        }
        while sending.try_next().await?.is_some() {}
        check(file, hash)
    }
}

impl Backing for S3Contents {
    fn put(&self, files: &[BackedFile]) -> io::Result<()> {
        runtime()?.block_on(async {
            let (mut left, mut under_way) = (files.iter(), stream::FuturesUnordered::new());
            let mut kept = Ok(());
            loop {
                // After one that failed no more begin. Those under way end by themselves: parts that were sent cost their owner.
                while kept.is_ok()
                    && under_way.len() < FILES_AT_ONCE
                    && let Some(file) = left.next()
                {
                    under_way.push(self.put_one(file));
                }
                match under_way.next().await {
                    Some(done) => kept = kept.and(done),
                    None => return kept,
                }
            }
        })
    }

    fn get(&self, name: &str) -> io::Result<Box<dyn Read>> {
        let runtime = runtime()?;
        let found = self.limited(name, HEAD_TIMEOUT, async {
            match self.store.get(&self.key(name)).await {
                Err(error) if is_no_object(&error) => Ok(None),
                found => found.map(Some),
            }
        });
        let found = runtime.block_on(found)?.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
        let limit = slowest(found.meta.size);
        Ok(Box::new(Content {
            place: format!("{}/{name}", self.place),
            until: Instant::now() + limit,
            limit,
            chunk: Vec::new().into(),
            chunks: found.into_stream(),
            runtime,
        }))
    }
}

/// An object that is read as it comes, until it has taken too long.
struct Content {
    runtime: Handle,
    place: String,
    until: Instant,
    limit: Duration,
    chunk: bytes::Bytes,
    chunks: BoxStream<'static, Result<bytes::Bytes, Error>>,
}

impl Read for Content {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.chunk.is_empty() {
            let next = self.runtime.block_on(async { timeout_at(self.until, self.chunks.next()).await });
            match next {
                Ok(None) => return Ok(0),
                Ok(Some(Ok(chunk))) => self.chunk = chunk,
                Ok(Some(Err(error))) => return Err(io::Error::other(format!("{}: {}", self.place, words(&error)))),
                Err(_) => return Err(late(&self.place, self.limit)),
            }
        }
        let bytes = into.len().min(self.chunk.len());
        into[..bytes].copy_from_slice(&self.chunk.split_to(bytes));
        Ok(bytes)
    }
}

/// Where requests run. Errors: the caller's thread is of no runtime.
fn runtime() -> io::Result<Handle> {
    Handle::try_current().map_err(io::Error::other)
}

/// The bucket answers, and has no such object; where it says nothing about it, that is what 404 means.
fn is_no_object(error: &Error) -> bool {
    let text = error.to_string();
    let code = crate::s3::element(&text, "Code");
    matches!(error, Error::NotFound { .. }) && code.is_none_or(|code| code == "NoSuchKey")
}

/// S3's own code and words, else what the network said.
fn words(error: &Error) -> String {
    let text = error.to_string();
    let element = |name| crate::s3::element(&text, name);
    match (element("Code"), error) {
        (Some(code), _) => format!("{code}: {}", element("Message").unwrap_or_default()),
        (None, Error::PermissionDenied { .. } | Error::Unauthenticated { .. }) => "access is denied".to_owned(),
        (None, error) => innermost(error),
    }
}

fn late(place: &str, limit: Duration) -> io::Error {
    let text = format!("{place}: it took more than {} s", limit.as_secs());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

/// A part of a file, and the hash with it.
async fn read_part(file: &BackedFile, at: u64, bytes: u64, mut hash: Sha256) -> io::Result<(PutPayload, Sha256)> {
    let path = file.path.clone();
    let read = tokio::task::spawn_blocking(move || {
        let mut content = vec![0; bytes as usize];
        File::open(path)?.read_exact_at(&mut content, at)?;
        hash.update(&content);
        Ok((PutPayload::from(content), hash))
    });
    read.await.map_err(io::Error::other)?
}

/// What is kept is what its name says: nobody could take it from there else.
fn check(file: &BackedFile, read: Sha256) -> io::Result<()> {
    match <[u8; 32]>::from(read.finalize()) == file.sha256.digest() {
        true => Ok(()),
        false => {
            let text = format!("{} is damaged on disk: it does not hash to {}", file.path.display(), file.sha256);
            Err(io::Error::new(io::ErrorKind::InvalidData, text))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_server::{Answer, serve};
    use crate::{CredentialSource, Credentials, RemoteOptions};
    use penstock_packages::ContentSha256;
    use std::path::PathBuf;

    fn contents(url: &str, prefix: &str) -> Result<S3Contents, RemoteError> {
        let (access_key_id, secret_access_key) = ("A".to_owned(), "s".to_owned());
        let keys = Credentials { access_key_id, secret_access_key, session_token: None };
        let credentials = Some(CredentialSource::Fixed(keys));
        let options = RemoteOptions { credentials, s3_endpoint: url.to_owned(), ..RemoteOptions::default() };
        Remote::new(options).unwrap().contents("bucket", prefix)
    }

    fn file(name: &str, path: PathBuf, content: &[u8]) -> BackedFile {
        BackedFile { name: name.into(), path, sha256: ContentSha256::of(content), bytes: content.len() as u64 }
    }

    #[test]
    fn what_the_disk_damaged_is_not_put() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let head = "Last-Modified: Thu, 26 Nov 2026 12:00:00 GMT\r\nETag: \"a\"\r\n";
        let upload = "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>";
        let server = serve(vec![
            Answer::new(404, "", ""),
            Answer::new(404, "", ""),
            Answer::new(200, "", upload),
            Answer::new(200, head, ""),
            Answer::new(200, head, ""),
            Answer::new(204, "", ""),
        ]);
        let contents = contents(&server.url, "").unwrap();
        let folder = tempfile::tempdir().unwrap();
        for (content, altered) in [(b"content".to_vec(), b"CONTENT".to_vec()), (vec![1; 17 << 20], vec![2; 17 << 20])] {
            let path = folder.path().join("file");
            std::fs::write(&path, altered).unwrap();
            let error = contents.put(&[file("blobs/aa/aab", path, &content)]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        }
        let asked: Vec<String> = server.asked().iter().map(|asked| asked.lines().next().unwrap().to_owned()).collect();
        let methods: Vec<&str> = asked.iter().map(|line| line.split(' ').next().unwrap()).collect();
        assert_eq!(
            methods,
            ["HEAD", "HEAD", "POST", "PUT", "PUT", "DELETE"],
            "and what was sent is given up: {asked:?}"
        );
    }

    #[test]
    fn a_file_is_put_unless_it_is_there_and_read_back() {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let _inside = runtime.enter();
        let head = "Last-Modified: Thu, 26 Nov 2026 12:00:00 GMT\r\nETag: \"a\"\r\n";
        let there = Answer::head(200, head, 7);
        let answers = vec![
            Answer::new(404, "", ""),
            Answer::new(200, head, ""),
            there.clone(),
            Answer::head(200, head, 6),
            Answer::new(200, head, ""),
            Answer::new(200, head, "content"),
            Answer::new(404, "", ""),
            Answer::new(404, "", "<Error><Code>NoSuchKey</Code><Message>No</Message></Error>"),
            Answer::new(404, "", "<Error><Code>NoSuchBucket</Code><Message>No</Message></Error>"),
            Answer::new(403, "", "<Error><Code>AccessDenied</Code><Message>No</Message></Error>"),
        ];
        let server = serve(answers);
        let contents = contents(&server.url, "/some/where/").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "content").unwrap();
        let files = [file("blobs/aa/aab", path, b"content")];
        for _ in 0..3 {
            contents.put(&files).unwrap();
        }
        let asked: Vec<String> = server.asked().iter().map(|asked| asked.lines().next().unwrap().to_owned()).collect();
        let line = |method: &str| format!("{method} /bucket/some/where/blobs/aa/aab HTTP/1.1");
        assert_eq!(asked, ["HEAD", "PUT", "HEAD", "HEAD", "PUT"].map(line));
        let mut text = String::new();
        contents.get("blobs/aa/aab").unwrap().read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        for _ in 0..2 {
            assert_eq!(contents.get("blobs/aa/aab").err().unwrap().kind(), io::ErrorKind::NotFound);
        }
        for code in ["NoSuchBucket", "AccessDenied"] {
            let error = contents.get("blobs/aa/aab").err().unwrap().to_string();
            assert_eq!(error, format!("s3://bucket/some/where/blobs/aa/aab: {code}: No"));
        }
    }

    #[test]
    fn names_that_cannot_be_used_name_their_setting() {
        for prefix in ["a//b", "..", "a/./b", "a[b]", "a%b", "a b/*"] {
            let error = contents("", prefix).err().unwrap().to_string();
            assert!(error.starts_with("packages.s3_prefix: found"), "{error}");
        }
        let remote = Remote::new(RemoteOptions::default()).unwrap();
        let error = remote.contents("bucket", "").err().unwrap().to_string();
        assert!(error.contains("aws.credentials_file"), "{error}");
    }
}
