//! A real model gives what another implementation gives, alone and among strangers.

#![allow(clippy::unwrap_used)] // the lint looks only at functions marked as tests, not at those they call

mod common;

use common::*;
use penstock_domain::{Datatype, TensorSpec};
use penstock_executor::{Batch, Model, Part};
use penstock_onnx::{DEFAULT_MAX_BATCH_SIZE, OnnxModel, OnnxOptions};

#[derive(serde::Deserialize)]
struct Golden {
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    a: i32,
    b: i32,
    scores: Vec<f32>,
}

fn golden() -> Vec<Case> {
    serde_json::from_str::<Golden>(include_str!("goldens/magika.json")).unwrap().cases
}

fn model() -> OnnxModel {
    let file = cached("models/magika/1/model.onnx");
    OnnxModel::load(OnnxOptions { library: library(), file, threads_per_worker: 1, ..OnnxOptions::default() }).unwrap()
}

fn rows(cases: &[&Case]) -> penstock_domain::Tensor {
    let row = |case: &&Case| (0..2048).map(move |i| (i * case.a + case.b) % 257).collect::<Vec<i32>>();
    let data: Vec<u8> = cases.iter().flat_map(row).flat_map(i32::to_le_bytes).collect();
    tensor("bytes", Datatype::Int32, &[cases.len() as i64, 2048], data)
}

fn request(model: &OnnxModel, cases: &[&Case]) -> Part {
    part(model, vec![rows(cases)])
}

fn assert_scores(scores: &[f32], case: &Case) {
    assert_eq!(scores.len(), case.scores.len());
    for (index, (found, expected)) in scores.iter().zip(&case.scores).enumerate() {
        assert!((found - expected).abs() <= 1e-5, "a={} class {index}: {found} instead of {expected}", case.a);
    }
}

#[test]
fn the_signature_is_read_from_the_graph() {
    let signature = model().signature().clone();
    assert_eq!(signature.max_batch_size, DEFAULT_MAX_BATCH_SIZE);
    assert_eq!(signature.inputs, [TensorSpec::new("bytes", Datatype::Int32, [2048])]);
    assert_eq!(signature.outputs, [TensorSpec::new("target_label", Datatype::Fp32, [214])]);
}

#[test]
fn rows_answer_as_in_python_alone_and_among_strangers() {
    let (model, cases) = (model(), golden());
    let mut executor = model.executor(0).unwrap();
    for case in &cases {
        let outputs = run(executor.as_mut(), vec![request(&model, &[case])]).unwrap().remove(0).unwrap();
        assert_eq!((outputs[0].name.as_str(), outputs[0].shape.as_slice()), ("target_label", &[1, 214][..]));
        assert_scores(&values(&outputs[0]), case);
    }
    // One request of one row, one of three, one of two.
    let groups: [Vec<&Case>; 3] = [vec![&cases[0]], vec![&cases[1], &cases[2], &cases[3]], vec![&cases[4], &cases[5]]];
    let parts: Vec<Part> = groups.iter().map(|group| request(&model, group)).collect();
    assert!(parts.iter().all(|part| part.kind == parts[0].kind));
    let answers = run(executor.as_mut(), parts).unwrap();
    for (group, answer) in groups.iter().zip(answers) {
        let output = &answer.unwrap()[0];
        assert_eq!(output.shape.as_slice(), [group.len() as i64, 214]);
        for (scores, case) in values(output).chunks(214).zip(group) {
            assert_scores(scores, case);
        }
    }
}

#[test]
fn a_misaligned_request_answers_the_same() {
    let (model, cases) = (model(), golden());
    let mut request = rows(&[&cases[1]]);
    let mut shifted = vec![0u8];
    shifted.extend_from_slice(&request.data);
    request.data = bytes::Bytes::from(shifted).slice(1..);
    assert_scores(&values(&answer(&model, vec![request])[0]), &cases[1]);
}

#[test]
fn workers_have_sessions_of_their_own() {
    let (model, cases) = (model(), golden());
    std::thread::scope(|scope| {
        for (worker, case) in cases.iter().take(2).enumerate() {
            let model = &model;
            scope.spawn(move || {
                let mut executor = model.executor(worker).unwrap();
                let outputs = run(executor.as_mut(), vec![request(model, &[case])]).unwrap().remove(0).unwrap();
                assert_scores(&values(&outputs[0]), case);
            });
        }
    });
}

#[test]
fn warm_up_is_one_row_and_a_full_batch_and_every_stage_is_timed() {
    let model = model();
    let mut executor = model.executor(0).unwrap();
    let mut items = Vec::new();
    for work in model.warmup() {
        let parts = model.prepare(work).unwrap().parts;
        items.push(parts[0].items);
        let outputs = executor.execute(Batch { parts }).unwrap();
        assert!(outputs.parts[0].is_ok());
        assert!(outputs.compute_ns > 0);
    }
    assert_eq!(items, [1, DEFAULT_MAX_BATCH_SIZE]);
}
