//! The wire: generated types of the Open Inference Protocol and of the link, nothing else.
//!
//! Called by the front end (OIP), by the environment (link) and by the registry (model configuration). Tensor fields
//! are [`bytes::Bytes`], so that a decoded request shares the buffer it was read into.
#![allow(missing_docs, clippy::all, rustdoc::all, unreachable_pub)]

/// The Open Inference Protocol with Triton's extensions, and Triton's model configuration.
pub mod inference {
    tonic::include_proto!("inference");
}

/// Frame headers of the link.
pub mod link {
    tonic::include_proto!("penstock.link");
}

/// The encoded `FileDescriptorSet` of all of the above, for reflection and for reading text format.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
