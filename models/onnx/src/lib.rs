//! ONNX graphs on ONNX Runtime: a loaded [`OnnxModel`] for the environment, and the [`Session`] under it for crates
//! that feed a graph themselves (text encoders).
//!
//! Called by the environment (through [`penstock_executor::Model`]) and by `models/bert`. Never reads a request's
//! wire format, never downloads, never looks for the library on its own: whoever composes the house passes its path.

mod aligned;
mod clock;
mod execute;
mod failure;
mod library;
mod model;
mod prepare;
mod session;
mod signature;
mod values;
mod warmup;

pub use aligned::AlignedBuffer;
pub use library::Library;
pub use model::{OnnxModel, OnnxOptions};
pub use session::{GraphSource, GraphTensor, Input, Outputs, Session, SessionOptions};
pub use signature::DEFAULT_MAX_BATCH_SIZE;
