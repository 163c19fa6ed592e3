//! The encoder as an ONNX graph, built in memory. Called once per load, by the ONNX Runtime engine.
//!
//! Weights are not in the graph: each is a range of `model.safetensors`, which ONNX Runtime maps. The word embeddings,
//! half of a small model, are used where they lie, so processes share them in the page cache. Weights of matrix
//! products are packed by ONNX Runtime for its kernels when a session opens, and only the packed form stays: keeping
//! them shared as well would cost speed, and speed wins. `Gemm` with `transB` packs `[out, in]`, the way a checkpoint
//! stores them, directly; no transposed copy is made.
//!
//! The operators were chosen by measurement on ONNX Runtime 1.32, AVX2 (one thread, sentences per CPU second against
//! the graph a plain export gives):
//! - The fused `Attention`, `MultiHeadAttention`, `SkipLayerNormalization` and `EmbedLayerNormalization` of the
//!   `com.microsoft` domain are slower on CPU than what they fuse: `SkipLayerNormalization` took 3.7 ms where `Add` and
//!   `LayerNormalization` take 1.2, `MultiHeadAttention` 4.0 ms where the products, softmax and gathers take 3.
//! - `BiasGelu` and `FusedMatMul` (scale and transposition inside the product) do pay, and are used directly.
//! - One product for queries, keys and values instead of three: same CPU time, but with two threads a third of the
//!   hand-overs, 2-7 % at few tokens. The three weights are joined by `Concat`, which is folded at load.

use crate::folder::{Activation, BertConfig, Folder, FolderError};
use crate::onnx_proto::*;
use crate::weights::WeightType;
use prost::Message;

/// Operators of ONNX Runtime's own.
const MICROSOFT: &str = "com.microsoft";

/// Inputs of the graph; shapes as in [`Layout`](crate::layout::Layout).
pub(crate) mod input {
    pub(crate) const IDS: &str = "ids";
    pub(crate) const POSITIONS: &str = "positions";
    pub(crate) const QUERY_INDEX: &str = "query_index";
    pub(crate) const CONTEXT_INDEX: &str = "context_index";
    pub(crate) const MASK: &str = "mask";
    pub(crate) const POOL: &str = "pool";
}

/// Output of the graph: `[rows, hidden]` F32.
pub(crate) const EMBEDDING: &str = "embedding";

/// The graph of a folder, serialized. Its external weights are where [`crate::weights::Weights::place`] says.
pub(crate) fn build(folder: &Folder) -> Result<Vec<u8>, FolderError> {
    let config = &folder.config;
    let mut graph = Builder { folder, graph: GraphProto { name: "bert".into(), ..Default::default() } };
    let index = attention_indices(&mut graph, config);
    let mut hidden = embeddings(&mut graph, config)?;
    for layer in 0..config.layers {
        let layer = format!("encoder.layer.{layer}");
        hidden = attention(&mut graph, config, &layer, &hidden, &index)?;
        hidden = feed_forward(&mut graph, config, &layer, &hidden)?;
    }
    let pooled = if folder.normalize { "pooled" } else { EMBEDDING };
    graph.node("MatMul", "", &[input::POOL, &hidden], &[], pooled);
    if folder.normalize {
        graph.node("LpNormalization", "", &[pooled], &[int("p", 2), int("axis", -1)], EMBEDDING);
    }
    Ok(graph.finish())
}

/// Where queries, keys and values are, and the two shapes between which vectors are viewed.
struct Indices {
    query: String,
    key: String,
    value: String,
    heads_apart: String,
    heads_together: String,
}

fn attention_indices(graph: &mut Builder<'_>, config: &BertConfig) -> Indices {
    let (heads, hidden) = (config.heads as i64, config.hidden as i64);
    let to_key = graph.constant("to_key", &[], &[heads]);
    let to_value = graph.constant("to_value", &[], &[2 * heads]);
    Indices {
        query: input::QUERY_INDEX.into(),
        key: graph.node("Add", "", &[input::QUERY_INDEX, &to_key], &[], "key_index"),
        value: graph.node("Add", "", &[input::QUERY_INDEX, &to_value], &[], "value_index"),
        heads_apart: graph.constant("heads_apart", &[2], &[-1, hidden / heads]),
        heads_together: graph.constant("heads_together", &[2], &[-1, hidden]),
    }
}

/// Word plus position plus the first token type, normalised. Positions and type are added at load.
fn embeddings(graph: &mut Builder<'_>, config: &BertConfig) -> Result<String, FolderError> {
    let hidden = config.hidden;
    let words = graph.weight("embeddings.word_embeddings.weight", &[config.vocabulary, hidden])?;
    let positions = graph.weight("embeddings.position_embeddings.weight", &[config.positions, hidden])?;
    let types = graph.weight("embeddings.token_type_embeddings.weight", &[config.token_types, hidden])?;
    let first = graph.constant("first", &[], &[0]);
    let first_type = graph.node("Gather", "", &[&types, &first], &[], "first_type");
    let positions = graph.node("Add", "", &[&positions, &first_type], &[], "positions_with_type");
    let word = graph.node("Gather", "", &[&words, input::IDS], &[], "word");
    let position = graph.node("Gather", "", &[&positions, input::POSITIONS], &[], "position");
    let sum = graph.node("Add", "", &[&word, &position], &[], "embedded");
    graph.layer_norm("embeddings.LayerNorm", &sum)
}

