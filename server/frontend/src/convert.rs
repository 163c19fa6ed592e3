//! Room 1, front end: between the words of the Open Inference Protocol and those of the house. Pure.
//!
//! Called by the gRPC door; the reading of names, versions and parameters is shared with the HTTP door. Never copies
//! raw tensor bytes, and never looks at a signature: names, types and shapes are the environment's to check.

mod contents;
mod parameters;
mod weigh;

pub use contents::raw_from_contents;
pub use parameters::{RequestOptions, classification_count, parameter_from_wire, parameter_to_wire, read_parameters};
pub use weigh::weigh;

use penstock_domain::{
    Answer, Datatype, ErrorCode, FunctionName, Invocation, Qualifier, Refusal, RequestedOutput, Shape, Tensor,
    VersionNumber,
};
use penstock_proto::inference::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use penstock_proto::inference::model_infer_response::InferOutputTensor;
use penstock_proto::inference::{ModelInferRequest, ModelInferResponse};
use std::time::Instant;

/// Tensor parameters that point into memory the client shares with the server; never offered over this door.
pub const SHARED_MEMORY_PARAMETERS: [&str; 3] =
    ["shared_memory_region", "shared_memory_offset", "shared_memory_byte_size"];

/// The function a request names, and which version of it. `name:qualifier` takes a version's digits, an alias or
/// `$LATEST.PUBLISHED`; `version` (OIP's `model_version`) is digits or empty, and must not contradict the qualifier.
pub fn function_and_version(name: &str, version: &str) -> Result<(FunctionName, Qualifier), Refusal> {
    let (base, qualifier) = match name.split_once(':') {
        Some((base, qualifier)) => (base, Some(qualifier)),
        None => (name, None),
    };
    let function =
        FunctionName::new(base).map_err(|error| Refusal::invalid(format!("model_name '{name}': {error}")))?;
    let version = (!version.is_empty()).then(|| version_number(base, version)).transpose()?;
    let Some(qualifier) = qualifier else { return Ok((function, version.into())) };
    let qualified = match qualifier {
        "$LATEST" => {
            let text = format!("'{name}': $LATEST never serves; publish a version and name its number or an alias");
            return Err(Refusal::invalid(text));
        }
        text if text.is_empty() || text.bytes().all(|byte| byte.is_ascii_digit()) => {
            Qualifier::Version(version_number(base, text)?)
        }
        text => VersionNumber::parse(text).map_or_else(|| Qualifier::Alias(text.into()), Qualifier::Version),
    };
    match version {
        Some(version) if qualified != Qualifier::Version(version) => Err(Refusal::invalid(format!(
            "model_version '{version}' contradicts the qualifier in model_name '{name}': give one of them"
        ))),
        _ => Ok((function, qualified)),
    }
}

/// A version's number: decimal digits only.
fn version_number(model: &str, text: &str) -> Result<VersionNumber, Refusal> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    VersionNumber::parse(text).filter(|_| digits).ok_or_else(|| {
        Refusal::invalid(format!(
            "model_version '{text}' of model '{model}' must be decimal digits from 1, such as '1', or empty"
        ))
    })
}

/// What a request asks for. `received` is when it was read; `deadline` is the one its transport brought, which the
/// `timeout` parameter can only bring forward.
pub fn invocation_from_request(
    request: ModelInferRequest,
    received: Instant,
    deadline: Option<Instant>,
) -> Result<Invocation, Refusal> {
    let (function, qualifier) = function_and_version(&request.model_name, &request.model_version)?;
    let parameters = request.parameters.into_iter().map(|(key, value)| parameter_from_wire(key, value));
    let options = read_parameters(parameters, received, deadline)?;
    let inputs = tensors(request.inputs, request.raw_input_contents, function.as_str())?;
    let outputs = request.outputs.into_iter().map(requested_output).collect::<Result<_, _>>()?;
    Ok(Invocation {
        function,
        qualifier,
        id: request.id,
        parameters: options.parameters,
        inputs,
        outputs,
        deadline: options.deadline,
        priority: options.priority,
        caller: None,
        splittable: false,
    })
}

