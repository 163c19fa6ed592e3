//! The canonical request: the one text that caller and server both make of a request, so that they sign the same.
//!
//! Called by [`super::SignedHead::read`]. It never holds the whole text: the parts go into the hash one by one. As for
//! every service but S3 the path is normalised and, having come encoded, encoded once more.

use super::claims::{incomplete, once};
use crate::denied::quoted;
use crate::{Denied, DeniedCode};
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, percent_encode, utf8_percent_encode};
use sha2::{Digest, Sha256};

/// All but RFC 3986's unreserved characters.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The path as it came, without `.`, `..` and empty segments, encoded; a slash at the end stays.
pub(super) fn path(raw: &str) -> String {
    let mut kept = Vec::new();
    for segment in raw.split('/') {
        match segment {
            "" | "." => {}
            ".." => drop(kept.pop()),
            segment => kept.push(segment),
        }
    }
    let mut canonical = String::with_capacity(raw.len() + 16);
    for segment in &kept {
        canonical.push('/');
        canonical.extend(utf8_percent_encode(segment, RESERVED));
    }
    if kept.is_empty() || raw.ends_with('/') {
        canonical.push('/');
    }
    canonical
}

/// A query's pairs, canonically encoded, ascending by name, then by value.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn new(raw: &str) -> Self {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty());
        let split = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let mut pairs: Vec<_> = split.map(|(name, value)| (recoded(name), recoded(value))).collect();
        pairs.sort_unstable();
        Self(pairs)
    }

    /// Whether there is a parameter of this name, which needs no encoding.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|pair| pair.0 == name)
    }

    /// The decoded value of a parameter that may be sent once.
    pub(super) fn once(&self, name: &str) -> Result<Option<String>, Denied> {
        let mut sent = self.0.iter().filter(|pair| pair.0 == name);
        let Some((_, value)) = sent.next() else { return Ok(None) };
        if sent.next().is_some() {
            return Err(incomplete(format!("query-string parameter {name}: expected once, found several")));
        }
        let text = percent_decode_str(value).decode_utf8();
        let text = text.map_err(|_| incomplete(format!("query-string parameter {name}: expected UTF-8")))?;
        Ok(Some(text.into_owned()))
    }

    /// The canonical query: a presigned request's signature is not in it.
    pub(super) fn canonical(&self) -> String {
        let signed = self.0.iter().filter(|pair| pair.0 != "X-Amz-Signature");
        let pairs: Vec<_> = signed.map(|(name, value)| format!("{name}={value}")).collect();
        pairs.join("&")
    }
}

/// Decoded, as a form is, and encoded as SigV4 says.
fn recoded(text: &str) -> String {
    let bytes: Vec<u8> = percent_decode_str(&text.replace('+', "%20")).collect();
    percent_encode(&bytes, RESERVED).to_string()
}

/// The names of the signed headers, if they are well written, with `host` and every `x-amz-*` that was sent.
pub(super) fn signed_headers<'a>(list: &'a str, headers: &HeaderMap) -> Result<Vec<&'a str>, Denied> {
    let names: Vec<&str> = list.split(';').collect();
    let lower = names.iter().all(|name| !name.is_empty() && !name.bytes().any(|byte| byte.is_ascii_uppercase()));
    if !lower || !names.is_sorted_by(|one, next| one < next) {
        return Err(incomplete("SignedHeaders: expected header names in lower case, ascending, separated by ';'"));
    }
    let denied = |message: String| Err(Denied::new(DeniedCode::InvalidSignature, message));
    if names.binary_search(&"host").is_err() {
        return denied("'Host' or ':authority' must be a 'SignedHeader' in the AWS Authorization.".to_owned());
    }
    let sent = headers.keys().map(|name| name.as_str()).filter(|name| name.starts_with("x-amz-"));
    match sent.into_iter().find(|name| names.binary_search(name).is_err()) {
        Some(name) => denied(format!("'{name}' must be a 'SignedHeader' in the AWS Authorization.")),
        None => Ok(names),
    }
}

/// Hashes a line for each signed header: its values in the order they came, trimmed, runs of blanks made one space.
/// `authority` is the request's own, for where there is no header `Host`.
pub(super) fn hash_headers(
    hash: &mut Sha256,
    names: &[&str],
    headers: &HeaderMap,
    authority: Option<&Authority>,
) -> Result<(), Denied> {
    for name in names {
        let mut values: Vec<&[u8]> = headers.get_all(*name).into_iter().map(HeaderValue::as_bytes).collect();
        if *name == "host" {
            once(headers, name)?;
            if values.is_empty() {
                values.extend(authority.map(|authority| authority.as_str().as_bytes()));
            }
        }
        if values.is_empty() {
            let message = format!("the signed header {} is not in the request", quoted(name));
            return Err(Denied::new(DeniedCode::InvalidSignature, message));
        }
        hash.update(name);
        for (index, value) in values.into_iter().enumerate() {
            hash.update(if index == 0 { ":" } else { "," });
            let words = value.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
            for (index, word) in words.enumerate() {
                hash.update(if index == 0 { "" } else { " " });
                hash.update(word);
            }
        }
        hash.update("\n");
    }
    Ok(())
}
