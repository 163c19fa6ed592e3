//! Keys: what the configuration says callers may show.
//!
//! Made by the composition root before a port opens, read by both doors. A token is kept as its SHA-256 alone; a
//! signing secret as the HMAC state it begins, which is all that checking a signature needs. `Debug` never prints
//! either, and no error repeats one.

use crate::{Principal, Scope, hex};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// A shorter secret is refused: 16 random bytes are what cannot be guessed.
pub const SECRET_BYTES_LEAST: usize = 16;

/// One key as the configuration has it.
#[derive(Clone)]
pub struct KeyEntry {
    /// The access key id, for a key that signs (SigV4); `None` for a bearer token.
    pub id: Option<String>,
    /// The secret access key, or the token itself; at least [`SECRET_BYTES_LEAST`] bytes.
    pub secret: String,
    /// What the key may be used for.
    pub scope: Scope,
}

impl fmt::Debug for KeyEntry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyEntry").field("id", &self.id).field("scope", &self.scope).finish_non_exhaustive()
    }
}

/// An entry that cannot be a key. `index` counts from 0, as the configuration's list does.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeysError {
    /// The access key id.
    #[error("keys[{index}].id: expected 16 to 128 letters, digits or underscores, found {id:?}")]
    Id {
        /// Which entry.
        index: usize,
        /// What it has.
        id: String,
    },
    /// An access key id for the second time.
    #[error("keys[{index}].id: {id:?} is already that of keys[{first}]; expected each id once")]
    RepeatedId {
        /// Which entry.
        index: usize,
        /// The entry that has it, too.
        first: usize,
        /// The id.
        id: String,
    },
    /// A secret that could be guessed.
    #[error("keys[{index}].secret{}: expected at least {SECRET_BYTES_LEAST} bytes, found {bytes}", of_id(id))]
    ShortSecret {
        /// Which entry.
        index: usize,
        /// Its access key id, if it has one.
        id: Option<String>,
        /// Bytes it has.
        bytes: usize,
    },
    /// A token that no header could carry.
    #[error("keys[{index}].secret: expected a token of visible ASCII characters without spaces")]
    Token {
        /// Which entry.
        index: usize,
    },
    /// A token for the second time.
    #[error("keys[{index}].secret: is already the token of keys[{first}]; expected each token once")]
    RepeatedToken {
        /// Which entry.
        index: usize,
        /// The entry that has it, too.
        first: usize,
    },
}

fn of_id(id: &Option<String>) -> String {
    id.as_ref().map(|id| format!(" (id {id:?})")).unwrap_or_default()
}

/// A key that signs.
pub(crate) struct SigningKey {
    /// Keyed with `"AWS4" + secret`: the first step of every derivation.
    pub(crate) begun: Hmac<Sha256>,
    pub(crate) scope: Scope,
}

struct Token {
    sha256: [u8; 32],
    scope: Scope,
}

/// All keys that are known.
#[derive(Default)]
pub struct Keys {
    signing: BTreeMap<String, SigningKey>,
    tokens: Vec<Token>,
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids: Vec<_> = self.signing.keys().collect();
        f.debug_struct("Keys").field("access_key_ids", &ids).field("tokens", &self.tokens.len()).finish()
    }
}

impl Keys {
    /// Takes the configuration's entries; the first one that cannot be a key is the error.
    pub fn new(entries: Vec<KeyEntry>) -> Result<Self, KeysError> {
        let mut keys = Self::default();
        let (mut ids, mut tokens) = (BTreeMap::new(), BTreeMap::new());
        for (index, KeyEntry { id, secret, scope }) in entries.into_iter().enumerate() {
            if secret.len() < SECRET_BYTES_LEAST {
                return Err(KeysError::ShortSecret { index, id, bytes: secret.len() });
            }
            let Some(id) = id else {
                if !secret.bytes().all(|byte| byte.is_ascii_graphic()) {
                    return Err(KeysError::Token { index });
                }
                let sha256 = Sha256::digest(&secret).into();
                if let Some(first) = tokens.insert(sha256, index) {
                    return Err(KeysError::RepeatedToken { index, first });
                }
                keys.tokens.push(Token { sha256, scope });
                continue;
            };
            let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if !(16..=128).contains(&id.len()) || !id.bytes().all(word) {
                return Err(KeysError::Id { index, id });
            }
            if let Some(first) = ids.insert(id.clone(), index) {
                return Err(KeysError::RepeatedId { index, first, id });
            }
            let begun =
                Hmac::new_from_slice(format!("AWS4{secret}").as_bytes()).expect("HMAC takes a key of any length");
            keys.signing.insert(id, SigningKey { begun, scope });
        }
        Ok(keys)
    }

