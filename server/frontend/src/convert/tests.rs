//! Requests as clients write them, rightly and wrongly.

use super::*;
use bytes::Bytes;
use penstock_domain::{ParameterValue, StageTimes};
use penstock_proto::inference::infer_parameter::ParameterChoice;
use penstock_proto::inference::{InferParameter, InferTensorContents};
use proptest::prelude::*;
use std::collections::HashMap;
use std::time::Duration;

fn input(datatype: &str, shape: &[i64], contents: Option<InferTensorContents>) -> InferInputTensor {
    let (name, datatype, shape) = ("x".into(), datatype.into(), shape.to_vec());
    InferInputTensor { name, datatype, shape, parameters: HashMap::new(), contents }
}

fn request(inputs: Vec<InferInputTensor>, raw: Vec<Bytes>) -> ModelInferRequest {
    ModelInferRequest { model_name: "m".into(), inputs, raw_input_contents: raw, ..Default::default() }
}

fn convert(request: ModelInferRequest) -> Result<Invocation, Refusal> {
    invocation_from_request(request, epoch(), None)
}

#[allow(clippy::disallowed_methods)] // any instant will do
fn epoch() -> Instant {
    Instant::now()
}

fn refused(request: ModelInferRequest) -> (ErrorCode, String) {
    let refusal = convert(request).unwrap_err();
    (refusal.code, refusal.message)
}

fn parameter(choice: ParameterChoice) -> InferParameter {
    InferParameter { parameter_choice: Some(choice) }
}

#[test]
fn raw_bytes_are_not_copied() {
    let raw = Bytes::from(vec![7u8; 16]);
    let invocation = convert(request(vec![input("FP32", &[2, 2], None)], vec![raw.clone()])).unwrap();
    assert_eq!(invocation.inputs[0].data.as_ptr(), raw.as_ptr());
    assert_eq!((invocation.qualifier, invocation.deadline, invocation.splittable), (Qualifier::Unnamed, None, false));
}

#[test]
fn typed_contents_become_raw() {
    let ints = |values: &[i32]| Some(InferTensorContents { int_contents: values.to_vec(), ..Default::default() });
    let data = |datatype: &str, contents| {
        let invocation = convert(request(vec![input(datatype, &[2], contents)], vec![]))?;
        Ok::<_, Refusal>(invocation.inputs[0].data.to_vec())
    };
    assert_eq!(data("INT8", ints(&[-1, 5])).unwrap(), [0xff, 5]);
    assert_eq!(data("INT16", ints(&[-2, 258])).unwrap(), [0xfe, 0xff, 2, 1]);
    assert_eq!(data("INT32", ints(&[1, 2])).unwrap(), [1, 0, 0, 0, 2, 0, 0, 0]);
    let error = data("INT8", ints(&[0, 128])).unwrap_err().message;
    assert_eq!(error, "input 'x': element 1 is 128, which does not fit INT8");
    let error = data("INT32", ints(&[1])).unwrap_err().message;
    assert_eq!(error, "input 'x': expected 2 INT32 elements for shape [2], got 1");
    let error = data("FP32", ints(&[1, 2])).unwrap_err().message;
    assert_eq!(error, "input 'x': contents.int_contents is filled, but FP32 belongs into contents.fp32_contents");
    assert!(data("FP16", ints(&[])).unwrap_err().message.contains("raw_input_contents"));
    let texts = InferTensorContents { bytes_contents: vec!["ab".into(), "".into()], ..Default::default() };
    assert_eq!(data("BYTES", Some(texts)).unwrap(), [2, 0, 0, 0, b'a', b'b', 0, 0, 0, 0]);
}

#[test]
fn raw_and_typed_do_not_mix_and_counts_agree() {
    let typed = input("INT8", &[1], Some(InferTensorContents::default()));
    let (code, words) = refused(request(vec![typed], vec![Bytes::from_static(&[1])]));
    assert_eq!(code, ErrorCode::InvalidArgument);
    assert!(words.contains("input 'x'") && words.contains("raw_input_contents"), "{words}");
    let (_, words) = refused(request(vec![input("INT8", &[1], None)], vec![Bytes::from_static(&[1]); 2]));
    assert!(words.contains("2 entries for 1 inputs"), "{words}");
    let (_, words) = refused(request(vec![input("FP32", &[1, 2], None)], vec![Bytes::from_static(&[1; 7])]));
    assert_eq!(words, "tensor 'x': expected 8 bytes for FP32 [1, 2], got 7");
    let (_, words) = refused(request(vec![input("FLOAT", &[1], None)], vec![]));
    assert!(words.contains("unknown datatype 'FLOAT'") && words.contains("FP32"), "{words}");
    assert_eq!(refused(request(vec![input("INT8", &[-1], None)], vec![])).0, ErrorCode::InvalidArgument);
    assert!(convert(request(vec![input("INT8", &[0], None)], vec![])).is_ok());
}

