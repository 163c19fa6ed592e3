//! Room 1, front end: the body of an OIP infer request, JSON with or without the binary extension.
//!
//! Called by `infer`. Pure: bytes in, tensors out. Binary tensors are slices of the body, never copied; JSON tensors
//! are read straight into bytes. Whether the function takes such tensors is for the environment to judge.

use super::body::{Share, within};
use super::json::{Cursor, JsonError, ReadError, utf8};
use super::json_tensor::read_elements;
use super::parameters::{boolean, read_parameters, read_value, whole};
use crate::convert::classification_count;
use bytes::Bytes;
use penstock_domain::{Datatype, ErrorCode, ParameterValue, Parameters, Refusal, RequestedOutput, Shape, Tensor};

/// An infer request, read.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct InferRequest {
    /// `id`, if it was sent.
    pub(crate) id: Option<String>,
    /// Request parameters but the one below.
    pub(crate) parameters: Parameters,
    /// Tensors.
    pub(crate) inputs: Vec<Tensor>,
    /// Outputs asked for, each with its own wish for binary.
    pub(crate) outputs: Vec<WantedOutput>,
    /// `binary_data_output`: outputs without a wish of their own come in binary.
    pub(crate) binary_data_output: bool,
}

/// An output asked for.
#[derive(Debug, PartialEq)]
pub(crate) struct WantedOutput {
    /// Name and classification.
    pub(crate) output: RequestedOutput,
    /// `binary_data`, if it was sent.
    pub(crate) binary: Option<bool>,
}

/// An input whose elements may still lie behind the JSON, with their size.
struct ReadInput {
    tensor: Tensor,
    binary_bytes: Option<u64>,
}

/// Reads a body. `header_length` is the JSON's length if tensors follow it; `bytes_max` bounds each tensor.
pub(crate) fn read_request(
    body: &Bytes,
    header_length: Option<usize>,
    bytes_max: usize,
    share: &mut Share,
) -> Result<InferRequest, Refusal> {
    let length = header_length.unwrap_or(body.len());
    if length > body.len() {
        let size = body.len();
        return Err(Refusal::invalid(format!("inference header size should be in range (0, {size}), got: {length}")));
    }
    let text = utf8(&body[..length])?;
    let mut request = InferRequest::default();
    let mut inputs = Vec::new();
    let read = read_body_object(text, &mut request, &mut inputs, bytes_max, share);
    read.map_err(|error| error.into_refusal(text))?;
    request.inputs = attach_binary(inputs, body.slice(length..), header_length.is_some())?;
    Ok(request)
}

fn read_body_object(
    text: &str,
    request: &mut InferRequest,
    inputs: &mut Vec<ReadInput>,
    bytes_max: usize,
    share: &mut Share,
) -> Result<(), ReadError> {
    let mut has_inputs = false;
    let mut cursor = Cursor::new(text, 0);
    cursor.object::<ReadError>("a JSON object (the infer request)", |cursor, key| {
        if matches!(key, "id" | "parameters" | "inputs" | "outputs") && cursor.null() {
            return Ok(());
        }
        match key {
            "id" => request.id = Some(cursor.string("a string as `id`")?.into_owned()),
            "parameters" => {
                request.parameters = read_parameters(cursor)?;
                if let Some(at) = request.parameters.iter().position(|(key, _)| key == "binary_data_output") {
                    let (key, value) = request.parameters.remove(at);
                    request.binary_data_output = boolean(&key, &value)?;
                }
            }
            "inputs" => {
                has_inputs = true;
                inputs.clear();
                cursor.array("an array as `inputs`", |cursor| {
                    inputs.push(read_input(cursor, text, bytes_max, share)?);
                    Ok::<_, ReadError>(())
                })?;
            }
            "outputs" => {
                request.outputs.clear();
                cursor.array("an array as `outputs`", |cursor| {
                    request.outputs.push(read_output(cursor)?);
                    Ok::<_, ReadError>(())
                })?;
            }
            _ => cursor.skip()?,
        }
        Ok(())
    })?;
    cursor.end()?;
    if !has_inputs {
        return Err(Refusal::invalid("the infer request has no `inputs`: an array of tensors is needed").into());
    }
    Ok(())
}

