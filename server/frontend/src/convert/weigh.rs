//! Room 1, front end: what an inference message becomes in memory, found before it is decoded. Pure.
//!
//! Called by the gRPC door's codec. Two bytes on the wire can be an empty tensor of hundreds in memory, and a one-byte
//! number an element of eight; the share taken for the message's own bytes does not cover that.

use penstock_proto::inference::InferParameter;
use penstock_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use std::mem::size_of;

/// An entry of a parameter map: key, value and the table's own bytes, with as much again for its growth.
const PARAMETER_BYTES: u64 = 2 * size_of::<(String, InferParameter)>() as u64;
/// Raw contents: one shared buffer's handle; twice because lists grow by doubling.
const HANDLE_BYTES: u64 = 2 * size_of::<bytes::Bytes>() as u64;
/// A typed element is held once decoded, in a list that may have doubled in vain, and once in its raw form.
const TYPED_COPIES: u64 = 3;

/// Bytes that decoding `message`, a `ModelInferRequest`, takes beside the message itself: an upper estimate, from its
/// field heads alone. `None` if it cannot be read to its end: it is broken off, or has groups, which the protocol does not
/// know and which would hide what comes behind them.
pub fn weigh(message: &[u8]) -> Option<u64> {
    sum(message, |field| {
        Some(match field.number {
            4 => PARAMETER_BYTES + field.len(),
            5 => 2 * size_of::<InferInputTensor>() as u64 + weigh_input(field.bytes)?,
            6 => 2 * size_of::<InferRequestedOutputTensor>() as u64 + weigh_output(field.bytes)?,
            7 => HANDLE_BYTES,
            _ => field.len(),
        })
    })
}

fn weigh_input(input: &[u8]) -> Option<u64> {
    sum(input, |field| {
        Some(match field.number {
            3 => 2 * field.elements() * size_of::<i64>() as u64,
            4 => PARAMETER_BYTES + field.len(),
            5 => weigh_contents(field.bytes)?,
            _ => field.len(),
        })
    })
}

fn weigh_output(output: &[u8]) -> Option<u64> {
    sum(output, |field| Some(if field.number == 2 { PARAMETER_BYTES + field.len() } else { field.len() }))
}

/// `InferTensorContents`: lists of numbers, packed or one by one, and of byte strings.
fn weigh_contents(contents: &[u8]) -> Option<u64> {
    let bytes_of = |field: &Field| match field.number {
        1 => 1,
        3 | 5 | 7 => 8,
        _ => 4,
    };
    sum(contents, |field| {
        Some(match field.number {
            8 => HANDLE_BYTES + 4 + field.len(),
            6 | 7 if field.packed => TYPED_COPIES * field.len(),
            _ => TYPED_COPIES * field.elements() * bytes_of(field),
        })
    })
}

/// The weight of a message whose fields weigh so much.
fn sum(message: &[u8], weight: impl Fn(&Field) -> Option<u64>) -> Option<u64> {
    let mut fields = Fields(message);
    let mut all = 0u64;
    while !fields.0.is_empty() {
        all = all.saturating_add(weight(&fields.next()?)?);
    }
    Some(all)
}

/// One field of a message.
struct Field<'a> {
    number: u64,
    /// Length-delimited: `bytes` is its content. Else `bytes` is empty.
    packed: bool,
    bytes: &'a [u8],
}

impl Field<'_> {
    fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Most numbers it can hold: varints end at every byte below 128.
    fn elements(&self) -> u64 {
        if self.packed { self.bytes.iter().filter(|byte| **byte < 0x80).count() as u64 } else { 1 }
    }
}

/// What is left of a message.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.0.split_first()?;
            self.0 = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if *byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(usize::try_from(length).ok()?)?;
        self.0 = rest;
        Some(taken)
    }

    /// The next field; `None` if there is no whole one.
    fn next(&mut self) -> Option<Field<'a>> {
        let key = self.varint()?;
        let number = key >> 3;
        let single = Field { number, packed: false, bytes: &[] };
        match key & 7 {
            0 => self.varint().map(|_| single),
            1 => self.take(8).map(|_| single),
            2 => {
                let length = self.varint()?;
                self.take(length).map(|bytes| Field { number, packed: true, bytes })
            }
            5 => self.take(4).map(|_| single),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_proto::inference::{InferTensorContents, ModelInferRequest};
    use prost::Message;

    fn weight(inputs: Vec<InferInputTensor>, raw: Vec<bytes::Bytes>) -> (u64, u64) {
        let request = ModelInferRequest { inputs, raw_input_contents: raw, ..Default::default() };
        let message = request.encode_to_vec();
        (weigh(&message).unwrap(), message.len() as u64)
    }

    fn typed(contents: InferTensorContents) -> (u64, u64) {
        weight(vec![InferInputTensor { contents: Some(contents), ..Default::default() }], Vec::new())
    }

    #[test]
    fn raw_tensors_cost_next_to_nothing_more() {
        let input = InferInputTensor {
            name: "x".into(),
            datatype: "FP32".into(),
            shape: vec![1, 1 << 20],
            ..Default::default()
        };
        let (weight, message) = weight(vec![input], vec![vec![0; 4 << 20].into()]);
        assert!(weight < 2048 && message > 4 << 20, "{weight}");
    }

    #[test]
    fn what_grows_is_weighed() {
        let empty = vec![InferInputTensor::default(); 1000];
        assert!(weight(empty, Vec::new()).0 >= 1000 * size_of::<InferInputTensor>() as u64);
        assert!(weight(Vec::new(), vec![bytes::Bytes::new(); 1000]).0 >= 32_000);
        let zeros = |count| InferTensorContents { int64_contents: vec![0; count], ..Default::default() };
        let (weight, message) = typed(zeros(100_000));
        assert!(message < 101_000 && weight >= 2 * 800_000, "{weight}");
        let negative = InferTensorContents { int_contents: vec![-1; 1000], ..Default::default() };
        let weight = typed(negative).0;
        assert!((8_000..14_000).contains(&weight), "ten bytes each on the wire, four in memory, not {weight}");
        let texts = InferTensorContents { bytes_contents: vec![bytes::Bytes::new(); 1000], ..Default::default() };
        assert!(typed(texts).0 >= 36_000);
        let floats = InferTensorContents { fp64_contents: vec![0.5; 1000], ..Default::default() };
        assert!(typed(floats).0 >= 16_000);
    }

    #[test]
    fn what_cannot_be_read_to_its_end_has_no_weight() {
        for bytes in [
            &[0xff; 20][..],
            &[0x2a],
            &[0x2a, 0x05, 0x1a],
            &[0x0b, 0x01],
            &[0x2a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f],
            // An unknown, empty group, which prost passes over, and a tensor behind it; the same within an input.
            &[0xa3, 0x06, 0xa4, 0x06, 0x2a, 0x00],
            &[0x2a, 0x04, 0xa3, 0x06, 0xa4, 0x06],
        ] {
            assert_eq!(weigh(bytes), None, "{bytes:x?}");
        }
        // Elements of their own, not packed: key and value, again and again.
        let mut contents = Vec::new();
        (0..1000).for_each(|_| contents.extend([0x18, 0x07]));
        assert_eq!(weigh_contents(&contents), Some(1000 * 8 * TYPED_COPIES));
    }
}
