//! Requests encoded once, before the first is sent. Called by the command line; read by `drive`, which only copies bytes.

use crate::target::{Protocol, Target};
use crate::wire::ID_DIGITS;
use crate::words::{Lengths, text};
use bytes::{BufMut, Bytes, BytesMut};
use penstock_proto::inference::infer_parameter::ParameterChoice;
use penstock_proto::inference::model_infer_request::InferInputTensor;
use penstock_proto::inference::{InferParameter, ModelInferRequest};
use prost::Message;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde_json::{Value, json};

/// How many different texts a run goes round, if texts it is.
const TEXTS: usize = 1024;

/// What a request carries.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Model, or for `embeddings` the `model` of the body; `name:qualifier` is passed on.
    pub model: String,
    /// Bytes of the tensor of one item; ignored if there are texts.
    pub tensor_bytes: usize,
    /// Texts instead of a tensor of bytes.
    pub tokens: Option<Lengths>,
    /// Items of a request.
    pub batch: usize,
    /// Name of the input tensor.
    pub input: String,
    /// Its type.
    pub datatype: String,
    /// How long the server may take.
    pub deadline_ms: Option<u32>,
    /// Seed of texts.
    pub seed: u64,
}

/// A shape that cannot be encoded.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// The bytes are no whole number of elements.
    #[error("--tensor-bytes is {found}: {datatype} takes a multiple of {element}")]
    #[allow(missing_docs)]
    Size { found: usize, datatype: String, element: usize },
    /// Not one of the types this generator makes.
    #[error("--datatype is `{0}`: give one of UINT8, INT32, INT64, FP16, FP32, FP64, or BYTES with --tokens")]
    Datatype(String),
    /// An embedding needs text.
    #[error("an embeddings target needs --tokens, for instance --tokens 16")]
    NoText,
}

/// Prepared requests, sent in turn.
#[derive(Clone, Debug)]
pub struct Payloads {
    bodies: Vec<Bytes>,
    next: usize,
    /// Mean length of a request on the wire, HTTP/2 frames apart.
    pub mean_bytes: f64,
    /// Mean tokens of a request, 0 if it has no texts.
    pub mean_tokens: f64,
}

impl Payloads {
    /// Encodes for one target.
    pub fn prepare(target: &Target, shape: &Shape) -> Result<Self, ShapeError> {
        let mut chance = SmallRng::seed_from_u64(shape.seed);
        let (mut bodies, mut tokens) = (Vec::new(), 0);
        for _ in 0..if shape.tokens.is_some() { TEXTS } else { 1 } {
            let texts: Vec<(String, usize)> = shape
                .tokens
                .iter()
                .flat_map(|lengths| (0..shape.batch).map(|_| *lengths))
                .map(|l| text(l, &mut chance))
                .collect();
            tokens += texts.iter().map(|(_, tokens)| tokens).sum::<usize>();
            let texts: Vec<String> = texts.into_iter().map(|(text, _)| text).collect();
            bodies.push(match target.protocol {
                Protocol::Grpc | Protocol::GrpcStream => grpc(target, shape, &texts)?,
                Protocol::Http | Protocol::HttpJson => infer_http(target, shape, &texts)?,
                Protocol::Embeddings if texts.is_empty() => return Err(ShapeError::NoText),
                Protocol::Embeddings => {
                    let body = json!({"model": shape.model, "input": texts, "encoding_format": "float"}).to_string();
                    let deadline =
                        shape.deadline_ms.map(|ms| format!("x-penstock-timeout-ms: {ms}\r\n")).unwrap_or_default();
                    http(target, "/v1/embeddings", &deadline, "application/json", body.as_bytes())
                }
            });
        }
        let count = bodies.len() as f64;
        let mean_bytes = bodies.iter().map(Bytes::len).sum::<usize>() as f64 / count;
        Ok(Self { bodies, next: 0, mean_bytes, mean_tokens: tokens as f64 / count })
    }

    /// The next request.
    pub fn advance(&mut self) -> &Bytes {
        let at = self.next;
        self.next = (at + 1) % self.bodies.len();
        &self.bodies[at]
    }
}

/// The tensor: its type, its shape and its bytes as OIP lays them out.
fn tensor(shape: &Shape, texts: &[String]) -> Result<(String, Vec<i64>, Bytes), ShapeError> {
    if !texts.is_empty() {
        let mut raw = BytesMut::new();
        for text in texts {
            raw.put_u32_le(text.len() as u32);
            raw.put_slice(text.as_bytes());
        }
        return Ok(("BYTES".to_owned(), vec![texts.len() as i64, 1], raw.freeze()));
    }
    let element = match shape.datatype.as_str() {
        "UINT8" => 1,
        "FP16" => 2,
        "INT32" | "FP32" => 4,
        "INT64" | "FP64" => 8,
        other => return Err(ShapeError::Datatype(other.to_owned())),
    };
    if !shape.tensor_bytes.is_multiple_of(element) {
        return Err(ShapeError::Size { found: shape.tensor_bytes, datatype: shape.datatype.clone(), element });
    }
    let elements = (shape.tensor_bytes / element) as i64;
    Ok((shape.datatype.clone(), vec![shape.batch as i64, elements], vec![0; shape.tensor_bytes * shape.batch].into()))
}

