//! What the tests of this crate share: the model, requests for it, and its answers as vectors.
#![allow(dead_code)] // each test file uses its part

use bytes::BytesMut;
use penstock_bert::{BertModel, BertOptions, Device, Engine};
use penstock_domain::{Datatype, ParameterValue, Parameters, Tensor, encode_bytes_element};
use penstock_executor::{Batch, ExecError, Executor, Model, Prepared, Work};
use std::path::PathBuf;

pub(crate) const ENGINES: [Engine; 2] = [Engine::OnnxRuntime, Engine::Candle];

/// Where `models/catalog/fetch.py` puts things.
#[allow(clippy::disallowed_methods)] // a test is its own composition root
fn cache() -> PathBuf {
    let named = std::env::var_os("PENSTOCK_CACHE_DIR").map(PathBuf::from);
    named.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache/penstock"))
}

pub(crate) fn options(engine: Engine) -> BertOptions {
    let folder = cache().join("models/minilm/1");
    assert!(folder.is_dir(), "{} is missing: models/catalog/fetch.py fetches it", folder.display());
    BertOptions {
        folder,
        engine,
        device: Device::Cpu,
        library: cache().join("lib/libonnxruntime.so"),
        threads: 2,
        max_batch_size: 32,
    }
}

pub(crate) fn load(engine: Engine) -> BertModel {
    BertModel::load(options(engine)).unwrap_or_else(|error| panic!("{engine:?}: {error}"))
}

pub(crate) fn bytes_tensor(shape: &[i64], rows: &[&[u8]]) -> Tensor {
    let mut data = BytesMut::new();
    rows.iter().for_each(|row| encode_bytes_element(&mut data, row));
    Tensor {
        name: "text".into(),
        datatype: Datatype::Bytes,
        shape: shape.iter().copied().collect(),
        data: data.freeze(),
    }
}

pub(crate) fn texts(texts: &[&str]) -> Work {
    let rows: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
    work(vec![bytes_tensor(&[texts.len() as i64, 1], &rows)])
}

pub(crate) fn work(inputs: Vec<Tensor>) -> Work {
    Work { inputs, parameters: Parameters::new(), outputs: Vec::new() }
}

pub(crate) fn ints(name: &str, shape: [i64; 2], values: &[i64]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    Tensor { name: name.into(), datatype: Datatype::Int64, shape: shape.into_iter().collect(), data: data.into() }
}

pub(crate) fn parameter(prepared: &Prepared, name: &str) -> Option<i64> {
    prepared.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| match value {
        ParameterValue::Int(value) => *value,
        other => panic!("{name} is {other:?}"),
    })
}

/// The vectors of one batch.
pub(crate) fn embed(model: &BertModel, executor: &mut dyn Executor, work: Work) -> Result<Vec<Vec<f32>>, ExecError> {
    let prepared = model.prepare(work)?;
    let tokens: u64 = prepared.parts.iter().map(|part| u64::from(part.tokens)).sum();
    let outputs = executor.execute(Batch { parts: prepared.parts })?;
    assert_eq!(outputs.padded_tokens, tokens);
    outputs.parts.into_iter().map(|part| Ok(vector(&part?))).collect()
}

fn vector(outputs: &[Tensor]) -> Vec<f32> {
    let [output] = outputs else { panic!("found {} outputs", outputs.len()) };
    assert_eq!(
        (output.name.as_str(), output.datatype, &output.shape[..]),
        ("embedding", Datatype::Fp32, &[1, 384][..])
    );
    output.validate().expect("the shape is that of the bytes");
    output.data.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect()
}

pub(crate) fn cosine(a: &[f32], b: &[f64]) -> f64 {
    let product = |x: &mut dyn Iterator<Item = (f64, f64)>| x.map(|(a, b)| a * b).sum::<f64>();
    let wide = || a.iter().map(|value| f64::from(*value));
    let ab = product(&mut wide().zip(b.iter().copied()));
    let aa = product(&mut wide().zip(wide()));
    let bb = product(&mut b.iter().copied().zip(b.iter().copied()));
    ab / (aa * bb).sqrt()
}

pub(crate) fn farthest(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}
