//! What a version takes and gives.

use crate::Datatype;

/// One input or output. `shape` is without the batch dimension when the version batches; -1 stands for any size.
#[derive(Clone, PartialEq, Debug)]
pub struct TensorSpec {
    /// Name on the wire.
    pub name: String,
    /// Element type.
    pub datatype: Datatype,
    /// Dimensions, -1 for any.
    pub shape: Vec<i64>,
    /// An input the caller may leave out.
    pub optional: bool,
    /// Class names by index, for outputs that are scores over classes.
    pub labels: Vec<String>,
}

impl TensorSpec {
    /// A required tensor without labels.
    pub fn new(name: impl Into<String>, datatype: Datatype, shape: impl Into<Vec<i64>>) -> Self {
        Self { name: name.into(), datatype, shape: shape.into(), optional: false, labels: Vec::new() }
    }
}

/// A version's contract, reported by its environment once loaded.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Signature {
    /// Name of the platform as Triton's clients know it, such as `onnxruntime_onnx`.
    pub platform: String,
    /// Inputs.
    pub inputs: Vec<TensorSpec>,
    /// Outputs.
    pub outputs: Vec<TensorSpec>,
    /// Most rows in one batch; 0 means the version does not batch and dimension 0 is part of the shape.
    pub max_batch_size: u32,
    /// Accepts any tensors and echoes them (the identity runtime): names and shapes are not checked.
    pub any_tensors: bool,
}
