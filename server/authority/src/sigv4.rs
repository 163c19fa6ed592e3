//! The Lambda door: AWS Signature Version 4, checked in two halves because the body comes later.
//!
//! The front end calls [`SignedHead::read`] when it has a request's head and [`SignedHead::verify`] when it has hashed
//! the body. It never keeps anything between requests: a signature may be used again for as long as it is in date, as
//! on AWS. <https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html>

mod canonical;
mod claims;
mod credential;
mod payload;
mod sign;
mod signing;
mod stamp;
#[cfg(test)]
mod tests;

pub use claims::PRESIGNED_S_MOST;
pub use sign::Signer;
pub use stamp::CLOCK_SKEW_S;

use crate::{Denied, DeniedCode, Keys, Principal, Scope, hex};
use canonical::Query;
use claims::Claims;
use credential::Credential;
use http::{HeaderMap, Method, Uri};
use payload::Payload;
use sha2::{Digest, Sha256};
use std::fmt;
use subtle::ConstantTimeEq;

const ALGORITHM: &str = "AWS4-HMAC-SHA256";
const MISMATCH: &str = "The request signature we calculated does not match the signature you provided. Check your AWS \
                        Secret Access Key and signing method. Consult the service documentation for details.";

/// A request whose head is in order and whose signature is still to be compared: nobody is let in by it.
pub struct SignedHead {
    access_key_id: String,
    region: String,
    scope: Scope,
    /// The canonical request's hash, up to where the payload's hash belongs.
    canonical: Sha256,
    payload: Payload,
    /// The string to sign, up to where the canonical request's hash belongs.
    to_sign: String,
    signing_key: [u8; 32],
    signature: String,
}

impl fmt::Debug for SignedHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignedHead")
            .field("access_key_id", &self.access_key_id)
            .field("region", &self.region)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

impl SignedHead {
    /// Judges all of a request but its body, in AWS's order: what is missing, the date, `Host`, credential, key.
    ///
    /// `uri` is the one on the wire, not one that a router has rewritten. Its authority stands in for the header `Host`
    /// where there is none (HTTP/2). `now_unix_s` is in seconds; `services` are the names a signature may be made for.
    /// The signature is in the header `Authorization`, or in the query (`X-Amz-Signature`: a presigned URL), not both.
    ///
    /// What is signed is the query's meaning: names and values are decoded, a bare `+` being a space, and encoded anew.
    /// Who reads the query must read `+` likewise.
    pub fn read(
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        now_unix_s: i64,
        keys: &Keys,
        services: &[String],
    ) -> Result<Self, Denied> {
        let query = Query::new(uri.query().unwrap_or_default());
        let claims = Claims::read(headers, &query)?;
        let stamp = stamp::judge(&claims.date, claims.expires_s, now_unix_s)?;
        let signed_headers = canonical::signed_headers(&claims.signed_headers, headers)?;
        let credential = Credential::read(&claims.credential)?;
        credential.judge(&stamp, services)?;
        let key = keys.signing(credential.access_key_id).ok_or_else(|| {
            Denied::new(DeniedCode::UnrecognizedClient, "The security token included in the request is invalid.")
        })?;
        let payload = Payload::read(headers, &query, claims.expires_s.is_some())?;

        let mut canonical = Sha256::new();
        canonical.update(format!("{method}\n{}\n{}\n", canonical::path(uri.path()), query.canonical()));
        canonical::hash_headers(&mut canonical, &signed_headers, headers, uri.authority())?;
        canonical.update(format!("\n{}\n", claims.signed_headers));
        Ok(Self {
            access_key_id: credential.access_key_id.to_owned(),
            region: credential.region.to_owned(),
            scope: key.scope,
            canonical,
            payload,
            to_sign: format!("{ALGORITHM}\n{}\n{}\n", claims.date, credential.scope()),
            signing_key: signing::key(&key.begun, &credential),
            signature: claims.signature,
        })
    }

    /// The id of the key that the request says it is signed with.
    pub fn access_key_id(&self) -> &str {
        &self.access_key_id
    }

    /// The region that the request says it is for.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// The principal, if the signature is that of its key over this head and a body of this SHA-256.
    pub fn verify(mut self, body_sha256: [u8; 32]) -> Result<Principal, Denied> {
        self.canonical.update(self.payload.signed(&body_sha256)?);
        let to_sign = self.to_sign + &hex::of(&self.canonical.finalize().into());
        let signature = hex::of(&signing::hmac(&self.signing_key, to_sign.as_bytes()));
        if bool::from(signature.as_bytes().ct_eq(self.signature.as_bytes())) {
            return Ok(Principal { name: self.access_key_id, scope: self.scope, region: Some(self.region) });
        }
        Err(Denied::new(DeniedCode::InvalidSignature, MISMATCH))
    }
}
