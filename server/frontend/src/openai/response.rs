//! Room 8, OpenAI door: embeddings, printed.
//!
//! Called by `embeddings`. Pure.

use crate::http::{float, number};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use penstock_domain::{Datatype, ErrorCode, ParameterValue, Parameters, Refusal, Tensor};

/// Prints `embedding` FP32 [rows, D] as OpenAI's list. Base64 is of the row's little-endian f32.
pub(crate) fn print_embeddings(
    embedding: &Tensor,
    rows: usize,
    base64: bool,
    model: &str,
    prompt_tokens: u64,
) -> Result<Vec<u8>, Refusal> {
    let dimensions = match embedding.shape[..] {
        [found, dimensions] if embedding.datatype == Datatype::Fp32 && found == rows as i64 && dimensions > 0 => {
            dimensions as usize
        }
        _ => {
            let (datatype, shape) = (embedding.datatype, &embedding.shape);
            let words = format!("the model gave {datatype} {shape:?} as `embedding`, FP32 [{rows}, D] was expected");
            return Err(Refusal::new(ErrorCode::Internal, words));
        }
    };
    embedding.validate().map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))?;
    let row_bytes = dimensions * if base64 { 6 } else { 12 } + 64;
    let mut out = Vec::with_capacity(rows * row_bytes + 256);
    out.extend_from_slice(b"{\"object\":\"list\",\"data\":[");
    let mut text = String::new();
    for (index, row) in embedding.data.chunks_exact(dimensions * 4).enumerate() {
        if index > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"object\":\"embedding\",\"index\":");
        number(&mut out, index);
        out.extend_from_slice(b",\"embedding\":");
        if base64 {
            text.clear();
            STANDARD.encode_string(row, &mut text);
            out.push(b'"');
            out.extend_from_slice(text.as_bytes());
            out.push(b'"');
        } else {
            for (place, value) in row.as_chunks::<4>().0.iter().enumerate() {
                out.push(if place == 0 { b'[' } else { b',' });
                float(&mut out, f32::from_le_bytes(*value));
            }
            out.push(b']');
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"model\":");
    number(&mut out, model);
    out.extend_from_slice(b",\"usage\":{\"prompt_tokens\":");
    number(&mut out, prompt_tokens);
    out.extend_from_slice(b",\"total_tokens\":");
    number(&mut out, prompt_tokens);
    out.extend_from_slice(b"}}");
    Ok(out)
}

/// The count of tokens the model put into the answer's parameters.
pub(crate) fn prompt_tokens(parameters: &Parameters) -> Option<u64> {
    parameters.iter().find(|(key, _)| key == "prompt_tokens").and_then(|(_, value)| match *value {
        ParameterValue::Uint(count) => Some(count),
        ParameterValue::Int(count) => u64::try_from(count).ok(),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use smallvec::smallvec;

    fn embedding(rows: i64) -> Tensor {
        let floats = [0.1f32, -1.0, 2.5e-8, 3.0];
        let data: Bytes = floats.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>().into();
        Tensor { name: "embedding".into(), datatype: Datatype::Fp32, shape: smallvec![rows, 4 / rows], data }
    }

    #[test]
    fn floats_and_usage() {
        let out = print_embeddings(&embedding(2), 2, false, "m\"", 7).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.1,-1.0]},{"object":"embedding","index":1,"embedding":[2.5e-8,3.0]}],"model":"m\"","usage":{"prompt_tokens":7,"total_tokens":7}}"#
        );
    }

    #[test]
    fn base64_is_of_little_endian_f32() {
        let out = print_embeddings(&embedding(1), 1, true, "m", 0).unwrap();
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let row = STANDARD.decode(json["data"][0]["embedding"].as_str().unwrap()).unwrap();
        assert_eq!(row, embedding(1).data);
    }

    #[test]
    fn an_answer_of_another_shape_is_our_fault() {
        assert_eq!(print_embeddings(&embedding(2), 1, false, "m", 0).unwrap_err().code, ErrorCode::Internal);
    }

    #[test]
    fn tokens_come_from_the_answer() {
        let parameters = vec![("prompt_tokens".to_owned(), ParameterValue::Int(12))];
        assert_eq!(prompt_tokens(&parameters), Some(12));
        assert_eq!(prompt_tokens(&Vec::new()), None);
    }
}
