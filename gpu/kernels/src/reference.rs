//! What each kernel computes, on the CPU, for tests: plain loops with sums of 64 bits. Values are as stored, that is, what
//! a kernel reads as half is given here after rounding to half.

use crate::weights::{Architecture, EncoderWeights, Linear, NormWeights};
use half::f16;

/// The activation between the two halves of a feed-forward block. The number is the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Activation {
    /// `x * Phi(x)`, by the error function.
    Gelu = 0,
    /// The tanh approximation.
    GeluTanh = 1,
    /// `max(x, 0)`.
    Relu = 2,
}

/// Weight and bias of a layer normalisation, `[hidden]` each.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    /// Factors.
    pub weight: &'a [f32],
    /// Terms.
    pub bias: &'a [f32],
    /// Added to the variance.
    pub eps: f32,
}

impl Norm<'_> {
    fn apply(&self, line: &[f64]) -> impl Iterator<Item = f32> {
        let mean = line.iter().sum::<f64>() / line.len() as f64;
        let variance = line.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / line.len() as f64;
        let scale = 1.0 / (variance + f64::from(self.eps)).sqrt();
        let scaled = line.iter().map(move |x| (x - mean) * scale);
        let affine = scaled.zip(self.weight.iter().zip(self.bias));
        affine.map(|(x, (weight, bias))| (x * f64::from(*weight) + f64::from(*bias)) as f32)
    }
}

/// Embeddings: `norm(words[id] + places[position])`, `[tokens, hidden]`.
pub fn embed(ids: &[u32], positions: &[u32], words: &[f32], places: &[f32], norm: Norm) -> Vec<f32> {
    let hidden = norm.weight.len();
    let mut out = Vec::with_capacity(ids.len() * hidden);
    for (&id, &position) in ids.iter().zip(positions) {
        let (word, place) = (&words[id as usize * hidden..], &places[position as usize * hidden..]);
        let line: Vec<f64> = (0..hidden).map(|i| f64::from(word[i]) + f64::from(place[i])).collect();
        out.extend(norm.apply(&line));
    }
    out
}

/// After a linear layer: `norm(product + product_bias + state)`, `[tokens, hidden]`.
pub fn add_norm(product: &[f32], product_bias: &[f32], state: &[f32], norm: Norm) -> Vec<f32> {
    let hidden = norm.weight.len();
    let mut out = Vec::with_capacity(product.len());
    for (product, state) in product.chunks_exact(hidden).zip(state.chunks_exact(hidden)) {
        let term = |i: usize| f64::from(product[i]) + f64::from(product_bias[i]) + f64::from(state[i]);
        let line: Vec<f64> = (0..hidden).map(term).collect();
        out.extend(norm.apply(&line));
    }
    out
}

/// `activation(value + bias)`; `bias` is one line, `[width]`.
pub fn activate(values: &[f32], bias: &[f32], activation: Activation) -> Vec<f32> {
    let of = |x: f64| match activation {
        Activation::Gelu => 0.5 * x * (1.0 + erf(x / 2f64.sqrt())),
        Activation::GeluTanh => {
            0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        }
        Activation::Relu => x.max(0.0),
    };
    values.iter().zip(bias.iter().cycle()).map(|(x, bias)| of(f64::from(*x) + f64::from(*bias)) as f32).collect()
}

