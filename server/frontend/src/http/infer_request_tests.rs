//! Infer requests: JSON, binary behind JSON, and no JSON at all.

use super::*;
use penstock_admission::ByteBudget;
use proptest::prelude::*;

fn read(body: impl Into<Bytes>, header_length: Option<usize>) -> Result<InferRequest, Refusal> {
    read_request(&body.into(), header_length, 1 << 20, &mut Share::new(&ByteBudget::new(1 << 21)))
}

fn json(body: &'static str) -> Result<InferRequest, Refusal> {
    read(body, None)
}

/// A body with binary tensors behind its JSON.
fn binary(json: &str, behind: &[u8]) -> Result<InferRequest, Refusal> {
    read([json.as_bytes(), behind].concat(), Some(json.len()))
}

#[test]
fn a_request_in_json() {
    let request = json(
        r#"{"id":"7","parameters":{"binary_data_output":true,"k":-1,"big":18446744073709551615,"f":0.5,"s":"x","b":false},
            "model_name":"ignored","inputs":[{"data":[[1,2],[3,4]],"name":"x","shape":[2,2],"datatype":"INT8"},
            {"name":"t","shape":[1],"datatype":"BYTES","parameters":null,"data":["hi"]}],
            "outputs":[{"name":"y","parameters":{"binary_data":false,"classification":3}},{"name":"z"}]}"#,
    )
    .unwrap();
    assert_eq!(request.id.as_deref(), Some("7"));
    let parameters: Vec<_> = request.parameters.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
    assert_eq!(
        parameters,
        [
            ("k", ParameterValue::Int(-1)),
            ("big", ParameterValue::Uint(u64::MAX)),
            ("f", ParameterValue::Double(0.5)),
            ("s", ParameterValue::String("x".into())),
            ("b", ParameterValue::Bool(false)),
        ]
    );
    assert!(request.binary_data_output);
    assert_eq!((&request.inputs[0].data[..], &request.inputs[0].shape[..]), (&[1, 2, 3, 4][..], &[2, 2][..]));
    assert_eq!(&request.inputs[1].data[..], b"\x02\0\0\0hi");
    assert_eq!((request.outputs[0].binary, request.outputs[0].output.classification), (Some(false), 3));
    assert_eq!((request.outputs[1].binary, request.outputs[1].output.name.as_str()), (None, "z"));
}

#[test]
fn nulls_count_as_absent() {
    let request = json(
        r#"{"id":null,"parameters":null,"outputs":null,"inputs":[{"name":"x","shape":[0],"datatype":"FP32","data":[]}]}"#,
    )
    .unwrap();
    assert_eq!((request.id, request.outputs.len(), request.inputs.len()), (None, 0, 1));
}

#[test]
fn binary_tensors_are_slices_in_order() {
    let json = r#"{"inputs":[{"name":"a","shape":[2],"datatype":"UINT8","parameters":{"binary_data_size":2}},
        {"name":"j","shape":[1],"datatype":"UINT8","data":[9]},
        {"name":"b","shape":[1],"datatype":"BYTES","parameters":{"binary_data_size":5}}]}"#;
    let request = binary(json, b"\x01\x02\x01\0\0\0\xff").unwrap();
    let data: Vec<&[u8]> = request.inputs.iter().map(|input| &input.data[..]).collect();
    assert_eq!(data, [&b"\x01\x02"[..], &[9], b"\x01\0\0\0\xff"]);
    let both =
        r#"{"inputs":[{"name":"a","shape":[1],"datatype":"UINT8","data":[1],"parameters":{"binary_data_size":1}}]}"#;
    assert!(binary(both, b"\x01").unwrap_err().message.contains("has both `data` and `binary_data_size`"));
    let missing = binary(json, b"\x01\x02\x01").unwrap_err().message;
    assert_eq!(missing, "input 'b': expected 5 bytes of binary data, only 1 are left");
    let surplus = binary(json, b"\x01\x02\x01\0\0\0\xff\0").unwrap_err().message;
    assert_eq!(surplus, "the body has 1 bytes more than its inputs' `binary_data_size` say");
    let header = read(json.to_owned(), None).unwrap_err().message;
    assert!(header.contains("the header Inference-Header-Content-Length is missing"), "{header}");
    let range = read(json.to_owned(), Some(1000)).unwrap_err().message;
    assert_eq!(range, format!("inference header size should be in range (0, {}), got: 1000", json.len()));
    let size = binary(&json.replace("size\":2", "size\":3"), b"\x01\x02\x03\x01\0\0\0\xff").unwrap_err().message;
    assert_eq!(size, "tensor 'a': expected 2 bytes for UINT8 [2], got 3");
}

