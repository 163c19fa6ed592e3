//! One request for work, as it enters the house: already parsed, not yet admitted.

use crate::{CallerId, FunctionName, Qualifier, Tensor};
use std::time::Instant;

/// A parameter's value, in the types the protocols know.
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs)]
pub enum ParameterValue {
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    String(String),
}

/// A named parameter of a request or of an answer.
pub type Parameter = (String, ParameterValue);

/// Parameters in the order they came; few, so a list is cheaper than a map.
pub type Parameters = Vec<Parameter>;

/// An output the caller asked for by name.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct RequestedOutput {
    /// Name in the function's signature.
    pub name: String,
    /// Ask for the `k` highest classes as `"value:index[:label]"` instead of the tensor; 0 means the tensor.
    pub classification: u32,
}

/// One request for work. Tensors are as they came; the environment checks them against the signature.
#[derive(Clone, Debug)]
pub struct Invocation {
    /// The function named by the caller.
    pub function: FunctionName,
    /// Which version of it.
    pub qualifier: Qualifier,
    /// The caller's own id for this request, echoed in the answer; may be empty.
    pub id: String,
    /// Request parameters that the door did not consume itself.
    pub parameters: Parameters,
    /// Input tensors.
    pub inputs: Vec<Tensor>,
    /// Outputs wanted; empty means all.
    pub outputs: Vec<RequestedOutput>,
    /// The moment after which an answer is worth nothing. Binds queue and run.
    pub deadline: Option<Instant>,
    /// 1 is the highest, 0 means the function's default.
    pub priority: u32,
    /// Who sent it, where callers are told apart.
    pub caller: Option<CallerId>,
    /// Whether the rows may be spread over several batches (and may then exceed `max_batch_size`).
    pub splittable: bool,
}

impl Invocation {
    /// Rows: dimension 0 of the first input where the function batches, else 1.
    pub fn items(&self, batches: bool) -> u64 {
        let rows = self.inputs.first().and_then(|tensor| tensor.shape.first()).copied().unwrap_or(1);
        if batches { u64::try_from(rows).unwrap_or(1) } else { 1 }
    }

    /// Bytes of all input tensors.
    pub fn input_bytes(&self) -> u64 {
        self.inputs.iter().map(|tensor| tensor.data.len() as u64).sum()
    }
}
