//! Room 1, front end: the `data` of an OIP tensor in JSON, straight to row-major little-endian bytes and back.
//!
//! Called by `infer_request` and `infer_response`. Nested arrays are flattened, as every OIP server does. Integers
//! must be written as integers and fit their type; a number that would overflow a float type is refused rather than
//! turned into infinity. `NaN`, `Infinity` and `-Infinity` are read bare (Python's and Triton's way) or in quotes
//! (protobuf's way), and written in quotes: that is valid JSON, and numpy turns it into the number again.

use super::json::{Cursor, JsonError};
use bytes::{BufMut, Bytes, BytesMut};
use half::{bf16, f16};
use penstock_domain::{Datatype, Refusal, Tensor, TensorError, bytes_elements, encode_bytes_element};
use std::fmt::Display;
use std::str::FromStr;

/// Reads the elements at the cursor, at most `count_max` of them. Also returns how many there were.
pub(crate) fn read_elements(
    cursor: &mut Cursor<'_>,
    name: &str,
    datatype: Datatype,
    count_max: u64,
    left_bytes: usize,
) -> Result<(Bytes, u64), JsonError> {
    // Two bytes of text make an element at most; a shape that promises more than the text can hold reserves no more.
    let count_possible = count_max.min(left_bytes as u64 / 2 + 1) as usize;
    let mut out = BytesMut::with_capacity(count_possible * datatype.element_bytes().unwrap_or(4));
    let count = match datatype {
        Datatype::Bool => walk(cursor, name, count_max, |cursor| {
            let value = match cursor.peek() {
                Some(b'0' | b'1') => integer::<u8>(cursor, name, "BOOL", (0, 1))?,
                Some(b't' | b'f') => u8::from(cursor.boolean("true or false")?),
                _ => return Err(cursor.wrong(format_args!("true or false (BOOL) in `data` of input '{name}'"))),
            };
            out.put_u8(value);
            Ok(())
        }),
        Datatype::Bytes => walk(cursor, name, count_max, |cursor| {
            if cursor.peek() != Some(b'"') {
                return Err(cursor.wrong(format_args!("a string (BYTES) in `data` of input '{name}'")));
            }
            let text = cursor.string("a string")?;
            encode_bytes_element(&mut out, text.as_bytes());
            Ok(())
        }),
        Datatype::Uint8 => integers(cursor, name, count_max, "UINT8", (u8::MIN, u8::MAX), |v| out.put_u8(v)),
        Datatype::Uint16 => integers(cursor, name, count_max, "UINT16", (u16::MIN, u16::MAX), |v| out.put_u16_le(v)),
        Datatype::Uint32 => integers(cursor, name, count_max, "UINT32", (u32::MIN, u32::MAX), |v| out.put_u32_le(v)),
        Datatype::Uint64 => integers(cursor, name, count_max, "UINT64", (u64::MIN, u64::MAX), |v| out.put_u64_le(v)),
        Datatype::Int8 => integers(cursor, name, count_max, "INT8", (i8::MIN, i8::MAX), |v| out.put_i8(v)),
        Datatype::Int16 => integers(cursor, name, count_max, "INT16", (i16::MIN, i16::MAX), |v| out.put_i16_le(v)),
        Datatype::Int32 => integers(cursor, name, count_max, "INT32", (i32::MIN, i32::MAX), |v| out.put_i32_le(v)),
        Datatype::Int64 => integers(cursor, name, count_max, "INT64", (i64::MIN, i64::MAX), |v| out.put_i64_le(v)),
        Datatype::Fp16 => floats(cursor, name, count_max, "FP16", |v: f64| {
            let narrow = f16::from_f64(v);
            out.put_u16_le(narrow.to_bits());
            narrow.is_infinite()
        }),
        Datatype::Bf16 => floats(cursor, name, count_max, "BF16", |v: f64| {
            let narrow = bf16::from_f64(v);
            out.put_u16_le(narrow.to_bits());
            narrow.is_infinite()
        }),
        Datatype::Fp32 => floats(cursor, name, count_max, "FP32", |v: f32| {
            out.put_f32_le(v);
            v.is_infinite()
        }),
        Datatype::Fp64 => floats(cursor, name, count_max, "FP64", |v: f64| {
            out.put_f64_le(v);
            v.is_infinite()
        }),
    }?;
    Ok((out.freeze(), count))
}

