//! Room 8, response: an answer as OIP's REST API prints it, JSON with or without tensors in binary behind it.
//!
//! Called by `infer`. Pure. Binary tensors stay the buffers they came in.

use super::json_tensor::{number, write_elements};
use bytes::Bytes;
use penstock_domain::{FunctionName, ParameterValue, Parameters, Refusal, Tensor, VersionNumber};

/// An answer, printed.
#[derive(Debug)]
pub(crate) struct Printed {
    /// The JSON.
    pub(crate) json: Vec<u8>,
    /// Binary tensors in the order of the JSON's outputs; empty if everything is in the JSON.
    pub(crate) binary: Vec<Bytes>,
}

/// Prints an answer; `binary` says of an output's name whether it goes behind the JSON.
pub(crate) fn print_answer(
    id: Option<&str>,
    function: &FunctionName,
    version: VersionNumber,
    parameters: &Parameters,
    outputs: Vec<Tensor>,
    binary: impl Fn(&str) -> bool,
) -> Result<Printed, Refusal> {
    let mut json = Vec::with_capacity(256);
    let mut behind = Vec::new();
    json.push(b'{');
    if let Some(id) = id {
        json.extend_from_slice(b"\"id\":");
        number(&mut json, id);
        json.push(b',');
    }
    json.extend_from_slice(b"\"model_name\":");
    number(&mut json, function.as_str());
    json.extend_from_slice(b",\"model_version\":");
    number(&mut json, version.to_string());
    if !parameters.is_empty() {
        json.extend_from_slice(b",\"parameters\":");
        print_parameters(&mut json, parameters);
    }
    json.extend_from_slice(b",\"outputs\":[");
    for (index, output) in outputs.into_iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        json.extend_from_slice(b"{\"name\":");
        number(&mut json, &output.name);
        json.extend_from_slice(b",\"datatype\":");
        number(&mut json, output.datatype.name());
        json.extend_from_slice(b",\"shape\":");
        number(&mut json, &output.shape[..]);
        if binary(&output.name) {
            json.extend_from_slice(b",\"parameters\":{\"binary_data_size\":");
            number(&mut json, output.data.len());
            json.extend_from_slice(b"}}");
            behind.push(output.data);
        } else {
            json.extend_from_slice(b",\"data\":");
            write_elements(&mut json, &output)?;
            json.push(b'}');
        }
    }
    json.extend_from_slice(b"]}");
    Ok(Printed { json, binary: behind })
}

fn print_parameters(json: &mut Vec<u8>, parameters: &Parameters) {
    json.push(b'{');
    for (index, (key, value)) in parameters.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        number(json, key);
        json.push(b':');
        match value {
            ParameterValue::Bool(value) => number(json, value),
            ParameterValue::Int(value) => number(json, value),
            ParameterValue::Uint(value) => number(json, value),
            ParameterValue::Double(value) => number(json, value),
            ParameterValue::String(value) => number(json, value),
        }
    }
    json.push(b'}');
}

#[cfg(test)]
mod tests {
    use super::*;
    use penstock_domain::Datatype;
    use smallvec::smallvec;

    fn outputs() -> Vec<Tensor> {
        let data = Bytes::copy_from_slice(&[0, 0, 0x80, 0x3f, 0, 0, 0xc0, 0xbf]);
        let scores = Tensor { name: "scores".into(), datatype: Datatype::Fp32, shape: smallvec![1, 2], data };
        let data = Bytes::from_static(b"\x02\0\0\0hi");
        let label = Tensor { name: "la\"bel".into(), datatype: Datatype::Bytes, shape: smallvec![1], data };
        vec![scores, label]
    }

    #[test]
    fn all_in_json() {
        let parameters = vec![("n".to_owned(), ParameterValue::Int(3)), ("t".to_owned(), ParameterValue::Bool(true))];
        let function = FunctionName::new("m").unwrap();
        let printed =
            print_answer(Some("a\n"), &function, VersionNumber(2), &parameters, outputs(), |_| false).unwrap();
        assert_eq!(
            String::from_utf8(printed.json).unwrap(),
            r#"{"id":"a\n","model_name":"m","model_version":"2","parameters":{"n":3,"t":true},"outputs":[{"name":"scores","datatype":"FP32","shape":[1,2],"data":[1.0,-1.5]},{"name":"la\"bel","datatype":"BYTES","shape":[1],"data":["hi"]}]}"#
        );
        assert!(printed.binary.is_empty());
    }

    #[test]
    fn binary_goes_behind_in_order() {
        let function = FunctionName::new("m").unwrap();
        let printed =
            print_answer(None, &function, VersionNumber(1), &Vec::new(), outputs(), |name| name == "scores").unwrap();
        let json = String::from_utf8(printed.json).unwrap();
        assert!(json.contains(r#""shape":[1,2],"parameters":{"binary_data_size":8}},{"name""#), "{json}");
        assert_eq!(printed.binary, [outputs()[0].data.clone()]);
        assert!(!json.contains("\"id\""));
    }
}
