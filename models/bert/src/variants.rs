//! Both engines against each other on small made-up checkpoints: every activation, pooling, element type and way of
//! naming and placing weights that a folder may have. (Goldens check the mathematics itself, on the real model.)

use crate::candle::CandleEncoder;
use crate::executor::LayoutEncoder;
use crate::folder::Folder;
use crate::layout::Layout;
use crate::onnx::OnnxEncoder;
use crate::tests::library;
use crate::{graph, weights};
use half::{bf16, f16};
use serde_json::json;
use std::path::Path;

const HIDDEN: usize = 8;
const WIDE: usize = 12;
const HEADS: usize = 2;

struct Variant {
    activation: &'static str,
    pooling: &'static str,
    normalize: bool,
    dtype: &'static str,
    prefix: &'static str,
    /// Spaces after the header, to place the weights anywhere.
    spaces: usize,
}

const PLAIN: Variant =
    Variant { activation: "gelu", pooling: "mean_tokens", normalize: true, dtype: "F32", prefix: "", spaces: 0 };

fn shapes() -> Vec<(String, Vec<usize>)> {
    let mut all: Vec<(String, Vec<usize>)> = vec![
        ("embeddings.word_embeddings.weight".into(), vec![20, HIDDEN]),
        ("embeddings.position_embeddings.weight".into(), vec![16, HIDDEN]),
        ("embeddings.token_type_embeddings.weight".into(), vec![2, HIDDEN]),
        ("embeddings.LayerNorm.weight".into(), vec![HIDDEN]),
        ("embeddings.LayerNorm.bias".into(), vec![HIDDEN]),
    ];
    for layer in 0..2 {
        for (name, shape) in [
            ("attention.self.query", vec![HIDDEN, HIDDEN]),
            ("attention.self.key", vec![HIDDEN, HIDDEN]),
            ("attention.self.value", vec![HIDDEN, HIDDEN]),
            ("attention.output.dense", vec![HIDDEN, HIDDEN]),
            ("attention.output.LayerNorm", vec![HIDDEN]),
            ("intermediate.dense", vec![WIDE, HIDDEN]),
            ("output.dense", vec![HIDDEN, WIDE]),
            ("output.LayerNorm", vec![HIDDEN]),
        ] {
            all.push((format!("encoder.layer.{layer}.{name}.bias"), shape[..1].to_vec()));
            all.push((format!("encoder.layer.{layer}.{name}.weight"), shape));
        }
    }
    all
}

fn write(folder: &Path, variant: &Variant) {
    let config = json!({
        "model_type": "bert", "hidden_size": HIDDEN, "num_hidden_layers": 2, "num_attention_heads": HEADS,
        "intermediate_size": WIDE, "hidden_act": variant.activation, "layer_norm_eps": 1e-5,
        "max_position_embeddings": 16, "vocab_size": 20, "type_vocab_size": 2,
    });
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    let mut modules = vec![json!({"path": "", "type": "m.Transformer"}), json!({"path": "pool", "type": "m.Pooling"})];
    if variant.normalize {
        modules.push(json!({"path": "2_Normalize", "type": "m.Normalize"}));
    }
    std::fs::write(folder.join("modules.json"), serde_json::to_string(&modules).unwrap()).unwrap();
    std::fs::create_dir(folder.join("pool")).unwrap();
    let pooling = json!({ format!("pooling_mode_{}", variant.pooling): true, "pooling_mode_max_tokens": false });
    std::fs::write(folder.join("pool/config.json"), pooling.to_string()).unwrap();

    let (mut header, mut content, mut state) = (serde_json::Map::new(), Vec::new(), 1u64);
    for (name, shape) in shapes() {
        let begin = content.len();
        for _ in 0..shape.iter().product() {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            // Exact in every element type, so that the three checkpoints are one model.
            let value = ((state >> 40) % 129) as f32 / 64.0 - 1.0;
            match variant.dtype {
                "F32" => content.extend(value.to_le_bytes()),
                "F16" => content.extend(f16::from_f32(value).to_le_bytes()),
                _ => content.extend(bf16::from_f32(value).to_le_bytes()),
            }
        }
        let entry = json!({"dtype": variant.dtype, "shape": shape, "data_offsets": [begin, content.len()]});
        header.insert(format!("{}{name}", variant.prefix), entry);
    }
    let mut header = serde_json::to_vec(&header).unwrap();
    while header.len() % 8 != variant.spaces {
        header.push(b' ');
    }
    let file = [&(header.len() as u64).to_le_bytes()[..], &header, &content].concat();
    std::fs::write(folder.join(weights::FILE), file).unwrap();
}

/// The embeddings of a ragged run, from ONNX Runtime, after candle has agreed with them.
fn embed(variant: &Variant) -> Vec<f32> {
    let scratch = tempfile::tempdir().unwrap();
    write(scratch.path(), variant);
    let folder = Folder::open(scratch.path()).unwrap();
    let mut layout = Layout::default();
    layout.fill(&[&[1, 2, 3, 4, 5], &[6], &[7, 8, 9]], HEADS, folder.pooling);
    let graph = graph::build(&folder).unwrap();
    let mut onnx = OnnxEncoder::open(&library(), &graph, folder.weights.place().0, HEADS, 1, None).unwrap();
    let mut candle = CandleEncoder::open(&folder, &candle_core::Device::Cpu).unwrap();
    let [first, second] = [onnx.encode(&layout).unwrap(), candle.encode(&layout).unwrap()]
        .map(|bytes| bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect::<Vec<f32>>());
    assert_eq!(first.len(), 3 * HIDDEN);
    for (a, b) in first.iter().zip(&second) {
        assert!((a - b).abs() < 1e-5, "{first:?}\nis not\n{second:?}");
    }
    first
}

#[test]
fn the_engines_agree_on_every_kind_of_checkpoint() {
    let plain = embed(&PLAIN);
    // Other files of the same model give the same embeddings.
    for dtype in ["F16", "BF16"] {
        assert_eq!(embed(&Variant { dtype, ..PLAIN }), plain);
    }
    assert_eq!(embed(&Variant { prefix: "bert.", ..PLAIN }), plain);
    for (dtype, spaces) in [("F32", 1), ("F32", 4), ("F16", 3)] {
        assert_eq!(embed(&Variant { dtype, spaces, ..PLAIN }), plain, "weights may lie anywhere");
    }
    // Other models give others.
    let others = [
        Variant { activation: "gelu_new", ..PLAIN },
        Variant { activation: "relu", ..PLAIN },
        Variant { pooling: "cls_token", ..PLAIN },
        Variant { normalize: false, ..PLAIN },
    ];
    for other in &others {
        assert_ne!(embed(other), plain);
    }
}
