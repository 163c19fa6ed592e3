//! The candle engine: the same forward pass in candle's operations, on the CPU or on a GPU.
//! Called by the executor, on its thread. Needs no library beside this program. On a GPU it computes in 32 bits, for who wants
//! that and for what our kernels do not take; its kernels are compiled by the driver whenever a process loads it, which
//! takes eight seconds (measured on an H200).
//!
//! candle's CPU threads belong to the process, and their number is read from its variables, in several places: matrix
//! products are cut into so many pieces and run, like normalisation and softmax, on rayon's pool of that size; what goes
//! element by element runs on a pool of candle's own. An environment process runs one version, so whoever starts it says
//! how many there are to be: [`variables`].

use crate::executor::{LayoutEncoder, RunSize};
use crate::folder::{Activation, Folder, FolderError};
use crate::layout::Layout;
use crate::weights::WeightType;
use bytes::{BufMut, Bytes, BytesMut};
use candle_core::{DType, Device, Error, Result, Tensor};
use penstock_executor::{ExecError, LoadError};
use std::collections::BTreeMap;

/// The variables of a process in which candle is to run on `threads` threads, of all its workers together. Without them
/// it takes as many as there are physical cores.
pub fn variables(threads: usize) -> BTreeMap<String, String> {
    let variables = [
        ("RAYON_NUM_THREADS", threads.max(1)),
        // Idle threads sleep at once: the cores are shared with others.
        ("CANDLE_BARRIER_POOL_SPIN_LIMIT", 1),
    ];
    variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_string())).collect()
}

/// What can fail while the weights are read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Folder(#[from] FolderError),
    #[error("weights cannot be placed on the device: {0}")]
    Candle(#[from] Error),
}

impl From<ReadError> for LoadError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Folder(error) => error.into(),
            ReadError::Candle(_) => LoadError::Failed(error.to_string()),
        }
    }
}

/// The weights, on a device. Cheap to clone: workers share them.
#[derive(Clone)]
pub(crate) struct CandleEncoder {
    device: Device,
    heads: usize,
    hidden: usize,
    eps: f32,
    activation: Activation,
    normalize: bool,
    words: Tensor,
    /// With the first token type added.
    positions: Tensor,
    norm: Pair,
    layers: Vec<Layer>,
}

#[derive(Clone)]
struct Layer {
    /// Queries, keys and values in one: `[3 * hidden, hidden]`.
    projections: Pair,
    attention_output: Pair,
    attention_norm: Pair,
    intermediate: Pair,
    output: Pair,
    output_norm: Pair,
}

/// A weight and its bias, of a linear layer or of a normalisation.
#[derive(Clone)]
struct Pair {
    weight: Tensor,
    bias: Tensor,
}

impl CandleEncoder {
    /// Reads the folder's weights.
    pub(crate) fn open(folder: &Folder, device: &Device) -> std::result::Result<CandleEncoder, LoadError> {
        Ok(read(folder, device)?)
    }

    fn forward(&self, layout: &Layout) -> Result<Tensor> {
        let device = &self.device;
        let ids = Tensor::from_slice(&layout.ids, layout.tokens, device)?;
        let positions = Tensor::from_slice(&layout.positions, layout.tokens, device)?;
        let query_index = Tensor::from_slice(&layout.query_index, layout.query_index.len(), device)?;
        let context_index = Tensor::from_slice(&layout.context_index, layout.context_index.len(), device)?;
        let mask = Tensor::from_slice(&layout.mask, (layout.rows, 1, 1, layout.longest), device)?;
        let pool = Tensor::from_slice(&layout.pool, (layout.rows, layout.tokens), device)?;
        let step = Tensor::new(self.heads as i64, device)?;
        let key_index = query_index.broadcast_add(&step)?;
        let value_index = key_index.broadcast_add(&step)?;
        let index = [query_index, key_index, value_index];

        let embedded = (self.words.index_select(&ids, 0)? + self.positions.index_select(&positions, 0)?)?;
        let mut hidden = self.norm.normalize(&embedded, self.eps)?;
        for layer in &self.layers {
            let context = self.attend(layer, &hidden, layout, &index, &context_index, &mask)?;
            let sum = (layer.attention_output.apply(&context)? + &hidden)?;
            hidden = layer.attention_norm.normalize(&sum, self.eps)?;
            let widened = layer.intermediate.apply(&hidden)?;
            let active = match self.activation {
                Activation::Gelu => widened.gelu_erf()?,
                Activation::GeluTanh => widened.gelu()?,
                Activation::Relu => widened.relu()?,
            };
            let sum = (layer.output.apply(&active)? + &hidden)?;
            hidden = layer.output_norm.normalize(&sum, self.eps)?;
        }
        let pooled = pool.matmul(&hidden)?;
        if self.normalize { pooled.broadcast_div(&pooled.sqr()?.sum_keepdim(1)?.sqrt()?) } else { Ok(pooled) }
    }

    fn attend(
        &self,
        layer: &Layer,
        hidden: &Tensor,
        layout: &Layout,
        index: &[Tensor; 3],
        context_index: &Tensor,
        mask: &Tensor,
    ) -> Result<Tensor> {
        let head_size = self.hidden / self.heads;
        let projected = layer.projections.apply(hidden)?.reshape(((), head_size))?;
        let side_by_side = (layout.rows, self.heads, layout.longest, head_size);
        let gather = |index: &Tensor| projected.index_select(index, 0)?.reshape(side_by_side);
        let [query, key, value] = [gather(&index[0])?, gather(&index[1])?, gather(&index[2])?];
        let query = (query * (head_size as f64).sqrt().recip())?;
        let scores = query.matmul(&key.t()?)?.broadcast_add(mask)?;
        let context = candle_nn::ops::softmax_last_dim(&scores)?.matmul(&value)?;
        context.reshape(((), head_size))?.index_select(context_index, 0)?.reshape((layout.tokens, self.hidden))
    }
}