/// Walks nested arrays without recursion, in order. `element` reads one leaf.
fn walk(
    cursor: &mut Cursor<'_>,
    name: &str,
    count_max: u64,
    mut element: impl FnMut(&mut Cursor<'_>) -> Result<(), JsonError>,
) -> Result<u64, JsonError> {
    #[derive(PartialEq)]
    enum After {
        Open,
        Comma,
        Value,
    }
    if !cursor.accept(b'[') {
        return Err(cursor.wrong(format_args!("an array as `data` of input '{name}'")));
    }
    let (mut depth, mut count, mut after) = (1usize, 0u64, After::Open);
    while depth > 0 {
        match (cursor.peek(), &after) {
            (Some(b']'), After::Open | After::Value) => {
                cursor.step();
                depth -= 1;
                after = After::Value;
            }
            (Some(b','), After::Value) => {
                cursor.step();
                after = After::Comma;
            }
            (_, After::Value) => return Err(cursor.wrong("`,` or `]`")),
            (Some(b'['), _) => {
                cursor.step();
                depth += 1;
                after = After::Open;
            }
            _ if count == count_max => {
                let offset = cursor.offset();
                let message = format!("input '{name}': its shape has {count_max} elements, but `data` has more");
                return Err(JsonError { offset, message });
            }
            _ => {
                element(cursor)?;
                count += 1;
                after = After::Value;
            }
        }
    }
    Ok(count)
}

fn integers<T: FromStr + Copy + Display>(
    cursor: &mut Cursor<'_>,
    name: &str,
    count_max: u64,
    datatype: &str,
    range: (T, T),
    mut put: impl FnMut(T),
) -> Result<u64, JsonError> {
    walk(cursor, name, count_max, |cursor| {
        put(integer(cursor, name, datatype, range)?);
        Ok(())
    })
}

#[inline]
fn integer<T: FromStr + Copy + Display>(
    cursor: &mut Cursor<'_>,
    name: &str,
    datatype: &str,
    (min, max): (T, T),
) -> Result<T, JsonError> {
    let before = cursor.clone();
    let expected = || format!("an integer from {min} to {max} ({datatype}) in `data` of input '{name}'");
    let number = cursor.number(expected, false)?;
    // The grammar lets `-0` pass where Rust's unsigned types do not.
    let number = if number == "-0" { "0" } else { number };
    number.parse().map_err(|_| {
        *cursor = before;
        cursor.wrong(expected())
    })
}

/// `put` stores a number and says whether it became infinite.
fn floats<T: FromStr>(
    cursor: &mut Cursor<'_>,
    name: &str,
    count_max: u64,
    datatype: &str,
    mut put: impl FnMut(T) -> bool,
) -> Result<u64, JsonError> {
    let expected = || format!("a number that {datatype} can hold in `data` of input '{name}'");
    walk(cursor, name, count_max, |cursor| {
        let before = cursor.offset();
        let number = cursor.number(expected, true)?;
        let overflows = match number.parse() {
            Ok(value) => put(value) && !number.ends_with('y'), // the y of Infinity
            Err(_) => true,
        };
        if overflows {
            let message = format!("expected {}, found `{number}`", expected());
            return Err(JsonError { offset: before, message });
        }
        Ok(())
    })
}

/// Appends the elements of a tensor as a flat JSON array.
pub(crate) fn write_elements(out: &mut Vec<u8>, tensor: &Tensor) -> Result<(), Refusal> {
    let data = &tensor.data[..];
    out.push(b'[');
    match tensor.datatype {
        Datatype::Bool => {
            each::<1>(out, data, |out, b| out.extend_from_slice(if b[0] != 0 { b"true" } else { b"false" }))
        }
        Datatype::Uint8 => each(out, data, |out, b| number(out, u8::from_le_bytes(b))),
        Datatype::Uint16 => each(out, data, |out, b| number(out, u16::from_le_bytes(b))),
        Datatype::Uint32 => each(out, data, |out, b| number(out, u32::from_le_bytes(b))),
        Datatype::Uint64 => each(out, data, |out, b| number(out, u64::from_le_bytes(b))),
        Datatype::Int8 => each(out, data, |out, b| number(out, i8::from_le_bytes(b))),
        Datatype::Int16 => each(out, data, |out, b| number(out, i16::from_le_bytes(b))),
        Datatype::Int32 => each(out, data, |out, b| number(out, i32::from_le_bytes(b))),
        Datatype::Int64 => each(out, data, |out, b| number(out, i64::from_le_bytes(b))),
        Datatype::Fp16 => each(out, data, |out, b| float(out, f16::from_le_bytes(b).to_f32())),
        Datatype::Bf16 => each(out, data, |out, b| float(out, bf16::from_le_bytes(b).to_f32())),
        Datatype::Fp32 => each(out, data, |out, b| float(out, f32::from_le_bytes(b))),
        Datatype::Fp64 => each(out, data, |out, b| {
            let value = f64::from_le_bytes(b);
            if value.is_finite() { number(out, value) } else { non_finite(out, value) }
        }),
        Datatype::Bytes => write_strings(out, tensor)?,
    }
    out.push(b']');
    Ok(())
}

#[inline]
fn each<const N: usize>(out: &mut Vec<u8>, data: &[u8], mut write: impl FnMut(&mut Vec<u8>, [u8; N])) {
    let (elements, _) = data.as_chunks::<N>();
    for (index, element) in elements.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        write(out, *element);
    }
}

/// One number or string, as serde_json prints it: floats with the fewest digits that read back the same.
pub(crate) fn number(out: &mut Vec<u8>, value: impl serde::Serialize) {
    serde_json::to_writer(out, &value).expect("numbers and strings can be written to memory");
}

/// One f32: shortest digits, or in quotes what JSON has no number for.
#[inline]
pub(crate) fn float(out: &mut Vec<u8>, value: f32) {
    if value.is_finite() { number(out, value) } else { non_finite(out, f64::from(value)) }
}

#[cold]
fn non_finite(out: &mut Vec<u8>, value: f64) {
    let word: &[u8] = match value {
        f64::INFINITY => b"\"Infinity\"",
        f64::NEG_INFINITY => b"\"-Infinity\"",
        _ => b"\"NaN\"",
    };
    out.extend_from_slice(word);
}

fn write_strings(out: &mut Vec<u8>, tensor: &Tensor) -> Result<(), Refusal> {
    for (index, element) in bytes_elements(&tensor.name, &tensor.data).enumerate() {
        let element = element.map_err(|error: TensorError| {
            Refusal::new(penstock_domain::ErrorCode::Internal, format!("the answer is broken: {error}"))
        })?;
        let text = std::str::from_utf8(element).map_err(|_| {
            Refusal::invalid(format!(
                "output '{}': element {index} is not UTF-8 text, which JSON cannot carry; ask for it in binary with \
                 \"parameters\": {{\"binary_data\": true}}",
                tensor.name
            ))
        })?;
        if index > 0 {
            out.push(b',');
        }
        number(out, text);
    }
    Ok(())
}

#[cfg(test)]
#[path = "json_tensor_tests.rs"]
mod tests;
