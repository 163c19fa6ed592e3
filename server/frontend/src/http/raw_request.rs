//! Room 1, front end: an infer request that is nothing but the bytes of its one input.
//!
//! Called by `infer`. Pure. The function's signature says what the bytes are.

use super::infer_request::InferRequest;
use bytes::Bytes;
use penstock_domain::{Refusal, Shape, Signature, Tensor};

/// Reads a body without JSON (`Inference-Header-Content-Length: 0`): it is the one input of the function, batch 1.
pub(crate) fn read_raw(body: Bytes, signature: &Signature) -> Result<InferRequest, Refusal> {
    let [input] = &signature.inputs[..] else {
        return Err(Refusal::invalid(format!(
            "a body without JSON (Inference-Header-Content-Length 0) needs a function with exactly one input, this one \
             has {}",
            signature.inputs.len()
        )));
    };
    let mut shape: Shape = input.shape.iter().copied().collect();
    if signature.max_batch_size > 0 {
        shape.insert(0, 1);
    }
    let open = shape.iter().filter(|&&size| size < 0).count();
    let known: i64 = shape.iter().filter(|&&size| size >= 0).product();
    let data = match input.datatype.element_bytes() {
        Some(size) => {
            let elements = (body.len() / size) as i64;
            match open {
                0 => {}
                1 if known > 0 && elements % known == 0 => {
                    shape.iter_mut().filter(|size| **size < 0).for_each(|size| *size = elements / known);
                }
                _ => {
                    return Err(Refusal::invalid(format!(
                        "input '{}': the shape {shape:?} cannot be told from a body of {} bytes; send a JSON header",
                        input.name,
                        body.len()
                    )));
                }
            }
            body
        }
        None => {
            // The whole body is one element, as in Triton.
            shape.iter_mut().filter(|size| **size < 0).for_each(|size| *size = 1);
            let mut element = bytes::BytesMut::new();
            penstock_domain::encode_bytes_element(&mut element, &body);
            element.freeze()
        }
    };
    let tensor = Tensor { name: input.name.clone(), datatype: input.datatype, shape, data };
    tensor.validate().map_err(|error| Refusal::invalid(error.to_string()))?;
    Ok(InferRequest { inputs: vec![tensor], binary_data_output: true, ..InferRequest::default() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_domain::{Datatype, TensorSpec};

    #[test]
    fn a_body_without_json_is_the_one_input() {
        let signature = |datatype, shape: &[i64], max_batch_size| Signature {
            inputs: vec![TensorSpec::new("x", datatype, shape)],
            max_batch_size,
            ..Signature::default()
        };
        let raw = |signature: &Signature, body: &'static [u8]| read_raw(Bytes::from_static(body), signature);
        let request = raw(&signature(Datatype::Uint8, &[2], 8), &[1, 2]).unwrap();
        assert_eq!((&request.inputs[0].shape[..], request.binary_data_output), (&[1, 2][..], true));
        let request = raw(&signature(Datatype::Int16, &[-1, 2], 0), &[0; 8]).unwrap();
        assert_eq!(&request.inputs[0].shape[..], [2, 2]);
        let request = raw(&signature(Datatype::Bytes, &[1], 8), b"abc").unwrap();
        assert_eq!((&request.inputs[0].data[..], &request.inputs[0].shape[..]), (&b"\x03\0\0\0abc"[..], &[1, 1][..]));
        assert!(raw(&signature(Datatype::Uint8, &[2], 8), &[1]).is_err());
        assert!(raw(&signature(Datatype::Uint8, &[-1, -1], 8), &[1]).is_err());
        assert!(raw(&signature(Datatype::Int16, &[-1], 8), &[1]).is_err());
        assert!(raw(&signature(Datatype::Int16, &[-1, 0], 8), &[]).is_err());
        assert!(raw(&Signature::default(), &[1]).unwrap_err().message.contains("exactly one input, this one has 0"));
    }
}