fn read_input(
    cursor: &mut Cursor<'_>,
    text: &str,
    bytes_max: usize,
    share: &mut Share,
) -> Result<ReadInput, ReadError> {
    let begin = cursor.offset();
    let (mut name, mut datatype, mut shape) = (None, None, None);
    let (mut binary_bytes, mut elements) = (None, None);
    cursor.object::<ReadError>("an object (an input tensor)", |cursor, key| {
        match key {
            "name" => name = Some(cursor.string("a string as `name` of an input")?.into_owned()),
            "datatype" => datatype = Some(read_datatype(cursor)?),
            "shape" => shape = Some(read_shape(cursor)?),
            "parameters" if !cursor.null() => {
                for (key, value) in read_parameters(cursor)? {
                    match key.as_str() {
                        "binary_data_size" => binary_bytes = Some(whole(&key, &value)?),
                        key if key.starts_with("shared_memory_") => return Err(no_shared_memory().into()),
                        _ => {}
                    }
                }
            }
            "data" if !cursor.null() => {
                elements = Some(match (&name, datatype, &shape) {
                    (Some(name), Some(datatype), Some(shape)) => {
                        Elements::Read(read_data(cursor, text, name, (datatype, shape), bytes_max, share)?)
                    }
                    // Type or shape come later: the place is remembered and read when they are known.
                    _ => {
                        let place = cursor.offset();
                        cursor.skip()?;
                        Elements::At(place)
                    }
                });
            }
            "parameters" | "data" => {}
            _ => cursor.skip()?,
        }
        Ok(())
    })?;
    let nameless = || JsonError { offset: begin, message: "an input has no `name`".into() };
    let name = name.ok_or_else(nameless)?;
    let missing = |what: &str| JsonError { offset: begin, message: format!("input '{name}' has no `{what}`") };
    let datatype = datatype.ok_or_else(|| missing("datatype"))?;
    let shape: Shape = shape.ok_or_else(|| missing("shape"))?;
    if elements.is_none() && binary_bytes.is_none() {
        return Err(missing("data` or `parameters.binary_data_size").into());
    }
    if elements.is_some() && binary_bytes.is_some() {
        let words = format!("input '{name}' has both `data` and `binary_data_size`: one of them is right");
        return Err(Refusal::invalid(words).into());
    }
    let data = match elements {
        None => Bytes::new(),
        Some(Elements::Read(data)) => data,
        Some(Elements::At(place)) => {
            read_data(&mut Cursor::new(text, place), text, &name, (datatype, &shape), bytes_max, share)?
        }
    };
    Ok(ReadInput { tensor: Tensor { name, datatype, shape, data }, binary_bytes })
}

/// The elements of an input, or where in the text they begin.
enum Elements {
    Read(Bytes),
    At(usize),
}

/// Reads `data`, exactly as many elements as the shape has. Their bytes are taken out of the budget first.
fn read_data(
    cursor: &mut Cursor<'_>,
    text: &str,
    name: &str,
    (datatype, shape): (Datatype, &Shape),
    bytes_max: usize,
    share: &mut Share,
) -> Result<Bytes, ReadError> {
    let place = cursor.offset();
    let empty = Tensor { name: name.to_owned(), datatype, shape: shape.clone(), data: Bytes::new() };
    let count = empty.element_count().map_err(|error| Refusal::invalid(error.to_string()))?;
    let size = count.saturating_mul(datatype.element_bytes().unwrap_or(4) as u64);
    within(size, bytes_max, &format!("input '{name}'"))?;
    share.take(size)?;
    let (data, found) = read_elements(cursor, name, datatype, count, text.len() - place)?;
    if found != count {
        let message = format!("input '{name}': shape {shape:?} has {count} elements, but `data` has {found}");
        return Err(JsonError { offset: place, message }.into());
    }
    Ok(data)
}

