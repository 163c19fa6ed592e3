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

/// The number of a published version, 1 or more (in a model repository: the directory's number).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct VersionNumber(pub u64);

impl fmt::Display for VersionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
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