impl Pair {
    /// A linear layer: the weight is `[outputs, inputs]`.
    fn apply(&self, input: &Tensor) -> Result<Tensor> {
        input.matmul(&self.weight.t()?)?.broadcast_add(&self.bias)
    }

    fn normalize(&self, input: &Tensor, eps: f32) -> Result<Tensor> {
        candle_nn::ops::layer_norm(input, &self.weight, &self.bias, eps)
    }
}

impl LayoutEncoder for CandleEncoder {
    fn run_size(&self) -> RunSize {
        if self.device.is_cuda() { RunSize::GPU } else { RunSize::CPU }
    }

    fn encode(&mut self, layout: &Layout) -> std::result::Result<Bytes, ExecError> {
        let values = self.forward(layout).and_then(|embedding| embedding.flatten_all()?.to_vec1::<f32>());
        let values = values.map_err(|error| failure(self.device.is_cuda(), &error.to_string()))?;
        let mut bytes = BytesMut::with_capacity(values.len() * 4);
        values.into_iter().for_each(|value| bytes.put_f32_le(value));
        Ok(bytes.freeze())
    }
}

/// What an error of candle means. On a GPU a driver's error stays: every later call of the process fails with it, but for
/// one that is only out of memory.
fn failure(on_gpu: bool, text: &str) -> ExecError {
    let text = text.lines().next().unwrap_or_default().to_owned(); // the rest is a trace
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    match on_gpu {
        true if says(&["OUT_OF_MEMORY", "ALLOC_FAILED"]) => ExecError::OutOfMemory(text),
        true if says(&["DriverError", "CUDA_ERROR", "CublasError", "CUBLAS_STATUS"]) => ExecError::Broken(text),
        _ => ExecError::Failed(text),
    }
}

fn read(folder: &Folder, device: &Device) -> std::result::Result<CandleEncoder, ReadError> {
    let config = &folder.config;
    let (hidden, wide) = (config.hidden, config.intermediate);
    let tensor = |name: &str, shape: &[usize]| -> std::result::Result<Tensor, ReadError> {
        let weight = folder.weights.get(name, shape)?;
        let element = match weight.element {
            WeightType::F32 => DType::F32,
            WeightType::F16 => DType::F16,
            WeightType::Bf16 => DType::BF16,
        };
        let bytes = folder.weights.read(&weight)?;
        Ok(Tensor::from_raw_buffer(&bytes, element, shape, device)?.to_dtype(DType::F32)?)
    };
    let pair = |name: &str, weight: &[usize]| -> std::result::Result<Pair, ReadError> {
        let bias = tensor(&format!("{name}.bias"), &weight[..1])?;
        Ok(Pair { weight: tensor(&format!("{name}.weight"), weight)?, bias })
    };
    let mut layers = Vec::with_capacity(config.layers);
    for layer in 0..config.layers {
        let named = |part: &str, weight: &[usize]| pair(&format!("encoder.layer.{layer}.{part}"), weight);
        let own = |part: &str| named(&format!("attention.self.{part}"), &[hidden, hidden]);
        let (query, key, value) = (own("query")?, own("key")?, own("value")?);
        layers.push(Layer {
            projections: Pair {
                weight: Tensor::cat(&[&query.weight, &key.weight, &value.weight], 0)?,
                bias: Tensor::cat(&[&query.bias, &key.bias, &value.bias], 0)?,
            },
            attention_output: named("attention.output.dense", &[hidden, hidden])?,
            attention_norm: named("attention.output.LayerNorm", &[hidden])?,
            intermediate: named("intermediate.dense", &[wide, hidden])?,
            output: named("output.dense", &[hidden, wide])?,
            output_norm: named("output.LayerNorm", &[hidden])?,
        });
    }
    let positions = tensor("embeddings.position_embeddings.weight", &[config.positions, hidden])?;
    let types = tensor("embeddings.token_type_embeddings.weight", &[config.token_types, hidden])?;
    Ok(CandleEncoder {
        device: device.clone(),
        heads: config.heads,
        hidden,
        eps: config.layer_norm_eps as f32,
        activation: config.activation,
        normalize: folder.normalize,
        words: tensor("embeddings.word_embeddings.weight", &[config.vocabulary, hidden])?,
        positions: positions.broadcast_add(&types.get(0)?)?,
        norm: pair("embeddings.LayerNorm", &[hidden])?,
        layers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drivers_error_ends_the_process_and_a_full_device_does_not() {
        let driver = |name: &str| format!("DriverError(CUDA_ERROR_{name}, \"...\")\n   0: a trace");
        let told = |name: &str| format!("DriverError(CUDA_ERROR_{name}, \"...\")");
        assert_eq!(failure(true, &driver("OUT_OF_MEMORY")), ExecError::OutOfMemory(told("OUT_OF_MEMORY")));
        assert_eq!(failure(true, &driver("ILLEGAL_ADDRESS")), ExecError::Broken(told("ILLEGAL_ADDRESS")));
        assert_eq!(failure(true, "shape mismatch"), ExecError::Failed("shape mismatch".into()));
        assert_eq!(failure(false, &driver("ILLEGAL_ADDRESS")), ExecError::Failed(told("ILLEGAL_ADDRESS")));
    }
}
