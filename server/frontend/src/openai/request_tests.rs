//! The forms of an embeddings request, and what is said about those that are none.

use super::*;
use penstock_admission::ByteBudget;
use proptest::prelude::*;

fn read(body: &str) -> EmbeddingsRequest {
    read_embeddings(body.as_bytes()).unwrap()
}

fn share() -> Share {
    Share::new(&ByteBudget::new(1 << 20))
}

fn wrong(body: &str) -> (Option<&'static str>, String) {
    let failure = read_embeddings(body.as_bytes()).unwrap_err();
    (failure.param, failure.refusal.message)
}

#[test]
fn texts() {
    for body in [r#"{"model":"m","input":"héllo"}"#, r#"{"input": [ "h\u00e9llo" ], "model":"m", "user": {"x": 1}}"#] {
        let request = read(body);
        assert_eq!((request.model.as_str(), request.base64, request.dimensions), ("m", false, None));
        let tensors = request.inputs.into_tensors(1 << 20, &mut share()).unwrap();
        let [text] = &tensors[..] else { panic!("one tensor") };
        assert_eq!((text.name.as_str(), text.datatype, &text.shape[..]), ("text", Datatype::Bytes, &[1, 1][..]));
        assert_eq!(&text.data[..], b"\x06\0\0\0h\xc3\xa9llo");
    }
    let request =
        read(r#"{"model":"m","input":["a","b"],"encoding_format":"base64","dimensions":384,"truncate":false}"#);
    assert_eq!((request.inputs.count(), request.base64), (2, true));
    assert_eq!((request.dimensions, request.truncate), (Some(384), Some(false)));
}

#[test]
fn token_ids_are_padded_right() {
    let one = read(r#"{"model":"m","input":[101, 7]}"#);
    assert_eq!(one.inputs, Inputs::Tokens { ids: vec![101, 7], ends: vec![2] });
    let tensors = read(r#"{"model":"m","input":[[1],[2,3]]}"#).inputs.into_tensors(1 << 20, &mut share()).unwrap();
    let names: Vec<_> = tensors.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, ["input_ids", "attention_mask"]);
    let numbers = |t: &Tensor| t.data.as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect::<Vec<_>>();
    assert_eq!(&tensors[0].shape[..], [2, 2]);
    assert_eq!(numbers(&tensors[0]), [1, 0, 2, 3]);
    assert_eq!(numbers(&tensors[1]), [1, 0, 1, 1]);
}

#[test]
fn padding_cannot_be_used_to_fill_the_memory() {
    let long = vec!["1"; 1000].join(",");
    let body = format!(r#"{{"model":"m","input":[[{long}]{}]}}"#, ",[1]".repeat(200));
    let refusal = read(&body).inputs.into_tensors(1 << 20, &mut share()).unwrap_err();
    assert_eq!(refusal.code, penstock_domain::ErrorCode::TooLarge);
    let refusal = read(&body).inputs.into_tensors(1 << 30, &mut share()).unwrap_err();
    assert_eq!(refusal.shed, Some(penstock_domain::ShedReason::MemoryBudget));
}

#[test]
fn what_is_wrong_is_named() {
    let table = [
        (r#"{"input":"a"}"#, Some("model"), "you must provide `model`"),
        (r#"{"model":"m"}"#, Some("input"), "you must provide `input`"),
        (r#"{"model":1,"input":"a"}"#, Some("model"), "expected a string as `model`, found `1`"),
        (r#"{"model":"m","input":[]}"#, Some("input"), "must not be empty"),
        (r#"{"model":"m","input":""}"#, Some("input"), "input 0 is an empty string"),
        (r#"{"model":"m","input":["a",""]}"#, Some("input"), "input 1 is an empty string"),
        (r#"{"model":"m","input":[[1],[]]}"#, Some("input"), "input 1 is an empty array"),
        (r#"{"model":"m","input":["a",1]}"#, Some("input"), "expected a string, as the first input is one, found `1`"),
        (r#"{"model":"m","input":[1,"a"]}"#, Some("input"), "a token id"),
        (r#"{"model":"m","input":[-1]}"#, Some("input"), "a whole number of 0 or more, found `-1`"),
        (r#"{"model":"m","input":[1.5]}"#, Some("input"), "found `1.5`"),
        (r#"{"model":"m","input":[9223372036854775808]}"#, Some("input"), "a token id"),
        (r#"{"model":"m","input":[null]}"#, Some("input"), "as `input`"),
        (r#"{"model":"m","input":{}}"#, Some("input"), "as `input`"),
        (r#"{"model":"m","input":"a","encoding_format":"hex"}"#, Some("encoding_format"), "found `\"hex\"`"),
        (r#"{"model":"m","input":"a","dimensions":0}"#, Some("dimensions"), "found `0`"),
        (r#"{"model":"m","input":"a","truncate":1}"#, Some("truncate"), "true or false"),
        (r#"{"model":"m","input":"a""#, None, "line 1 column 25: expected `,` or `}`, found the end"),
        ("", None, "expected a JSON object, found the end"),
        ("[]", None, "expected a JSON object"),
    ];
    for (body, param, words) in table {
        let (found_param, found) = wrong(body);
        assert_eq!(found_param, param, "{body}: {found}");
        assert!(found.contains(words), "{body}: {found}");
    }
}

#[test]
fn up_to_2048_inputs() {
    let body = |count: usize| format!(r#"{{"model":"m","input":[{}]}}"#, vec!["\"a\""; count].join(","));
    assert_eq!(read(&body(2048)).inputs.count(), 2048);
    let (param, words) = wrong(&body(2049));
    assert_eq!(param, Some("input"));
    assert!(words.contains("more than 2048"), "{words}");
    let lists = format!(r#"{{"model":"m","input":[{}]}}"#, vec!["[1]"; 2049].join(","));
    assert!(wrong(&lists).1.contains("more than 2048"));
}

proptest! {
    #[test]
    fn any_body_is_read_without_a_panic(body in "\\PC{0,40}", input in "[\\[\\]\",a0-9.\\-]{0,20}") {
        let _ = read_embeddings(body.as_bytes());
        let _ = read_embeddings(format!(r#"{{"model":"m","input":{input}}}"#).as_bytes());
    }
}
