//! Room 8, response: the classification extension. The highest classes of a score tensor as text, in place of the
//! values. Pure; shared by the gRPC and the HTTP door.

use bytes::BytesMut;
use penstock_domain::{Datatype, Refusal, Shape, Tensor, encode_bytes_element};

/// The `k` highest classes of every row as BYTES `"value:index"` or `"value:index:label"`, highest first, equal values
/// by index, NaN last; floats as C's `%f`. With `batched`, dimension 0 of `scores` is the batch and the result is
/// `[batch, min(k, classes)]`; else the whole tensor is one row and the result is `[min(k, classes)]`.
pub fn classify(scores: &Tensor, k: u32, labels: &[String], batched: bool) -> Result<Tensor, Refusal> {
    let name = &scores.name;
    let values = Values::of(scores).ok_or_else(|| {
        Refusal::invalid(format!(
            "output '{name}': classification needs numbers, and {} is not offered: ask for the tensor itself",
            scores.datatype
        ))
    })?;
    let batch = match (batched, scores.shape.first()) {
        (true, Some(batch)) => usize::try_from(*batch).unwrap_or(0),
        _ => 1,
    };
    let classes = values.len().checked_div(batch).unwrap_or(0);
    let k = (k as usize).min(classes);
    let mut data = BytesMut::new();
    let mut order: Vec<usize> = Vec::with_capacity(classes);
    for row in 0..batch {
        order.clear();
        order.extend(row * classes..(row + 1) * classes);
        order.sort_by(|left, right| values.order(*right, *left).then(left.cmp(right)));
        for &place in &order[..k] {
            let index = place - row * classes;
            let value = values.text(place);
            let text = match labels.get(index).filter(|label| !label.is_empty()) {
                Some(label) => format!("{value}:{index}:{label}"),
                None => format!("{value}:{index}"),
            };
            encode_bytes_element(&mut data, text.as_bytes());
        }
    }
    let mut shape = Shape::new();
    if batched {
        shape.push(batch as i64);
    }
    shape.push(k as i64);
    Ok(Tensor { name: name.clone(), datatype: Datatype::Bytes, shape, data: data.freeze() })
}

/// Scores, read once.
enum Values {
    Float(Vec<f64>),
    Signed(Vec<i64>),
    Unsigned(Vec<u64>),
}

impl Values {
    /// The numbers of a tensor; `None` for types that are not compared as numbers here.
    fn of(tensor: &Tensor) -> Option<Self> {
        let data = &tensor.data;
        fn read<T, const N: usize>(data: &[u8], number: impl Fn([u8; N]) -> T) -> Vec<T> {
            data.as_chunks::<N>().0.iter().map(|bytes| number(*bytes)).collect()
        }
        Some(match tensor.datatype {
            Datatype::Fp32 => Self::Float(read(data, |b| f64::from(f32::from_le_bytes(b)))),
            Datatype::Fp64 => Self::Float(read(data, f64::from_le_bytes)),
            Datatype::Int8 => Self::Signed(read(data, |b| i64::from(i8::from_le_bytes(b)))),
            Datatype::Int16 => Self::Signed(read(data, |b| i64::from(i16::from_le_bytes(b)))),
            Datatype::Int32 => Self::Signed(read(data, |b| i64::from(i32::from_le_bytes(b)))),
            Datatype::Int64 => Self::Signed(read(data, i64::from_le_bytes)),
            Datatype::Uint8 => Self::Unsigned(read(data, |b| u64::from(u8::from_le_bytes(b)))),
            Datatype::Uint16 => Self::Unsigned(read(data, |b| u64::from(u16::from_le_bytes(b)))),
            Datatype::Uint32 => Self::Unsigned(read(data, |b| u64::from(u32::from_le_bytes(b)))),
            Datatype::Uint64 => Self::Unsigned(read(data, u64::from_le_bytes)),
            Datatype::Bool | Datatype::Fp16 | Datatype::Bf16 | Datatype::Bytes => return None,
        })
    }

    fn len(&self) -> usize {
        match self {
            Self::Float(values) => values.len(),
            Self::Signed(values) => values.len(),
            Self::Unsigned(values) => values.len(),
        }
    }

    /// Ascending, NaN below everything.
    fn order(&self, left: usize, right: usize) -> std::cmp::Ordering {
        match self {
            Self::Float(values) => {
                let (left, right) = (values[left], values[right]);
                left.partial_cmp(&right).unwrap_or_else(|| right.is_nan().cmp(&left.is_nan()))
            }
            Self::Signed(values) => values[left].cmp(&values[right]),
            Self::Unsigned(values) => values[left].cmp(&values[right]),
        }
    }

    /// As C prints it: `%f` for floats.
    fn text(&self, place: usize) -> String {
        match self {
            Self::Float(values) if values[place].is_nan() => "nan".to_owned(),
            Self::Float(values) => format!("{:.6}", values[place]),
            Self::Signed(values) => values[place].to_string(),
            Self::Unsigned(values) => values[place].to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use penstock_domain::bytes_elements;

    fn fp32(shape: &[i64], values: &[f32]) -> Tensor {
        let data = values.iter().flat_map(|value| value.to_le_bytes()).collect::<Bytes>();
        Tensor { name: "p".into(), datatype: Datatype::Fp32, shape: Shape::from_slice(shape), data }
    }

    fn texts(tensor: &Tensor) -> Vec<String> {
        bytes_elements("p", &tensor.data).map(|e| String::from_utf8(e.unwrap().to_vec()).unwrap()).collect()
    }

    #[test]
    fn rows_are_sorted_labelled_and_cut() {
        let labels = ["a".to_owned(), "b".to_owned(), "c".to_owned()];
        let out = classify(&fp32(&[2, 3], &[0.1, 9.0, 0.5, 1.0, -2.0, 1.0]), 2, &labels, true).unwrap();
        assert_eq!(out.shape.as_slice(), [2, 2]);
        assert_eq!(texts(&out), ["9.000000:1:b", "0.500000:2:c", "1.000000:0:a", "1.000000:2:c"]);
        assert_eq!(out.validate(), Ok(()));
    }

    #[test]
    fn without_a_batch_or_labels_and_with_more_than_there_are() {
        let out = classify(&fp32(&[3], &[f32::NAN, f32::NEG_INFINITY, 9.0]), 10, &[], false).unwrap();
        assert_eq!(out.shape.as_slice(), [3]);
        assert_eq!(texts(&out), ["9.000000:2", "-inf:1", "nan:0"]);
        let empty = classify(&fp32(&[0, 3], &[]), 2, &[], true).unwrap();
        assert_eq!((empty.shape.as_slice(), empty.data.len()), ([0, 0].as_slice(), 0));
    }

    #[test]
    fn whole_numbers_stay_whole_and_text_is_refused() {
        let data = Bytes::from_static(&[1, 255, 3]);
        let mut tensor = Tensor { name: "p".into(), datatype: Datatype::Int8, shape: Shape::from_slice(&[3]), data };
        assert_eq!(texts(&classify(&tensor, 3, &[], false).unwrap()), ["3:2", "1:0", "-1:1"]);
        tensor.datatype = Datatype::Bytes;
        assert!(classify(&tensor, 1, &[], false).unwrap_err().message.contains("BYTES"));
    }
}
