//! What the engine makes of the graph, and what folders are refused.

use crate::folder::Folder;
use crate::graph;
use crate::onnx::OnnxEncoder;
use crate::onnx_proto::ModelProto;
use penstock_onnx::Library;
use prost::Message;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Where `models/catalog/fetch.py` puts things.
#[allow(clippy::disallowed_methods)] // a test is its own composition root
pub(crate) fn cache() -> PathBuf {
    let named = std::env::var_os("PENSTOCK_CACHE_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache/penstock"))
}

pub(crate) fn model_folder() -> PathBuf {
    let folder = cache().join("models/minilm/1");
    assert!(folder.is_dir(), "{} is missing: models/catalog/fetch.py fetches it", folder.display());
    folder
}

pub(crate) fn library() -> Library {
    Library::open(&cache().join("lib/libonnxruntime.so")).unwrap()
}

#[test]
fn the_optimised_graph_is_the_one_that_was_measured() {
    let folder = Folder::open(&model_folder()).unwrap();
    let bytes = graph::build(&folder).unwrap();
    assert!(bytes.len() < 64 * 1024, "{} bytes: the weights are not in the graph", bytes.len());
    let scratch = tempfile::tempdir().unwrap();
    let dump = scratch.path().join("optimised.onnx");
    OnnxEncoder::open(&library(), &bytes, folder.weights.place().0, 12, 1, Some(dump.clone())).unwrap();
    let optimised = ModelProto::decode(std::fs::read(dump).unwrap().as_slice()).unwrap();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for node in optimised.graph.unwrap().node {
        *counts.entry(node.op_type).or_default() += 1;
    }
    let right = [
        ("Add", 1 + 2 + 6 * 3), // embeddings; key and value indices; mask and two residuals a layer
        ("BiasGelu", 6),
        ("FusedMatMul", 6),    // scores
        ("Gather", 2 + 6 * 4), // words and positions; queries, keys, values and contexts
        ("Gemm", 6 * 4),
        ("LayerNormalization", 1 + 6 * 2),
        ("LpNormalization", 1),
        ("MatMul", 1 + 6), // pooling; contexts
        ("Reshape", 6 * 3),
        ("Softmax", 6),
    ];
    let right: BTreeMap<String, usize> = right.into_iter().map(|(op, count)| (op.to_owned(), count)).collect();
    assert_eq!(counts, right, "no Concat, Cast or Transpose is left, and nothing was fused into a slower operator");
}

/// A copy of the model folder's small files, with the weights linked.
fn copy() -> tempfile::TempDir {
    let scratch = tempfile::tempdir().unwrap();
    std::fs::create_dir(scratch.path().join("1_Pooling")).unwrap();
    for file in ["config.json", "modules.json", "sentence_bert_config.json", "1_Pooling/config.json"] {
        std::fs::copy(model_folder().join(file), scratch.path().join(file)).unwrap();
    }
    let weights = model_folder().join("model.safetensors").canonicalize().unwrap();
    std::os::unix::fs::symlink(weights, scratch.path().join("model.safetensors")).unwrap();
    scratch
}

fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    std::fs::write(&path, text.replace(from, to)).unwrap();
}

#[test]
fn a_folder_is_refused_by_file_field_found_and_right() {
    assert_eq!(Folder::open(copy().path()).unwrap().tokens_max, 256);
    let table = [
        ("config.json", "\"bert\"", "\"roberta\"", "config.json: 'model_type': found roberta; right would be bert"),
        ("config.json", "\"absolute\"", "\"relative_key\"", "'position_embedding_type': found relative_key"),
        ("config.json", "\"gelu\"", "\"swish\"", "'hidden_act': found swish; right would be gelu, gelu_new or relu"),
        (
            "config.json",
            "\"num_attention_heads\": 12",
            "\"num_attention_heads\": 7",
            "a multiple of num_attention_heads, 7",
        ),
        (
            "config.json",
            "\"num_hidden_layers\": 6",
            "\"num_hidden_layers\": 7",
            "'encoder.layer.6.attention.self.query.weight': found no such tensor",
        ),
        ("config.json", "\"num_hidden_layers\": 6", "\"num_hidden_layers\": 0", "'num_hidden_layers': found 0"),
        ("config.json", "30522", "30521", "found shape [30522, 384]; right would be [30521, 384]"),
        ("config.json", "\"hidden_size\"", "\"hidden\"", "config.json: cannot be read: missing field `hidden_size`"),
        ("sentence_bert_config.json", "256", "513", "'max_seq_length': found 513; right would be 1 to 512"),
        ("sentence_bert_config.json", "false", "true", "'do_lower_case': found true"),
        (
            "1_Pooling/config.json",
            "\"pooling_mode_max_tokens\": false",
            "\"pooling_mode_max_tokens\": true",
            "'pooling_mode': found",
        ),
        (
            "1_Pooling/config.json",
            "\"pooling_mode_mean_tokens\": true",
            "\"pooling_mode_mean_tokens\": false",
            "'pooling_mode': found none",
        ),
        ("modules.json", "models.Normalize", "models.Dense", "'2.type': found sentence_transformers.models.Dense"),
        ("modules.json", "1_Pooling", "../1_Pooling", "'1.path': found ../1_Pooling"),
    ];
    for (file, from, to, message) in table {
        let folder = copy();
        edit(folder.path(), file, from, to);
        let error = Folder::open(folder.path()).unwrap_err().to_string();
        assert!(error.contains(message), "{error}\nis not\n{message}");
    }
    for file in ["config.json", "model.safetensors", "1_Pooling/config.json"] {
        let folder = copy();
        std::fs::remove_file(folder.path().join(file)).unwrap();
        let error = Folder::open(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{file}: cannot be read")), "{error}");
    }
}

#[test]
fn a_broken_weights_file_is_refused() {
    let whole = std::fs::read(model_folder().join("model.safetensors")).unwrap();
    let cases: [(&[u8], &str); 5] = [
        (&[], "a file of 0 bytes"),
        (&whole[..5], "a file of 5 bytes"),
        (&whole[..1000], "a header that ends within the file"),
        (&whole[..whole.len() / 2], "was it downloaded completely?"),
        (&[vec![2, 0, 0, 0, 0, 0, 0, 0], b"[]".to_vec()].concat(), "not a JSON object"),
    ];
    for (bytes, message) in cases {
        let folder = copy();
        std::fs::remove_file(folder.path().join("model.safetensors")).unwrap();
        std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
        let error = Folder::open(folder.path()).unwrap_err().to_string();
        assert!(error.starts_with("model.safetensors: 'header'") || error.contains(message), "{error}");
        assert!(error.contains(message), "{error}\nis not\n{message}");
    }
}

#[test]
fn a_folder_without_sentence_files_is_a_plain_encoder() {
    let folder = copy();
    for file in ["modules.json", "sentence_bert_config.json", "1_Pooling/config.json"] {
        std::fs::remove_file(folder.path().join(file)).unwrap();
    }
    let folder = Folder::open(folder.path()).unwrap();
    assert_eq!((folder.normalize, folder.tokens_max), (false, 512));
}
