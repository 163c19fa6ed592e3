//! Runs batches of token rows on one of the engines. Called by a runtime worker, on its thread. Never fails the rows of
//! one run for another's error.

use crate::folder::Pooling;
use crate::layout::Layout;
use crate::plan;
use bytes::Bytes;
use penstock_domain::{Datatype, Tensor};
use penstock_executor::{Batch, ExecError, Executor, Outputs, PartInput, PartOutputs};
use std::time::Instant;

/// Tokens from which a run on a CPU is no faster per token (measured with `examples/encode_speed`).
const RUN_TOKENS_FULL: usize = 256;

/// Tokens that are worth a run of their own.
const RUN_TOKENS_WORTH: usize = 128;

/// An engine.
pub(crate) trait Encoder {
    /// Embeds the rows of a run: `[rows, hidden]` F32, little-endian, pooled and normalised as the folder says.
    fn encode(&mut self, layout: &Layout) -> Result<Bytes, ExecError>;
}

/// See the module.
pub(crate) struct BertExecutor {
    pub(crate) encoder: Box<dyn Encoder>,
    pub(crate) layout: Layout,
    pub(crate) heads: usize,
    pub(crate) hidden: usize,
    pub(crate) pooling: Pooling,
}

impl Executor for BertExecutor {
    fn execute(&mut self, batch: Batch) -> Result<Outputs, ExecError> {
        let start = now();
        let rows = batch.parts.iter().map(|part| match &part.input {
            PartInput::Tokens(tokens) if !tokens.is_empty() => Ok(tokens.as_slice()),
            _ => Err(ExecError::Failed("a part for this model must be one row of at least one token".into())),
        });
        let rows: Vec<&[u32]> = rows.collect::<Result<_, _>>()?;
        let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
        let mut outputs = Outputs {
            parts: Vec::new(),
            compute_input_ns: 0,
            compute_ns: 0,
            compute_output_ns: 0,
            padded_tokens: lengths.iter().sum::<usize>() as u64,
        };
        let mut parts: Vec<Option<Result<PartOutputs, ExecError>>> = vec![None; rows.len()];
        let mut last = start;
        let mut lap = || {
            let (before, after) = (last, now());
            last = after;
            after.duration_since(before).as_nanos() as u64
        };
        let mut gathered: Vec<&[u32]> = Vec::new();
        for run in plan::runs(&lengths, RUN_TOKENS_FULL, RUN_TOKENS_WORTH) {
            gathered.clear();
            gathered.extend(run.iter().map(|&row| rows[row]));
            self.layout.fill(&gathered, self.heads, self.pooling);
            outputs.compute_input_ns += lap();
            let encoded = self.encoder.encode(&self.layout);
            outputs.compute_ns += lap();
            match encoded {
                Ok(encoded) => {
                    for (place, &row) in run.iter().enumerate() {
                        parts[row] = Some(Ok(vec![embedding(&encoded, place, self.hidden)]));
                    }
                }
                Err(error @ (ExecError::Broken(_) | ExecError::OutOfMemory(_))) => return Err(error),
                Err(error) => run.iter().for_each(|&row| parts[row] = Some(Err(error.clone()))),
            }
            outputs.compute_output_ns += lap();
        }
        outputs.parts = parts.into_iter().map(|part| part.expect("the plan holds every row once")).collect();
        Ok(outputs)
    }
}

/// Row `place` of a run's output, sharing its memory.
fn embedding(encoded: &Bytes, place: usize, hidden: usize) -> Tensor {
    let bytes = hidden * 4;
    Tensor {
        name: "embedding".into(),
        datatype: Datatype::Fp32,
        shape: [1, hidden as i64].into_iter().collect(),
        data: encoded.slice(place * bytes..(place + 1) * bytes),
    }
}

/// The clock, for stage times only: a runtime worker blocks in native code on its own thread, outside tokio, and its
/// answers do not depend on what is read here.
#[allow(clippy::disallowed_methods)]
fn now() -> Instant {
    Instant::now()
}
