//! The configuration as JSON, both ways.
//!
//! Called by the HTTP front end (the config route) and by the load API, whose `config` parameter replaces
//! `config.pbtxt`. Reads what proto3 JSON allows: both spellings of a field's name, numbers or strings for whole
//! numbers, names or numbers for enums, `null` for "absent". Prints as Triton does: names as in the .proto file,
//! fields with their default too (but no absent message), and whole numbers as JSON numbers.

use crate::descriptors::{model_config, nearest, to_config, to_dynamic};
use crate::text_format::Document;
use penstock_domain::ErrorCode;
use penstock_proto::inference::ModelConfig;
use prost_reflect::{DynamicMessage, EnumDescriptor, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};
use serde_json::{Map, Value as Json};
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong with a configuration in JSON.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Not JSON at all.
    #[error("the configuration is not valid JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// JSON, but not a configuration.
    #[error("{path}: {message}")]
    Content {
        /// Where, such as `input[0].dims[1]`.
        path: String,
        /// What was found and what was expected.
        message: String,
    },
}

impl JsonError {
    /// Always the writer's mistake.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidArgument
    }
}

/// The configuration as Triton's HTTP config route prints it. Deterministic: equal configurations print equally.
pub fn config_json(config: &ModelConfig) -> Json {
    print_message(&to_dynamic(config))
}

fn print_message(message: &DynamicMessage) -> Json {
    use prost_reflect::ReflectMessage as _;
    let mut object = Map::new();
    for field in message.descriptor().fields() {
        if !field.supports_presence() || message.has_field(&field) {
            let value = message.get_field(&field);
            let kind = if field.is_map() { map_value_kind(&field) } else { field.kind() };
            object.insert(field.name().to_owned(), print_value(&kind, &value));
        }
    }
    Json::Object(object)
}

fn print_value(kind: &Kind, value: &Value) -> Json {
    match value {
        Value::Bool(value) => Json::from(*value),
        Value::I32(value) => Json::from(*value),
        Value::I64(value) => Json::from(*value),
        Value::U32(value) => Json::from(*value),
        Value::U64(value) => Json::from(*value),
        Value::F32(value) => print_float(f64::from(*value), || value.to_string().parse().unwrap_or_default()),
        Value::F64(value) => print_float(*value, || *value),
        Value::String(value) => Json::from(value.as_str()),
        // The configuration has no bytes fields.
        Value::Bytes(_) => Json::Null,
        Value::EnumNumber(number) => {
            let named = kind.as_enum().and_then(|descriptor| descriptor.get_value(*number));
            named.map_or_else(|| Json::from(*number), |value| Json::from(value.name()))
        }
        Value::Message(message) => print_message(message),
        Value::List(values) => Json::Array(values.iter().map(|value| print_value(kind, value)).collect()),
        Value::Map(entries) => {
            let sorted: BTreeMap<String, &Value> = entries.iter().map(|(key, value)| (key_text(key), value)).collect();
            Json::Object(sorted.into_iter().map(|(key, value)| (key, print_value(kind, value))).collect())
        }
    }
}

/// `shortest` gives the shortest decimal that means the same, so that an f32 of 0.1 does not print as 0.10000000149.
fn print_float(value: f64, shortest: impl Fn() -> f64) -> Json {
    if value.is_nan() {
        Json::from("NaN")
    } else if value.is_infinite() {
        Json::from(if value > 0.0 { "Infinity" } else { "-Infinity" })
    } else {
        Json::from(shortest())
    }
}

fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// Reads a configuration from JSON.
pub fn parse_config_json(text: &str) -> Result<Document, JsonError> {
    let json: Json = serde_json::from_str(text)?;
    let mut written = BTreeSet::new();
    if let Json::Object(object) = &json {
        let descriptor = model_config();
        written.extend(object.keys().filter_map(|key| Some(find_field(&descriptor, key)?.name().to_owned())));
    }
    let message = read_message(&model_config(), &json, "")?;
    Ok(Document { config: to_config(&message), written })
}

fn find_field(descriptor: &MessageDescriptor, key: &str) -> Option<FieldDescriptor> {
    descriptor.get_field_by_name(key).or_else(|| descriptor.get_field_by_json_name(key))
}

fn wrong(path: &str, message: String) -> JsonError {
    JsonError::Content { path: if path.is_empty() { "configuration".to_owned() } else { path.to_owned() }, message }
}

fn expected(path: &str, what: &str, found: &Json) -> JsonError {
    let mut found = found.to_string();
    if let Some((end, _)) = found.char_indices().nth(40) {
        found.truncate(end);
        found.push('…');
    }
    wrong(path, format!("expected {what}, found {found}"))
}

