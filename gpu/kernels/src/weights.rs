//! An encoder's weights on the host, as the kernels and their references take them.

use crate::{Activation, HIDDEN_MAX, WIDTHS};
use half::f16;

/// What an encoder is, beside its weights.
#[derive(Debug, Clone, Copy)]
pub struct Architecture {
    /// Values of a token.
    pub hidden: usize,
    /// Heads of attention; `hidden / heads` is one of [`WIDTHS`].
    pub heads: usize,
    /// Of the feed-forward block.
    pub activation: Activation,
    /// Added to each variance.
    pub eps: f32,
    /// Pooling by the mean; else by the first token.
    pub mean: bool,
    /// Embeddings are scaled to length 1.
    pub unit: bool,
}

impl Architecture {
    /// Why the kernels cannot run it, if they cannot; `intermediate` is the feed-forward block's width.
    pub fn unsupported(&self, intermediate: usize) -> Option<String> {
        let Architecture { hidden, heads, .. } = *self;
        let fits = hidden <= HIDDEN_MAX && WIDTHS.iter().any(|width| width * heads == hidden);
        (!fits || !intermediate.is_multiple_of(8)).then(|| {
            format!(
                "{hidden} values a token in {heads} heads, {intermediate} between; the kernels take up to {HIDDEN_MAX} in heads \
                 of {WIDTHS:?}, and a multiple of 8"
            )
        })
    }
}

/// Weight `[outputs, inputs]` and bias of a linear layer.
pub struct Linear {
    /// Row by row.
    pub weight: Vec<f16>,
    /// `[outputs]`.
    pub bias: Vec<f32>,
}

/// Weight and bias of a normalisation.
pub struct NormWeights {
    /// `[hidden]`.
    pub weight: Vec<f32>,
    /// `[hidden]`.
    pub bias: Vec<f32>,
}

/// One layer's weights.
pub struct LayerWeights {
    /// Queries, keys and values in one: `[3 * hidden, hidden]`.
    pub projections: Linear,
    /// `[hidden, hidden]`.
    pub attention_output: Linear,
    /// After attention.
    pub attention_norm: NormWeights,
    /// `[intermediate, hidden]`.
    pub intermediate: Linear,
    /// `[hidden, intermediate]`.
    pub output: Linear,
    /// After the feed-forward block.
    pub output_norm: NormWeights,
}

/// Everything an encoder is.
pub struct EncoderWeights {
    /// What it is, beside its weights.
    pub architecture: Architecture,
    /// `[vocabulary, hidden]`.
    pub words: Vec<f16>,
    /// `[positions, hidden]`, with whatever else is added to every token.
    pub places: Vec<f16>,
    /// Of their sum.
    pub norm: NormWeights,
    /// In order.
    pub layers: Vec<LayerWeights>,
}
