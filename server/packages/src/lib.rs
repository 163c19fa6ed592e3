//! What functions are made of: archives read safely, files kept by their content.
//!
//! A package is a set of files: code, or a model's folder. It comes as a ZIP, as Lambda takes it, or file by file, where
//! only what is not here yet is sent. [`ContentStore`] keeps each content once, under its SHA-256, however many versions
//! have it, and lays each package out as a folder of hard links. Called by the control plane and by the instance agent,
//! on threads that may block; knows nothing of functions, never runs or interprets what it keeps, and trusts nothing that
//! an archive says about itself.

mod archive;
mod backing;
mod content;
mod directory;
mod error;
mod export;
mod folder;
mod hold;
mod ingest;
mod limits;
mod manifest;
mod path;
mod retain;
mod staging;
mod store;
mod unpack;

pub use backing::{BackedFile, Backing};
pub use content::{ContentSha256, ParseContentSha256Error};
pub use error::PackageError;
pub use hold::Hold;
pub use ingest::Package;
pub use limits::PackageLimits;
pub use manifest::{FileEntry, Manifest};
pub use path::{PathFault, TreeFault, check_path};
pub use retain::Retained;
pub use staging::Staged;
pub use store::ContentStore;

#[cfg(test)]
mod tests;
