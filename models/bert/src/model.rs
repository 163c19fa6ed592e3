//! A BERT sentence encoder as the environment sees it. Called by whoever composes an environment ([`BertModel::load`])
//! and by the environment. Checks requests and makes rows of them; never runs a row itself.

use crate::candle::CandleEncoder;
#[cfg(feature = "cuda")]
use crate::cuda::{OpenError, Placed};
use crate::executor::{BertExecutor, ByLayout, Encoder, LayoutEncoder};
use crate::folder::Folder;
use crate::graph;
use crate::ids::{self, RowLimits};
use crate::layout::Layout;
use crate::onnx::OnnxEncoder;
use crate::tokenize::TextTokenizer;
use penstock_domain::{Datatype, ParameterValue, Parameters, Signature, Tensor, TensorSpec, bytes_elements};
use penstock_executor::{BatchCost, ExecError, Executor, LoadError, Model, Part, PartInput, Prepared, Work};
use penstock_onnx::Library;
use std::path::PathBuf;

const TEXT: &str = "text";
const INPUT_IDS: &str = "input_ids";
const ATTENTION_MASK: &str = "attention_mask";
const TOKEN_TYPE_IDS: &str = "token_type_ids";
const EMBEDDING: &str = "embedding";

/// Tokens of a short row in the warm-up: the length of a search query or a title.
const SHORT_TOKENS: usize = 16;

/// What runs the mathematics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Engine {
    /// The faster one for the device: on a CPU, ONNX Runtime; on a GPU our kernels, in 16 bit, or candle for an encoder or a
    /// GPU that they do not take.
    #[default]
    Auto,
    /// candle, in this program, in 32 bit. Its CPU threads are the process's, as [`candle_variables`](crate::candle_variables)
    /// say; [`BertOptions::threads`] is not looked at.
    Candle,
    /// The ONNX Runtime library.
    OnnxRuntime,
}

/// Where it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Device {
    /// On the CPU.
    #[default]
    Cpu,
    /// On the first GPU that this process sees.
    Cuda,
}

/// How to load a folder.
#[derive(Debug, Clone)]
pub struct BertOptions {
    /// With `config.json`, `tokenizer.json` and `model.safetensors`. Must not change while it is loaded: parts of the
    /// weights are mapped.
    pub folder: PathBuf,
    /// What runs it.
    pub engine: Engine,
    /// Where.
    pub device: Device,
    /// `libonnxruntime.so`; not looked at by [`Engine::Candle`].
    pub library: PathBuf,
    /// Threads of one executor, the worker's own included. Between runs they sleep.
    pub threads: usize,
    /// Most rows in one batch, 1 or more.
    pub max_batch_size: u32,
}

/// A loaded folder.
pub struct BertModel {
    signature: Signature,
    folder: Folder,
    tokenizer: TextTokenizer,
    engine: Loaded,
    threads: usize,
}

enum Loaded {
    Candle(CandleEncoder),
    #[cfg(feature = "cuda")]
    Kernels(Placed),
    OnnxRuntime {
        library: Library,
        graph: Vec<u8>,
    },
}

impl BertModel {
    /// Reads the folder and checks all of it but the values of the weights.
    pub fn load(options: BertOptions) -> Result<BertModel, LoadError> {
        if options.max_batch_size == 0 {
            return Err(LoadError::Invalid("max_batch_size: found 0; right would be 1 or more".into()));
        }
        let in_folder = |error: LoadError| match error {
            LoadError::Invalid(text) => {
                LoadError::Invalid(format!("model folder {}: {text}", options.folder.display()))
            }
            LoadError::Failed(text) => LoadError::Failed(format!("model folder {}: {text}", options.folder.display())),
        };
        let folder = Folder::open(&options.folder).map_err(|error| in_folder(error.into()))?;
        let tokenizer =
            TextTokenizer::open(&options.folder, folder.tokens_max, folder.config.vocabulary).map_err(in_folder)?;
        let on_candle = |device| CandleEncoder::open(&folder, &device).map(Loaded::Candle).map_err(in_folder);
        let engine = match (options.device, options.engine) {
            (Device::Cuda, Engine::OnnxRuntime) => {
                return Err(LoadError::Invalid(
                    "engine: found onnxruntime; right on a GPU would be auto or candle".into(),
                ));
            }
            (Device::Cuda, Engine::Candle) => on_candle(cuda_device()?)?,
            #[cfg(not(feature = "cuda"))]
            (Device::Cuda, Engine::Auto) => on_candle(cuda_device()?)?,
            #[cfg(feature = "cuda")]
            (Device::Cuda, Engine::Auto) => match Placed::open(&folder) {
                Ok(placed) => Loaded::Kernels(placed),
                Err(OpenError::Load(error)) => return Err(in_folder(error)),
                Err(OpenError::Unfit(reason)) => {
                    tracing::warn!(reason, "our kernels cannot run this encoder: candle does, in 32 bit");
                    on_candle(cuda_device()?)?
                }
            },
            (Device::Cpu, Engine::Candle) => on_candle(candle_core::Device::Cpu)?,
            (Device::Cpu, Engine::Auto | Engine::OnnxRuntime) => Loaded::OnnxRuntime {
                library: Library::open(&options.library)?,
                graph: graph::build(&folder).map_err(|error| in_folder(error.into()))?,
            },
        };
        let signature = signature(folder.config.hidden, options.max_batch_size);
        let threads = options.threads.max(1);
        Ok(BertModel { signature, folder, tokenizer, engine, threads })
    }

