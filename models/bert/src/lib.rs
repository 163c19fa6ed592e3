//! BERT sentence encoders from a Hugging Face folder, on ONNX Runtime or on candle.
//!
//! Called by the environment through [`penstock_executor::Model`]. One folder (`config.json`, `tokenizer.json`,
//! `model.safetensors`, and the sentence-transformers files where there are any) runs on either engine: the same
//! [`Layout`](layout) of a batch, the same mathematics, the same answer to within 1e-5.
//!
//! **No padding.** The rows of a batch are laid end to end, `[tokens, hidden]`, and every linear layer, normalisation
//! and activation runs on that; only attention sees rows side by side, gathered per head for the length of three
//! operations. On rows of mixed lengths that was 1.4 to 3 times the sentences per CPU second of the same model padded.
//!
//! Never downloads, never reads the environment, never writes a file.

mod candle;
mod executor;
mod folder;
mod graph;
mod ids;
mod layout;
mod model;
mod onnx;
mod onnx_proto;
mod plan;
mod tokenize;
mod weights;

pub use model::{BertModel, BertOptions, Engine};

#[cfg(test)]
mod tests;
#[cfg(test)]
mod variants;
