//! The contract between an execution environment and the models it runs. Knows no CUDA, no threads and no wire.
//!
//! Called by the environment: its preparation threads call [`Model::prepare`], its runtime workers own one
//! [`Executor`] each and call [`Executor::execute`] with one batch at a time. Implemented by `models/*`.
//!
//! A request is turned into [`Part`]s: the units a batch is formed of. A tensor model makes one part of a request
//! (its rows stay together); a text model makes one part of each row, so that rows share a batch whichever request they
//! came with. The environment puts the outputs of a request's parts back together, row by row.

use penstock_domain::{Parameters, RequestedOutput, Signature, Tensor};

/// What a model is asked to prepare: a request's tensors, already checked to be self-consistent.
#[derive(Debug, Clone)]
pub struct Work {
    /// Input tensors as they came.
    pub inputs: Vec<Tensor>,
    /// Request parameters.
    pub parameters: Parameters,
    /// Outputs wanted; empty means all. Checked by the model.
    pub outputs: Vec<RequestedOutput>,
}

/// The input of one part.
#[derive(Debug, Clone)]
pub enum PartInput {
    /// Named tensors whose dimension 0 is the part's rows (or, for models that do not batch, the whole shape).
    Tensors(Vec<Tensor>),
    /// One row of token ids.
    Tokens(Vec<u32>),
}

/// A unit of batching.
#[derive(Debug, Clone)]
pub struct Part {
    /// What to run.
    pub input: PartInput,
    /// Rows (1 for models that do not batch).
    pub items: u32,
    /// Tokens, for models that count them; else 0.
    pub tokens: u32,
    /// Only parts of equal kind share a batch: a hash of the shapes and types that must agree.
    pub kind: u64,
}

/// A request, prepared.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// In row order. Empty only for a request with no rows, which is answered without running.
    pub parts: Vec<Part>,
    /// Parameters to put into the answer, such as token counts.
    pub parameters: Parameters,
}

/// Parts that run together.
#[derive(Debug)]
pub struct Batch {
    /// All of one kind.
    pub parts: Vec<Part>,
}

/// What one part gave: named tensors whose dimension 0 is the part's rows.
pub type PartOutputs = Vec<Tensor>;

/// What a batch gave.
#[derive(Debug)]
pub struct Outputs {
    /// One entry per part, in the batch's order. A part may fail alone.
    pub parts: Vec<Result<PartOutputs, ExecError>>,
    /// Nanoseconds spent gathering inputs.
    pub compute_input_ns: u64,
    /// Nanoseconds in the model.
    pub compute_ns: u64,
    /// Nanoseconds spent scattering outputs.
    pub compute_output_ns: u64,
    /// Tokens computed, padding included; 0 for models that do not count tokens.
    pub padded_tokens: u64,
}

/// Why work was not done.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ExecError {
    /// The request is wrong: names the tensor, what was found and what would be right.
    #[error("{0}")]
    Invalid(String),
    /// The device ran out of memory; a smaller batch may pass.
    #[error("out of device memory: {0}")]
    OutOfMemory(String),
    /// The model failed on this input; others are not affected.
    #[error("execution failed: {0}")]
    Failed(String),
    /// The device or the library is in a state only a restart mends.
    #[error("execution environment is broken: {0}")]
    Broken(String),
}

/// Why a version cannot be loaded.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LoadError {
    /// The files or the configuration are wrong: names the file or field; trying again does not help.
    #[error("{0}")]
    Invalid(String),
    /// Something outside failed (memory, a missing library): trying again may help.
    #[error("{0}")]
    Failed(String),
}

/// A loaded version, shared by the threads of its environment.
pub trait Model: Send + Sync {
    /// What it takes and gives.
    fn signature(&self) -> &Signature;

    /// Checks a request and makes parts of it. Pure, and may take long (tokenization): called on a preparation thread
    /// if [`Model::prepares_slowly`], else on the environment's own.
    fn prepare(&self, work: Work) -> Result<Prepared, ExecError>;

    /// Whether [`Model::prepare`] is worth a thread hop.
    fn prepares_slowly(&self) -> bool {
        false
    }

    /// How a batch's cost grows.
    fn batch_cost(&self) -> BatchCost {
        BatchCost::Items
    }

    /// Device memory that it has been seen to take at most, in bytes, its executors and their warm-up included. `None` if
    /// it runs on the CPU or does not know.
    fn device_memory_bytes(&self) -> Option<u64> {
        None
    }

    /// Sample work for warm-up, from small to large; every entry is one request. Each is run once by each executor.
    fn warmup(&self) -> Vec<Work>;

    /// Makes the executor of runtime worker `worker` (0-based), on the worker's own thread.
    fn executor(&self, worker: usize) -> Result<Box<dyn Executor>, LoadError>;
}

/// How the cost of a batch grows, which decides what may share one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BatchCost {
    /// With its items.
    Items,
    /// With the sum of its tokens. (Models lay rows end to end: none pads them to the longest.)
    Tokens {
        /// Tokens of one item, at most.
        longest: u32,
    },
}

/// Runs batches, one at a time, on one thread. Dropped on that thread.
pub trait Executor {
    /// Runs a batch. An error of the whole batch is every part's error.
    fn execute(&mut self, batch: Batch) -> Result<Outputs, ExecError>;
}