    fn by_layout<E: LayoutEncoder + 'static>(&self, encoder: E) -> Box<dyn Encoder> {
        let (heads, pooling) = (self.folder.config.heads, self.folder.pooling);
        Box::new(ByLayout { encoder, layout: Layout::default(), heads, pooling })
    }

    /// Rows of a request, and how many of them were cut.
    fn rows(&self, work: &Work) -> Result<(Vec<Vec<u32>>, usize), ExecError> {
        let truncate = truncate(&work.parameters)?;
        let text = input(work, TEXT, Datatype::Bytes)?;
        let input_ids = input(work, INPUT_IDS, Datatype::Int64)?;
        let attention_mask = input(work, ATTENTION_MASK, Datatype::Int64)?;
        let token_type_ids = input(work, TOKEN_TYPE_IDS, Datatype::Int64)?;
        match (text, input_ids) {
            (Some(text), None) if attention_mask.is_none() && token_type_ids.is_none() => {
                self.rows_of_texts(text, truncate)
            }
            (None, Some(input_ids)) => {
                let (vocabulary, tokens_max) = (self.folder.config.vocabulary, self.folder.tokens_max);
                let limits = RowLimits { vocabulary, tokens_max, truncate };
                ids::rows(input_ids, attention_mask, token_type_ids, limits)
            }
            _ => {
                let found: Vec<&str> = work.inputs.iter().map(|tensor| tensor.name.as_str()).collect();
                Err(ExecError::Invalid(format!(
                    "inputs: found {found:?}; right would be either 'text' (BYTES) alone, or 'input_ids' (INT64) with or \
                     without 'attention_mask'"
                )))
            }
        }
    }

    fn rows_of_texts(&self, text: &Tensor, truncate: bool) -> Result<(Vec<Vec<u32>>, usize), ExecError> {
        if !matches!(text.shape[..], [_] | [_, 1]) {
            let found = &text.shape;
            return Err(ExecError::Invalid(format!(
                "input 'text': found shape {found:?}; it must be [rows, 1] or [rows]"
            )));
        }
        text.validate().map_err(|error| ExecError::Invalid(error.to_string()))?;
        let (mut rows, mut cut) = (Vec::new(), 0);
        for (row, bytes) in bytes_elements(TEXT, &text.data).enumerate() {
            let bytes = bytes.map_err(|error| ExecError::Invalid(error.to_string()))?;
            let text = std::str::from_utf8(bytes)
                .map_err(|error| ExecError::Invalid(format!("input 'text': row {row} is not UTF-8: {error}")))?;
            let tokenized = self
                .tokenizer
                .tokenize(text, truncate)
                .map_err(|error| ExecError::Invalid(format!("input 'text': row {row}: {error}")))?;
            cut += usize::from(tokenized.truncated);
            rows.push(tokenized.ids);
        }
        Ok((rows, cut))
    }

    /// A request of `rows` rows of `tokens` tokens each, for warm-up and measurements.
    pub fn sample(&self, rows: usize, tokens: usize) -> Work {
        // Different words, so that the embedding table is touched as by a request.
        let vocabulary = self.folder.config.vocabulary;
        let ids = (0..rows * tokens).map(|place| ((place * 7919 + 13) % vocabulary) as i64);
        let data: Vec<u8> = ids.flat_map(i64::to_le_bytes).collect();
        let shape = [rows as i64, tokens as i64].into_iter().collect();
        let input = Tensor { name: INPUT_IDS.into(), datatype: Datatype::Int64, shape, data: data.into() };
        Work { inputs: vec![input], parameters: Parameters::new(), outputs: Vec::new() }
    }
}

impl Model for BertModel {
    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn prepare(&self, work: Work) -> Result<Prepared, ExecError> {
        check_outputs(&work)?;
        let (rows, cut) = self.rows(&work)?;
        let tokens: usize = rows.iter().map(Vec::len).sum();
        let parameters = vec![
            ("prompt_tokens".to_owned(), ParameterValue::Int(tokens as i64)),
            ("truncated_inputs".to_owned(), ParameterValue::Int(cut as i64)),
        ];
        let part = |row: Vec<u32>| Part { items: 1, tokens: row.len() as u32, kind: 0, input: PartInput::Tokens(row) };
        Ok(Prepared { parts: rows.into_iter().map(part).collect(), parameters })
    }

    fn prepares_slowly(&self) -> bool {
        true
    }

    fn batch_cost(&self) -> BatchCost {
        BatchCost::Tokens { longest: self.folder.tokens_max as u32 }
    }

