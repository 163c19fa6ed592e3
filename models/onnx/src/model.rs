//! A version that is an ONNX graph. Loaded by the environment; gives each runtime worker a session of its own.
//!
//! ONNX Runtime promises that one session may run on several threads, the binding has seen it broken and takes a session
//! exclusively; so there is one session per worker. The cost: weights inside the `.onnx` file are in memory once per
//! worker. Weights in external files are mapped and shared, except those ONNX Runtime repacks for its kernels.

use crate::execute::OnnxExecutor;
use crate::session::{GraphSource, Outputs, Session, SessionOptions};
use crate::{Library, prepare, signature, warmup};
use parking_lot::Mutex;
use penstock_domain::{Signature, TensorSpec};
use penstock_executor::{ExecError, Executor, LoadError, Model, Prepared, Work};
use std::path::PathBuf;

/// What to load and how.
#[derive(Debug, Clone, Default)]
pub struct OnnxOptions {
    /// ONNX Runtime's shared library.
    pub library: PathBuf,
    /// The graph.
    pub file: PathBuf,
    /// Threads of each runtime worker, itself included; 0 is read as 1.
    pub threads_per_worker: usize,
    /// As in config.pbtxt: most rows in a batch; 0 for no batching; `None` to derive it from the graph.
    pub max_batch_size: Option<u32>,
    /// Inputs as config.pbtxt declares them, without the batch dimension if there is batching; `None` to derive them.
    pub inputs: Option<Vec<TensorSpec>>,
    /// Outputs, likewise. May leave out some of the graph's. Labels are kept.
    pub outputs: Option<Vec<TensorSpec>>,
    /// Run on the GPU that this process sees; so much of its memory for each worker's arena, at most.
    pub gpu_memory_bytes: Option<u64>,
}

/// A loaded graph.
#[derive(Debug)]
pub struct OnnxModel {
    library: Library,
    options: OnnxOptions,
    signature: Signature,
    /// The session the graph was read with, until the first worker takes it.
    first: Mutex<Option<Session>>,
}

impl OnnxModel {
    /// Loads the graph, and checks what config.pbtxt says against it.
    pub fn load(options: OnnxOptions) -> Result<OnnxModel, LoadError> {
        let library = Library::open(&options.library)?;
        let session = open(&library, &options)?;
        let signature = signature::resolve(&session, &options)
            .map_err(|text| LoadError::Invalid(format!("model {}: {text}", options.file.display())))?;
        Ok(OnnxModel { library, options, signature, first: Mutex::new(Some(session)) })
    }
}

impl Model for OnnxModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn prepare(&self, work: Work) -> Result<Prepared, ExecError> {
        prepare::prepare(&self.signature, work)
    }

    /// Zeros, with 1 for every open dimension: a best effort. A graph may reject them (an index out of range, a shape
    /// that does not fit another), so a failed warm-up says nothing about the model.
    fn warmup(&self) -> Vec<Work> {
        warmup::samples(&self.signature)
    }

    fn executor(&self, _worker: usize) -> Result<Box<dyn Executor>, LoadError> {
        let first = self.first.lock().take();
        let session = match first {
            Some(session) => session,
            None => open(&self.library, &self.options)?,
        };
        Ok(Box::new(OnnxExecutor::new(session, &self.signature)))
    }
}

fn open(library: &Library, options: &OnnxOptions) -> Result<Session, LoadError> {
    let on_gpu = options.gpu_memory_bytes.is_some();
    let session_options = SessionOptions {
        intra_threads: options.threads_per_worker,
        gpu_memory_bytes: options.gpu_memory_bytes,
        outputs: if on_gpu { Outputs::Pinned } else { Outputs::Anywhere },
        ..SessionOptions::default()
    };
    Session::open(library, GraphSource::File(options.file.clone()), &session_options)
}
