//! Claims: what a request says of its signature, in the header `Authorization` or in a presigned query.
//!
//! Called by [`super::SignedHead::read`]. It never judges what is claimed, only that all of it is there, once.

use super::ALGORITHM;
use super::canonical::Query;
use crate::denied::quoted;
use crate::{Denied, DeniedCode};
use http::HeaderMap;

/// The longest, in seconds, that a presigned request may be good for: a week, as on AWS.
pub const PRESIGNED_S_MOST: u32 = 604_800;

/// All as it was sent.
pub(super) struct Claims {
    pub(super) credential: String,
    pub(super) signed_headers: String,
    pub(super) signature: String,
    pub(super) date: String,
    /// For how long after `date` it is good: `Some` for a presigned request, else `None`.
    pub(super) expires_s: Option<u32>,
}

pub(super) fn incomplete(message: impl Into<String>) -> Denied {
    Denied::new(DeniedCode::IncompleteSignature, message)
}

/// A header that may be sent once, of visible ASCII characters.
pub(super) fn once<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Denied> {
    let mut sent = headers.get_all(name).into_iter();
    let Some(value) = sent.next() else { return Ok(None) };
    if sent.next().is_some() {
        return Err(incomplete(format!("header {name}: expected once, found several")));
    }
    let text = value.to_str().map_err(|_| incomplete(format!("header {name}: expected visible ASCII characters")))?;
    Ok(Some(text.trim()))
}

impl Claims {
    pub(super) fn read(headers: &HeaderMap, query: &Query) -> Result<Self, Denied> {
        let presigned =
            ["X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Signature"].into_iter().find(|name| query.has(name));
        match (once(headers, "authorization")?, presigned) {
            (Some(header), None) => Self::of_header(header, headers),
            (None, Some(_)) => Self::of_query(query),
            (None, None) => Err(Denied::new(DeniedCode::MissingAuthenticationToken, "Missing Authentication Token")),
            (Some(_), Some(name)) => {
                let message =
                    format!("Found both '{name}' as a query-string param and 'Authorization' as HTTP header.");
                Err(Denied::new(DeniedCode::InvalidSignature, message))
            }
        }
    }

    /// `AWS4-HMAC-SHA256 Credential=…, SignedHeaders=…, Signature=…`. Of another scheme's text nothing is repeated: it
    /// may be a secret.
    fn of_header(header: &str, headers: &HeaderMap) -> Result<Self, Denied> {
        let (algorithm, pairs) = header.split_once(' ').unwrap_or((header, ""));
        if algorithm.starts_with("AWS4-") && algorithm != ALGORITHM {
            return Err(unsupported(algorithm));
        }
        let mut found = [None; 3];
        let names = ["Credential", "Signature", "SignedHeaders"];
        if algorithm == ALGORITHM {
            for pair in pairs.split(',').map(str::trim).filter(|pair| !pair.is_empty()) {
                let lacks = || incomplete("Invalid key=value pair (missing equal-sign) in Authorization header.");
                let (name, value) = pair.split_once('=').ok_or_else(lacks)?;
                let Some(at) = names.iter().position(|known| *known == name) else { continue };
                if found[at].replace(value).is_some() {
                    let message = format!("Authorization header: '{name}' parameter: expected once, found several.");
                    return Err(incomplete(message));
                }
            }
        }
        let date = once(headers, "x-amz-date")?;
        let [Some(credential), Some(signature), Some(signed_headers)] = found else {
            return Err(missing(&names, &found, date));
        };
        let Some(date) = date else { return Err(missing(&names, &found, date)) };
        let [credential, signature, signed_headers, date] =
            [credential, signature, signed_headers, date].map(str::to_owned);
        Ok(Self { credential, signed_headers, signature, date, expires_s: None })
    }

    fn of_query(query: &Query) -> Result<Self, Denied> {
        let mut lacks = String::new();
        let mut take = |name: &str| {
            let value = query.once(name)?;
            if value.is_none() {
                lacks += &format!("AWS query-string parameters must include '{name}'. ");
            }
            Ok(value.unwrap_or_default())
        };
        let algorithm = take("X-Amz-Algorithm")?;
        let credential = take("X-Amz-Credential")?;
        let signature = take("X-Amz-Signature")?;
        let signed_headers = take("X-Amz-SignedHeaders")?;
        let date = take("X-Amz-Date")?;
        let expires = take("X-Amz-Expires")?;
        if !lacks.is_empty() {
            return Err(incomplete(lacks + "Re-examine the query-string parameters."));
        }
        if algorithm != ALGORITHM {
            return Err(unsupported(&algorithm));
        }
        let digits = expires.bytes().all(|byte| byte.is_ascii_digit());
        let expires_s = expires.parse().ok().filter(|s| digits && (1..=PRESIGNED_S_MOST).contains(s));
        if expires_s.is_none() {
            let found = quoted(&expires);
            let message = format!("X-Amz-Expires: expected 1 to {PRESIGNED_S_MOST} whole seconds, found {found}");
            return Err(incomplete(message));
        }
        Ok(Self { credential, signed_headers, signature, date, expires_s })
    }
}

fn unsupported(algorithm: &str) -> Denied {
    incomplete(format!("Unsupported AWS 'algorithm': {} (only {ALGORITHM} for now).", quoted(algorithm)))
}

/// All that an `Authorization` header lacks, as AWS says it, but without repeating the header.
fn missing(names: &[&str; 3], found: &[Option<&str>; 3], date: Option<&str>) -> Denied {
    let lacking = names.iter().zip(found).filter(|(_, value)| value.is_none());
    let mut lacks: Vec<_> =
        lacking.map(|(name, _)| format!("Authorization header requires '{name}' parameter.")).collect();
    if date.is_none() {
        lacks.push("Authorization header requires existence of a 'X-Amz-Date' header.".to_owned());
    }
    incomplete(lacks.join(" "))
}
