//! Rows of token ids from `input_ids`, `attention_mask` and `token_type_ids`, for callers that tokenize themselves.
//! Called by the model. Pure: checks everything that a graph would read without asking.

use penstock_domain::Tensor;
use penstock_executor::ExecError;

/// The limits of rows.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RowLimits {
    pub(crate) vocabulary: usize,
    pub(crate) tokens_max: usize,
    /// Whether a longer row is cut or refused.
    pub(crate) truncate: bool,
}

/// The rows of a `[rows, longest]` INT64 matrix, without their padding, and how many of them were cut. The mask says
/// where a row ends; without one, every row is full.
pub(crate) fn rows(
    input_ids: &Tensor,
    attention_mask: Option<&Tensor>,
    token_type_ids: Option<&Tensor>,
    limits: RowLimits,
) -> Result<(Vec<Vec<u32>>, usize), ExecError> {
    let [count, longest] = matrix(input_ids)?;
    let ids = values(input_ids);
    for other in [attention_mask, token_type_ids].into_iter().flatten() {
        if other.shape != input_ids.shape {
            let (name, found, right) = (&other.name, &other.shape, &input_ids.shape);
            return Err(invalid(format!(
                "input '{name}': found shape {found:?}; it must be that of input_ids, {right:?}"
            )));
        }
        matrix(other)?;
    }
    if let Some(types) = token_type_ids
        && let Some(place) = values(types).position(|value| value != 0)
    {
        let (row, position) = (place / longest, place % longest);
        return Err(invalid(format!(
            "input 'token_type_ids': row {row}, position {position}: found a token of the second type; an embedding is \
             of one text, so every type must be 0"
        )));
    }
    let lengths = match attention_mask {
        Some(mask) => lengths(mask, count, longest)?,
        None => vec![longest; count],
    };
    let mut ids = ids;
    let (mut rows, mut cut) = (Vec::with_capacity(count), 0);
    for (row, length) in lengths.into_iter().enumerate() {
        if length == 0 {
            return Err(invalid(format!("input 'input_ids': row {row} has no tokens; a row needs at least 1")));
        }
        if length > limits.tokens_max {
            if !limits.truncate {
                return Err(invalid(format!(
                    "input 'input_ids': row {row} has {length} tokens, at most {} fit; shorten it, or leave the parameter \
                     'truncate' out to have it cut",
                    limits.tokens_max
                )));
            }
            cut += 1;
        }
        let mut tokens = Vec::with_capacity(length.min(limits.tokens_max));
        for (position, id) in ids.by_ref().take(longest).enumerate() {
            if position >= length {
                continue;
            }
            let known = u32::try_from(id).ok().filter(|id| (*id as usize) < limits.vocabulary).ok_or_else(|| {
                let vocabulary = limits.vocabulary;
                invalid(format!(
                    "input 'input_ids': row {row}, position {position}: found id {id}; the vocabulary has {vocabulary} \
                     tokens, 0 to {}",
                    vocabulary - 1
                ))
            })?;
            if position < limits.tokens_max {
                tokens.push(known);
            }
        }
        rows.push(tokens);
    }
    Ok((rows, cut))
}

/// How many ones each row of the mask begins with, if zeros and nothing else follow.
fn lengths(mask: &Tensor, count: usize, longest: usize) -> Result<Vec<usize>, ExecError> {
    let mut values = values(mask);
    let mut lengths = Vec::with_capacity(count);
    for row in 0..count {
        let mut length = 0;
        for (position, value) in values.by_ref().take(longest).enumerate() {
            match value {
                1 if position == length => length += 1,
                0 => {}
                _ => {
                    return Err(invalid(format!(
                        "input 'attention_mask': row {row}, position {position}: found {value}; a row must be ones \
                         followed by zeros (padding on the right)"
                    )));
                }
            }
        }
        lengths.push(length);
    }
    Ok(lengths)
}

