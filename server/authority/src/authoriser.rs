//! The authoriser: the one thing the front end asks before every door.
//!
//! Called by the front end once for each request, before a body is buffered. It never decides whether a server without
//! keys is open: that is the composition root's to say, and here no keys means that nobody gets in.

use crate::sigv4::SignedHead;
use crate::{Denied, Keys, Principal, bearer};
use http::{HeaderMap, Method, Uri};

/// The keys, and the services whose signatures count.
#[derive(Debug)]
pub struct Authoriser {
    keys: Keys,
    services: Vec<String>,
}

impl Authoriser {
    /// `services` are the names a signature may be made for, as in SigV4's credential scope: `["lambda"]`.
    pub fn new(keys: Keys, services: Vec<String>) -> Self {
        Self { keys, services }
    }

    /// The keys that are known.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Who sent `Authorization: Bearer <token>`. Denied with `Unauthenticated` (401) if the header is missing,
    /// malformed or has a token that is not known. What the principal may do is [`Principal::require`]'s to say.
    pub fn bearer(&self, headers: &HeaderMap) -> Result<Principal, Denied> {
        bearer::judge(headers, &self.keys)
    }

    /// The first half of SigV4: all that can be judged before the body is there; see [`SignedHead::read`].
    pub fn signed_head(
        &self,
        method: &Method,
        uri: &Uri,
        headers: &HeaderMap,
        now_unix_s: i64,
    ) -> Result<SignedHead, Denied> {
        SignedHead::read(method, uri, headers, now_unix_s, &self.keys, &self.services)
    }
}
