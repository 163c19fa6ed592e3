//! The model of a simulation: echoes the number of each request. What a batch costs is the stage's affair.

use penstock_domain::{Signature, Tensor};
use penstock_executor::{Batch, ExecError, Executor, LoadError, Model, Outputs, Part, PartInput, Prepared, Work};

/// A request's number, in the bytes of its one input.
pub(crate) fn number(part: &Part) -> u64 {
    let PartInput::Tensors(tensors) = &part.input else { return u64::MAX };
    let bytes = tensors.first().and_then(|tensor| tensor.data.first_chunk::<8>());
    bytes.map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

/// Echoes.
pub(crate) struct Echo {
    signature: Signature,
}

impl Echo {
    pub(crate) fn new(max_batch_size: u32) -> Self {
        Self { signature: Signature { max_batch_size, ..Signature::default() } }
    }
}

impl Model for Echo {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn prepare(&self, work: Work) -> Result<Prepared, ExecError> {
        let rows = work.inputs.first().and_then(|tensor: &Tensor| tensor.shape.first()).copied().unwrap_or(1);
        let items = u32::try_from(rows).map_err(|_| ExecError::Invalid("a negative number of rows".into()))?;
        let part = Part { input: PartInput::Tensors(work.inputs), items, tokens: 0, kind: 0 };
        Ok(Prepared { parts: vec![part], parameters: Vec::new() })
    }

    fn warmup(&self) -> Vec<Work> {
        Vec::new()
    }

    fn executor(&self, _worker: usize) -> Result<Box<dyn Executor>, LoadError> {
        Ok(Box::new(Echoing))
    }
}

struct Echoing;

impl Executor for Echoing {
    fn execute(&mut self, batch: Batch) -> Result<Outputs, ExecError> {
        let outputs = |part: Part| match part.input {
            PartInput::Tensors(tensors) => Ok(tensors),
            PartInput::Tokens(_) => Err(ExecError::Invalid("tokens".into())),
        };
        let parts = batch.parts.into_iter().map(outputs).collect();
        Ok(Outputs { parts, compute_input_ns: 0, compute_ns: 0, compute_output_ns: 0, padded_tokens: 0 })
    }
}