#[test]
fn versions_are_digits_and_qualifiers_agree() {
    let named = |name: &str, version: &str| {
        let (function, qualifier) = function_and_version(name, version).map_err(|refusal| refusal.code)?;
        assert_eq!(function.as_str(), "m");
        Ok(qualifier)
    };
    let numbered = |number| Ok(Qualifier::Version(VersionNumber(number)));
    assert_eq!(named("m", ""), Ok(Qualifier::Unnamed));
    assert_eq!(named("m", "12"), numbered(12));
    assert_eq!(named("m:3", ""), numbered(3));
    assert_eq!(named("m:3", "3"), numbered(3));
    assert_eq!(named("m:live", ""), Ok(Qualifier::Alias("live".into())));
    assert_eq!(named("m:$LATEST.PUBLISHED", ""), Ok(Qualifier::Version(VersionNumber::LATEST_PUBLISHED)));
    for bad in [("m:3", "4"), ("m:live", "4"), ("m:", ""), ("m:0", ""), ("m:$LATEST", "")] {
        assert_eq!(named(bad.0, bad.1), Err(ErrorCode::InvalidArgument), "{bad:?}");
    }
    for version in ["abc", "0", "+1", "-1", "1.0", " 1", "99999999999999999999"] {
        assert_eq!(named("m", version), Err(ErrorCode::InvalidArgument), "{version}");
    }
    assert_eq!(named("", ""), Err(ErrorCode::InvalidArgument));
}

#[test]
fn parameters_are_taken_passed_on_or_refused() {
    let read = |parameters: Vec<(&str, ParameterValue)>, deadline| {
        read_parameters(parameters.into_iter().map(|(key, value)| (key.to_owned(), Some(value))), epoch(), deadline)
    };
    let received = epoch();
    for value in [ParameterValue::Int(1000), ParameterValue::Uint(1000), ParameterValue::String("1000".into())] {
        let parameters = [("timeout".to_owned(), Some(value))];
        let options = read_parameters(parameters, received, None).unwrap();
        assert_eq!(options.deadline, Some(received + Duration::from_millis(1)));
    }
    let early = Some(received);
    assert_eq!(read(vec![("timeout", ParameterValue::Int(1))], early).unwrap().deadline, early);
    assert_eq!(read(vec![("timeout", ParameterValue::Int(0))], None).unwrap().deadline, None);
    for bad in [ParameterValue::Int(-1), ParameterValue::Double(1.0), ParameterValue::String("1s".into())] {
        assert!(read(vec![("timeout", bad)], None).unwrap_err().message.contains("'timeout'"));
    }
    assert_eq!(read(vec![("priority", ParameterValue::Uint(2))], None).unwrap().priority, 2);
    assert!(read(vec![("priority", ParameterValue::Uint(u64::MAX))], None).is_err());
    assert!(read(vec![("triton_x", ParameterValue::Bool(true))], None).is_err());
    let options = read(vec![("triton_enable_empty_final_response", ParameterValue::Bool(true))], None).unwrap();
    assert!(options.parameters.is_empty());
    let passed = vec![("sequence_id", ParameterValue::Uint(1)), ("a", ParameterValue::Bool(true))];
    let names: Vec<_> = read(passed, None).unwrap().parameters.into_iter().map(|(key, _)| key).collect();
    assert_eq!(names, ["a", "sequence_id"]);
}

#[test]
fn shared_memory_is_refused_with_a_reason_and_classification_is_read() {
    let mut shared = input("INT8", &[1], None);
    shared.parameters.insert("shared_memory_region".into(), parameter(ParameterChoice::StringParam("r".into())));
    let (code, words) = refused(request(vec![shared], vec![]));
    assert_eq!(code, ErrorCode::Unsupported);
    assert!(words.contains("input 'x'") && words.contains("shared memory"), "{words}");
    let wanted = |choice| {
        let parameters = HashMap::from([("classification".to_owned(), parameter(choice))]);
        let mut request = request(vec![], vec![]);
        request.outputs = vec![InferRequestedOutputTensor { name: "y".into(), parameters }];
        convert(request).map(|invocation| invocation.outputs[0].classification)
    };
    assert_eq!(wanted(ParameterChoice::Int64Param(3)), Ok(3));
    assert!(wanted(ParameterChoice::Int64Param(0)).unwrap_err().message.contains("output 'y'"));
    assert!(wanted(ParameterChoice::BoolParam(true)).is_err());
}

