//! BERT sentence encoders from a Hugging Face folder, on ONNX Runtime, on candle, or on a GPU with our own kernels.
//!
//! Called by the environment through [`penstock_executor::Model`]. One folder (`config.json`, `tokenizer.json`,
//! `model.safetensors`, and the sentence-transformers files where there are any) runs on any engine: the same
//! mathematics, the same answer to within 1e-5 in 32 bit, and on our kernels, in 16, to a cosine of 0.99999 or better.
//!
//! **No padding.** The rows of a batch are laid end to end, `[tokens, hidden]`, and every linear layer, normalisation
//! and activation runs on that; only attention sees rows side by side, gathered per head for the length of three
//! operations. Against the same model padded, on ONNX Runtime and one thread, that gave as many sentences per CPU second
//! at equal lengths, and at log-normal lengths of 8 to 256 tokens 1.7 (batches of 8) and 2.8 times as many (of 32), or
//! 1.1 and 2.0 times if rows were sorted by length first (`examples/encode_speed`).
//!
//! Never downloads, never reads the environment, never writes a file.

mod candle;
#[cfg(feature = "cuda")]
mod cuda;
mod executor;
mod folder;
mod graph;
#[cfg(any(test, feature = "cuda"))]
mod half;
mod ids;
mod layout;
mod model;
mod onnx;
mod onnx_proto;
mod plan;
mod tokenize;
mod weights;

pub use candle::variables as candle_variables;
pub use model::{BertModel, BertOptions, Device, Engine};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod variants;