/// Inputs with their bytes, raw or typed, never both.
fn tensors(inputs: Vec<InferInputTensor>, raw: Vec<bytes::Bytes>, model: &str) -> Result<Vec<Tensor>, Refusal> {
    if raw.is_empty() {
        return inputs.into_iter().map(|input| tensor(input, None)).collect();
    }
    if let Some(typed) = inputs.iter().find(|input| input.contents.is_some()) {
        return Err(Refusal::invalid(format!(
            "input '{}' of model '{model}': contents must not be set when the request has raw_input_contents; send all \
             tensors raw or all typed",
            typed.name
        )));
    }
    if raw.len() != inputs.len() {
        let (found, right) = (raw.len(), inputs.len());
        return Err(Refusal::invalid(format!(
            "raw_input_contents of a request for model '{model}' has {found} entries for {right} inputs: one for each \
             input is right"
        )));
    }
    inputs.into_iter().zip(raw).map(|(input, raw)| tensor(input, Some(raw))).collect()
}

/// One input tensor, its bytes checked against its shape.
fn tensor(input: InferInputTensor, raw: Option<bytes::Bytes>) -> Result<Tensor, Refusal> {
    let name = input.name;
    if let Some(key) = SHARED_MEMORY_PARAMETERS.into_iter().find(|key| input.parameters.contains_key(*key)) {
        return Err(shared_memory_refusal(&format!("input '{name}': parameter '{key}'")));
    }
    let datatype = Datatype::parse(&input.datatype).ok_or_else(|| {
        let known = Datatype::ALL.map(Datatype::name).join(", ");
        Refusal::invalid(format!("input '{name}': unknown datatype '{}'; one of {known} is right", input.datatype))
    })?;
    let shape = Shape::from_vec(input.shape);
    let typed = match (&raw, input.contents) {
        (None, Some(contents)) => Some(contents),
        _ => None,
    };
    let mut tensor = Tensor { name, datatype, shape, data: raw.unwrap_or_default() };
    if let Some(contents) = typed {
        let expected = tensor.element_count().map_err(|error| Refusal::invalid(error.to_string()))?;
        tensor.data = raw_from_contents(&tensor.name, datatype, &tensor.shape, expected, contents)?;
    }
    tensor.validate().map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(tensor)
}

/// One output the request names, with its `classification`.
fn requested_output(output: InferRequestedOutputTensor) -> Result<RequestedOutput, Refusal> {
    let name = output.name;
    let mut classification = 0;
    for (key, value) in output.parameters {
        let (key, value) = parameter_from_wire(key, value);
        if SHARED_MEMORY_PARAMETERS.contains(&key.as_str()) {
            return Err(shared_memory_refusal(&format!("output '{name}': parameter '{key}'")));
        }
        if key == "classification" {
            classification = classification_count(&name, value.as_ref())?;
        }
    }
    Ok(RequestedOutput { name, classification })
}

/// Why shared memory is refused.
pub fn shared_memory_refusal(what: &str) -> Refusal {
    Refusal::new(
        ErrorCode::Unsupported,
        format!(
            "{what}: shared memory is not offered, because an execution environment sees no memory but its own; send \
             the bytes in the request"
        ),
    )
}

/// The answer as OIP tells it: always raw contents, whatever the request had. `id` is the request's.
pub fn response_from_answer(function: &FunctionName, id: String, answer: Answer) -> ModelInferResponse {
    let mut outputs = Vec::with_capacity(answer.outputs.len());
    let mut raw_output_contents = Vec::with_capacity(answer.outputs.len());
    for tensor in answer.outputs {
        outputs.push(InferOutputTensor {
            name: tensor.name,
            datatype: tensor.datatype.name().to_owned(),
            shape: tensor.shape.to_vec(),
            parameters: Default::default(),
            contents: None,
        });
        raw_output_contents.push(tensor.data);
    }
    ModelInferResponse {
        model_name: function.as_str().to_owned(),
        model_version: answer.version.to_string(),
        id,
        parameters: answer.parameters.into_iter().map(|(key, value)| (key, parameter_to_wire(value))).collect(),
        outputs,
        raw_output_contents,
    }
}

#[cfg(test)]
mod tests;
