//! The words of the house, as types: what every other room speaks in.
//!
//! Called by every crate. Never does I/O, never reads a clock, knows no tokio and no wire format. An [`Invocation`]
//! enters by a front end, an [`Answer`] or a [`Refusal`] leaves; [`Outcome`] is what is counted, once, for each.

mod answer;
mod architecture;
mod device;
mod error;
mod invocation;
mod names;
mod signature;
mod tensor;
mod timing;
mod variables;

pub use answer::Answer;
pub use architecture::Architecture;
pub use device::{CONTEXT_BYTES, DeviceMemory, DeviceReading};
pub use error::{ErrorCode, Outcome, Refusal, ShedReason};
pub use invocation::{Invocation, Parameter, ParameterValue, Parameters, RequestedOutput};
pub use names::{CallerId, FunctionName, InvalidName, Qualifier, VersionNumber};
pub use signature::{Signature, TensorSpec};
pub use tensor::{Datatype, Shape, Tensor, TensorError, bytes_elements, encode_bytes_element};
pub use timing::{BatchReport, StageTimes};
pub use variables::Variables;

#[cfg(test)]
mod tests;