fn attention(
    graph: &mut Builder<'_>,
    config: &BertConfig,
    layer: &str,
    hidden: &str,
    index: &Indices,
) -> Result<String, FolderError> {
    let own = format!("{layer}.attention.self");
    let name = |part: &str| format!("{own}.{part}");
    let (size, mut weights, mut biases) = (config.hidden, Vec::new(), Vec::new());
    for projection in ["query", "key", "value"] {
        weights.push(graph.weight(&name(&format!("{projection}.weight")), &[size, size])?);
        biases.push(graph.weight(&name(&format!("{projection}.bias")), &[size])?);
    }
    let axis = [int("axis", 0)];
    let weight = graph.node("Concat", "", &[&weights[0], &weights[1], &weights[2]], &axis, &name("weight"));
    let bias = graph.node("Concat", "", &[&biases[0], &biases[1], &biases[2]], &axis, &name("bias"));
    let projected = graph.node("Gemm", "", &[hidden, &weight, &bias], &[int("transB", 1)], &name("projected"));
    let projected = graph.node("Reshape", "", &[&projected, &index.heads_apart], &[], &name("heads"));
    let query = graph.node("Gather", "", &[&projected, &index.query], &[], &name("query"));
    let key = graph.node("Gather", "", &[&projected, &index.key], &[], &name("key"));
    let value = graph.node("Gather", "", &[&projected, &index.value], &[], &name("value"));
    let scale = ((config.hidden / config.heads) as f32).sqrt().recip();
    let scaled = [float("alpha", scale), int("transB", 1)];
    let scores = graph.node("FusedMatMul", MICROSOFT, &[&query, &key], &scaled, &name("scores"));
    let scores = graph.node("Add", "", &[&scores, input::MASK], &[], &name("masked"));
    let shares = graph.node("Softmax", "", &[&scores], &[int("axis", -1)], &name("shares"));
    let context = graph.node("MatMul", "", &[&shares, &value], &[], &name("context"));
    let context = graph.node("Reshape", "", &[&context, &index.heads_apart], &[], &name("context_heads"));
    let context = graph.node("Gather", "", &[&context, input::CONTEXT_INDEX], &[], &name("context_tokens"));
    let context = graph.node("Reshape", "", &[&context, &index.heads_together], &[], &name("context_joined"));
    let output = format!("{layer}.attention.output");
    let dense = graph.dense(&format!("{output}.dense"), &context, size, size)?;
    let sum = graph.node("Add", "", &[&dense, hidden], &[], &format!("{output}.sum"));
    graph.layer_norm(&format!("{output}.LayerNorm"), &sum)
}

fn feed_forward(
    graph: &mut Builder<'_>,
    config: &BertConfig,
    layer: &str,
    hidden: &str,
) -> Result<String, FolderError> {
    let (size, wide) = (config.hidden, config.intermediate);
    let name = format!("{layer}.intermediate.dense");
    let active = format!("{layer}.intermediate.active");
    let active = match config.activation {
        Activation::Relu => {
            let widened = graph.dense(&name, hidden, wide, size)?;
            graph.node("Relu", "", &[&widened], &[], &active)
        }
        gelu => {
            // Adds the bias in the same pass.
            let operator = if gelu == Activation::Gelu { "BiasGelu" } else { "FastGelu" };
            let weight = graph.weight(&format!("{name}.weight"), &[wide, size])?;
            let bias = graph.weight(&format!("{name}.bias"), &[wide])?;
            let widened = graph.node("Gemm", "", &[hidden, &weight], &[int("transB", 1)], &name);
            graph.node(operator, MICROSOFT, &[&widened, &bias], &[], &active)
        }
    };
    let dense = graph.dense(&format!("{layer}.output.dense"), &active, size, wide)?;
    let sum = graph.node("Add", "", &[&dense, hidden], &[], &format!("{layer}.output.sum"));
    graph.layer_norm(&format!("{layer}.output.LayerNorm"), &sum)
}

struct Builder<'a> {
    folder: &'a Folder,
    graph: GraphProto,
}

