//! Numbers, truth values and string escapes of protobuf text format.
//!
//! Called by the parser with the text of one token. Errors are the words after "expected".

use prost_reflect::{Kind, Value};

/// A number or truth value of `kind`; else what was expected.
pub(super) fn scalar(kind: &Kind, text: &str) -> Result<Value, String> {
    match kind {
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            ranged(text, i32::MIN.into(), i32::MAX.into(), |n| Value::I32(n as i32))
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            ranged(text, i64::MIN.into(), i64::MAX.into(), |n| Value::I64(n as i64))
        }
        Kind::Uint32 | Kind::Fixed32 => ranged(text, 0, u32::MAX.into(), |n| Value::U32(n as u32)),
        Kind::Uint64 | Kind::Fixed64 => ranged(text, 0, u64::MAX.into(), |n| Value::U64(n as u64)),
        Kind::Float => float(text).map(|n| Value::F32(n as f32)),
        Kind::Double => float(text).map(Value::F64),
        Kind::Bool => match text {
            "true" | "True" | "t" | "1" => Ok(Value::Bool(true)),
            "false" | "False" | "f" | "0" => Ok(Value::Bool(false)),
            _ => Err("true or false".to_owned()),
        },
        Kind::String | Kind::Bytes | Kind::Message(_) | Kind::Enum(_) => Err("another kind of value".to_owned()),
    }
}

fn ranged(text: &str, least: i128, most: i128, make: impl Fn(i128) -> Value) -> Result<Value, String> {
    integer(text)
        .filter(|number| (least..=most).contains(number))
        .map(make)
        .ok_or_else(|| format!("a whole number from {least} to {most}"))
}

/// Decimal, octal (`017`) or hexadecimal (`0x1f`), with at most one minus sign before it.
pub(super) fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // 24 digits are more than any of the types hold in these radixes and cannot overflow 128 bits.
    let plain = (1..=24).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_alphanumeric());
    let number = i128::from_str_radix(digits, radix).ok().filter(|_| plain)?;
    Some(if negative { -number } else { number })
}

fn float(text: &str) -> Result<f64, String> {
    let wrong = || "a number".to_owned();
    let unsigned = text.strip_prefix('-').unwrap_or(text);
    let negative = unsigned.len() < text.len();
    let lower = unsigned.to_ascii_lowercase();
    let number = if matches!(lower.as_str(), "inf" | "inff" | "infinity" | "infinityf") {
        f64::INFINITY
    } else if matches!(lower.as_str(), "nan" | "nanf") && !negative {
        f64::NAN
    } else {
        let bare = lower.strip_suffix('f').unwrap_or(&lower);
        let octal = matches!(bare.as_bytes(), [b'0', b'0'..=b'9', ..]);
        let digit_first = bare.starts_with(|c: char| c.is_ascii_digit() || c == '.');
        if octal || !digit_first {
            return Err(wrong());
        }
        bare.parse().map_err(|_| wrong())?
    };
    Ok(if negative { -number } else { number })
}

/// Appends the bytes that `text` (without its quotes) stands for; else the offset of a bad escape and its message.
pub(super) fn unescape(text: &str, out: &mut Vec<u8>) -> Result<(), (usize, String)> {
    let mut rest = text;
    while let Some(start) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..start]);
        let at = text.len() - rest.len() + start;
        let escape = &rest[start + 1..];
        let length = one_escape(escape, out).ok_or_else(|| (at, "expected a known escape after '\\'".to_owned()))?;
        rest = &escape[length..];
    }
    out.extend_from_slice(rest.as_bytes());
    Ok(())
}

/// Appends what the escape after a backslash stands for and tells its length in bytes.
fn one_escape(escape: &str, out: &mut Vec<u8>) -> Option<usize> {
    let first = *escape.as_bytes().first()?;
    let simple = match first {
        b'a' => 0x07,
        b'b' => 0x08,
        b'f' => 0x0c,
        b'n' => b'\n',
        b'r' => b'\r',
        b't' => b'\t',
        b'v' => 0x0b,
        b'\\' | b'\'' | b'"' | b'?' => first,
        b'0'..=b'7' => {
            let length = digits(escape, 8, 3);
            out.push(u8::from_str_radix(&escape[..length], 8).ok()?);
            return Some(length);
        }
        b'x' => {
            let length = digits(&escape[1..], 16, 2);
            out.push(u8::from_str_radix(&escape[1..1 + length], 16).ok()?);
            return Some(1 + length);
        }
        b'u' => return code_point(&escape[1..], 4, out).map(|length| 1 + length),
        b'U' => return code_point(&escape[1..], 8, out).map(|length| 1 + length),
        _ => return None,
    };
    out.push(simple);
    Some(1)
}

fn code_point(text: &str, length: usize, out: &mut Vec<u8>) -> Option<usize> {
    if digits(text, 16, length) != length {
        return None;
    }
    let character = char::from_u32(u32::from_str_radix(&text[..length], 16).ok()?)?;
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    Some(length)
}

/// How many digits, at most `most`, `text` starts with.
fn digits(text: &str, radix: u32, most: usize) -> usize {
    text.chars().take(most).take_while(|c| c.is_digit(radix)).count()
}
