//! What the tests of this crate share: where the library, the models and the graphs are, and short ways to say things.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // every test file uses some of it

use bytes::Bytes;
use penstock_domain::{Datatype, RequestedOutput, Tensor};
use penstock_executor::{Batch, ExecError, Executor, Model, Part, PartOutputs, Work};
use penstock_onnx::{OnnxModel, OnnxOptions};
use std::path::{Path, PathBuf};

/// A file of the cache that `models/catalog/fetch.py` fills.
#[allow(clippy::disallowed_methods)] // tests are composition roots
pub fn cached(file: &str) -> PathBuf {
    let cache = std::env::var_os("PENSTOCK_CACHE_DIR").map(PathBuf::from).unwrap_or_else(|| {
        Path::new(&std::env::var_os("HOME").expect("HOME or PENSTOCK_CACHE_DIR is set")).join(".cache/penstock")
    });
    let path = cache.join(file);
    assert!(path.exists(), "{} is missing: run models/catalog/fetch.py", path.display());
    path
}

pub fn library() -> PathBuf {
    cached("lib/libonnxruntime.so")
}

pub fn graph(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/graphs").join(name)
}

/// Options of a graph of ours, everything derived.
pub fn options(name: &str) -> OnnxOptions {
    OnnxOptions { library: library(), file: graph(name), threads_per_worker: 1, ..OnnxOptions::default() }
}

pub fn load(name: &str) -> OnnxModel {
    OnnxModel::load(options(name)).unwrap()
}

pub fn tensor(name: &str, datatype: Datatype, shape: &[i64], data: impl Into<Bytes>) -> Tensor {
    let tensor = Tensor { name: name.into(), datatype, shape: shape.iter().copied().collect(), data: data.into() };
    tensor.validate().unwrap();
    tensor
}

pub fn floats(name: &str, shape: &[i64], values: &[f32]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, Datatype::Fp32, shape, data)
}

pub fn integers(name: &str, shape: &[i64], values: &[i64]) -> Tensor {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, Datatype::Int64, shape, data)
}

pub fn words(name: &str, shape: &[i64], values: &[&[u8]]) -> Tensor {
    let mut data = bytes::BytesMut::new();
    values.iter().for_each(|value| penstock_domain::encode_bytes_element(&mut data, value));
    tensor(name, Datatype::Bytes, shape, data.freeze())
}

pub fn values(tensor: &Tensor) -> Vec<f32> {
    assert_eq!(tensor.datatype, Datatype::Fp32);
    tensor.data.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

pub fn work(inputs: Vec<Tensor>) -> Work {
    Work { inputs, parameters: Vec::new(), outputs: Vec::new() }
}

pub fn asking(inputs: Vec<Tensor>, outputs: &[&str]) -> Work {
    let requested = |name: &&str| RequestedOutput { name: (*name).into(), classification: 0 };
    Work { outputs: outputs.iter().map(requested).collect(), ..work(inputs) }
}

pub fn part(model: &OnnxModel, inputs: Vec<Tensor>) -> Part {
    model.prepare(work(inputs)).unwrap().parts.pop().unwrap()
}

/// Runs requests as one batch; every output is checked to be consistent.
pub fn run(executor: &mut dyn Executor, parts: Vec<Part>) -> Result<Vec<Result<PartOutputs, ExecError>>, ExecError> {
    let count = parts.len();
    let outputs = executor.execute(Batch { parts })?.parts;
    assert_eq!(outputs.len(), count);
    outputs.iter().flatten().flatten().for_each(|output| output.validate().unwrap());
    Ok(outputs)
}

/// Runs one request and expects it to work.
pub fn answer(model: &OnnxModel, inputs: Vec<Tensor>) -> PartOutputs {
    let mut executor = model.executor(0).unwrap();
    run(executor.as_mut(), vec![part(model, inputs)]).unwrap().pop().unwrap().unwrap()
}
