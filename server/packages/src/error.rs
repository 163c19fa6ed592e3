//! Why a package was not taken, kept or handed out.
//!
//! Returned by every file of this crate; the control plane chooses Lambda's texts by [`PackageError::lambda_text`]. Never
//! logged here.

use crate::ContentSha256;
use crate::path::{PathFault, TreeFault};
use penstock_domain::ErrorCode;
use std::io;
use std::path::{Path, PathBuf};

/// Says what was found and what would be right. Names from archives are quoted and escaped.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PackageError {
    /// Something else was sent.
    #[error("this is not a ZIP archive: {found}; send the bytes of a ZIP file")]
    NotAZip {
        /// What it looks like.
        found: String,
    },
    /// The archive is damaged, cut short, or says one thing in two ways.
    #[error("the ZIP archive is damaged: {place}: {found}; make it anew and send it again")]
    Corrupt {
        /// The entry or the part of the archive.
        place: String,
        /// What was found there.
        found: String,
    },
    /// A name that no file of a package may have.
    #[error("the path {path} cannot be used: {fault}")]
    Path {
        /// Quoted and escaped.
        path: String,
        /// What is wrong with it.
        fault: PathFault,
    },
    /// Names that contradict each other.
    #[error(transparent)]
    Tree(#[from] TreeFault),
    /// A link, a device or the like.
    #[error("entry {entry:?} is {kind}; packages have regular files and folders only")]
    SpecialFile {
        /// Its name.
        entry: String,
        /// What it is.
        kind: &'static str,
    },
    /// Needs a password.
    #[error("entry {entry:?} is encrypted; send the archive without a password")]
    Encrypted {
        /// Its name.
        entry: String,
    },
    /// Packed in a way that is not read here.
    #[error("entry {entry:?} is compressed by method {method}; use deflate or store")]
    UnsupportedCompression {
        /// Its name.
        entry: String,
        /// As ZIP numbers them, or named.
        method: String,
    },
    /// Larger as an archive than [`PackageLimits::zip_bytes`](crate::PackageLimits::zip_bytes).
    #[error("the ZIP archive has more than {limit} bytes, which is the most that is taken; send less, or file by file")]
    ZipTooLarge {
        /// Bytes.
        limit: u64,
    },
    /// Larger unpacked than [`PackageLimits::unpacked_bytes`](crate::PackageLimits::unpacked_bytes).
    #[error("{place} brings the unpacked size to {found} bytes or more; at most {limit} are taken")]
    UnpackedTooLarge {
        /// The file or the declaration that is too much.
        place: String,
        /// Bytes counted so far.
        found: u64,
        /// Bytes.
        limit: u64,
    },
    /// A bomb, by [`PackageLimits::ratio`](crate::PackageLimits::ratio).
    #[error(
        "{place} brings the unpacked size to {found} bytes or more, and a ZIP of {zip_bytes} bytes may unpack to {limit}; send \
         it file by file, or without compression"
    )]
    RatioTooLarge {
        /// The file or the declaration that is too much.
        place: String,
        /// Bytes counted so far.
        found: u64,
        /// Bytes of the archive.
        zip_bytes: u64,
        /// Bytes.
        limit: u64,
    },
    /// More than [`PackageLimits::files`](crate::PackageLimits::files).
    #[error("the package has {found} files and folders; at most {limit} are taken")]
    TooManyFiles {
        /// How many it has.
        found: u64,
        /// How many it may have.
        limit: usize,
    },
    /// No files at all.
    #[error("the package has no files; put at least one into it")]
    Empty,
    /// Not the JSON of a manifest.
    #[error("this is not a manifest: {source}; write {{\"files\":[{{\"path\":…,\"sha256\":…,\"bytes\":…}}]}}")]
    NotAManifest {
        /// What the reader says.
        source: serde_json::Error,
    },
    /// A manifest that gives one content two lengths, or lengths that add up to no number.
    #[error(
        "{path:?} is said to have {bytes} bytes, and the same content elsewhere in the package {known}; state its true length"
    )]
    Lengths {
        /// The file.
        path: String,
        /// Its length as stated.
        bytes: u64,
        /// The other.
        known: u64,
    },
    /// What was sent is not what was announced.
    #[error("content {wanted} of {wanted_bytes} bytes was announced; {found} was sent: send the file again, unchanged")]
    ContentMismatch {
        /// Announced.
        wanted: ContentSha256,
        /// Announced.
        wanted_bytes: u64,
        /// What was sent.
        found: String,
    },
    /// A manifest of contents that are not here.
    #[error("{count} of the package's contents are not here, the first is {sha256} ({path:?}); send them first")]
    MissingContents {
        /// How many.
        count: usize,
        /// The first of them.
        sha256: ContentSha256,
        /// A file that has it.
        path: String,
    },
    /// No such package.
    #[error("there is no package {manifest_sha256} here; upload it")]
    NotFound {
        /// Its id.
        manifest_sha256: ContentSha256,
    },
    /// The disk does not hold what was written.
    #[error("{what} is damaged on disk: {found}; upload the package again")]
    Damaged {
        /// The file, what it is of, and where it is now.
        what: String,
        /// What was found.
        found: String,
    },
    /// Somebody else has the store open.
    #[error("{path} is in use by another process; stop that one or choose another folder")]
    InUse {
        /// The store's root.
        path: PathBuf,
    },
    /// Whoever sends the package failed.
    #[error("the upload could not be read: {source}")]
    Read {
        /// What the reader says.
        source: io::Error,
    },
    /// Whoever receives the package failed.
    #[error("the package could not be sent: {source}")]
    Write {
        /// What the writer says.
        source: io::Error,
    },
    /// The second place cannot be reached, or refuses.
    #[error("cannot {doing} the storage that packages.s3_bucket names: {source}")]
    Backing {
        /// What was tried.
        doing: &'static str,
        /// What it says.
        source: io::Error,
    },
    /// The second place does not hold what was kept there.
    #[error(
        "{name} is damaged in the storage that packages.s3_bucket names: {found}; delete it there and upload the package again"
    )]
    BackingDamaged {
        /// Its name there.
        name: String,
        /// What was found.
        found: String,
    },
    /// The disk is full, may not be written to, or failed.
    #[error("cannot {doing} {path}: {source}{}", remedy(source))]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free space there, delete versions, or move the folder to a larger disk"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; let the server's user write there, or choose another folder"
        }
        io::ErrorKind::CrossesDevices => "; the folder has to lie on one file system",
        _ => "",
    }
}

