//! A model folder as Hugging Face and sentence-transformers lay it out: what the model is, checked against its weights.
//! Called by the model when it loads. Never reads the weights themselves, and refuses by name whatever it does not know
//! how to compute: a wrong embedding is worse than none.

use crate::weights::Weights;
use penstock_executor::LoadError;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::path::Path;

/// What is wrong with a folder; each names the file.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub(crate) enum FolderError {
    /// The file is not there, or cannot be read.
    #[error("{file}: cannot be read: {reason}")]
    Read { file: String, reason: String },
    /// A field is not what this crate can run.
    #[error("{file}: '{field}': found {found}; right would be {right}")]
    Field { file: String, field: String, found: String, right: String },
}

impl From<FolderError> for LoadError {
    fn from(error: FolderError) -> Self {
        LoadError::Invalid(error.to_string())
    }
}

/// The activation between the two halves of the feed-forward block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Activation {
    /// `x * Phi(x)`, by the error function.
    Gelu,
    /// The tanh approximation (`gelu_new`).
    GeluTanh,
    /// `max(x, 0)`.
    Relu,
}

/// How a row's token vectors become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pooling {
    /// The mean of all of them, special tokens included.
    Mean,
    /// The first.
    Cls,
}

/// `config.json`, checked.
#[derive(Debug, Clone)]
pub(crate) struct BertConfig {
    pub(crate) hidden: usize,
    pub(crate) layers: usize,
    pub(crate) heads: usize,
    pub(crate) intermediate: usize,
    pub(crate) activation: Activation,
    pub(crate) layer_norm_eps: f64,
    pub(crate) positions: usize,
    pub(crate) vocabulary: usize,
    pub(crate) token_types: usize,
}

/// A folder whose files agree with each other.
#[derive(Debug)]
pub(crate) struct Folder {
    pub(crate) config: BertConfig,
    pub(crate) pooling: Pooling,
    /// Whether embeddings are scaled to length 1.
    pub(crate) normalize: bool,
    /// Most tokens of a row, special tokens included; longer ones are cut.
    pub(crate) tokens_max: usize,
    pub(crate) weights: Weights,
}

#[derive(Deserialize)]
struct RawConfig {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    layer_norm_eps: f64,
    max_position_embeddings: usize,
    vocab_size: usize,
    type_vocab_size: usize,
    position_embedding_type: Option<String>,
    is_decoder: Option<bool>,
}

#[derive(Deserialize)]
struct RawSentence {
    max_seq_length: Option<usize>,
    do_lower_case: Option<bool>,
}

#[derive(Deserialize)]
struct RawModule {
    path: String,
    #[serde(rename = "type")]
    kind: String,
}

const CONFIG: &str = "config.json";
const SENTENCE: &str = "sentence_bert_config.json";
const MODULES: &str = "modules.json";

impl Folder {
    /// Reads and checks the folder. Without `modules.json` it is a plain encoder: mean pooling, not normalised, as
    /// sentence-transformers treats it.
    pub(crate) fn open(path: &Path) -> Result<Folder, FolderError> {
        let config = config(path)?;
        let (pooling, normalize) = modules(path)?;
        let tokens_max = tokens_max(path, &config)?;
        let weights = Weights::open(path)?;
        let folder = Folder { config, pooling, normalize, tokens_max, weights };
        for (name, shape) in folder.weight_shapes() {
            folder.weights.get(&name, &shape)?;
        }
        Ok(folder)
    }

    /// Every weight the model needs, with its shape. The pooler and heads of a checkpoint are not among them.
    fn weight_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let BertConfig { hidden, intermediate, .. } = self.config;
        let mut all = Vec::new();
        let mut add = |name: String, shape: &[usize]| all.push((name, shape.to_vec()));
        add("embeddings.word_embeddings.weight".into(), &[self.config.vocabulary, hidden]);
        add("embeddings.position_embeddings.weight".into(), &[self.config.positions, hidden]);
        add("embeddings.token_type_embeddings.weight".into(), &[self.config.token_types, hidden]);
        add("embeddings.LayerNorm.weight".into(), &[hidden]);
        add("embeddings.LayerNorm.bias".into(), &[hidden]);
        for layer in 0..self.config.layers {
            let layer = format!("encoder.layer.{layer}");
            for (dense, output, input) in [
                ("attention.self.query", hidden, hidden),
                ("attention.self.key", hidden, hidden),
                ("attention.self.value", hidden, hidden),
                ("attention.output.dense", hidden, hidden),
                ("intermediate.dense", intermediate, hidden),
                ("output.dense", hidden, intermediate),
            ] {
                add(format!("{layer}.{dense}.weight"), &[output, input]);
                add(format!("{layer}.{dense}.bias"), &[output]);
            }
            for norm in ["attention.output.LayerNorm", "output.LayerNorm"] {
                add(format!("{layer}.{norm}.weight"), &[hidden]);
                add(format!("{layer}.{norm}.bias"), &[hidden]);
            }
        }
        all
    }
}