fn matrix(tensor: &Tensor) -> Result<[usize; 2], ExecError> {
    let shape = match tensor.shape[..] {
        [rows, columns] => usize::try_from(rows).ok().zip(usize::try_from(columns).ok()),
        _ => None,
    };
    let (name, found) = (&tensor.name, &tensor.shape);
    let (rows, columns) =
        shape.ok_or_else(|| invalid(format!("input '{name}': found shape {found:?}; it must be [rows, tokens]")))?;
    tensor.validate().map_err(|error| invalid(error.to_string()))?;
    Ok([rows, columns])
}

fn values(tensor: &Tensor) -> impl Iterator<Item = i64> + '_ {
    tensor.data.as_chunks::<8>().0.iter().map(|bytes| i64::from_le_bytes(*bytes))
}

fn invalid(message: String) -> ExecError {
    ExecError::Invalid(message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_domain::Datatype;

    const LIMITS: RowLimits = RowLimits { vocabulary: 100, tokens_max: 4, truncate: true };

    fn tensor(name: &str, shape: [i64; 2], values: &[i64]) -> Tensor {
        let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Tensor { name: name.into(), datatype: Datatype::Int64, shape: shape.into_iter().collect(), data: data.into() }
    }

    fn error(ids: &Tensor, mask: Option<&Tensor>, types: Option<&Tensor>, limits: RowLimits) -> String {
        rows(ids, mask, types, limits).unwrap_err().to_string()
    }

    #[test]
    fn the_mask_says_where_rows_end() {
        let ids = tensor("input_ids", [2, 3], &[1, 2, 3, 4, 5, -1]);
        let mask = tensor("attention_mask", [2, 3], &[1, 1, 1, 1, 1, 0]);
        let types = tensor("token_type_ids", [2, 3], &[0; 6]);
        assert_eq!(rows(&ids, Some(&mask), Some(&types), LIMITS), Ok((vec![vec![1, 2, 3], vec![4, 5]], 0)));
        let long = tensor("input_ids", [1, 5], &[1, 2, 3, 4, 5]);
        assert_eq!(rows(&long, None, None, LIMITS), Ok((vec![vec![1, 2, 3, 4]], 1)));
        assert_eq!(rows(&tensor("input_ids", [0, 5], &[]), None, None, LIMITS), Ok((vec![], 0)));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let ids = tensor("input_ids", [2, 2], &[1, 2, 3, 4]);
        let mask = |values| tensor("attention_mask", [2, 2], values);
        assert!(error(&ids, Some(&mask(&[1, 1, 0, 1])), None, LIMITS).contains("row 1, position 1: found 1"));
        assert!(error(&ids, Some(&mask(&[1, 7, 1, 1])), None, LIMITS).contains("ones followed by zeros"));
        assert!(error(&ids, Some(&mask(&[1, 1, 0, 0])), None, LIMITS).contains("row 1 has no tokens"));
        assert!(error(&ids, None, Some(&mask(&[0, 0, 0, 1])), LIMITS).contains("row 1, position 1"));
        let wide = tensor("attention_mask", [1, 4], &[1; 4]);
        assert!(error(&ids, Some(&wide), None, LIMITS).contains("found shape [1, 4]"));
        for (value, text) in [(100, "found id 100; the vocabulary has 100 tokens"), (-3, "found id -3")] {
            let ids = tensor("input_ids", [2, 2], &[1, 2, 3, value]);
            assert!(error(&ids, None, None, LIMITS).contains(text));
            assert!(error(&ids, None, None, LIMITS).contains("row 1, position 1"));
        }
        let flat = Tensor { shape: [4].into_iter().collect(), ..ids.clone() };
        assert!(error(&flat, None, None, LIMITS).contains("[rows, tokens]"));
        let strict = RowLimits { truncate: false, tokens_max: 1, ..LIMITS };
        assert!(error(&ids, None, None, strict).contains("row 0 has 2 tokens, at most 1 fit"));
        assert!(error(&tensor("input_ids", [3, 0], &[]), None, None, LIMITS).contains("row 0 has no tokens"));
        let short = Tensor { data: bytes::Bytes::from_static(&[0; 8]), ..ids };
        assert!(error(&short, None, None, LIMITS).contains("expected 32 bytes"));
    }
}