impl PackageError {
    /// The kind of error; the front end's table makes a status of it.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::ZipTooLarge { .. }
            | Self::UnpackedTooLarge { .. }
            | Self::RatioTooLarge { .. }
            | Self::TooManyFiles { .. } => ErrorCode::TooLarge,
            Self::NotFound { .. } => ErrorCode::NotFound,
            Self::MissingContents { .. } | Self::InUse { .. } => ErrorCode::Conflict,
            Self::Read { .. } | Self::Write { .. } => ErrorCode::Cancelled,
            Self::Damaged { .. } | Self::Io { .. } | Self::Backing { .. } | Self::BackingDamaged { .. } => {
                ErrorCode::Internal
            }
            _ => ErrorCode::InvalidArgument,
        }
    }

    /// The text that Lambda answers with in this case, where it has one of its own.
    pub fn lambda_text(&self) -> Option<String> {
        match self {
            Self::NotAZip { .. }
            | Self::Corrupt { .. }
            | Self::Encrypted { .. }
            | Self::UnsupportedCompression { .. } => {
                Some("Could not unzip uploaded file. Please check your file, then try to upload again.".to_owned())
            }
            Self::UnpackedTooLarge { limit, .. } => Some(format!("Unzipped size must be smaller than {limit} bytes")),
            Self::Empty => Some("Uploaded file must be a non-empty zip".to_owned()),
            _ => None,
        }
    }

    pub(crate) fn path(path: &[u8], fault: PathFault) -> Self {
        // Cut short: a refused name may have 64 KiB.
        let shown: String = String::from_utf8_lossy(path).chars().take(200).collect();
        Self::Path { path: format!("{shown:?}"), fault }
    }

    pub(crate) fn corrupt(place: impl Into<String>, found: impl Into<String>) -> Self {
        Self::Corrupt { place: place.into(), found: found.into() }
    }

    /// Makes an error of the system's, for `map_err`.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { doing, path, source }
    }
}
