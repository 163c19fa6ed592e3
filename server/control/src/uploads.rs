//! Packages that come file by file: a client says what a package consists of, is told what is missing, sends that, and names
//! the package as the code of a function.
//!
//! Called by the front end. What is announced is kept for a while after the last word of it, in memory: a client that finds it
//! gone says it again, and sends only what is still missing.

use crate::error::{ControlError, ErrorKind};
use crate::plane::ControlPlane;
use penstock_packages::{ContentSha256, Hold, Manifest, Package, PackageLimits};
use std::collections::HashMap;
use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

/// Packages that may be announced at once.
const ANNOUNCED_MAX: usize = 64;
/// Contents that may come at once, of all packages together.
const COMING_MAX: usize = 16;
/// How long a package is kept that is the code of a function: for an attempt after one that failed.
const KEPT_WHOLE: Duration = Duration::from_secs(60);
/// How often is looked whether one is out of its time.
const LOOK: Duration = Duration::from_secs(30);
/// How long an announced package is kept after the last word of it.
pub(crate) const KEPT: Duration = Duration::from_secs(15 * 60);

/// The packages that were announced.
#[derive(Default)]
pub(crate) struct Uploads {
    announced: parking_lot::Mutex<HashMap<ContentSha256, Announced>>,
    /// Somebody looks whether one is out of its time.
    looked_at: AtomicBool,
}

struct Announced {
    manifest: Manifest,
    /// Keeps what has come.
    _hold: Hold,
    until: Instant,
    /// Nothing is missing: others may take its place.
    whole: bool,
    /// Contents that are coming now.
    coming: usize,
}

/// What a client is to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The package's name from now on.
    pub manifest: ContentSha256,
    /// Contents that are not here.
    pub missing: Vec<ContentSha256>,
    /// How long the announcement is kept after the last word of it.
    pub kept: Duration,
}

/// A content that is coming; while there is one, its package stays announced.
pub struct Coming<'a> {
    plane: &'a ControlPlane,
    manifest: ContentSha256,
    sha256: ContentSha256,
    bytes: u64,
}

impl ControlPlane {
    /// Takes note of a package, as its canonical or any other JSON: `{"files":[{"path":…,"sha256":…,"bytes":…},…]}`.
    pub async fn announce(&self, manifest: Vec<u8>) -> Result<Wanted, ControlError> {
        let limits = self.package_limits();
        let content = self.content.clone();
        let (manifest, hold, missing) = self
            .blocking(move || {
                let manifest = Manifest::from_json(&manifest)?;
                limits.check_manifest(&manifest)?;
                let hold = content.hold(&manifest);
                let missing = content.missing(&manifest);
                Ok::<_, ControlError>((manifest, hold, missing))
            })
            .await?;
        let sha256 = manifest.sha256();
        let mut announced = self.uploads.announced.lock();
        if announced.len() >= ANNOUNCED_MAX && !announced.contains_key(&sha256) {
            let whole = announced.iter().filter(|(_, one)| one.whole && one.coming == 0);
            let Some(oldest) = whole.min_by_key(|(_, one)| one.until).map(|(sha256, _)| *sha256) else {
                let text = format!("{ANNOUNCED_MAX} packages are being sent; send this one when one of them is whole.");
                return Err(ControlError::new(ErrorKind::TooManyRequests, text));
            };
            announced.remove(&oldest);
        }
        let coming = announced.get(&sha256).map_or(0, |one| one.coming);
        let whole = missing.is_empty();
        announced.insert(sha256, Announced { manifest, _hold: hold, until: Instant::now() + KEPT, whole, coming });
        drop(announced);
        self.look_at_uploads();
        Ok(Wanted { manifest: sha256, missing, kept: KEPT })
    }

    /// A content of an announced package is about to come. Errors: the package is not announced, or has no such content.
    pub fn coming(&self, manifest: &str, sha256: &str) -> Result<Coming<'_>, ControlError> {
        let name = parsed(manifest)?;
        let sha256 = parsed(sha256)?;
        let mut announced = self.uploads.announced.lock();
        if announced.values().map(|one| one.coming).sum::<usize>() >= COMING_MAX {
            let text = format!("{COMING_MAX} files are being sent; send this one when one of them is there.");
            return Err(ControlError::new(ErrorKind::TooManyRequests, text));
        }
        let one = announced.get_mut(&name).ok_or_else(|| not_announced(manifest))?;
        let Some(bytes) = one.manifest.contents().get(&sha256).copied() else {
            return Err(ControlError::not_found(format!("The package {manifest} has no file of content {sha256}.")));
        };
        one.coming += 1;
        one.until = Instant::now() + KEPT;
        Ok(Coming { plane: self, manifest: name, sha256, bytes })
    }

    /// An announced package, all of whose contents have come.
    pub(crate) async fn take_announced(&self, manifest: &str) -> Result<Package, ControlError> {
        let name = parsed(manifest)?;
        let announced = self.uploads.announced.lock().get(&name).map(|one| one.manifest.clone());
        let announced = announced.ok_or_else(|| not_announced(manifest))?;
        let (content, limits) = (self.content.clone(), self.package_limits());
        let taken =
            self.blocking(move || content.ingest_manifest(announced, &limits).map_err(ControlError::from)).await?;
        if let Some(one) = self.uploads.announced.lock().get_mut(&name) {
            (one.whole, one.until) = (true, Instant::now() + KEPT_WHOLE);
        }
        Ok(taken)
    }

    /// Lets go of packages that are out of their time, in the background, for as long as there are any.
    fn look_at_uploads(&self) {
        if self.uploads.looked_at.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.this.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK).await;
                let Some(plane) = this.upgrade() else { return };
                let (before, left) = {
                    let mut announced = plane.uploads.announced.lock();
                    let before = announced.len();
                    announced.retain(|_, one| one.coming > 0 || Instant::now() < one.until);
                    if announced.is_empty() {
                        plane.uploads.looked_at.store(false, Ordering::Release);
                    }
                    (before, announced.len())
                };
                if left < before {
                    plane.spawn_clean_up();
                }
                if left == 0 {
                    return;
                }
            }
        });
    }

    fn package_limits(&self) -> PackageLimits {
        PackageLimits::large(self.options.package_bytes_max)
    }
}

impl Coming<'_> {
    /// Takes it. `reader` is read on a thread that may block. Errors: it has another length or hash, or it broke off.
    pub async fn take(self, reader: impl Read + Send + 'static) -> Result<(), ControlError> {
        let (content, sha256, bytes) = (self.plane.content.clone(), self.sha256, self.bytes);
        self.plane.blocking(move || content.put_blob(sha256, reader, bytes).map_err(ControlError::from)).await
    }
}

impl Drop for Coming<'_> {
    fn drop(&mut self) {
        if let Some(one) = self.plane.uploads.announced.lock().get_mut(&self.manifest) {
            one.coming = one.coming.saturating_sub(1);
            one.until = Instant::now() + KEPT;
        }
    }
}

/// The bytes of a content's name; `None` if the text is none.
pub fn content_digest(text: &str) -> Option<[u8; 32]> {
    text.parse::<ContentSha256>().ok().map(|sha256| sha256.digest())
}

fn parsed(sha256: &str) -> Result<ContentSha256, ControlError> {
    let wrong = |error: penstock_packages::ParseContentSha256Error| ControlError::invalid(error.to_string());
    sha256.parse().map_err(wrong)
}

fn not_announced(manifest: &str) -> ControlError {
    ControlError::not_found(format!(
        "No package {manifest} was announced in the last {} minutes: announce it, and send what is missing.",
        KEPT.as_secs() / 60
    ))
}
