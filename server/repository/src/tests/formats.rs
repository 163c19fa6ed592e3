//! Text format and JSON.

use crate::json::{config_json, parse_config_json};
use crate::text_format::{parse, parse_document};
use proptest::prelude::*;
use std::path::PathBuf;

fn configs(folder: &str) -> Vec<(PathBuf, String)> {
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/configs").join(folder);
    let mut files: Vec<PathBuf> = directory.read_dir().unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap())).collect()
}

#[test]
fn the_files_in_accept_are_read_and_survive_json() {
    let files = configs("accept");
    assert!(files.len() >= 30);
    for (path, text) in files {
        let config = parse("config.pbtxt", &text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let json = config_json(&config).to_string();
        assert_eq!(parse_config_json(&json).unwrap().config, config, "{}", path.display());
    }
}

#[test]
fn the_files_in_reject_are_refused() {
    for (path, text) in configs("reject") {
        assert!(parse("config.pbtxt", &text).is_err(), "{} was accepted", path.display());
    }
}

#[test]
fn errors_name_file_line_column_and_what_was_expected() {
    let table = [
        (
            "name: \"x\"\n  max_batchsize: 8",
            "c:2:3: ModelConfig has no field 'max_batchsize'; did you mean 'max_batch_size'?",
        ),
        ("é: 1", "c:1:1: expected a field name, found 'é'"),
        ("name: \"é\" 5", "c:1:11: expected a field name, found '5'"),
        ("\u{feff}name 5", "c:1:6: expected ':' after 'name', found '5'"),
        ("input {\n", "c:2:1: expected a field name or '}', found the end of the file"),
        ("name: \"a\\q\"", "c:1:9: expected a known escape after '\\'"),
        ("name: \"\\ud800\"", "c:1:8: expected a known escape after '\\'"),
        ("max_batch_size: +5", "c:1:17: expected a whole number from -2147483648 to 2147483647, found '+5'"),
        ("max_batch_size: 1_000", "c:1:17: expected a whole number from -2147483648 to 2147483647, found '1_000'"),
    ];
    for (text, message) in table {
        assert_eq!(parse("c", text).unwrap_err().to_string(), message, "{text}");
    }
}

#[test]
fn what_was_written_is_remembered() {
    let document = parse_document("c", "max_batch_size: 0 input { name: \"x\" }").unwrap();
    assert_eq!(document.written.iter().map(String::as_str).collect::<Vec<_>>(), ["input", "max_batch_size"]);
    assert_eq!(document.config.max_batch_size, 0);
    let document = parse_config_json(r#"{"maxBatchSize": 0, "backend": null}"#).unwrap();
    assert!(document.written.contains("max_batch_size"));
}

#[test]
fn json_prints_defaults_snake_case_and_plain_numbers() {
    let text = "name: \"x\" input { name: \"i\" data_type: TYPE_FP32 dims: [ -1, 9007199254740993 ] }
        parameters { key: \"b\" value { string_value: \"2\" } } parameters { key: \"a\" value { string_value: \"1\" } }
        sequence_batching { direct { minimum_slot_utilization: 0.1 } }";
    let json = config_json(&parse("c", text).unwrap());
    assert_eq!(json["max_batch_size"], 0);
    assert_eq!(json["backend"], "");
    assert_eq!(json["output"], serde_json::json!([]));
    assert_eq!(json["metric_tags"], serde_json::json!({}));
    assert_eq!(json["input"][0]["data_type"], "TYPE_FP32");
    assert_eq!(json["input"][0]["format"], "FORMAT_NONE");
    assert_eq!(json["input"][0]["dims"], serde_json::json!([-1, 9_007_199_254_740_993_i64]));
    assert_eq!(json["parameters"]["a"]["string_value"], "1");
    assert_eq!(json["sequence_batching"]["direct"]["minimum_slot_utilization"].to_string(), "0.1");
    assert!(json.get("dynamic_batching").is_none() && json.get("optimization").is_none());
}

#[test]
fn json_takes_both_spellings_and_names_what_is_wrong() {
    let config = parse_config_json(
        r#"{"maxBatchSize": "8", "input": [{"name": "x", "data_type": 11, "dims": ["-1", 3, 4.0]}],
            "dynamicBatching": {"priority_queue_policy": {"2": {"max_queue_size": 5}}}, "version_policy": null}"#,
    )
    .unwrap()
    .config;
    assert_eq!((config.max_batch_size, config.input[0].dims.as_slice()), (8, &[-1, 3, 4][..]));
    let table = [
        ("{", "the configuration is not valid JSON: EOF while parsing an object at line 1 column 1"),
        ("[]", "configuration: expected an object (ModelConfig), found []"),
        (r#"{"nam": "x"}"#, "configuration: ModelConfig has no field 'nam'; did you mean 'name'?"),
        (
            r#"{"input": [{"dims": [1, 2.5]}]}"#,
            "input[0].dims[1]: expected a whole number from -9223372036854775808 to 9223372036854775807, found 2.5",
        ),
        (r#"{"input": {}}"#, "input: expected a list, found {}"),
        (r#"{"maxBatchSize": 1, "max_batch_size": 2}"#, "max_batch_size: given more than once"),
        (r#"{"parameters": {"a": 1}}"#, "parameters[\"a\"]: expected an object (ModelParameter), found 1"),
        (
            r#"{"instance_group": [{"kind": "GPU"}]}"#,
            "instance_group[0].kind: expected a Kind (KIND_AUTO, KIND_GPU, KIND_CPU, KIND_MODEL), found \"GPU\"",
        ),
        (
            r#"{"max_batch_size": 2147483648}"#,
            "max_batch_size: expected a whole number from -2147483648 to 2147483647, found 2147483648",
        ),
    ];
    for (text, message) in table {
        assert_eq!(parse_config_json(text).unwrap_err().to_string(), message, "{text}");
    }
    let both = parse_config_json(r#"{"dynamic_batching": {}, "sequence_batching": {}}"#).unwrap_err().to_string();
    assert!(both.contains("cannot be set beside"), "{both}");
}

/// Pieces that make text which is nearly a configuration.
fn nearly() -> impl Strategy<Value = String> {
    let pieces = [
        "input",
        "name",
        "dims",
        "data_type",
        "TYPE_FP32",
        "parameters",
        "key",
        "value",
        "dynamic_batching",
        "{",
        "}",
        "[",
        "]",
        "<",
        ">",
        ":",
        ",",
        ";",
        "\"a\"",
        "'b'",
        "\"",
        "'",
        "\\",
        "\\x4",
        "\\u12",
        "#",
        "\n",
        "1",
        "-1",
        "0x",
        "08",
        "1e9",
        "é",
        "\u{feff}",
        "string_value",
        "max_batch_size",
        "\0",
        "inf",
        "-",
        ".5",
    ];
    prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..40)
        .prop_flat_map(|pieces| prop_oneof![Just(pieces.join(" ")), Just(pieces.concat())])
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn text_never_panics(text in any::<String>()) {
        let _either = parse("c", &text);
    }

    #[test]
    fn nearly_right_text_never_panics(text in nearly()) {
        match parse("c", &text) {
            Ok(config) => {
                let json = config_json(&config).to_string();
                prop_assert_eq!(parse_config_json(&json).unwrap().config, config);
            }
            Err(error) => prop_assert!(error.line >= 1 && error.column >= 1 && !error.message.is_empty()),
        }
    }

    #[test]
    fn good_files_cut_or_changed_never_panic(file in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), with in ".{0,3}") {
        let files = configs("accept");
        let text = &file.get(&files).1;
        let ends: Vec<usize> = text.char_indices().map(|(offset, _)| offset).chain([text.len()]).collect();
        let end = *at.get(&ends);
        let _cut = parse("c", &text[..end]);
        let _changed = parse("c", &format!("{}{with}{}", &text[..end], &text[end..]));
    }

    #[test]
    fn json_never_panics(text in any::<String>(), name in "[a-z_]{1,20}", number in any::<f64>()) {
        let _either = parse_config_json(&text);
        let _either = parse_config_json(&format!("{{\"{name}\": {number}, \"max_batch_size\": {number}}}"));
    }
}
