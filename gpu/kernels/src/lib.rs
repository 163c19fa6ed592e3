//! Our CUDA kernels: a BERT encoder's steps on rows laid end to end, without padding anywhere.
//!
//! Called by the encoder's engine on a GPU. [`reference`] says what each kernel computes and is what tests compare with;
//! `encoder.cu` is how; with the feature `cuda` there are the launches, which check what a kernel relies on.

pub mod reference;
mod weights;

#[cfg(feature = "cuda")]
mod forward;
#[cfg(feature = "cuda")]
mod launch;
#[cfg(feature = "cuda")]
pub use forward::{Encoder, Weights};

pub use reference::Activation;
pub use weights::{Architecture, EncoderWeights, LayerWeights, Linear, NormWeights};

/// Queries of one block of attention.
const TILE: usize = 64;
/// Largest `hidden` that the kernels take; it must be even, too.
pub const HIDDEN_MAX: usize = 1024;
/// Widths of a head that the kernels take.
pub const WIDTHS: [usize; 2] = [32, 64];

/// The blocks of attention for rows of `lengths` tokens, none of them empty: where the row starts, its tokens, the block's
/// first query, and nothing. A block with 0 tokens does nothing.
pub fn tiles(lengths: impl Iterator<Item = usize>) -> impl Iterator<Item = [u32; 4]> {
    let placed = lengths.scan(0, |end, length| {
        *end += length;
        Some((*end - length, length))
    });
    placed.flat_map(|(start, length)| {
        (0..length).step_by(TILE).map(move |first| [start, length, first, 0].map(|number| number as u32))
    })
}

#[cfg(test)]
mod tests {
    use super::tiles;

    #[test]
    fn every_query_has_one_block() {
        assert_eq!(
            tiles([3, 64, 130].into_iter()).collect::<Vec<_>>(),
            [[0, 3, 0, 0], [3, 64, 0, 0], [67, 130, 0, 0], [67, 130, 64, 0], [67, 130, 128, 0]]
        );
    }
}
