//! Runs batches of token rows on one of the engines. Called by a runtime worker, on its thread. Never fails the rows of
//! one run for another's error.

use crate::folder::Pooling;
use crate::layout::Layout;
use crate::plan;
use bytes::Bytes;
use penstock_domain::{Datatype, Tensor};
use penstock_executor::{Batch, ExecError, Executor, Outputs, PartInput, PartOutputs};
use std::time::Instant;

/// An engine.
pub(crate) trait Encoder {
    /// How large a run is to be.
    fn run_size(&self) -> RunSize;

    /// Lays out the rows of a run, none of them empty.
    fn gather(&mut self, rows: &[&[u32]]) -> Result<(), ExecError>;

    /// Embeds the rows that were laid out: `[rows, hidden]` F32, little-endian, pooled and normalised as the folder says.
    fn encode(&mut self) -> Result<Bytes, ExecError>;
}

/// An engine that takes a run as a [`Layout`].
pub(crate) trait LayoutEncoder {
    /// As [`Encoder::run_size`].
    fn run_size(&self) -> RunSize {
        RunSize::CPU
    }

    /// As [`Encoder::encode`].
    fn encode(&mut self, layout: &Layout) -> Result<Bytes, ExecError>;
}

/// Its layout, used again and again.
pub(crate) struct ByLayout<E> {
    pub(crate) encoder: E,
    pub(crate) layout: Layout,
    pub(crate) heads: usize,
    pub(crate) pooling: Pooling,
}

impl<E: LayoutEncoder> Encoder for ByLayout<E> {
    fn run_size(&self) -> RunSize {
        self.encoder.run_size()
    }

    fn gather(&mut self, rows: &[&[u32]]) -> Result<(), ExecError> {
        self.layout.fill(rows, self.heads, self.pooling);
        Ok(())
    }

    fn encode(&mut self) -> Result<Bytes, ExecError> {
        self.encoder.encode(&self.layout)
    }
}

/// Tokens of a run, as [`plan::runs`] takes them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RunSize {
    /// From which a run is no faster per token.
    pub(crate) full: usize,
    /// From which a run may stand alone.
    pub(crate) worth: usize,
    /// Most rows of one.
    pub(crate) rows: usize,
}

impl RunSize {
    /// Measured with `examples/encode_speed`.
    pub(crate) const CPU: RunSize = RunSize { full: 256, worth: 128, rows: usize::MAX };
    /// For an engine that pads for attention on a GPU: it wants thousands of tokens at once; its memory bounds them.
    pub(crate) const GPU: RunSize = RunSize { full: 8192, worth: 4096, rows: usize::MAX };
}

/// See the module.
pub(crate) struct BertExecutor {
    pub(crate) encoder: Box<dyn Encoder>,
    pub(crate) hidden: usize,
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
        let size = self.encoder.run_size();
        let runs = plan::runs(&lengths, size.full, size.worth);
        for run in runs.iter().flat_map(|run| run.chunks(size.rows)) {
            gathered.clear();
            gathered.extend(run.iter().map(|&row| rows[row]));
            let laid_out = self.encoder.gather(&gathered);
            outputs.compute_input_ns += lap();
            let encoded = laid_out.and_then(|()| self.encoder.encode());
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