fn read_datatype(cursor: &mut Cursor<'_>) -> Result<Datatype, JsonError> {
    let before = cursor.offset();
    let name = cursor.string("a string as `datatype`")?;
    Datatype::parse(&name).ok_or_else(|| {
        let known = Datatype::ALL.map(Datatype::name).join(", ");
        JsonError { offset: before, message: format!("datatype '{name}' is not one of {known}") }
    })
}

fn read_shape(cursor: &mut Cursor<'_>) -> Result<Shape, JsonError> {
    let mut shape = Shape::new();
    cursor.array("an array of whole numbers as `shape`", |cursor| {
        let before = cursor.clone();
        let expected = || "a whole number of 0 or more in `shape`".to_owned();
        let size = cursor.number(expected, false)?.parse::<i64>().ok().filter(|size| *size >= 0);
        shape.push(size.ok_or_else(|| before.clone().wrong(expected()))?);
        Ok::<_, JsonError>(())
    })?;
    Ok(shape)
}

fn read_output(cursor: &mut Cursor<'_>) -> Result<WantedOutput, ReadError> {
    let begin = cursor.offset();
    let mut name = None;
    let mut wanted = WantedOutput { output: RequestedOutput::default(), binary: None };
    cursor.object::<ReadError>("an object (an output asked for)", |cursor, key| {
        match key {
            "name" => name = Some(cursor.string("a string as `name` of an output")?.into_owned()),
            "parameters" if !cursor.null() => {
                cursor.object::<ReadError>(super::parameters::EXPECTED, |cursor, key| {
                    let value = read_value(cursor, key)?;
                    output_parameter(&mut wanted, key, &value).map_err(ReadError::from)
                })?
            }
            "parameters" => {}
            _ => cursor.skip()?,
        }
        Ok(())
    })?;
    let missing = || JsonError { offset: begin, message: "an output has no `name`".into() };
    wanted.output.name = name.ok_or_else(missing)?;
    Ok(wanted)
}

fn output_parameter(wanted: &mut WantedOutput, key: &str, value: &ParameterValue) -> Result<(), Refusal> {
    match key {
        "binary_data" => wanted.binary = Some(boolean(key, value)?),
        "classification" => wanted.output.classification = classification_count("asked for", Some(value))?,
        key if key.starts_with("shared_memory_") => return Err(no_shared_memory()),
        _ => {}
    }
    Ok(())
}

fn no_shared_memory() -> Refusal {
    Refusal::new(ErrorCode::Unsupported, "shared memory is not offered: send the tensor's bytes in the request")
}

/// Gives each binary input its slice of what follows the JSON, in order.
fn attach_binary(inputs: Vec<ReadInput>, mut rest: Bytes, has_header: bool) -> Result<Vec<Tensor>, Refusal> {
    let mut tensors = Vec::with_capacity(inputs.len());
    for ReadInput { mut tensor, binary_bytes } in inputs {
        if let Some(size) = binary_bytes {
            if !has_header {
                return Err(Refusal::invalid(format!(
                    "input '{}' has `binary_data_size`, but the header Inference-Header-Content-Length is missing",
                    tensor.name
                )));
            }
            if size > rest.len() as u64 {
                let (name, left) = (&tensor.name, rest.len());
                let words = format!("input '{name}': expected {size} bytes of binary data, only {left} are left");
                return Err(Refusal::invalid(words));
            }
            tensor.data = rest.split_to(size as usize);
            tensor.validate().map_err(|error| Refusal::invalid(error.to_string()))?;
        }
        tensors.push(tensor);
    }
    if !rest.is_empty() {
        let surplus = rest.len();
        return Err(Refusal::invalid(format!(
            "the body has {surplus} bytes more than its inputs' `binary_data_size` say"
        )));
    }
    Ok(tensors)
}

#[cfg(test)]
#[path = "infer_request_tests.rs"]
mod tests;
