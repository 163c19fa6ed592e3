//! Checks a request against the signature and makes its one part. Called on the environment's own thread for every
//! request: pure, and cheap. Texts follow Triton's where it has one, so that people find them.

use penstock_domain::{Signature, Tensor, TensorSpec};
use penstock_executor::{ExecError, Part, PartInput, Prepared, Work};
use std::hash::{DefaultHasher, Hash, Hasher};

/// Checks `work`. The part's tensors come in the signature's order; an optional input that was left out is left out.
/// Requested outputs are only checked: a graph runs whole, and strangers who want different outputs share a batch.
pub(crate) fn prepare(signature: &Signature, work: Work) -> Result<Prepared, ExecError> {
    for (index, output) in work.outputs.iter().enumerate() {
        if signature.outputs.iter().all(|spec| spec.name != output.name) {
            let expected = names(signature.outputs.iter());
            return Err(invalid(format!("unexpected inference output '{}', expected {expected}", output.name)));
        }
        if work.outputs[..index].iter().any(|earlier| earlier.name == output.name) {
            return Err(invalid(format!("output '{}' is requested twice, expected once", output.name)));
        }
    }
    let tensors = in_order(signature, work.inputs)?;
    let mut kind = DefaultHasher::new();
    let mut rows: Option<(&str, i64)> = None;
    let batching = signature.max_batch_size > 0;
    for (position, spec, tensor) in &tensors {
        check(spec, tensor, batching)?;
        let first = if batching { tensor.shape[0] } else { 1 };
        match rows {
            Some((name, rows)) if rows != first => {
                return Err(invalid(format!(
                    "input '{}' batch size {first} does not match the other inputs: '{name}' has {rows}",
                    spec.name
                )));
            }
            _ => rows = Some((&spec.name, first)),
        }
        (position, tensor.datatype, &tensor.shape[usize::from(batching)..]).hash(&mut kind);
    }
    let (name, rows) = rows.unwrap_or(("", 1));
    if rows == 0 {
        return Err(invalid(format!("input '{name}' has an empty batch: found 0 rows, expected 1 or more")));
    }
    let items = u32::try_from(rows).unwrap_or(u32::MAX);
    if batching && items > signature.max_batch_size {
        return Err(invalid(format!(
            "inference request batch-size must be <= {}, found {rows} rows in input '{name}'",
            signature.max_batch_size
        )));
    }
    let kind = kind.finish();
    let input = PartInput::Tensors(tensors.into_iter().map(|(_, _, tensor)| tensor).collect());
    Ok(Prepared { parts: vec![Part { input, items, tokens: 0, kind }], parameters: Vec::new() })
}

/// Pairs tensors with their specs, in the signature's order.
fn in_order(signature: &Signature, inputs: Vec<Tensor>) -> Result<Vec<(usize, &TensorSpec, Tensor)>, ExecError> {
    let mut places: Vec<Option<Tensor>> = vec![None; signature.inputs.len()];
    for tensor in inputs {
        let Some(position) = signature.inputs.iter().position(|spec| spec.name == tensor.name) else {
            let expected = names(signature.inputs.iter());
            return Err(invalid(format!("unexpected inference input '{}', expected {expected}", tensor.name)));
        };
        if places[position].is_some() {
            return Err(invalid(format!("input '{}' is given twice, expected once", tensor.name)));
        }
        places[position] = Some(tensor);
    }
    let missing: Vec<_> = signature.inputs.iter().zip(&places).filter(|(s, p)| !s.optional && p.is_none()).collect();
    if !missing.is_empty() {
        let required = signature.inputs.iter().filter(|spec| !spec.optional).count();
        return Err(invalid(format!(
            "expected {required} inputs but got {}: missing required input {}",
            places.iter().flatten().count(),
            names(missing.into_iter().map(|(spec, _)| spec))
        )));
    }
    let paired = signature.inputs.iter().zip(places).enumerate();
    Ok(paired.filter_map(|(position, (spec, place))| Some((position, spec, place?))).collect())
}

fn check(spec: &TensorSpec, tensor: &Tensor, batching: bool) -> Result<(), ExecError> {
    if tensor.datatype != spec.datatype {
        return Err(invalid(format!(
            "inference input '{}' data-type is '{}', but the model expects '{}'",
            spec.name, tensor.datatype, spec.datatype
        )));
    }
    let skipped = usize::from(batching);
    let fits = |(&expected, &found): (&i64, &i64)| expected == -1 || expected == found;
    if tensor.shape.len() != spec.shape.len() + skipped || !spec.shape.iter().zip(&tensor.shape[skipped..]).all(fits) {
        let batch = if batching { "; the first dimension is the batch" } else { "" };
        let expected: Vec<i64> = std::iter::repeat_n(-1, skipped).chain(spec.shape.iter().copied()).collect();
        return Err(invalid(format!(
            "unexpected shape for input '{}': expected {expected:?}, got {:?}{batch}",
            spec.name,
            tensor.shape.as_slice()
        )));
    }
    Ok(())
}

fn names<'a>(specs: impl Iterator<Item = &'a TensorSpec>) -> String {
    specs.map(|spec| format!("'{}'", spec.name)).collect::<Vec<_>>().join(", ")
}

fn invalid(text: String) -> ExecError {
    ExecError::Invalid(text)
}