    /// Whether there is no key at all.
    pub fn is_empty(&self) -> bool {
        self.signing.is_empty() && self.tokens.is_empty()
    }

    /// The key that signs under this id.
    pub(crate) fn signing(&self, id: &str) -> Option<&SigningKey> {
        self.signing.get(id)
    }

    /// The principal whose token this is. Every token is compared, each in constant time: how long it takes says
    /// nothing of which one was nearly right, or where in the list the right one is.
    pub(crate) fn bearer_of(&self, token: &[u8]) -> Option<Principal> {
        let sha256: [u8; 32] = Sha256::digest(token).into();
        let mut found = u64::MAX;
        for (index, known) in self.tokens.iter().enumerate() {
            found.conditional_assign(&(index as u64), known.sha256.ct_eq(&sha256));
        }
        let known = self.tokens.get(usize::try_from(found).ok()?)?;
        let mut name = hex::of(&known.sha256);
        name.truncate(8);
        Some(Principal { name, scope: known.scope, region: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: Option<&str>, secret: &str) -> KeyEntry {
        KeyEntry { id: id.map(str::to_owned), secret: secret.to_owned(), scope: Scope::Invoke }
    }

    #[test]
    fn errors_name_the_entry_and_never_the_secret() {
        let id = "AKIAIOSFODNN7EXAMPLE";
        let good = "0123456789abcdef";
        let table = [
            (
                vec![entry(Some(id), "hush")],
                "keys[0].secret (id \"AKIAIOSFODNN7EXAMPLE\"): expected at least 16 bytes, found 4",
            ),
            (vec![entry(None, good), entry(None, "hush")], "keys[1].secret: expected at least 16 bytes, found 4"),
            (
                vec![entry(Some("short"), good)],
                "keys[0].id: expected 16 to 128 letters, digits or underscores, found \"short\"",
            ),
            (vec![entry(Some(&format!("{id}-")), good)], "keys[0].id: expected 16 to 128"),
            (vec![entry(Some(&"x".repeat(129)), good)], "keys[0].id: expected 16 to 128"),
            (
                vec![entry(Some(id), good), entry(Some(id), good)],
                "keys[1].id: \"AKIAIOSFODNN7EXAMPLE\" is already that of keys[0]",
            ),
            (
                vec![entry(None, good), entry(Some(id), good), entry(None, good)],
                "keys[2].secret: is already the token of keys[0]",
            ),
            (vec![entry(None, "0123456789 abcdef hush")], "keys[0].secret: expected a token of visible ASCII"),
            (vec![entry(None, "0123456789abcdef\u{e9}")], "keys[0].secret: expected a token of visible ASCII"),
        ];
        for (entries, expected) in table {
            let message = Keys::new(entries).unwrap_err().to_string();
            assert!(message.starts_with(expected), "{message}");
            assert!(!message.contains("hush") && !message.contains(good), "{message}");
        }
    }

    #[test]
    fn the_longest_and_the_shortest_are_taken() {
        let entries =
            vec![entry(Some(&"x".repeat(16)), "0123456789abcdef"), entry(Some(&"_".repeat(128)), "0123456789abcdef")];
        assert!(!Keys::new(entries).unwrap().is_empty());
        assert!(!Keys::new(vec![entry(None, "0123456789abcdef")]).unwrap().is_empty());
        assert!(Keys::new(vec![]).unwrap().is_empty());
    }

    #[test]
    fn debug_prints_no_secret() {
        let entries =
            vec![entry(Some("AKIAIOSFODNN7EXAMPLE"), "hush-hush-hush-hush"), entry(None, "psst-psst-psst-psst")];
        let before = format!("{entries:?}");
        let keys = Keys::new(entries).unwrap();
        let after = format!("{keys:?}");
        let sha256: [u8; 32] = Sha256::digest("psst-psst-psst-psst").into();
        for text in [before, after] {
            assert!(text.contains("AKIAIOSFODNN7EXAMPLE"), "{text}");
            assert!(
                !text.contains("hush") && !text.contains("psst") && !text.contains(&hex::of(&sha256)[..8]),
                "{text}"
            );
        }
    }
}
