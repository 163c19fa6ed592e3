//! Rooms 1 and 8, Lambda door: what Invoke carries for a model: OIP's JSON body, or the short form of a task.
//!
//! Called by `invoke` and `stream`. Pure. The short form is `{"inputs": "text"}` or `{"inputs": ["text", …]}` for functions
//! that take texts; its answer is a list with one row for each text where the function gives one tensor of rows (an
//! encoder: its embeddings), else OIP's answer.

use crate::http::{InferRequest, Share, print_answer, read_request, write_elements};
use bytes::{Bytes, BytesMut};
use penstock_control::{ControlError, ErrorKind};
use penstock_domain::{
    Answer, Datatype, ErrorCode, FunctionName, Refusal, Shape, Signature, Tensor, encode_bytes_element,
};
use serde::Deserialize;
use serde_json::value::RawValue;

/// The output of an encoder that is its answer.
const EMBEDDING: &str = "embedding";

/// A payload, read.
#[derive(Debug)]
pub(crate) struct Payload {
    /// As OIP has it.
    pub(crate) request: InferRequest,
    /// It came in the short form, and is answered so.
    pub(crate) short: bool,
}

/// What decides how a payload is read.
#[derive(Deserialize)]
struct Form<'a> {
    #[serde(borrow)]
    inputs: Option<&'a RawValue>,
}

/// The texts of the short form.
#[derive(Deserialize)]
#[serde(untagged)]
enum Texts {
    One(String),
    Many(Vec<String>),
}

/// What is wrong with a payload.
#[derive(Debug)]
pub(crate) enum PayloadError {
    /// It is no JSON: the call is refused.
    Content(ControlError),
    /// The model cannot take it, or there is no room for it.
    Refused(Refusal),
}

impl From<Refusal> for PayloadError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Reads a payload; an empty one is `{}`. `bytes_max` bounds each tensor.
pub(crate) fn read(
    body: &Bytes,
    signature: Option<&Signature>,
    bytes_max: usize,
    share: &mut Share,
) -> Result<Payload, PayloadError> {
    let text = if body.is_empty() { &b"{}"[..] } else { &body[..] };
    let form: Form<'_> = match serde_json::from_slice(text) {
        Ok(form) => form,
        Err(error) if error.is_data() => Form { inputs: None },
        Err(error) => {
            let words = format!("Could not parse request body into json: Could not parse payload into json: {error}");
            return Err(PayloadError::Content(ControlError::new(ErrorKind::InvalidRequestContent, words)));
        }
    };
    let texts = form.inputs.and_then(|inputs| serde_json::from_str::<Texts>(inputs.get()).ok());
    match texts {
        Some(Texts::Many(texts)) if texts.is_empty() => {
            Ok(Payload { request: oip(body, bytes_max, share)?, short: false })
        }
        Some(Texts::One(text)) => short(&[text], signature, share),
        Some(Texts::Many(texts)) => short(&texts, signature, share),
        None => Ok(Payload { request: oip(body, bytes_max, share)?, short: false }),
    }
}

fn oip(body: &Bytes, bytes_max: usize, share: &mut Share) -> Result<InferRequest, Refusal> {
    let empty = Bytes::from_static(b"{}");
    read_request(if body.is_empty() { &empty } else { body }, None, bytes_max, share)
}

fn short(texts: &[String], signature: Option<&Signature>, share: &mut Share) -> Result<Payload, PayloadError> {
    let inputs = signature.map(|signature| &signature.inputs[..]).unwrap_or_default();
    let required: Vec<_> = inputs.iter().filter(|input| !input.optional).collect();
    let input = match required[..] {
        [input] if input.datatype == Datatype::Bytes => &input.name,
        _ if inputs.iter().any(|input| input.name == "text" && input.datatype == Datatype::Bytes) => "text",
        _ => {
            let words = "the short form {\"inputs\": \"text\"} is for functions that take texts; send OIP's form: {\"inputs\": \
                         [{\"name\": …, \"datatype\": …, \"shape\": […], \"data\": […]}]}";
            return Err(Refusal::invalid(words).into());
        }
    };
    share.take(texts.iter().map(|text| text.len() as u64 + 4).sum())?;
    let mut data = BytesMut::new();
    texts.iter().for_each(|text| encode_bytes_element(&mut data, text.as_bytes()));
    let batches = signature.is_none_or(|signature| signature.max_batch_size > 0);
    let shape =
        if batches { Shape::from_slice(&[texts.len() as i64, 1]) } else { Shape::from_slice(&[texts.len() as i64]) };
    let tensor = Tensor { name: input.to_owned(), datatype: Datatype::Bytes, shape, data: data.freeze() };
    Ok(Payload { request: InferRequest { inputs: vec![tensor], ..InferRequest::default() }, short: true })
}

