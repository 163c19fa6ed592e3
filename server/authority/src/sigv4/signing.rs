//! Signing: the key of a day, a region and a service, and the HMAC under it.
//!
//! Called by [`super::SignedHead`]. Nothing is cached: `cargo run --release -p penstock-authority --example cost`
//! prints what deriving a key costs.

use super::credential::{Credential, TERMINATOR};
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// HMAC-SHA256.
pub(super) fn hmac(key: &[u8; 32], text: &[u8]) -> [u8; 32] {
    let keyed = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    keyed.chain_update(text).finalize().into_bytes().into()
}

/// The signing key; `begun` is the HMAC state keyed with `"AWS4" + secret`.
pub(super) fn key(begun: &Hmac<Sha256>, credential: &Credential<'_>) -> [u8; 32] {
    let date = begun.clone().chain_update(credential.date).finalize().into_bytes().into();
    let region = hmac(&date, credential.region.as_bytes());
    let service = hmac(&region, credential.service.as_bytes());
    hmac(&service, TERMINATOR.as_bytes())
}
