//! Sample requests made of nothing but the signature. Called at load.

use bytes::Bytes;
use penstock_domain::{Shape, Signature, Tensor, TensorSpec};
use penstock_executor::Work;

/// Most input bytes of one sample: a declared batch of images may be larger than the machine.
const SAMPLE_BYTES_MAX: u64 = 64 << 20;

/// One request of one row and one of the largest batch (or of as many rows as [`SAMPLE_BYTES_MAX`] allows); one request
/// for models that do not batch. Empty if even one row is too large.
pub(crate) fn samples(signature: &Signature) -> Vec<Work> {
    let row_bytes = signature.inputs.iter().filter(|spec| !spec.optional).try_fold(0u64, |sum, spec| {
        sum.checked_add(elements(spec)?.checked_mul(spec.datatype.element_bytes().unwrap_or(STRING_BYTES) as u64)?)
    });
    let most_rows = match row_bytes {
        Some(bytes) => SAMPLE_BYTES_MAX / bytes.max(1),
        None => 0,
    };
    let largest = u64::from(signature.max_batch_size.max(1)).min(most_rows);
    let mut batch_sizes = vec![1, largest];
    batch_sizes.dedup();
    batch_sizes.into_iter().filter(|&rows| rows <= largest).map(|rows| sample(signature, rows)).collect()
}

/// An empty string: its length.
const STRING_BYTES: usize = 4;

fn sample(signature: &Signature, rows: u64) -> Work {
    let batching = signature.max_batch_size > 0;
    let rows_dim = batching.then_some(i64::try_from(rows).unwrap_or(1));
    let tensor = |spec: &TensorSpec| {
        let own = spec.shape.iter().map(|&dim| if dim == -1 { 1 } else { dim });
        let shape: Shape = rows_dim.into_iter().chain(own).collect();
        let size = spec.datatype.element_bytes().unwrap_or(STRING_BYTES) as u64;
        let bytes = elements(spec).expect("samples() saw that it fits") * rows * size;
        let data = Bytes::from(vec![0; usize::try_from(bytes).expect("at most SAMPLE_BYTES_MAX")]);
        Tensor { name: spec.name.clone(), datatype: spec.datatype, shape, data }
    };
    let required = signature.inputs.iter().filter(|spec| !spec.optional);
    Work { inputs: required.map(tensor).collect(), parameters: Vec::new(), outputs: Vec::new() }
}

/// Elements of one row, open dimensions (-1) taken as 1.
fn elements(spec: &TensorSpec) -> Option<u64> {
    spec.shape.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim.unsigned_abs()))
}
