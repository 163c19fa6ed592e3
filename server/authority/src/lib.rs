//! Authority: who a caller is and what it may do, judged before every door.
//!
//! Called by the front end: by the Lambda doors with AWS signatures (SigV4), by the others with bearer tokens; by the command line, which signs. The
//! composition root makes the keys from the configuration. Pure: no I/O, no clock (`now` is an argument), no queue. A
//! secret never leaves this crate: not in an error, not in `Debug`, not in a [`Principal`].

mod authoriser;
mod bearer;
mod denied;
mod hex;
mod keys;
mod principal;
mod sigv4;

pub use authoriser::Authoriser;
pub use denied::{Denied, DeniedCode};
pub use keys::{KeyEntry, Keys, KeysError, SECRET_BYTES_LEAST};
pub use principal::{Principal, Scope, UnknownScope};
pub use sigv4::{CLOCK_SKEW_S, PRESIGNED_S_MOST, SignedHead, Signer};