#[test]
fn what_is_wrong_is_named() {
    let table = [
        ("", "line 1 column 1: expected a JSON object (the infer request), found the end"),
        ("{}", "has no `inputs`"),
        (r#"{"inputs":[{"name":"x"}]}"#, "line 1 column 12: input 'x' has no `datatype`"),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP31","data":[1]}]}"#,
            "datatype 'FP31' is not one of BOOL,",
        ),
        (r#"{"inputs":[{"name":"x","shape":[-1],"datatype":"FP32","data":[1]}]}"#, "found `-1`"),
        (r#"{"inputs":[{"name":"x","shape":[1.5],"datatype":"FP32","data":[1]}]}"#, "found `1.5`"),
        (
            r#"{"inputs":[{"name":"x","shape":[2],"datatype":"FP32","data":[1]}]}"#,
            "shape [2] has 2 elements, but `data` has 1",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","data":[1,2]}]}"#,
            "its shape has 1 elements, but `data` has more",
        ),
        (
            r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32"}]}"#,
            "input 'x' has no `data` or `parameters.binary_data_size`",
        ),
        (r#"{"id":7,"inputs":[]}"#, "expected a string as `id`, found `7`"),
        (r#"{"inputs":[],"parameters":{"triton_x":1}}"#, "names that begin with `triton_` are reserved"),
        (r#"{"inputs":[],"parameters":{"x":[1]}}"#, "a boolean, a number or a string as parameter 'x', found `[1`"),
        (r#"{"inputs":[],"parameters":{"binary_data_output":1}}"#, "expected true or false, found 1"),
        (r#"{"inputs":[],"outputs":[{"name":"y","parameters":{"classification":-1}}]}"#, "classification"),
        (r#"{"inputs":[]} x"#, "expected the end of the JSON text, found `x`"),
    ];
    for (body, words) in table {
        let refusal = json(body).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::InvalidArgument, "{body}");
        assert!(refusal.message.contains(words), "{body}: {}", refusal.message);
    }
    let not_text = read(&b"{\"inputs\":[\xff"[..], None).unwrap_err().message;
    assert_eq!(not_text, "request body is not UTF-8: byte 11 cannot stand there");
}

#[test]
fn size_and_offers_have_their_own_codes() {
    let huge = json(r#"{"inputs":[{"name":"x","shape":[1000000],"datatype":"FP32","data":[1]}]}"#).unwrap_err();
    assert_eq!(huge.code, ErrorCode::TooLarge);
    assert_eq!(huge.message, "input 'x' has 4000000 bytes, the limit is 1048576");
    let region = r#"{"inputs":[{"name":"x","shape":[1],"datatype":"FP32","parameters":{"shared_memory_region":"r"}}]}"#;
    assert_eq!(json(region).unwrap_err().code, ErrorCode::Unsupported);
    let region = r#"{"inputs":[],"outputs":[{"name":"x","parameters":{"shared_memory_region":"r"}}]}"#;
    assert_eq!(json(region).unwrap_err().code, ErrorCode::Unsupported);
}

proptest! {
    #[test]
    fn any_body_is_read_without_a_panic(body: Vec<u8>, header in proptest::option::of(0usize..64)) {
        let _ = read(body, header);
    }

    #[test]
    fn any_damage_to_a_good_body_is_read_without_a_panic(at in 0usize..150, byte: u8, header in 0usize..160) {
        let mut body = br#"{"id":"1","inputs":[{"name":"a","shape":[2],"datatype":"FP32","data":[1,[2e3]],"parameters":{"binary_data_size":2}}],"outputs":[{"name":"b"}]}abcd"#.to_vec();
        if let Some(place) = body.get_mut(at) {
            *place = byte;
        }
        let _ = read(body.clone(), Some(header));
        let _ = read(body, None);
    }
}
