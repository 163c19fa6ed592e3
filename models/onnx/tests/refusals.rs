//! What is wrong is said: what was found, and what would be right.

#![allow(clippy::unwrap_used)] // the lint looks only at functions marked as tests, not at those they call

mod common;

use common::*;
use penstock_domain::{Datatype, Tensor, TensorSpec};
use penstock_executor::{ExecError, LoadError, Model, Work};
use penstock_onnx::{Library, OnnxModel, OnnxOptions};
use std::path::Path;

fn invalid(options: OnnxOptions) -> String {
    match OnnxModel::load(options) {
        Err(LoadError::Invalid(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn assert_contains(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

#[test]
fn broken_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(graph("two_inputs.onnx")).unwrap();
    let files: [(&str, &[u8]); 4] = [
        ("truncated.onnx", &whole[..whole.len() / 2]),
        ("text.onnx", b"version https://git-lfs.github.com/spec/v1\n"),
        ("empty.onnx", b""),
        ("noise.onnx", &[0xff; 100]),
    ];
    for (name, content) in files {
        let file = folder.path().join(name);
        std::fs::write(&file, content).unwrap();
        assert_contains(&invalid(OnnxOptions { file, ..options("") }), &[name]);
    }
    assert_contains(&invalid(options("unknown_op.onnx")), &["unknown_op.onnx", "NoSuchOperator"]);
    assert_contains(&invalid(options("absent.onnx")), &["absent.onnx", "no such file"]);
    assert_contains(&invalid(options("sequence.onnx")), &["sequence.onnx", "output 'pieces' is a Sequence"]);
}

#[test]
fn a_missing_library_says_how_to_get_it_and_a_second_one_is_refused() {
    let error = Library::open(Path::new("/nowhere/libonnxruntime.so")).unwrap_err();
    assert_contains(&error.to_string(), &["/nowhere/libonnxruntime.so", "models/catalog/fetch.py"]);
    let first = Library::open(&library()).unwrap();
    assert_eq!(Library::open(first.path()).unwrap().path(), first.path());
    let folder = tempfile::tempdir().unwrap();
    let other = folder.path().join("other.so");
    std::fs::write(&other, "").unwrap();
    assert_contains(&Library::open(&other).unwrap_err().to_string(), &["other.so", "only one"]);
}

#[test]
fn what_config_declares_must_fit_the_graph() {
    let fp32 = |name: &str, shape: &[i64]| TensorSpec::new(name, Datatype::Fp32, shape);
    let with = |inputs: Option<Vec<TensorSpec>>, outputs: Option<Vec<TensorSpec>>| OnnxOptions {
        max_batch_size: Some(8),
        inputs,
        outputs,
        ..options("optional.onnx")
    };
    let x = || fp32("x", &[2]);
    let cases: [(OnnxOptions, &[&str]); 9] = [
        (with(Some(vec![fp32("z", &[2])]), None), &["input 'x'", "does not declare it"]),
        (with(Some(vec![x(), fp32("z", &[2])]), None), &["input 'z'", "the graph has only 'x'"]),
        (with(Some(vec![x(), x()]), None), &["input 'x'", "twice"]),
        (with(Some(vec![fp32("x", &[3])]), None), &["input 'x'", "says dims [3]", "the graph says [2]"]),
        (with(Some(vec![fp32("x", &[-1, 2])]), None), &["input 'x'", "without the batch dimension"]),
        (
            with(Some(vec![TensorSpec::new("x", Datatype::Int64, [2])]), None),
            &["input 'x'", "config.pbtxt says INT64", "the graph says FP32"],
        ),
        (with(Some(vec![TensorSpec { optional: true, ..x() }]), None), &["input 'x'", "optional: true"]),
        (with(None, Some(vec![fp32("z", &[2])])), &["output 'z'", "the graph has only 'y'"]),
        (
            OnnxOptions { max_batch_size: Some(8), ..options("fixed_batch.onnx") },
            &["fixed_batch.onnx", "input 'x'", "max_batch_size: 8", "the graph says [1, 3]"],
        ),
    ];
    for (options, parts) in cases {
        assert_contains(&invalid(options), parts);
    }
    // Open dimensions take the fixed value of the other side, labels stay, and dims without a batch say no batching.
    let labelled = TensorSpec { labels: vec!["no".into(), "yes".into()], ..fp32("y", &[-1]) };
    let model = OnnxModel::load(with(Some(vec![fp32("x", &[-1])]), Some(vec![labelled]))).unwrap();
    assert_eq!(model.signature().inputs, [x()]);
    assert_eq!(
        (model.signature().outputs[0].shape.as_slice(), model.signature().outputs[0].labels.len()),
        (&[2][..], 2)
    );
    let whole = OnnxOptions { max_batch_size: None, ..with(Some(vec![fp32("x", &[-1, 2])]), None) };
    assert_eq!(OnnxModel::load(whole).unwrap().signature().max_batch_size, 0);
}

#[test]
fn wrong_requests_are_refused_by_name() {
    let model = OnnxModel::load(OnnxOptions { max_batch_size: Some(4), ..options("two_inputs.onnx") }).unwrap();
    let fixed = load("fixed_batch.onnx");
    let rows = |name: &str, rows: i64| floats(name, &[rows, 1], &vec![0.0; rows as usize]);
    let pair = |n: i64, m: i64| vec![rows("a", n), rows("b", m)];
    let refused = |model: &OnnxModel, work: Work| match model.prepare(work) {
        Err(ExecError::Invalid(text)) => text,
        other => panic!("{other:?}"),
    };
    let cases: [(Vec<Tensor>, &str); 8] = [
        (vec![rows("a", 1)], "expected 2 inputs but got 1: missing required input 'b'"),
        (vec![rows("a", 1), rows("x", 1)], "unexpected inference input 'x', expected 'a', 'b'"),
        (vec![rows("a", 1), rows("a", 1)], "input 'a' is given twice, expected once"),
        (
            vec![rows("a", 1), integers("b", &[1, 1], &[1])],
            "inference input 'b' data-type is 'INT64', but the model expects 'FP32'",
        ),
        (
            vec![rows("a", 1), floats("b", &[1], &[1.0])],
            "unexpected shape for input 'b': expected [-1, -1], got [1]; the first dimension is the batch",
        ),
        (pair(1, 2), "input 'b' batch size 2 does not match the other inputs: 'a' has 1"),
        (pair(0, 0), "input 'b' has an empty batch: found 0 rows, expected 1 or more"),
        (pair(5, 5), "inference request batch-size must be <= 4, found 5 rows in input 'b'"),
    ];
    for (inputs, text) in cases {
        assert_eq!(refused(&model, work(inputs)), text);
    }
    assert_eq!(refused(&model, asking(pair(1, 1), &["d"])), "unexpected inference output 'd', expected 'c'");
    assert_eq!(refused(&model, asking(pair(1, 1), &["c", "c"])), "output 'c' is requested twice, expected once");
    assert!(model.prepare(asking(pair(1, 1), &["c"])).is_ok());
    assert_eq!(
        refused(&fixed, work(vec![floats("x", &[2, 3], &[0.0; 6])])),
        "unexpected shape for input 'x': expected [1, 3], got [2, 3]"
    );
}
