//! A folder's weights in 16 bit, as our kernels take them. Called when a model is loaded for a GPU, and by tests, which run
//! them through the kernels' references.
//!
//! Matrices and tables are rounded to half, to nearest, ties to even: a relative error of 2^-11 at most, for weights above
//! 6e-5. Biases and normalisations stay in 32 bits.

use crate::folder::{Activation, Folder, FolderError, Pooling};
use crate::weights::WeightType;
use half::{bf16, f16};
use penstock_executor::LoadError;
use penstock_kernels::{Architecture, EncoderWeights, LayerWeights, Linear, NormWeights};

/// Reads the weights. Errors: a file that cannot be read; a weight that half cannot hold.
pub(crate) fn read(folder: &Folder) -> Result<EncoderWeights, LoadError> {
    let config = &folder.config;
    let (hidden, wide) = (config.hidden, config.intermediate);
    let mut layers = Vec::with_capacity(config.layers);
    for layer in 0..config.layers {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let own = |part: &str| linear(folder, &name(&format!("attention.self.{part}")), hidden, hidden);
        let [query, key, value] = [own("query")?, own("key")?, own("value")?];
        layers.push(LayerWeights {
            projections: Linear {
                weight: [query.weight, key.weight, value.weight].concat(),
                bias: [query.bias, key.bias, value.bias].concat(),
            },
            attention_output: linear(folder, &name("attention.output.dense"), hidden, hidden)?,
            attention_norm: norm(folder, &name("attention.output.LayerNorm"))?,
            intermediate: linear(folder, &name("intermediate.dense"), wide, hidden)?,
            output: linear(folder, &name("output.dense"), hidden, wide)?,
            output_norm: norm(folder, &name("output.LayerNorm"))?,
        });
    }
    let positions = floats(folder, "embeddings.position_embeddings.weight", &[config.positions, hidden])?;
    let types = floats(folder, "embeddings.token_type_embeddings.weight", &[config.token_types, hidden])?;
    let first_type = types.iter().take(hidden).cycle();
    let places: Vec<f32> = positions.iter().zip(first_type).map(|(position, kind)| position + kind).collect();
    Ok(EncoderWeights {
        architecture: architecture(folder),
        words: halves(folder, "embeddings.word_embeddings.weight", &[config.vocabulary, hidden])?,
        places: rounded("embeddings.position_embeddings.weight", &places)?,
        norm: norm(folder, "embeddings.LayerNorm")?,
        layers,
    })
}

/// What the folder is, beside its weights.
pub(crate) fn architecture(folder: &Folder) -> Architecture {
    Architecture {
        hidden: folder.config.hidden,
        heads: folder.config.heads,
        activation: match folder.config.activation {
            Activation::Gelu => penstock_kernels::Activation::Gelu,
            Activation::GeluTanh => penstock_kernels::Activation::GeluTanh,
            Activation::Relu => penstock_kernels::Activation::Relu,
        },
        eps: folder.config.layer_norm_eps as f32,
        mean: folder.pooling == Pooling::Mean,
        unit: folder.normalize,
    }
}

fn linear(folder: &Folder, name: &str, outputs: usize, inputs: usize) -> Result<Linear, LoadError> {
    Ok(Linear {
        weight: halves(folder, &format!("{name}.weight"), &[outputs, inputs])?,
        bias: floats(folder, &format!("{name}.bias"), &[outputs])?,
    })
}

fn norm(folder: &Folder, name: &str) -> Result<NormWeights, LoadError> {
    let hidden = [folder.config.hidden];
    Ok(NormWeights {
        weight: floats(folder, &format!("{name}.weight"), &hidden)?,
        bias: floats(folder, &format!("{name}.bias"), &hidden)?,
    })
}

fn floats(folder: &Folder, name: &str, shape: &[usize]) -> Result<Vec<f32>, FolderError> {
    let weight = folder.weights.get(name, shape)?;
    let bytes = folder.weights.read(&weight)?;
    let pairs = || bytes.as_chunks::<2>().0.iter().copied();
    Ok(match weight.element {
        WeightType::F32 => bytes.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        WeightType::F16 => pairs().map(|bytes| f16::from_le_bytes(bytes).to_f32()).collect(),
        WeightType::Bf16 => pairs().map(|bytes| bf16::from_le_bytes(bytes).to_f32()).collect(),
    })
}

fn halves(folder: &Folder, name: &str, shape: &[usize]) -> Result<Vec<f16>, LoadError> {
    rounded(name, &floats(folder, name, shape)?)
}

fn rounded(name: &str, values: &[f32]) -> Result<Vec<f16>, LoadError> {
    let halves: Vec<f16> = values.iter().map(|value| f16::from_f32(*value)).collect();
    match values.iter().zip(&halves).find(|(_, half)| !half.is_finite()) {
        None => Ok(halves),
        Some((value, _)) => Err(LoadError::Invalid(format!(
            "{}: '{name}': found {value}; right in 16 bit would be up to 65504. The engine candle computes in 32",
            crate::weights::FILE
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::candle::CandleEncoder;
    use crate::executor::LayoutEncoder;
    use crate::layout::Layout;
    use crate::tests::model_folder;

    /// The references of the kernels, put together, against another implementation: exact, and rounded as on a GPU.
    #[test]
    fn the_kernels_references_make_the_same_embeddings() {
        let folder = Folder::open(&model_folder()).unwrap();
        let rows: [&[u32]; 3] =
            [&[101, 7592, 2088, 102], &[101, 102], &[101, 2054, 2003, 1996, 3007, 1997, 2605, 1029, 102]];
        let mut layout = Layout::default();
        layout.fill(&rows, folder.config.heads, folder.pooling);
        let right = CandleEncoder::open(&folder, &candle_core::Device::Cpu).unwrap().encode(&layout).unwrap();
        let right: Vec<f32> = right.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let weights = read(&folder).unwrap();
        let exact = penstock_kernels::reference::encode(&weights, &rows, |value| value);
        let halves = penstock_kernels::reference::encode(&weights, &rows, |value| f16::from_f32(value).to_f32());
        for (found, most) in [(exact, 2e-4), (halves, 1e-3)] {
            let far = found.iter().zip(&right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(found.len() == right.len() && far < most, "{far} of {most}");
        }
    }

    #[test]
    fn a_weight_that_half_cannot_hold_is_refused_by_name() {
        assert!(rounded("w", &[1.0, 65504.0, -0.0]).is_ok());
        let error = rounded("w", &[1.0, 7e4]).unwrap_err().to_string();
        assert!(error.contains("'w': found 70000"), "{error}");
        assert!(rounded("w", &[f32::NAN]).is_err());
    }
}
