//! The ONNX Runtime engine: the graph of [`crate::graph`] in a session. Called by the executor, on its thread.

use crate::executor::LayoutEncoder;
use crate::graph::{EMBEDDING, input};
use crate::layout::Layout;
use bytes::Bytes;
use penstock_domain::Datatype;
use penstock_executor::{ExecError, LoadError};
use penstock_onnx::{GraphSource, Input, Library, Session, SessionOptions};
use std::path::{Path, PathBuf};

/// One session, and what the shapes of a run do not say.
pub(crate) struct OnnxEncoder {
    session: Session,
    heads: i64,
}

impl OnnxEncoder {
    /// Opens a session on a graph of [`crate::graph::build`] whose weights are really in `folder`, links followed. `dump`: where to write the
    /// graph as ONNX Runtime has optimised it.
    pub(crate) fn open(
        library: &Library,
        graph: &[u8],
        folder: &Path,
        heads: usize,
        threads: usize,
        dump: Option<PathBuf>,
    ) -> Result<OnnxEncoder, LoadError> {
        let source = GraphSource::Memory { bytes: graph.to_vec(), external_data_folder: Some(folder.into()) };
        let options = SessionOptions {
            intra_threads: threads,
            spinning: true,
            optimized_dump: dump,
            // Lengths vary without end, and a plan would be kept for each.
            memory_pattern: false,
            ..SessionOptions::default()
        };
        Ok(OnnxEncoder { session: Session::open(library, source, &options)?, heads: heads as i64 })
    }
}

impl LayoutEncoder for OnnxEncoder {
    fn encode(&mut self, layout: &Layout) -> Result<Bytes, ExecError> {
        let (rows, longest, tokens) = (layout.rows as i64, layout.longest as i64, layout.tokens as i64);
        let (flat, query) = ([tokens], [rows, self.heads, longest]);
        let (context, mask, pool) = ([tokens, self.heads], [rows, 1, 1, longest], [rows, tokens]);
        let ints = |name, dims, values| Input {
            name,
            datatype: Datatype::Int64,
            dims,
            bytes: bytemuck::cast_slice::<i64, u8>(values),
        };
        let floats = |name, dims, values| Input {
            name,
            datatype: Datatype::Fp32,
            dims,
            bytes: bytemuck::cast_slice::<f32, u8>(values),
        };
        let inputs = [
            ints(input::IDS, &flat, &layout.ids),
            ints(input::POSITIONS, &flat, &layout.positions),
            ints(input::QUERY_INDEX, &query, &layout.query_index),
            ints(input::CONTEXT_INDEX, &context, &layout.context_index),
            floats(input::MASK, &mask, &layout.mask),
            floats(input::POOL, &pool, &layout.pool),
        ];
        let mut outputs = self.session.run(&inputs, &[EMBEDDING])?;
        let output = outputs.pop().ok_or_else(|| ExecError::Failed("the graph gave no output".into()))?;
        Ok(output.data)
    }
}
