//! Room 1, front end: typed tensor contents into raw ones: little-endian, row-major, every value checked to fit.

use bytes::{BufMut, Bytes, BytesMut};
use penstock_domain::{Datatype, Refusal, Shape, encode_bytes_element};
use penstock_proto::inference::InferTensorContents;

/// The bytes of a typed tensor of `expected` elements. Refuses contents in a field of another type, a wrong number of
/// elements, values that do not fit, and FP16 and BF16, which have no typed form.
pub fn raw_from_contents(
    name: &str,
    datatype: Datatype,
    shape: &Shape,
    expected: u64,
    contents: InferTensorContents,
) -> Result<Bytes, Refusal> {
    let Some(field) = field_of(datatype) else {
        return Err(Refusal::invalid(format!(
            "input '{name}': {datatype} has no typed contents; send it in raw_input_contents"
        )));
    };
    for (other, count) in filled(&contents) {
        if other != field && count > 0 {
            return Err(Refusal::invalid(format!(
                "input '{name}': contents.{other} is filled, but {datatype} belongs into contents.{field}"
            )));
        }
    }
    let got = filled(&contents).into_iter().find(|(other, _)| *other == field).map_or(0, |(_, count)| count as u64);
    if got != expected {
        return Err(Refusal::invalid(format!(
            "input '{name}': expected {expected} {datatype} elements for shape {shape:?}, got {got}"
        )));
    }
    let c = contents;
    match datatype {
        Datatype::Bool => Ok(c.bool_contents.into_iter().map(u8::from).collect()),
        Datatype::Int8 => narrow(name, datatype, &c.int_contents, i8::to_le_bytes),
        Datatype::Int16 => narrow(name, datatype, &c.int_contents, i16::to_le_bytes),
        Datatype::Int32 => Ok(wide(&c.int_contents, i32::to_le_bytes)),
        Datatype::Int64 => Ok(wide(&c.int64_contents, i64::to_le_bytes)),
        Datatype::Uint8 => narrow(name, datatype, &c.uint_contents, u8::to_le_bytes),
        Datatype::Uint16 => narrow(name, datatype, &c.uint_contents, u16::to_le_bytes),
        Datatype::Uint32 => Ok(wide(&c.uint_contents, u32::to_le_bytes)),
        Datatype::Uint64 => Ok(wide(&c.uint64_contents, u64::to_le_bytes)),
        Datatype::Fp32 => Ok(wide(&c.fp32_contents, f32::to_le_bytes)),
        Datatype::Fp64 => Ok(wide(&c.fp64_contents, f64::to_le_bytes)),
        Datatype::Bytes => {
            let total = c.bytes_contents.iter().map(|element| element.len() + 4).sum();
            let mut out = BytesMut::with_capacity(total);
            c.bytes_contents.iter().for_each(|element| encode_bytes_element(&mut out, element));
            Ok(out.freeze())
        }
        Datatype::Fp16 | Datatype::Bf16 => Ok(Bytes::new()),
    }
}

/// The field of `InferTensorContents` a datatype belongs into.
const fn field_of(datatype: Datatype) -> Option<&'static str> {
    match datatype {
        Datatype::Bool => Some("bool_contents"),
        Datatype::Int8 | Datatype::Int16 | Datatype::Int32 => Some("int_contents"),
        Datatype::Int64 => Some("int64_contents"),
        Datatype::Uint8 | Datatype::Uint16 | Datatype::Uint32 => Some("uint_contents"),
        Datatype::Uint64 => Some("uint64_contents"),
        Datatype::Fp32 => Some("fp32_contents"),
        Datatype::Fp64 => Some("fp64_contents"),
        Datatype::Bytes => Some("bytes_contents"),
        Datatype::Fp16 | Datatype::Bf16 => None,
    }
}

/// How many elements each field has.
fn filled(contents: &InferTensorContents) -> [(&'static str, usize); 8] {
    [
        ("bool_contents", contents.bool_contents.len()),
        ("int_contents", contents.int_contents.len()),
        ("int64_contents", contents.int64_contents.len()),
        ("uint_contents", contents.uint_contents.len()),
        ("uint64_contents", contents.uint64_contents.len()),
        ("fp32_contents", contents.fp32_contents.len()),
        ("fp64_contents", contents.fp64_contents.len()),
        ("bytes_contents", contents.bytes_contents.len()),
    ]
}

/// Little-endian bytes of values that are already of their type.
fn wide<T: Copy, const N: usize>(values: &[T], bytes: impl Fn(T) -> [u8; N]) -> Bytes {
    let mut out = BytesMut::with_capacity(values.len() * N);
    values.iter().for_each(|value| out.put_slice(&bytes(*value)));
    out.freeze()
}

/// Little-endian bytes of values that travel wider than they are; each must fit.
fn narrow<T, U, const N: usize>(
    name: &str,
    datatype: Datatype,
    values: &[T],
    bytes: impl Fn(U) -> [u8; N],
) -> Result<Bytes, Refusal>
where
    T: Copy + std::fmt::Display,
    U: TryFrom<T>,
{
    let mut out = BytesMut::with_capacity(values.len() * N);
    for (index, value) in values.iter().enumerate() {
        let narrowed = U::try_from(*value).map_err(|_| {
            Refusal::invalid(format!("input '{name}': element {index} is {value}, which does not fit {datatype}"))
        })?;
        out.put_slice(&bytes(narrowed));
    }
    Ok(out.freeze())
}
