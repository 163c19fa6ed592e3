//! Room 1, front end: the parameters of a request, read once for both doors: what the house knows is taken out, what
//! belongs to the model is passed on, what is reserved is refused.

use penstock_domain::{Parameter, ParameterValue, Parameters, Refusal};
use penstock_proto::inference::InferParameter;
use penstock_proto::inference::infer_parameter::ParameterChoice;
use std::time::{Duration, Instant};

/// Parameter names that start so are the protocol's own.
const RESERVED_PREFIX: &str = "triton_";
/// The one reserved name a client may send: it asks for `triton_final_response`, which streams always get.
const EMPTY_FINAL_RESPONSE: &str = "triton_enable_empty_final_response";

/// What the parameters of a request come to.
#[derive(Debug, Default)]
pub struct RequestOptions {
    /// The parameters that are not ours, sorted by name.
    pub parameters: Parameters,
    /// The earlier of the transport's deadline and `timeout`.
    pub deadline: Option<Instant>,
    /// `priority`; 0 means the function's default.
    pub priority: u32,
}

/// Reads `timeout` (microseconds; 0 means none) and `priority`, refuses reserved names, keeps the rest. A parameter
/// without a value is refused.
pub fn read_parameters(
    parameters: impl IntoIterator<Item = (String, Option<ParameterValue>)>,
    received: Instant,
    deadline: Option<Instant>,
) -> Result<RequestOptions, Refusal> {
    let mut options = RequestOptions { deadline, ..RequestOptions::default() };
    for (key, value) in parameters {
        let Some(value) = value else {
            return Err(Refusal::invalid(format!("parameter '{key}' has no value")));
        };
        match key.as_str() {
            "timeout" => {
                let timeout_us = whole_number(&key, &value, "microseconds, 0 or more")?;
                let end = received.checked_add(Duration::from_micros(timeout_us)).filter(|_| timeout_us > 0);
                options.deadline = match (options.deadline, end) {
                    (Some(deadline), Some(end)) => Some(deadline.min(end)),
                    (deadline, end) => deadline.or(end),
                };
            }
            "priority" => {
                let priority = whole_number(&key, &value, "a whole number, 1 for the highest")?;
                options.priority = u32::try_from(priority)
                    .map_err(|_| Refusal::invalid(format!("parameter 'priority': {priority} is too large")))?;
            }
            EMPTY_FINAL_RESPONSE if matches!(value, ParameterValue::Bool(_)) => {}
            reserved if reserved.starts_with(RESERVED_PREFIX) => {
                return Err(Refusal::invalid(format!(
                    "parameter '{key}': names that start with '{RESERVED_PREFIX}' are reserved; only \
                     '{EMPTY_FINAL_RESPONSE}' (true or false) may be sent"
                )));
            }
            _ => options.parameters.push((key, value)),
        }
    }
    options.parameters.sort_unstable_by(|left: &Parameter, right| left.0.cmp(&right.0));
    Ok(options)
}

/// The number in a parameter that clients write as int, uint or digits.
fn whole_number(key: &str, value: &ParameterValue, right: &str) -> Result<u64, Refusal> {
    let number = match value {
        ParameterValue::Uint(number) => Some(*number),
        ParameterValue::Int(number) => u64::try_from(*number).ok(),
        ParameterValue::String(text) => text.parse().ok(),
        ParameterValue::Bool(_) | ParameterValue::Double(_) => None,
    };
    number.ok_or_else(|| Refusal::invalid(format!("parameter '{key}': found {}, expected {right}", written(value))))
}

/// The `k` of an output's `classification`.
pub fn classification_count(output: &str, value: Option<&ParameterValue>) -> Result<u32, Refusal> {
    let refusal = |found: &str| {
        Refusal::invalid(format!(
            "output '{output}': parameter 'classification': found {found}, expected how many classes, 1 or more"
        ))
    };
    let number = match value {
        Some(ParameterValue::Int(number)) => u32::try_from(*number).ok(),
        Some(ParameterValue::Uint(number)) => u32::try_from(*number).ok(),
        _ => None,
    };
    let found = || value.map_or("no value".to_owned(), written);
    number.filter(|number| *number > 0).ok_or_else(|| refusal(&found()))
}

/// A value as a person reads it in an error; long text is cut.
fn written(value: &ParameterValue) -> String {
    match value {
        ParameterValue::Bool(value) => value.to_string(),
        ParameterValue::Int(value) => value.to_string(),
        ParameterValue::Uint(value) => value.to_string(),
        ParameterValue::Double(value) => value.to_string(),
        ParameterValue::String(text) => format!("'{}'", text.chars().take(64).collect::<String>()),
    }
}

/// A parameter as it came over gRPC; `None` if the client set no value.
pub fn parameter_from_wire(key: String, value: InferParameter) -> (String, Option<ParameterValue>) {
    let value = value.parameter_choice.map(|choice| match choice {
        ParameterChoice::BoolParam(value) => ParameterValue::Bool(value),
        ParameterChoice::Int64Param(value) => ParameterValue::Int(value),
        ParameterChoice::StringParam(value) => ParameterValue::String(value),
        ParameterChoice::DoubleParam(value) => ParameterValue::Double(value),
        ParameterChoice::Uint64Param(value) => ParameterValue::Uint(value),
    });
    (key, value)
}

/// A parameter as it goes over gRPC.
pub fn parameter_to_wire(value: ParameterValue) -> InferParameter {
    let choice = match value {
        ParameterValue::Bool(value) => ParameterChoice::BoolParam(value),
        ParameterValue::Int(value) => ParameterChoice::Int64Param(value),
        ParameterValue::Uint(value) => ParameterChoice::Uint64Param(value),
        ParameterValue::Double(value) => ParameterChoice::DoubleParam(value),
        ParameterValue::String(value) => ParameterChoice::StringParam(value),
    };
    InferParameter { parameter_choice: Some(choice) }
}