#[test]
fn answers_are_always_raw() {
    let data = Bytes::from_static(&[1, 2]);
    let tensor = Tensor { name: "y".into(), datatype: Datatype::Int8, shape: Shape::from_slice(&[2]), data };
    let parameters = vec![("tokens".to_owned(), ParameterValue::Int(3))];
    let answer = Answer { version: VersionNumber(7), outputs: vec![tensor], parameters, timing: StageTimes::default() };
    let response = response_from_answer(&FunctionName::new("m").unwrap(), "id".into(), answer);
    assert_eq!((response.model_version.as_str(), response.id.as_str()), ("7", "id"));
    assert_eq!(response.raw_output_contents, [Bytes::from_static(&[1, 2])]);
    assert!(response.outputs[0].contents.is_none());
    assert_eq!(response.parameters["tokens"], parameter(ParameterChoice::Int64Param(3)));
}

fn any_parameter() -> impl Strategy<Value = InferParameter> {
    prop_oneof![
        Just(InferParameter { parameter_choice: None }),
        any::<bool>().prop_map(|v| parameter(ParameterChoice::BoolParam(v))),
        any::<i64>().prop_map(|v| parameter(ParameterChoice::Int64Param(v))),
        any::<u64>().prop_map(|v| parameter(ParameterChoice::Uint64Param(v))),
        any::<f64>().prop_map(|v| parameter(ParameterChoice::DoubleParam(v))),
        ".{0,8}".prop_map(|v| parameter(ParameterChoice::StringParam(v))),
    ]
}

fn any_parameters() -> impl Strategy<Value = HashMap<String, InferParameter>> {
    let key =
        prop_oneof!["timeout", "priority", "classification", "shared_memory_region", "triton_[a-z]{0,3}", ".{0,6}"];
    proptest::collection::hash_map(key, any_parameter(), 0..4)
}

fn any_contents() -> impl Strategy<Value = InferTensorContents> {
    let lists = (
        proptest::collection::vec(any::<i32>(), 0..4),
        proptest::collection::vec(any::<u32>(), 0..4),
        proptest::collection::vec(any::<f32>(), 0..4),
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 0..4),
    );
    lists.prop_map(|(int_contents, uint_contents, fp32_contents, texts)| InferTensorContents {
        int_contents,
        uint_contents,
        fp32_contents,
        bytes_contents: texts.into_iter().map(Bytes::from).collect(),
        ..Default::default()
    })
}

fn any_input() -> impl Strategy<Value = InferInputTensor> {
    let datatype = prop_oneof![proptest::sample::select(Datatype::ALL.map(|d| d.name().to_owned()).to_vec()), ".{0,5}"];
    let shape = proptest::collection::vec(prop_oneof![-1i64..5, any::<i64>()], 0..5);
    let contents = proptest::option::of(any_contents());
    (".{0,5}", datatype, shape, any_parameters(), contents).prop_map(|(name, datatype, shape, parameters, contents)| {
        InferInputTensor { name, datatype, shape, parameters, contents }
    })
}

proptest! {
    #[test]
    fn no_request_panics_and_what_passes_is_valid(
        model_name in "[a-z:0-9/]{0,6}",
        model_version in "[0-9a-z+-]{0,4}",
        parameters in any_parameters(),
        inputs in proptest::collection::vec(any_input(), 0..4),
        wanted in proptest::collection::vec((".{0,4}", any_parameters()), 0..3),
        raw in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..12), 0..4),
    ) {
        let outputs = wanted.into_iter();
        let request = ModelInferRequest {
            model_name,
            model_version,
            id: String::new(),
            parameters,
            inputs,
            outputs: outputs.map(|(name, parameters)| InferRequestedOutputTensor { name, parameters }).collect(),
            raw_input_contents: raw.into_iter().map(Bytes::from).collect(),
        };
        if let Ok(invocation) = convert(request) {
            for tensor in &invocation.inputs {
                prop_assert!(tensor.validate().is_ok());
            }
        }
    }
}
