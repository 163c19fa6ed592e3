//! The name of a content: its SHA-256.
//!
//! Used by every file of this crate and by its callers. Never reads a file.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// SHA-256 of a file's content, or of a manifest's canonical JSON. Written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct ContentSha256([u8; 32]);

/// The text is not 64 lower-case hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 is 64 digits of 0-9 and a-f; {found:?} is not")]
pub struct ParseContentSha256Error {
    found: String,
}

impl ContentSha256 {
    /// Of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// A hash that was made elsewhere.
    pub fn from_digest(digest: [u8; 32]) -> Self {
        Self(digest)
    }

    /// Its bytes.
    pub fn digest(&self) -> [u8; 32] {
        self.0
    }

    /// What a hash came to.
    pub(crate) fn from_hash(hash: Sha256) -> Self {
        Self(hash.finalize().into())
    }

    /// Base64 with padding, as Lambda writes a `CodeSha256`.
    pub fn base64(&self) -> String {
        STANDARD.encode(self.0)
    }
}

impl fmt::Display for ContentSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentSha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ContentSha256 {
    type Err = ParseContentSha256Error;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // Cut short: the text may be a stranger's and of any length.
        let wrong = || ParseContentSha256Error { found: text.chars().take(80).collect() };
        let digit = |byte: u8| match byte {
            b'0'..=b'9' => Ok(byte - b'0'),
            b'a'..=b'f' => Ok(byte - b'a' + 10),
            _ => Err(wrong()),
        };
        if text.len() != 64 {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            *byte = digit(pair[0])? << 4 | digit(pair[1])?;
        }
        Ok(Self(bytes))
    }
}

impl From<ContentSha256> for String {
    fn from(sha256: ContentSha256) -> Self {
        sha256.to_string()
    }
}

impl TryFrom<String> for ContentSha256 {
    type Error = ParseContentSha256Error;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn it_is_written_and_read_as_lower_case_digits() {
        let empty = ContentSha256::of(b"");
        assert_eq!(empty.to_string(), EMPTY);
        assert_eq!(EMPTY.parse(), Ok(empty));
        assert_eq!(empty.base64(), "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert_eq!(serde_json::to_string(&empty).unwrap(), format!("{EMPTY:?}"));
        assert_eq!(serde_json::from_str::<ContentSha256>(&format!("{EMPTY:?}")).unwrap(), empty);
    }

    #[test]
    fn nothing_else_is_one() {
        let upper = EMPTY.to_uppercase();
        let traversal = "../".repeat(21) + "a";
        for text in ["", "e3", &upper, &traversal, &EMPTY[1..], &format!("{EMPTY}0"), &"é".repeat(32)] {
            assert!(text.parse::<ContentSha256>().is_err(), "{text}");
        }
    }
}
