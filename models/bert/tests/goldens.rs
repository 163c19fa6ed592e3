//! Embeddings against vectors from another implementation (`goldens/minilm_reference.py`: numpy, in float64), alone and
//! among strangers, on both engines.

mod support;

use penstock_domain::Tensor;
use penstock_executor::Model;
use serde::Deserialize;
use support::{ENGINES, cosine, embed, farthest, ints, load, parameter, texts, work};

/// A sentence in a batch against the same sentence alone: other shapes are summed in another order.
const BATCH_TOLERANCE: f32 = 1e-5;

#[derive(Deserialize)]
struct Golden {
    text: String,
    tokens: i64,
    embedding: Vec<f64>,
}

fn goldens() -> Vec<Golden> {
    serde_json::from_str(include_str!("goldens/minilm.json")).expect("the file is in the repository")
}

fn check(golden: &Golden, found: &[f32]) {
    let cosine = cosine(found, &golden.embedding);
    assert!(cosine >= 0.99999, "{:?}: cosine {cosine}", golden.text);
    let length: f32 = found.iter().map(|value| value * value).sum();
    assert!((length - 1.0).abs() < 1e-5, "length {length}");
}

#[test]
fn every_sentence_alone_and_among_strangers() {
    let goldens = goldens();
    assert_eq!(goldens.len(), 10);
    for engine in ENGINES {
        let model = load(engine);
        let mut executor = model.executor(0).unwrap();
        let mut alone = Vec::new();
        for golden in &goldens {
            let prepared = model.prepare(texts(&[&golden.text])).unwrap();
            assert_eq!(parameter(&prepared, "prompt_tokens"), Some(golden.tokens));
            assert_eq!(parameter(&prepared, "truncated_inputs"), Some(0));
            let found = embed(&model, executor.as_mut(), texts(&[&golden.text])).unwrap().remove(0);
            check(golden, &found);
            alone.push(found);
        }
        let strangers = ["Hi".to_owned(), "a much longer stranger, ".repeat(30), "medium stranger ".repeat(6)];
        for (golden, alone) in goldens.iter().zip(&alone) {
            let batch = [&strangers[1], &golden.text, &strangers[0], &strangers[2]].map(String::as_str);
            let found = &embed(&model, executor.as_mut(), texts(&batch)).unwrap()[1];
            check(golden, found);
            assert!(farthest(found, alone) < BATCH_TOLERANCE);
        }
        let all: Vec<&str> = goldens.iter().map(|golden| golden.text.as_str()).collect();
        for (place, found) in embed(&model, executor.as_mut(), texts(&all)).unwrap().iter().enumerate() {
            check(&goldens[place], found);
            assert!(farthest(found, &alone[place]) < BATCH_TOLERANCE);
        }
    }
}

#[test]
fn the_engines_agree_on_any_lengths() {
    let [onnx, candle] = ENGINES.map(load);
    let (mut onnx_executor, mut candle_executor) = (onnx.executor(0).unwrap(), candle.executor(0).unwrap());
    let lengths = [1, 256, 2, 3, 17, 90, 31, 32, 33, 127, 128, 129, 5, 200];
    let longest = 256;
    let (mut ids, mut mask) = (Vec::new(), Vec::new());
    for (row, length) in lengths.iter().enumerate() {
        ids.extend((0..longest).map(|place| if place < *length { (row * 997 + place * 31) as i64 % 30522 } else { 0 }));
        mask.extend((0..longest).map(|place| i64::from(place < *length)));
    }
    let shape = [lengths.len() as i64, longest as i64];
    let request = || work(vec![ints("input_ids", shape, &ids), ints("attention_mask", shape, &mask)]);
    let first = embed(&onnx, onnx_executor.as_mut(), request()).unwrap();
    let second = embed(&candle, candle_executor.as_mut(), request()).unwrap();
    for (row, (first, second)) in first.iter().zip(&second).enumerate() {
        assert!(farthest(first, second) < 1e-5, "row {row}: {}", farthest(first, second));
        let own = &ids[row * longest..][..lengths[row]];
        let alone = work(vec![ints("input_ids", [1, own.len() as i64], own)]);
        let alone = embed(&onnx, onnx_executor.as_mut(), alone).unwrap();
        assert!(farthest(first, &alone[0]) < BATCH_TOLERANCE);
    }
}

#[test]
fn ids_give_what_their_text_gives() {
    let model = load(ENGINES[0]);
    let mut executor = model.executor(0).unwrap();
    // "How do I reset my password?"
    let ids = [101, 2129, 2079, 1045, 25141, 2026, 20786, 1029, 102];
    let mut padded: Vec<i64> = ids.to_vec();
    padded.extend([0; 7]);
    let mask: Vec<i64> = (0..16).map(|place| i64::from(place < 9)).collect();
    let inputs: Vec<Tensor> = vec![
        ints("input_ids", [1, 16], &padded),
        ints("attention_mask", [1, 16], &mask),
        ints("token_type_ids", [1, 16], &[0; 16]),
    ];
    let by_ids = embed(&model, executor.as_mut(), work(inputs)).unwrap();
    let by_text = embed(&model, executor.as_mut(), texts(&["How do I reset my password?"])).unwrap();
    assert_eq!(by_ids, by_text);
}
