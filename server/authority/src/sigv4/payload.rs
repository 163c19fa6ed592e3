//! Payloads: what a request says of its body, before the body is there.
//!
//! Called by [`super::SignedHead`]. It never takes a request's word for a body's hash: what is said must be so.

use super::canonical::Query;
use super::claims::once;
use crate::{Denied, DeniedCode, hex};
use http::HeaderMap;

const HEADER: &str = "x-amz-content-sha256";
const PARAMETER: &str = "X-Amz-Content-Sha256";
const UNSIGNED: &str = "UNSIGNED-PAYLOAD";

pub(super) enum Payload {
    /// Nothing is said: the hash of the body is what is signed.
    OfBody,
    /// The body must have this hash, in hexadecimal digits.
    Declared(String),
    /// Any body will do; presigned requests alone.
    Unsigned,
}

impl Payload {
    /// From the header, which is signed as every `x-amz-*` is; for a presigned request else from the query.
    pub(super) fn read(headers: &HeaderMap, query: &Query, presigned: bool) -> Result<Self, Denied> {
        let declared = match once(headers, HEADER)? {
            Some(text) => Some(text.to_owned()),
            None if presigned => query.once(PARAMETER)?,
            None => None,
        };
        let denied = |message: String| Err(Denied::new(DeniedCode::InvalidSignature, message));
        match declared {
            None => Ok(Self::OfBody),
            Some(text) if text == UNSIGNED && presigned => Ok(Self::Unsigned),
            Some(text) if text == UNSIGNED => {
                denied(format!("{HEADER}: {UNSIGNED} is for presigned requests; sign the body's SHA-256"))
            }
            Some(text) if text.len() == 64 => Ok(Self::Declared(text)),
            Some(_) => denied(format!("{HEADER}: expected the body's SHA-256 in 64 hexadecimal digits")),
        }
    }

    /// What the canonical request ends with, given the body's hash.
    pub(super) fn signed(&self, body_sha256: &[u8; 32]) -> Result<String, Denied> {
        let of_body = hex::of(body_sha256);
        match self {
            Self::Unsigned => Ok(UNSIGNED.to_owned()),
            Self::Declared(text) if *text != of_body => {
                let message = format!("The provided '{HEADER}' header does not match what was computed.");
                Err(Denied::new(DeniedCode::InvalidSignature, message))
            }
            Self::OfBody | Self::Declared(_) => Ok(of_body),
        }
    }
}
