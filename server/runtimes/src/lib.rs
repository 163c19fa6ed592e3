//! The runtimes: what an environment is told to load, and loading it.
//!
//! The composition root writes descriptions; the environment's process, whichever executable it is, reads them back and
//! loads what they name. Knows every runtime, so that only one crate does.

use penstock_bert::{BertModel, BertOptions, Device};
use penstock_domain::{CONTEXT_BYTES, Datatype, TensorSpec};
use penstock_environment::Specification;
use penstock_executor::{LoadError, Model};
use penstock_identity::{Identity, IdentityOptions};
use penstock_onnx::{OnnxModel, OnnxOptions};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

/// A tensor as the configuration declares it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Declared {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    optional: bool,
    labels: Vec<String>,
}

/// What an environment loads.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum Runtime {
    /// Echoes, at a fixed cost.
    Identity {
        /// What a batch costs.
        options: IdentityOptions,
        /// As declared.
        inputs: Vec<Declared>,
        /// As declared.
        outputs: Vec<Declared>,
    },
    /// An ONNX graph.
    Onnx {
        /// ONNX Runtime's library.
        library: PathBuf,
        /// The same where it runs on a GPU.
        cuda_library: PathBuf,
        /// The graph.
        file: PathBuf,
        /// Of one worker.
        threads: usize,
        /// Most rows in a batch.
        max_batch_size: Option<u32>,
        /// As declared.
        inputs: Option<Vec<Declared>>,
        /// As declared.
        outputs: Option<Vec<Declared>>,
    },
    /// A BERT encoder's folder.
    Bert {
        /// ONNX Runtime's library.
        library: PathBuf,
        /// Hugging Face's files.
        folder: PathBuf,
        /// auto, candle or onnxruntime.
        engine: String,
        /// Of one worker.
        threads: usize,
        /// Most rows in a batch, if the configuration names a number.
        max_batch_size: Option<u32>,
    },
}

/// Most rows in a batch of an encoder whose configuration names no other, on a CPU: the token budget usually binds first.
const BATCH_SIZE_CPU: u32 = 64;
/// And on a GPU: there, too, but for texts of less than 32 tokens.
const BATCH_SIZE_GPU: u32 = 512;

/// Is an execution environment on descriptor 0 until the link ends: all that its executable does. One thread may run when
/// it is called, as isolation needs it.
pub fn environment() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .without_time()
        .with_ansi(false)
        .with_max_level(tracing::Level::INFO)
        .init();
    penstock_environment::run(Box::new(load))
}

/// Loads what a specification names. Runs in the environment's process.
pub fn load(specification: &Specification) -> Result<Arc<dyn Model>, LoadError> {
    let runtime = Runtime::deserialize(&specification.runtime)
        .map_err(|error| LoadError::Invalid(format!("the runtime's description cannot be read: {error}")))?;
    Ok(match runtime {
        Runtime::Identity { options, inputs, outputs } => {
            Arc::new(Identity::new(options, specs(inputs), specs(outputs)))
        }
        Runtime::Onnx { library, cuda_library, file, threads, max_batch_size, inputs, outputs } => {
            Arc::new(OnnxModel::load(OnnxOptions {
                library: if specification.accelerator.is_some() { cuda_library } else { library },
                file,
                threads_per_worker: threads,
                max_batch_size,
                inputs: inputs.map(specs),
                outputs: outputs.map(specs),
                gpu_memory_bytes: specification.accelerator.as_ref().map(|accelerator| {
                    accelerator.memory_bytes.saturating_sub(CONTEXT_BYTES) / specification.workers.max(1) as u64
                }),
            })?)
        }
        Runtime::Bert { library, folder, engine, threads, max_batch_size } => {
            let engine = match engine.as_str() {
                "candle" => penstock_bert::Engine::Candle,
                "onnxruntime" => penstock_bert::Engine::OnnxRuntime,
                _ => penstock_bert::Engine::Auto,
            };
            // It sees one device only, the one it was placed on.
            let (device, usual) = match specification.accelerator {
                Some(_) => (Device::Cuda, BATCH_SIZE_GPU),
                None => (Device::Cpu, BATCH_SIZE_CPU),
            };
            let max_batch_size = max_batch_size.unwrap_or(usual);
            Arc::new(BertModel::load(BertOptions { folder, engine, device, library, threads, max_batch_size })?)
        }
    })
}

impl From<&TensorSpec> for Declared {
    fn from(spec: &TensorSpec) -> Self {
        Self {
            name: spec.name.clone(),
            datatype: spec.datatype.name().into(),
            shape: spec.shape.clone(),
            optional: spec.optional,
            labels: spec.labels.clone(),
        }
    }
}

fn specs(declared: Vec<Declared>) -> Vec<TensorSpec> {
    let spec = |declared: Declared| TensorSpec {
        name: declared.name,
        datatype: Datatype::parse(&declared.datatype).unwrap_or(Datatype::Bytes),
        shape: declared.shape,
        optional: declared.optional,
        labels: declared.labels,
    };
    declared.into_iter().map(spec).collect()
}
