//! Other services that are called: S3-compatible storage, SQS, HTTP endpoints.
//!
//! Called by the control plane, for code that lies in S3 and for ends of asynchronous invocations that are told elsewhere,
//! and by the content store, whose contents may be kept in S3 too. One HTTP client for all of it, which follows no redirects
//! and takes no proxy from the environment. Never decides who may ask for what, keeps nothing on disk but in the file that
//! it is given, and prints no secret.

mod client;
mod contents;
mod credentials;
mod endpoint;
mod remote;
mod s3;
mod sqs;
mod target;

pub use client::client;
pub use contents::S3Contents;
pub use credentials::{CredentialSource, Credentials, CredentialsError};
pub use remote::{Remote, RemoteError, RemoteOptions};
pub use s3::{S3, S3Error, S3Object};
pub use target::{Target, TellError};

#[cfg(test)]
mod test_server;