fn read_message(descriptor: &MessageDescriptor, json: &Json, path: &str) -> Result<DynamicMessage, JsonError> {
    let Json::Object(object) = json else {
        return Err(expected(path, &format!("an object ({})", descriptor.name()), json));
    };
    let mut message = DynamicMessage::new(descriptor.clone());
    let mut seen = BTreeSet::new();
    for (key, json) in object {
        let Some(field) = find_field(descriptor, key) else {
            let fields: Vec<FieldDescriptor> = descriptor.fields().collect();
            let hint = nearest(key, fields.iter().map(|field| field.name()))
                .map(|near| format!("; did you mean '{near}'?"))
                .unwrap_or_default();
            return Err(wrong(path, format!("{} has no field '{key}'{hint}", descriptor.name())));
        };
        if json.is_null() {
            continue;
        }
        let path = if path.is_empty() { field.name().to_owned() } else { format!("{path}.{}", field.name()) };
        let oneof_taken = field
            .containing_oneof()
            .and_then(|oneof| oneof.fields().find(|other| *other != field && message.has_field(other)));
        if let Some(other) = oneof_taken {
            return Err(wrong(&path, format!("cannot be set beside '{}': choose one of them", other.name())));
        }
        if !seen.insert(field.number()) {
            return Err(wrong(&path, "given more than once".to_owned()));
        }
        let value = read_field(&field, json, &path)?;
        message.set_field(&field, value);
    }
    Ok(message)
}

fn read_field(field: &FieldDescriptor, json: &Json, path: &str) -> Result<Value, JsonError> {
    if field.is_list() {
        let Json::Array(items) = json else { return Err(expected(path, "a list", json)) };
        let read = |(index, item)| read_value(&field.kind(), item, &format!("{path}[{index}]"));
        return Ok(Value::List(items.iter().enumerate().map(read).collect::<Result<_, _>>()?));
    }
    if field.is_map() {
        let Json::Object(entries) = json else { return Err(expected(path, "an object", json)) };
        let key_kind = match field.kind() {
            Kind::Message(entry) => entry.map_entry_key_field().kind(),
            other => other,
        };
        let read = |(key, item): (&String, &Json)| {
            let path = format!("{path}[{key:?}]");
            // Keys are strings in JSON; those of the configuration are strings or whole numbers.
            let key = read_value(&key_kind, &Json::from(key.as_str()), &path)?;
            let key = key.into_map_key().expect("the schema allows only key types as keys");
            Ok((key, read_value(&map_value_kind(field), item, &path)?))
        };
        return Ok(Value::Map(entries.iter().map(read).collect::<Result<_, JsonError>>()?));
    }
    read_value(&field.kind(), json, path)
}

fn map_value_kind(field: &FieldDescriptor) -> Kind {
    match field.kind() {
        Kind::Message(entry) => entry.map_entry_value_field().kind(),
        other => other,
    }
}

fn read_value(kind: &Kind, json: &Json, path: &str) -> Result<Value, JsonError> {
    match kind {
        Kind::Message(descriptor) => Ok(Value::Message(read_message(descriptor, json, path)?)),
        Kind::Enum(descriptor) => read_enum(descriptor, json, path),
        Kind::Bool => json.as_bool().map(Value::Bool).ok_or_else(|| expected(path, "true or false", json)),
        Kind::String => {
            json.as_str().map(|text| Value::String(text.to_owned())).ok_or_else(|| expected(path, "a string", json))
        }
        Kind::Float => read_float(json, path).map(|number| Value::F32(number as f32)),
        Kind::Double => read_float(json, path).map(Value::F64),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => {
            read_integer(json, path, i32::MIN.into(), i32::MAX.into()).map(|n| Value::I32(n as i32))
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => {
            read_integer(json, path, i64::MIN.into(), i64::MAX.into()).map(|n| Value::I64(n as i64))
        }
        Kind::Uint32 | Kind::Fixed32 => read_integer(json, path, 0, u32::MAX.into()).map(|n| Value::U32(n as u32)),
        Kind::Uint64 | Kind::Fixed64 => read_integer(json, path, 0, u64::MAX.into()).map(|n| Value::U64(n as u64)),
        Kind::Bytes => Err(wrong(path, "bytes cannot be given here".to_owned())),
    }
}

fn read_enum(descriptor: &EnumDescriptor, json: &Json, path: &str) -> Result<Value, JsonError> {
    let number = match json {
        Json::String(name) => descriptor.get_value_by_name(name).map(|value| value.number()),
        other => other.as_i64().and_then(|number| i32::try_from(number).ok()),
    };
    number.map(Value::EnumNumber).ok_or_else(|| {
        let names: Vec<String> = descriptor.values().map(|value| value.name().to_owned()).collect();
        expected(path, &format!("a {} ({})", descriptor.name(), names.join(", ")), json)
    })
}

/// A whole number, as a number (`8`, also `8.0`) or as a string.
fn read_integer(json: &Json, path: &str, least: i128, most: i128) -> Result<i128, JsonError> {
    let number = match json {
        Json::Number(number) => number.as_i128().or_else(|| {
            // Above 2^53 a fraction in floating point no longer says which whole number is meant.
            number.as_f64().filter(|f| f.fract() == 0.0 && f.abs() <= 9_007_199_254_740_992.0).map(|f| f as i128)
        }),
        Json::String(text) if !text.starts_with('+') => text.parse().ok(),
        _ => None,
    };
    number
        .filter(|number| (least..=most).contains(number))
        .ok_or_else(|| expected(path, &format!("a whole number from {least} to {most}"), json))
}

fn read_float(json: &Json, path: &str) -> Result<f64, JsonError> {
    let number = match json {
        Json::Number(number) => number.as_f64(),
        Json::String(text) => match text.as_str() {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            text => text.parse().ok(),
        },
        _ => None,
    };
    number.ok_or_else(|| expected(path, "a number", json))
}