fn config(folder: &Path) -> Result<BertConfig, FolderError> {
    let raw: RawConfig = required(folder, CONFIG)?;
    check(CONFIG, "model_type", raw.model_type == "bert", &raw.model_type, "bert")?;
    let positions = raw.position_embedding_type.as_deref().unwrap_or("absolute");
    check(CONFIG, "position_embedding_type", positions == "absolute", positions, "absolute")?;
    check(CONFIG, "is_decoder", raw.is_decoder != Some(true), "true", "false: an encoder")?;
    for (field, value) in [
        ("hidden_size", raw.hidden_size),
        ("num_hidden_layers", raw.num_hidden_layers),
        ("num_attention_heads", raw.num_attention_heads),
        ("intermediate_size", raw.intermediate_size),
        ("max_position_embeddings", raw.max_position_embeddings),
        ("vocab_size", raw.vocab_size),
        ("type_vocab_size", raw.type_vocab_size),
    ] {
        check(CONFIG, field, (1..=1 << 30).contains(&value), &value.to_string(), "1 or more")?;
    }
    let (hidden, heads) = (raw.hidden_size, raw.num_attention_heads);
    check(
        CONFIG,
        "hidden_size",
        hidden.is_multiple_of(heads),
        &hidden.to_string(),
        &format!("a multiple of num_attention_heads, {heads}"),
    )?;
    let eps = raw.layer_norm_eps;
    check(CONFIG, "layer_norm_eps", eps > 0.0 && eps < 1.0, &eps.to_string(), "more than 0 and less than 1")?;
    let activation = match raw.hidden_act.as_str() {
        "gelu" => Activation::Gelu,
        "gelu_new" | "gelu_pytorch_tanh" => Activation::GeluTanh,
        "relu" => Activation::Relu,
        other => return Err(field(CONFIG, "hidden_act", other, "gelu, gelu_new or relu")),
    };
    Ok(BertConfig {
        hidden,
        layers: raw.num_hidden_layers,
        heads,
        intermediate: raw.intermediate_size,
        activation,
        layer_norm_eps: eps,
        positions: raw.max_position_embeddings,
        vocabulary: raw.vocab_size,
        token_types: raw.type_vocab_size,
    })
}

/// Pooling, and whether the last step is normalisation.
fn modules(folder: &Path) -> Result<(Pooling, bool), FolderError> {
    let Some(modules) = optional::<Vec<RawModule>>(folder, MODULES)? else { return Ok((Pooling::Mean, false)) };
    let (mut pooling, mut normalize) = (None, false);
    for (index, module) in modules.iter().enumerate() {
        let name = module.kind.rsplit('.').next().unwrap_or_default();
        match (index, name) {
            (0, "Transformer") => {}
            (1, "Pooling") => pooling = Some(pooling_of(folder, &module.path)?),
            (2, "Normalize") => normalize = true,
            _ => {
                let right = "Transformer, Pooling and perhaps Normalize, in this order";
                return Err(field(MODULES, &format!("{index}.type"), &module.kind, right));
            }
        }
    }
    match pooling {
        Some(pooling) => Ok((pooling, normalize)),
        None => Err(field(MODULES, "1.type", "nothing", "a Pooling module")),
    }
}

fn pooling_of(folder: &Path, module: &str) -> Result<Pooling, FolderError> {
    let right_path = !module.is_empty() && !module.contains("..") && !Path::new(module).is_absolute();
    check(MODULES, "1.path", right_path, module, "the name of a folder in this folder")?;
    let file = format!("{module}/config.json");
    let raw: serde_json::Map<String, serde_json::Value> = required(folder, &file)?;
    let right = "one of pooling_mode_mean_tokens and pooling_mode_cls_token";
    let mut modes = raw.iter().filter(|(key, on)| key.starts_with("pooling_mode_") && **on == true).map(|(key, _)| key);
    let pooling = match modes.next().map(String::as_str) {
        Some("pooling_mode_mean_tokens") => Pooling::Mean,
        Some("pooling_mode_cls_token") => Pooling::Cls,
        other => return Err(field(&file, "pooling_mode", other.unwrap_or("none"), right)),
    };
    match modes.next() {
        None => Ok(pooling),
        Some(second) => Err(field(&file, "pooling_mode", &format!("{second} as well"), right)),
    }
}

fn tokens_max(folder: &Path, config: &BertConfig) -> Result<usize, FolderError> {
    let Some(raw) = optional::<RawSentence>(folder, SENTENCE)? else { return Ok(config.positions) };
    check(SENTENCE, "do_lower_case", raw.do_lower_case != Some(true), "true", "false: the tokenizer lowercases")?;
    let Some(tokens) = raw.max_seq_length else { return Ok(config.positions) };
    let right = format!("1 to {}, max_position_embeddings", config.positions);
    check(SENTENCE, "max_seq_length", (1..=config.positions).contains(&tokens), &tokens.to_string(), &right)?;
    Ok(tokens)
}

fn field(file: &str, field: &str, found: &str, right: &str) -> FolderError {
    FolderError::Field { file: file.into(), field: field.into(), found: found.into(), right: right.into() }
}

fn check(file: &str, name: &str, right: bool, found: &str, expected: &str) -> Result<(), FolderError> {
    if right { Ok(()) } else { Err(field(file, name, found, expected)) }
}

fn required<T: DeserializeOwned>(folder: &Path, file: &str) -> Result<T, FolderError> {
    optional(folder, file)?
        .ok_or_else(|| FolderError::Read { file: file.into(), reason: "there is no such file".into() })
}

fn optional<T: DeserializeOwned>(folder: &Path, file: &str) -> Result<Option<T>, FolderError> {
    let bytes = match std::fs::read(folder.join(file)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(FolderError::Read { file: file.into(), reason: error.to_string() }),
    };
    let value = serde_json::from_slice(&bytes)
        .map_err(|error| FolderError::Read { file: file.into(), reason: error.to_string() })?;
    Ok(Some(value))
}