impl Builder<'_> {
    /// Adds a node with one output, called `name` like the node; gives the name back.
    fn node(&mut self, op: &str, domain: &str, inputs: &[&str], attributes: &[AttributeProto], name: &str) -> String {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|input| (*input).to_owned()).collect(),
            output: vec![name.into()],
            name: name.into(),
            op_type: op.into(),
            attribute: attributes.to_vec(),
            domain: domain.into(),
        });
        name.into()
    }

    /// Refers to a weight of the file; F16 and BF16 are widened by a node that is folded at load.
    fn weight(&mut self, name: &str, shape: &[usize]) -> Result<String, FolderError> {
        let weight = self.folder.weights.get(name, shape)?;
        let (data_type, aligned) = match weight.element {
            WeightType::F32 => (element::FLOAT, weight.offset.is_multiple_of(4)),
            WeightType::F16 => (element::FLOAT16, weight.offset.is_multiple_of(2)),
            WeightType::Bf16 => (element::BFLOAT16, weight.offset.is_multiple_of(2)),
        };
        let mut tensor = TensorProto {
            dims: weight.shape.iter().map(|dim| *dim as i64).collect(),
            data_type,
            name: name.into(),
            ..Default::default()
        };
        if aligned {
            let entry = |key: &str, value: String| StringStringEntryProto { key: key.into(), value };
            tensor.external_data = vec![
                entry("location", self.folder.weights.place().1),
                entry("offset", weight.offset.to_string()),
                entry("length", weight.length.to_string()),
            ];
            tensor.data_location = Some(EXTERNAL);
        } else {
            // Old files have headers of any length, and a mapped element must lie where elements may lie.
            tensor.raw_data = Some(self.folder.weights.read(&weight)?.into());
        }
        self.graph.initializer.push(tensor);
        if data_type == element::FLOAT {
            return Ok(name.into());
        }
        let to = [int("to", element::FLOAT.into())];
        Ok(self.node("Cast", "", &[name], &to, &format!("{name}.f32")))
    }

    fn constant(&mut self, name: &str, dims: &[i64], values: &[i64]) -> String {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        self.graph.initializer.push(TensorProto {
            dims: dims.to_vec(),
            data_type: element::INT64,
            name: name.into(),
            raw_data: Some(bytes.into()),
            ..Default::default()
        });
        name.into()
    }

    /// `input` times the transposed weight `[outputs, inputs]`, plus the bias.
    fn dense(&mut self, name: &str, input: &str, outputs: usize, inputs: usize) -> Result<String, FolderError> {
        let weight = self.weight(&format!("{name}.weight"), &[outputs, inputs])?;
        let bias = self.weight(&format!("{name}.bias"), &[outputs])?;
        Ok(self.node("Gemm", "", &[input, &weight, &bias], &[int("transB", 1)], name))
    }

    fn layer_norm(&mut self, name: &str, input: &str) -> Result<String, FolderError> {
        let (hidden, eps) = (self.folder.config.hidden, self.folder.config.layer_norm_eps as f32);
        let weight = self.weight(&format!("{name}.weight"), &[hidden])?;
        let bias = self.weight(&format!("{name}.bias"), &[hidden])?;
        let attributes = [int("axis", -1), float("epsilon", eps)];
        Ok(self.node("LayerNormalization", "", &[input, &weight, &bias], &attributes, name))
    }

    fn finish(mut self) -> Vec<u8> {
        let heads = Dimension::Known(self.folder.config.heads);
        let one = Dimension::Known(1);
        let (rows, longest, tokens) = (Dimension::Open("rows"), Dimension::Open("longest"), Dimension::Open("tokens"));
        self.graph.input = vec![
            value(input::IDS, element::INT64, &[tokens]),
            value(input::POSITIONS, element::INT64, &[tokens]),
            value(input::QUERY_INDEX, element::INT64, &[rows, heads, longest]),
            value(input::CONTEXT_INDEX, element::INT64, &[tokens, heads]),
            value(input::MASK, element::FLOAT, &[rows, one, one, longest]),
            value(input::POOL, element::FLOAT, &[rows, tokens]),
        ];
        let hidden = Dimension::Known(self.folder.config.hidden);
        self.graph.output = vec![value(EMBEDDING, element::FLOAT, &[rows, hidden])];
        let opset = |domain: &str, version| OperatorSetIdProto { domain: domain.into(), version };
        let model = ModelProto {
            ir_version: 8,
            producer_name: "penstock".into(),
            graph: Some(self.graph),
            opset_import: vec![opset("", 17), opset(MICROSOFT, 1)],
        };
        model.encode_to_vec()
    }
}

#[derive(Clone, Copy)]
enum Dimension {
    Known(usize),
    Open(&'static str),
}

fn value(name: &str, elem_type: i32, dims: &[Dimension]) -> ValueInfoProto {
    let dim = |dim: &Dimension| match dim {
        Dimension::Known(size) => DimensionProto { dim_value: Some(*size as i64), dim_param: None },
        Dimension::Open(name) => DimensionProto { dim_value: None, dim_param: Some((*name).into()) },
    };
    let shape = Some(ShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor_type = Some(TensorTypeProto { elem_type, shape });
    ValueInfoProto { name: name.into(), kind: Some(TypeProto { tensor_type }) }
}

fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: name.into(), f: None, i: Some(value), kind: 2 }
}

fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: name.into(), f: Some(value), i: None, kind: 1 }
}