/// Prints an answer in the form that its payload came in.
pub(crate) fn print(
    short: bool,
    id: Option<&str>,
    function: &FunctionName,
    answer: Answer,
) -> Result<Vec<u8>, Refusal> {
    let Answer { version, mut outputs, parameters, .. } = answer;
    if short {
        let at = outputs.iter().position(|output| output.name == EMBEDDING && output.shape.len() == 2);
        if let Some(at) = at.or((outputs.len() == 1 && outputs[0].shape.len() == 2).then_some(0)) {
            return rows(&outputs.swap_remove(at));
        }
    }
    Ok(print_answer(id, function, version, &parameters, outputs, |_| false)?.json)
}

/// A matrix as a list of its rows.
fn rows(matrix: &Tensor) -> Result<Vec<u8>, Refusal> {
    let (count, width) = (matrix.shape[0].max(0) as usize, matrix.shape[1]);
    let Some(row_bytes) = matrix.datatype.element_bytes().map(|bytes| bytes * width.max(0) as usize) else {
        return Err(Refusal::new(ErrorCode::Unsupported, "rows of texts have no short form: send OIP's form"));
    };
    let mut json = vec![b'['];
    for row in 0..count {
        if row > 0 {
            json.push(b',');
        }
        let data = matrix.data.slice(row * row_bytes..(row + 1) * row_bytes);
        let row =
            Tensor { name: matrix.name.clone(), datatype: matrix.datatype, shape: Shape::from_slice(&[width]), data };
        write_elements(&mut json, &row)?;
    }
    json.push(b']');
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_admission::ByteBudget;
    use penstock_domain::{StageTimes, TensorSpec, VersionNumber};

    fn encoder() -> Signature {
        Signature {
            inputs: vec![
                TensorSpec { optional: true, ..TensorSpec::new("ids", Datatype::Int64, [-1]) },
                TensorSpec::new("text", Datatype::Bytes, [1]),
            ],
            max_batch_size: 8,
            ..Signature::default()
        }
    }

    fn read_as(body: &'static str, signature: &Signature) -> Result<Payload, PayloadError> {
        let mut share = Share::new(&ByteBudget::new(1 << 20));
        read(&Bytes::from_static(body.as_bytes()), Some(signature), 1 << 20, &mut share)
    }

    #[test]
    fn both_forms_are_told_apart() {
        for (body, rows) in [(r#"{"inputs": "a"}"#, 1), (r#"{"inputs": ["a", "bc"]}"#, 2)] {
            let payload = read_as(body, &encoder()).unwrap();
            let input = &payload.request.inputs[0];
            assert_eq!((payload.short, input.name.as_str(), &input.shape[..]), (true, "text", &[rows, 1][..]));
            input.validate().unwrap();
        }
        let body = r#"{"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 1], "data": [1.5]}]}"#;
        let payload = read_as(body, &encoder()).unwrap();
        assert_eq!((payload.short, payload.request.inputs[0].name.as_str()), (false, "x"));
    }

    #[test]
    fn what_is_no_json_is_refused_and_what_is_no_input_fails() {
        for body in ["{", "{\"inputs\": }", "nonsense"] {
            assert!(matches!(read_as(body, &encoder()), Err(PayloadError::Content(_))), "{body}");
        }
        for body in ["", "{}", "[]", "3", r#"{"inputs": []}"#, r#"{"inputs": 3}"#, r#"{"inputs": null}"#] {
            let result = read_as(body, &encoder());
            assert!(
                matches!(result, Err(PayloadError::Refused(_)) | Ok(Payload { short: false, .. })),
                "{body}: {result:?}"
            );
        }
        let numbers = Signature { inputs: vec![TensorSpec::new("x", Datatype::Fp32, [2])], ..Signature::default() };
        assert!(matches!(read_as(r#"{"inputs": "a"}"#, &numbers), Err(PayloadError::Refused(_))));
    }

    #[test]
    fn an_encoder_answers_rows() {
        let data = [1.0f32, 2.0, 3.0, 4.5].iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<_>>();
        let shape = Shape::from_slice(&[2, 2]);
        let output = Tensor { name: "embedding".into(), datatype: Datatype::Fp32, shape, data: data.into() };
        let (version, timing) = (VersionNumber(1), StageTimes::default());
        let answer = Answer { version, outputs: vec![output], parameters: Vec::new(), timing };
        let function = FunctionName::new("f").unwrap();
        let printed = |short| String::from_utf8(print(short, None, &function, answer.clone()).unwrap()).unwrap();
        assert_eq!(printed(true), "[[1.0,2.0],[3.0,4.5]]");
        assert!(printed(false).starts_with(r#"{"model_name":"f""#));
    }
}