/// A length-prefixed gRPC message. For a stream it begins with an `id` of fixed length, which each sending fills in.
fn grpc(target: &Target, shape: &Shape, texts: &[String]) -> Result<Bytes, ShapeError> {
    let (datatype, dimensions, raw) = tensor(shape, texts)?;
    let (name, version) = qualified(&shape.model);
    let mut request = ModelInferRequest {
        model_name: name,
        model_version: version,
        inputs: vec![InferInputTensor { name: shape.input.clone(), datatype, shape: dimensions, ..Default::default() }],
        raw_input_contents: vec![raw],
        ..Default::default()
    };
    let mut message = BytesMut::new();
    if target.protocol == Protocol::GrpcStream {
        if let Some(ms) = shape.deadline_ms {
            let timeout = ParameterChoice::Int64Param(i64::from(ms) * 1000);
            request.parameters.insert("timeout".to_owned(), InferParameter { parameter_choice: Some(timeout) });
        }
        message.put_slice(&[3 << 3 | 2, ID_DIGITS as u8]);
        message.put_bytes(b'0', ID_DIGITS);
    }
    message.put_slice(&request.encode_to_vec());
    let mut body = BytesMut::with_capacity(message.len() + 5);
    body.put_u8(0);
    body.put_u32(message.len() as u32);
    body.put_slice(&message);
    Ok(body.freeze())
}

/// OIP keeps `model_version` for digits; a qualifier that is none stays in the name.
fn qualified(model: &str) -> (String, String) {
    match model.rsplit_once(':') {
        Some((name, version)) if version.bytes().all(|b| b.is_ascii_digit()) => (name.to_owned(), version.to_owned()),
        _ => (model.to_owned(), String::new()),
    }
}

fn infer_http(target: &Target, shape: &Shape, texts: &[String]) -> Result<Bytes, ShapeError> {
    let (datatype, dimensions, raw) = tensor(shape, texts)?;
    let (name, version) = qualified(&shape.model);
    let version = if version.is_empty() { String::new() } else { format!("/versions/{version}") };
    let path = format!("/v2/models/{name}{version}/infer");
    let mut input = json!({"name": shape.input, "datatype": datatype, "shape": dimensions});
    let mut parameters = json!({});
    if let Some(ms) = shape.deadline_ms {
        parameters["timeout"] = json!(u64::from(ms) * 1000);
    }
    let binary = target.protocol == Protocol::Http;
    if binary {
        input["parameters"] = json!({"binary_data_size": raw.len()});
        parameters["binary_data_output"] = json!(true);
    } else if texts.is_empty() {
        input["data"] = Value::from(vec![0; dimensions.iter().product::<i64>() as usize]);
    } else {
        input["data"] = json!(texts);
    }
    let head = json!({"inputs": [input], "parameters": parameters}).to_string();
    if binary {
        let extra = format!("Inference-Header-Content-Length: {}\r\n", head.len());
        Ok(http(target, &path, &extra, "application/octet-stream", &[head.as_bytes(), &raw].concat()))
    } else {
        Ok(http(target, &path, "", "application/json", head.as_bytes()))
    }
}

fn http(target: &Target, path: &str, extra: &str, kind: &str, body: &[u8]) -> Bytes {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\n{extra}Content-Length: {}\r\n\r\n",
        target.authority,
        body.len()
    );
    [head.as_bytes(), body].concat().into()
}

#[cfg(test)]
mod tests {
    use super::{Payloads, Shape};
    use crate::target::Target;
    use penstock_proto::inference::ModelInferRequest;
    use prost::Message;

    fn shape() -> Shape {
        Shape {
            model: "identity:3".into(),
            tensor_bytes: 16,
            tokens: None,
            batch: 2,
            input: "INPUT0".into(),
            datatype: "FP32".into(),
            deadline_ms: Some(50),
            seed: 1,
        }
    }

    #[test]
    fn a_grpc_request_decodes_to_what_was_asked_for() {
        for scheme in ["grpc", "grpc-stream"] {
            let target = Target::parse(&format!("{scheme}://127.0.0.1:1")).unwrap();
            let mut payloads = Payloads::prepare(&target, &shape()).unwrap();
            let request = ModelInferRequest::decode(payloads.advance().slice(5..)).unwrap();
            assert_eq!((request.model_name.as_str(), request.model_version.as_str()), ("identity", "3"));
            assert_eq!(request.inputs[0].shape, [2, 4]);
            assert_eq!(request.raw_input_contents[0].len(), 32);
            assert_eq!(request.id, if scheme == "grpc" { "" } else { "00000000" });
            assert_eq!(request.parameters.len(), usize::from(scheme != "grpc"));
        }
    }

    #[test]
    fn texts_are_bytes_tensors_and_differ() {
        let target = Target::parse("grpc://127.0.0.1:1").unwrap();
        let shape = Shape { tokens: Some("16".parse().unwrap()), ..shape() };
        let mut payloads = Payloads::prepare(&target, &shape).unwrap();
        assert_eq!(payloads.mean_tokens, 32.0);
        let first = payloads.advance().clone();
        assert_ne!(&first, payloads.advance());
        let request = ModelInferRequest::decode(first.slice(5..)).unwrap();
        assert_eq!((request.inputs[0].datatype.as_str(), &request.inputs[0].shape[..]), ("BYTES", &[2, 1][..]));
    }
}
