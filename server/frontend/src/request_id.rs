//! Room 1, front end: one id per request, the caller's if it brought a sane one, else ours.
//!
//! Called by the layers of every door. Ids only need to be told apart in logs: a start value chosen at start-up and a
//! counter, no randomness per request.

use http::{HeaderMap, HeaderName, HeaderValue};
use std::sync::atomic::{AtomicU64, Ordering};

/// The header (and gRPC trailer) with the id.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// Longest id taken from a caller, in bytes. A UUID has 36; ids of tracing systems stay under 64.
const CALLER_ID_BYTES_MAX: usize = 128;

/// Makes ids: `<seed>-<counter>`, both hexadecimal.
#[derive(Debug)]
pub struct RequestIds {
    seed: u32,
    next: AtomicU64,
}

impl RequestIds {
    /// `seed` tells this process's ids from those of others; take it from the start time or the process id.
    pub const fn new(seed: u32) -> Self {
        Self { seed, next: AtomicU64::new(1) }
    }

    /// The id of the request with these headers: the caller's own if it is printable ASCII without spaces, quotes or
    /// separators and of at most 128 bytes, else a new one.
    pub fn of(&self, headers: &HeaderMap) -> HeaderValue {
        match headers.get(REQUEST_ID) {
            Some(id) if is_sane(id.as_bytes()) => id.clone(),
            _ => self.generate(),
        }
    }

    /// A new id.
    fn generate(&self) -> HeaderValue {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut id = [b'-'; 8 + 1 + 12];
        for (place, byte) in id[..8].iter_mut().enumerate() {
            *byte = HEX[(self.seed >> (28 - 4 * place)) as usize & 15];
        }
        for (place, byte) in id[9..].iter_mut().enumerate() {
            *byte = HEX[(number >> (44 - 4 * place)) as usize & 15];
        }
        HeaderValue::from_bytes(&id).expect("hexadecimal digits make a header value")
    }
}

/// What may be echoed and logged as it came.
fn is_sane(id: &[u8]) -> bool {
    let fits = !id.is_empty() && id.len() <= CALLER_ID_BYTES_MAX;
    fits && id.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=@#".contains(byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sane_id_is_kept_and_others_are_replaced() {
        let ids = RequestIds::new(0xdead_beef);
        let of = |id: &[u8]| {
            let mut headers = HeaderMap::new();
            headers.insert(REQUEST_ID, HeaderValue::from_bytes(id).unwrap());
            ids.of(&headers)
        };
        assert_eq!(of(b"c0ffee-1"), "c0ffee-1");
        assert_eq!(of(b"with space"), "deadbeef-000000000001");
        assert_eq!(of(&[b'a'; 129]), "deadbeef-000000000002");
        assert_eq!(of(b""), "deadbeef-000000000003");
        assert_eq!(ids.of(&HeaderMap::new()), "deadbeef-000000000004");
    }
}