/// Attention of each row to itself. `projected` is `[tokens, 3, heads, width]` (queries, keys, values) without its `bias`,
/// `[3, heads, width]`; `lengths` are the rows' tokens. Gives `[tokens, heads, width]`.
pub fn attend(projected: &[f32], bias: &[f32], lengths: &[usize], heads: usize, width: usize) -> Vec<f32> {
    let hidden = heads * width;
    let at = |token: usize, part: usize, head: usize, i: usize| {
        let place = part * hidden + head * width + i;
        f64::from(projected[token * 3 * hidden + place]) + f64::from(bias[place])
    };
    let scale = 1.0 / (width as f64).sqrt();
    let mut out = vec![0.0; lengths.iter().sum::<usize>() * hidden];
    let mut start = 0;
    for &length in lengths {
        for head in 0..heads {
            for query in start..start + length {
                let score = |key: usize| (0..width).map(|i| at(query, 0, head, i) * at(key, 1, head, i)).sum::<f64>();
                let scores: Vec<f64> = (start..start + length).map(|key| score(key) * scale).collect();
                let most = scores.iter().copied().fold(f64::MIN, f64::max);
                let weights: Vec<f64> = scores.iter().map(|score| (score - most).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for i in 0..width {
                    let value = weights.iter().enumerate().map(|(key, w)| w * at(start + key, 2, head, i)).sum::<f64>();
                    out[query * hidden + head * width + i] = (value / sum) as f32;
                }
            }
        }
        start += length;
    }
    out
}

/// One vector a row, `[rows, hidden]`: the mean of its tokens or its first, scaled to length 1 if `unit`.
pub fn pool(state: &[f32], lengths: &[usize], hidden: usize, mean: bool, unit: bool) -> Vec<f32> {
    let (mut out, mut start) = (Vec::new(), 0);
    for &length in lengths {
        let tokens = if mean { length } else { 1 };
        let sum = |i: usize| (start..start + tokens).map(|token| f64::from(state[token * hidden + i])).sum::<f64>();
        let line: Vec<f64> = (0..hidden).map(|i| sum(i) / tokens as f64).collect();
        let size = if unit { line.iter().map(|x| x * x).sum::<f64>().sqrt() } else { 1.0 };
        out.extend(line.iter().map(|x| (x / size) as f32));
        start += length;
    }
    out
}

/// The whole encoder: one vector a row, `[rows, hidden]`. `rounded` is applied wherever a kernel stores halves: the identity gives
/// what the weights mean, rounding to half what the kernels should give.
pub fn encode(weights: &EncoderWeights, rows: &[&[u32]], rounded: impl Fn(f32) -> f32) -> Vec<f32> {
    let EncoderWeights { architecture, layers, .. } = weights;
    let Architecture { hidden, heads, activation, eps, mean, unit } = *architecture;
    let stored = |values: Vec<f32>| -> Vec<f32> { values.into_iter().map(&rounded).collect() };
    let wide = |values: &[f16]| -> Vec<f32> { values.iter().map(|value| value.to_f32()).collect() };
    let norm = |norm: &NormWeights| (norm.weight.clone(), norm.bias.clone());
    let normed =
        |(weight, bias): &(Vec<f32>, Vec<f32>), run: &dyn Fn(Norm) -> Vec<f32>| stored(run(Norm { weight, bias, eps }));
    let ids: Vec<u32> = rows.concat();
    let positions: Vec<u32> = rows.iter().flat_map(|row| 0..row.len() as u32).collect();
    let lengths: Vec<usize> = rows.iter().map(|row| row.len()).collect();
    let (words, places) = (wide(&weights.words), wide(&weights.places));
    let mut state = normed(&norm(&weights.norm), &|norm| embed(&ids, &positions, &words, &places, norm));
    for layer in layers {
        let projected = stored(multiply(&state, &layer.projections));
        let context = stored(attend(&projected, &layer.projections.bias, &lengths, heads, hidden / heads));
        let product = stored(multiply(&context, &layer.attention_output));
        let bias = &layer.attention_output.bias;
        state = normed(&norm(&layer.attention_norm), &|norm| add_norm(&product, bias, &state, norm));
        let between = stored(multiply(&state, &layer.intermediate));
        let active = stored(activate(&between, &layer.intermediate.bias, activation));
        let product = stored(multiply(&active, &layer.output));
        state = normed(&norm(&layer.output_norm), &|norm| add_norm(&product, &layer.output.bias, &state, norm));
    }
    pool(&state, &lengths, hidden, mean, unit)
}

/// A linear layer without its bias.
fn multiply(input: &[f32], linear: &Linear) -> Vec<f32> {
    let inputs = linear.weight.len() / linear.bias.len();
    let weight: Vec<f64> = linear.weight.iter().map(|weight| weight.to_f64()).collect();
    let product = |line: &[f32], weights: &[f64]| line.iter().zip(weights).map(|(x, w)| f64::from(*x) * w).sum::<f64>();
    let lines = input.chunks_exact(inputs);
    lines.flat_map(|line| weight.chunks_exact(inputs).map(move |weights| product(line, weights) as f32)).collect()
}

/// The error function to 1e-12: its series near zero, else its continued fraction (Abramowitz and Stegun, 7.1.6 and 7.1.14).
fn erf(x: f64) -> f64 {
    let size = x.abs();
    let value = if size < 3.0 {
        let (mut term, mut sum) = (size, size);
        for n in 1..200 {
            term *= 2.0 * size * size / (2 * n + 1) as f64;
            sum += term;
        }
        2.0 / std::f64::consts::PI.sqrt() * (-size * size).exp() * sum
    } else {
        let fraction = (1..60).rev().fold(0.0, |below, n| n as f64 / 2.0 / (size + below));
        1.0 - (-size * size).exp() / (std::f64::consts::PI.sqrt() * (size + fraction))
    };
    value.copysign(x)
}

#[cfg(test)]
mod tests {
    use super::erf;

    #[test]
    fn the_error_function_is_as_tabulated() {
        // Abramowitz and Stegun, table 7.1; for 4: 1 - erfc(4).
        let table =
            [(0.0, 0.0), (0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650), (4.0, 0.999_999_984_582_742_1)];
        for (x, value) in table {
            assert!((erf(x) - value).abs() < 1e-10, "erf({x}) = {}", erf(x));
            assert_eq!(erf(-x), -erf(x));
        }
    }
}