    fn warmup(&self) -> Vec<Work> {
        let (long, many) = (self.folder.tokens_max, self.signature.max_batch_size as usize);
        let short = SHORT_TOKENS.min(long);
        let mut works: Vec<(usize, usize)> = vec![(1, short), (many.min(8), short), (1, long), (many.min(8), long)];
        works.sort_by_key(|(rows, tokens)| rows * tokens);
        works.dedup();
        works.into_iter().map(|(rows, tokens)| self.sample(rows, tokens)).collect()
    }

    fn device_memory_bytes(&self) -> Option<u64> {
        match &self.engine {
            #[cfg(feature = "cuda")]
            Loaded::Kernels(placed) => Some(placed.device_bytes()),
            _ => None,
        }
    }

    #[cfg_attr(not(feature = "cuda"), allow(unused_variables))] // on a CPU all workers are alike
    fn executor(&self, worker: usize) -> Result<Box<dyn Executor>, LoadError> {
        let encoder: Box<dyn Encoder> = match &self.engine {
            Loaded::Candle(encoder) => self.by_layout(encoder.clone()),
            #[cfg(feature = "cuda")]
            Loaded::Kernels(placed) => {
                let rows = self.signature.max_batch_size as usize;
                Box::new(placed.encoder(worker, rows, self.folder.tokens_max)?)
            }
            Loaded::OnnxRuntime { library, graph } => {
                let (place, heads) = (self.folder.weights.place().0, self.folder.config.heads);
                self.by_layout(OnnxEncoder::open(library, graph, place, heads, self.threads, None)?)
            }
        };
        Ok(Box::new(BertExecutor { encoder, hidden: self.folder.config.hidden }))
    }
}

/// With a stream of its own, which workers share: copies and kernels wait for those of nobody else on the device.
#[cfg(feature = "cuda")]
fn cuda_device() -> Result<candle_core::Device, LoadError> {
    let device = candle_core::Device::new_cuda_with_stream(0)
        .map_err(|error| LoadError::Failed(format!("the GPU cannot be used: {error}")))?;
    // candle allocates at every operation. After it has opened the context, which would else be opened twice.
    let kept = penstock_device::keep_freed_memory();
    kept.map_err(|error| LoadError::Failed(format!("the GPU cannot be used: {error}")))?;
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
fn cuda_device() -> Result<candle_core::Device, LoadError> {
    Err(LoadError::Invalid("it is to run on a GPU, and this executable is built without CUDA".into()))
}

fn signature(hidden: usize, max_batch_size: u32) -> Signature {
    let optional =
        |name: &str, datatype, shape| TensorSpec { optional: true, ..TensorSpec::new(name, datatype, shape) };
    Signature {
        platform: "penstock_bert".into(),
        inputs: vec![
            optional(TEXT, Datatype::Bytes, vec![1]),
            optional(INPUT_IDS, Datatype::Int64, vec![-1]),
            optional(ATTENTION_MASK, Datatype::Int64, vec![-1]),
            optional(TOKEN_TYPE_IDS, Datatype::Int64, vec![-1]),
        ],
        outputs: vec![TensorSpec::new(EMBEDDING, Datatype::Fp32, vec![hidden as i64])],
        max_batch_size,
        any_tensors: false,
    }
}

/// The input of a name, if it was sent, once and with the right type; unknown names are found by [`BertModel::rows`].
fn input<'a>(work: &'a Work, name: &str, datatype: Datatype) -> Result<Option<&'a Tensor>, ExecError> {
    const KNOWN: [&str; 4] = [TEXT, INPUT_IDS, ATTENTION_MASK, TOKEN_TYPE_IDS];
    if let Some(unknown) = work.inputs.iter().find(|tensor| !KNOWN.contains(&tensor.name.as_str())) {
        let name = &unknown.name;
        return Err(ExecError::Invalid(format!("input '{name}' is not known; right would be one of {KNOWN:?}")));
    }
    let mut found = work.inputs.iter().filter(|tensor| tensor.name == name);
    let first = found.next();
    if found.next().is_some() {
        return Err(ExecError::Invalid(format!("input '{name}' was sent twice")));
    }
    match first {
        Some(tensor) if tensor.datatype != datatype => {
            let found = tensor.datatype;
            Err(ExecError::Invalid(format!("input '{name}': found {found}; it must be {datatype}")))
        }
        first => Ok(first),
    }
}

/// The parameter `truncate`, by default true.
fn truncate(parameters: &Parameters) -> Result<bool, ExecError> {
    match parameters.iter().find(|(name, _)| name == "truncate") {
        None => Ok(true),
        Some((_, ParameterValue::Bool(truncate))) => Ok(*truncate),
        Some((_, other)) => {
            Err(ExecError::Invalid(format!("parameter 'truncate': found {other:?}; right would be true or false")))
        }
    }
}

fn check_outputs(work: &Work) -> Result<(), ExecError> {
    for output in &work.outputs {
        if output.name != EMBEDDING {
            let name = &output.name;
            return Err(ExecError::Invalid(format!("output '{name}' is not known; right would be 'embedding'")));
        }
        if output.classification != 0 {
            return Err(ExecError::Invalid("output 'embedding' has no classes; leave 'classification' out".into()));
        }
    }
    Ok(())
}
