//! Room 1, front end: `parameters` objects of the OIP REST API.
//!
//! Called by `infer_request` and `repository`.

use super::json::{Cursor, JsonError, ReadError};
use penstock_domain::{ParameterValue, Parameters, Refusal};

/// Parameters the server keeps for itself; Triton refuses them over HTTP too.
const RESERVED_PREFIX: &str = "triton_";

/// What `parameters` is told to be in errors.
pub(crate) const EXPECTED: &str = "an object as `parameters`";

/// Reads a `parameters` object into a list, in order.
pub(crate) fn read_parameters(cursor: &mut Cursor<'_>) -> Result<Parameters, ReadError> {
    let mut parameters = Parameters::new();
    cursor.object::<ReadError>(EXPECTED, |cursor, key| {
        if key.starts_with(RESERVED_PREFIX) {
            let words = format!("parameter '{key}': names that begin with `{RESERVED_PREFIX}` are reserved");
            return Err(Refusal::invalid(words).into());
        }
        if !cursor.null() {
            parameters.push((key.to_owned(), read_value(cursor, key)?));
        }
        Ok(())
    })?;
    Ok(parameters)
}

/// Reads one value: a boolean, a number or a string.
pub(crate) fn read_value(cursor: &mut Cursor<'_>, key: &str) -> Result<ParameterValue, JsonError> {
    let expected = || format!("a boolean, a number or a string as parameter '{key}'");
    match cursor.peek() {
        Some(b'"') => Ok(ParameterValue::String(cursor.string("a string")?.into_owned())),
        Some(b't' | b'f') => Ok(ParameterValue::Bool(cursor.boolean(&expected())?)),
        _ => {
            let number = cursor.number(expected, false)?;
            let value = number.parse().map(ParameterValue::Int).or_else(|_| number.parse().map(ParameterValue::Uint));
            // JSON's grammar is a part of Rust's for floats; too large ones become infinite.
            value.or_else(|_| number.parse().map(ParameterValue::Double)).map_err(|_| cursor.wrong(expected()))
        }
    }
}

/// A whole number of 0 or more.
pub(crate) fn whole(parameter: &str, value: &ParameterValue) -> Result<u64, Refusal> {
    match *value {
        ParameterValue::Uint(number) => Ok(number),
        ParameterValue::Int(number) if number >= 0 => Ok(number.unsigned_abs()),
        _ => Err(wrong_type(parameter, "a whole number of 0 or more", value)),
    }
}

/// A boolean.
pub(crate) fn boolean(parameter: &str, value: &ParameterValue) -> Result<bool, Refusal> {
    match value {
        ParameterValue::Bool(value) => Ok(*value),
        _ => Err(wrong_type(parameter, "true or false", value)),
    }
}

fn wrong_type(parameter: &str, expected: &str, value: &ParameterValue) -> Refusal {
    let found = match value {
        ParameterValue::Bool(value) => value.to_string(),
        ParameterValue::Int(value) => value.to_string(),
        ParameterValue::Uint(value) => value.to_string(),
        ParameterValue::Double(value) => value.to_string(),
        ParameterValue::String(value) => format!("{value:?}"),
    };
    Refusal::invalid(format!("parameter '{parameter}': expected {expected}, found {found}"))
}
