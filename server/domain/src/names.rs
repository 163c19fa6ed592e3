//! Names and numbers that identify things; newtypes, so that one cannot be passed for another.

use std::fmt;
use std::hash::{DefaultHasher, Hasher};
use std::sync::Arc;

/// Longest function name accepted, in bytes (Lambda's limit for a bare function name is 64; Triton has none, and
/// directory names in model repositories are often longer, so the file system's limit is taken).
const FUNCTION_NAME_BYTES_MAX: usize = 255;

/// What a client names: a function (OIP calls it a model). Cheap to clone.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FunctionName(Arc<str>);

/// Why a text is not a function name.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InvalidName {
    /// The empty text names nothing.
    #[error("a function name must not be empty")]
    Empty,
    /// Longer than a directory name may be.
    #[error("a function name has at most {FUNCTION_NAME_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    /// `/` would break routes, `:` separates a qualifier, control characters break logs.
    #[error("a function name must not contain {0:?}")]
    Character(char),
}

impl FunctionName {
    /// Checks and takes a name. `/` and `:` are reserved for routes and qualifiers.
    pub fn new(name: &str) -> Result<Self, InvalidName> {
        if name.is_empty() {
            return Err(InvalidName::Empty);
        }
        if name.len() > FUNCTION_NAME_BYTES_MAX {
            return Err(InvalidName::TooLong(name.len()));
        }
        if let Some(character) = name.chars().find(|c| matches!(c, '/' | ':') || c.is_control()) {
            return Err(InvalidName::Character(character));
        }
        Ok(Self(name.into()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for FunctionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl std::borrow::Borrow<str> for FunctionName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The number of a published version, 1 or more (in a model repository: the directory's number), or
/// [`VersionNumber::LATEST_PUBLISHED`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VersionNumber(pub u64);

impl VersionNumber {
    /// `$LATEST.PUBLISHED`: the one version of a function whose content may be replaced. It has no number of its own.
    pub const LATEST_PUBLISHED: Self = Self(0);

    /// A number, or `$LATEST.PUBLISHED`, as [`fmt::Display`] writes them.
    pub fn parse(text: &str) -> Option<Self> {
        if text == LATEST_PUBLISHED {
            return Some(Self::LATEST_PUBLISHED);
        }
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        text.parse().ok().filter(|number| digits && *number > 0).map(Self)
    }
}

const LATEST_PUBLISHED: &str = "$LATEST.PUBLISHED";

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::LATEST_PUBLISHED => f.write_str(LATEST_PUBLISHED),
            Self(number) => write!(f, "{number}"),
        }
    }
}

/// Which version of a function a request means.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Qualifier {
    /// None is named: the alias `live` if there is one, else `$LATEST.PUBLISHED`, else the highest that is ready.
    #[default]
    Unnamed,
    /// This one.
    Version(VersionNumber),
    /// Where the alias of this name leads.
    Alias(Arc<str>),
}

impl From<VersionNumber> for Qualifier {
    fn from(version: VersionNumber) -> Self {
        Self::Version(version)
    }
}

impl From<Option<VersionNumber>> for Qualifier {
    fn from(version: Option<VersionNumber>) -> Self {
        version.map_or(Self::Unnamed, Self::Version)
    }
}

impl fmt::Display for Qualifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unnamed => Ok(()),
            Self::Version(version) => version.fmt(f),
            Self::Alias(alias) => f.write_str(alias),
        }
    }
}

/// Whoever sent a request, as far as callers are told apart: a hash of what identifies them, so that no key is kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CallerId(pub u64);

impl CallerId {
    /// Of a key, a token or a name. All who bring none are one caller.
    pub fn of(identity: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write(identity);
        Self(hasher.finish())
    }
}
