//! Directories into functions.

use super::{Repository, identity, name};
use crate::{
    DelayKind, FunctionSource, IdentityDelays, RepositoryError, RuntimeSource, find_function, scan, with_config_json,
    with_signature,
};
use penstock_domain::{Datatype, ErrorCode, Signature, TensorSpec, VersionNumber};
use penstock_proto::inference::model_version_policy::PolicyChoice;

fn numbers(function: &FunctionSource) -> Vec<u64> {
    function.versions.iter().map(|version| version.number.0).collect()
}

fn reason(function: &FunctionSource) -> &str {
    assert!(function.versions.is_empty(), "{function:?}");
    function.unavailable.as_deref().unwrap()
}

#[test]
fn an_onnx_model_needs_no_configuration() {
    let repository = Repository::new().with("m/1/model.onnx", "x").with("m/labels.txt", "").with("README.md", "");
    let scan = scan(&repository.paths()).unwrap();
    assert!(scan.rejected.is_empty());
    let [function] = scan.functions.as_slice() else { panic!("{scan:?}") };
    assert_eq!(numbers(function), [1]);
    let model = repository.path().join("m/1/model.onnx");
    assert_eq!(function.versions[0].runtime, RuntimeSource::Onnx { model });
    let config = &function.config;
    assert_eq!((config.name.as_str(), config.backend.as_str()), ("m", "onnxruntime"));
    assert_eq!((config.platform.as_str(), config.default_model_filename.as_str()), ("onnxruntime_onnx", "model.onnx"));
    assert!(
        matches!(config.version_policy.as_ref().unwrap().policy_choice, Some(PolicyChoice::Latest(latest)) if latest.num_versions == 1)
    );
    assert_eq!((config.instance_group[0].name.as_str(), config.instance_group[0].count), ("m", 1));
    assert_eq!(function.versions[0].settings.max_batch_size, None);
}

#[test]
fn the_version_policy_chooses() {
    let repository = Repository::new();
    // 0, 01, words, signs, files and numbers over 63 bits are not versions.
    for version in ["1", "2", "3", "10", "0", "01", "x1", "+4", "-5", "9223372036854775808"] {
        repository.write(&format!("m/{version}/model.onnx"), "");
    }
    repository.write("m/77", "a file");
    let table = [
        ("", vec![10]),
        ("version_policy { }", vec![10]),
        ("version_policy { latest { num_versions: 1 } }", vec![10]),
        ("version_policy { latest { num_versions: 3 } }", vec![2, 3, 10]),
        ("version_policy { latest { num_versions: 99 } }", vec![1, 2, 3, 10]),
        ("version_policy { all { } }", vec![1, 2, 3, 10]),
        ("version_policy { specific { versions: [ 3, 1, 42, -1 ] } }", vec![1, 3]),
    ];
    for (policy, expected) in table {
        repository.write("m/config.pbtxt", policy);
        assert_eq!(numbers(&repository.function("m")), expected, "{policy}");
    }
    repository.write("m/config.pbtxt", "version_policy { specific { versions: [ 4 ] } }");
    assert!(
        reason(&repository.function("m"))
            .starts_with("version_policy.specific.versions: at least one version must be available; found [4], but ")
    );
    repository.write("m/config.pbtxt", "version_policy { latest { } }");
    assert!(reason(&repository.function("m")).starts_with("version_policy.latest.num_versions: expected 1 or more"));
}

#[test]
fn identity_needs_no_files() {
    let parameters = "parameters { key: \"execute_delay_us\" value { string_value: \"500\" } }
        parameters { key: \"execute_delay_us_per_item\" value { string_value: \"7\" } }
        parameters { key: \"delay_kind\" value { string_value: \"spin\" } }";
    let repository = Repository::new()
        .with("bare/config.pbtxt", &identity(""))
        .with("numbered/config.pbtxt", &identity(parameters))
        .with("numbered/4/", "")
        .with("ms/config.pbtxt", &identity("parameters { key: \"execute_delay_ms\" value { string_value: \"3\" } }"))
        .with("wrong/config.pbtxt", &identity("parameters { key: \"delay_kind\" value { string_value: \"nap\" } }"));
    assert_eq!(numbers(&repository.function("bare")), [1]);
    assert_eq!(numbers(&repository.function("numbered")), [4]);
    let delays = IdentityDelays {
        execute_delay_us: 500,
        execute_delay_us_per_item: 7,
        kind: DelayKind::Spin,
        crash_on_first_byte: None,
        device_fault_on_first_byte: None,
        device_memory_bytes: None,
    };
    assert_eq!(repository.function("numbered").versions[0].runtime, RuntimeSource::Identity { delays });
    let RuntimeSource::Identity { delays } = repository.function("ms").versions[0].runtime else { panic!() };
    assert_eq!(delays.execute_delay_us, 3000);
    let wrong = repository.function("wrong");
    assert_eq!(reason(&wrong), "parameters[\"delay_kind\"]: expected 'sleep' or 'spin', found 'nap'");
}

fn hugging_face(repository: &Repository, folder: &str, config: &str) {
    for (file, content) in [("config.json", config), ("tokenizer.json", "{}"), ("model.safetensors", "")] {
        repository.write(&format!("{folder}/{file}"), content);
    }
}

#[test]
fn hugging_face_folders_are_found_in_both_places() {
    let repository = Repository::new();
    let bert = r#"{"model_type": "bert", "architectures": ["BertModel"]}"#;
    hugging_face(&repository, "flat", bert);
    repository.write("flat/1_Pooling/config.json", "{}");
    hugging_face(&repository, "numbered/3", bert);
    for (function, folder, number) in [("flat", "flat", 1), ("numbered", "numbered/3", 3)] {
        let source = repository.function(function);
        assert_eq!(numbers(&source), [number]);
        let folder = repository.path().join(folder);
        assert_eq!(source.versions[0].directory, folder);
        assert_eq!(source.versions[0].runtime, RuntimeSource::Bert { folder });
        assert_eq!(source.config.platform, "penstock_bert");
    }
    hugging_face(&repository, "gpt", r#"{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}"#);
    let gpt = repository.function("gpt");
    let text = reason(&gpt);
    assert!(text.contains("model_type 'gpt2' (GPT2LMHeadModel)") && text.contains("of model_type bert"), "{text}");
    hugging_face(&repository, "class", r#"{"architectures": ["BertForMaskedLM"]}"#);
    let class = repository.function("class");
    assert!(reason(&class).contains("says architecture 'BertForMaskedLM'"), "{}", reason(&class));
    repository.write("broken/config.json", "{");
    repository.write("broken/tokenizer.json", "{}");
    let broken = repository.function("broken");
    assert!(reason(&broken).ends_with("lacks model.safetensors"), "{}", reason(&broken));
    repository.write("broken/model.safetensors", "");
    assert!(reason(&repository.function("broken")).contains("is not valid JSON"));
}

#[test]
fn what_cannot_be_served_says_why() {
    let table = [
        ("m/1/model.gguf", "", "GGUF"),
        ("m/model.gguf", "", "GGUF"),
        ("m/1/model.pt", "", "is a pickle"),
        ("m/1/weights.pkl", "", "Export the model to ONNX"),
        ("m/1/pytorch_model.bin", "", "safetensors"),
        ("m/1/net.pth", "backend: \"onnxruntime\" default_model_filename: \"net.pth\"", "is a pickle"),
        ("m/1/config.json", "", "lacks tokenizer.json and model.safetensors"),
        ("m/1/", "", "looked for model.onnx, for a Hugging Face folder"),
        ("m/1/net.onnx", "", "there is 'net.onnx': rename it to model.onnx or set default_model_filename"),
        ("m/1/net.onnx", "platform: \"onnxruntime_onnx\"", "rename it to model.onnx"),
        ("m/1/model.onnx", "default_model_filename: \"other.onnx\"", "default_model_filename: there is no file"),
        ("m/1/model.onnx", "default_model_filename: \"../x.onnx\"", "expected a file name within"),
        ("m/1/model.onnx", "default_model_filename: \"/etc/passwd\"", "expected a file name within"),
        ("m/", "", "has no version: expected a numbered directory"),
        ("m/model/x", "", "has no version: expected a numbered directory"),
        ("m/1/model.onnx", "name: \"other\"", "name: expected 'm', the directory's name, or nothing; found 'other'"),
        ("m/1/model.onnx", "backend: \"python\"", "backend: expected identity, onnxruntime or bert, found 'python'"),
        ("m/1/model.plan", "platform: \"tensorrt_plan\"", "platform: expected onnxruntime_onnx"),
        ("m/1/model.onnx", "backend: \"bert\" platform: \"onnxruntime_onnx\"", "contradicts backend 'bert'"),
        ("m/1/", "platform: \"ensemble\" ensemble_scheduling { }", "ensemble_scheduling: pipelines"),
        ("m/1/model.onnx", "max_batch_size 8", "config.pbtxt:1:16: expected ':' after 'max_batch_size', found '8'"),
        ("m/1/model.onnx", "input { name: \"x\" dims: 1 }", "input[0].data_type: expected a type"),
    ];
    for (path, config, message) in table {
        let repository = Repository::new().with(path, "").with("good/1/model.onnx", "");
        if !config.is_empty() {
            repository.write("m/config.pbtxt", config);
        }
        let function = repository.function("m");
        assert!(reason(&function).contains(message), "{path} {config}: {}", reason(&function));
        assert_eq!(function.config.name, "m");
        let both = scan(&repository.paths()).unwrap().functions;
        assert_eq!(both.iter().map(|f| f.unavailable.is_none()).collect::<Vec<_>>(), [true, false]);
    }
}

#[test]
fn a_bad_version_does_not_hurt_a_good_one() {
    let repository = Repository::new()
        .with("m/1/model.onnx", "")
        .with("m/2/model.pt", "")
        .with("m/config.pbtxt", "version_policy { all { } }");
    let function = repository.function("m");
    assert_eq!((numbers(&function), &function.unavailable), (vec![1], &None));
    assert_eq!(function.unavailable_versions[0].number, VersionNumber(2));
    assert!(function.unavailable_versions[0].reason.contains("pickle"));
}

#[test]
fn model_files_may_have_other_names_and_be_directories() {
    let repository = Repository::new()
        .with("named/1/net.onnx", "")
        .with("named/config.pbtxt", "default_model_filename: \"net.onnx\"")
        .with("folder/1/model.onnx/model.onnx", "")
        .with("inside/1/net/model.onnx", "")
        .with("inside/config.pbtxt", "default_model_filename: \"net\"")
        .with("flat/model.onnx", "");
    let table = [
        ("named", "named/1/net.onnx"),
        ("folder", "folder/1/model.onnx/model.onnx"),
        ("inside", "inside/1/net/model.onnx"),
        ("flat", "flat/model.onnx"),
    ];
    for (function, path) in table {
        let model = repository.path().join(path);
        assert_eq!(repository.function(function).versions[0].runtime, RuntimeSource::Onnx { model }, "{function}");
    }
}

#[test]
fn names_and_repositories_are_checked() {
    let one = Repository::new().with("both/1/model.onnx", "").with("bad:name/1/model.onnx", "").with(".git/x", "");
    let two = Repository::new().with("both/1/model.onnx", "").with("only/1/model.onnx", "");
    let repositories = [one.path().to_owned(), two.path().to_owned()];
    let found = scan(&repositories).unwrap();
    let names: Vec<&str> = found.functions.iter().map(|function| function.name.as_str()).collect();
    assert_eq!(names, ["both", "only"]);
    let text = reason(&found.functions[0]);
    assert!(repositories.iter().all(|path| text.contains(&path.join("both").display().to_string())), "{text}");
    assert_eq!(found.rejected[0].path, one.path().join("bad:name"));
    assert_eq!(found.rejected[0].reason, "a function name must not contain ':'");
    assert_eq!(find_function(&repositories, &name("both")).unwrap(), found.functions[0]);
    assert_eq!(find_function(&repositories, &name("only")).unwrap(), found.functions[1]);
    assert_eq!(find_function(&repositories, &name("nowhere")), None);
    assert_eq!(find_function(&repositories, &name("..")), None);
    // The same repository, given twice, is one.
    let twice = [two.path().to_owned(), two.path().join(".")];
    assert!(scan(&twice).unwrap().functions.iter().all(|function| function.unavailable.is_none()));
    let missing = scan(&[two.path().join("missing")]).unwrap_err();
    assert_eq!(missing.code(), ErrorCode::Unavailable);
}

#[test]
fn a_configuration_in_json_replaces_the_file() {
    let repository =
        Repository::new().with("m/1/model.onnx", "").with("m/2/model.onnx", "").with("m/config.pbtxt", "broken");
    let json = r#"{"max_batch_size": 8, "version_policy": {"specific": {"versions": ["1"]}}}"#;
    let function = with_config_json(&repository.paths(), &name("m"), json).unwrap();
    assert_eq!((numbers(&function), function.versions[0].settings.max_batch_size), (vec![1], Some(8)));
    let error = with_config_json(&repository.paths(), &name("m"), "{\"nme\": 1}").unwrap_err();
    assert_eq!(error.code(), ErrorCode::InvalidArgument);
    assert!(error.to_string().starts_with("function 'm': configuration: ModelConfig has no field 'nme'"), "{error}");
    let error = with_config_json(&repository.paths(), &name("other"), "{}").unwrap_err();
    assert!(matches!(error, RepositoryError::NoSuchFunction(_)) && error.code() == ErrorCode::NotFound);
    let other = with_config_json(&repository.paths(), &name("m"), "{\"name\": \"n\"}").unwrap();
    assert!(reason(&other).starts_with("name: expected 'm'"));
}

#[test]
fn the_loaded_model_fills_what_was_left_open() {
    let signature = Signature {
        platform: "onnxruntime_onnx".into(),
        inputs: vec![TensorSpec::new("x", Datatype::Fp32, [-1, 4])],
        outputs: vec![TensorSpec::new("y", Datatype::Bytes, [1])],
        max_batch_size: 32,
        any_tensors: false,
    };
    let repository = Repository::new().with("m/1/model.onnx", "");
    let config = with_signature(&repository.function("m").config, &signature);
    assert_eq!((config.max_batch_size, config.input[0].data_type, config.output[0].data_type), (32, 11, 13));
    assert_eq!((config.input[0].name.as_str(), config.input[0].dims.as_slice()), ("x", &[-1, 4][..]));
    assert_eq!(with_signature(&config, &Signature::default()), config);
}

#[test]
fn the_configuration_is_filled_in_as_triton_answers_it() {
    let repository = Repository::new().with("m/1/model.onnx", "").with(
        "m/config.pbtxt",
        "max_batch_size: 4 dynamic_batching { } instance_group [ { kind: KIND_CPU }, { name: \"own\" count: 2 } ]",
    );
    let json = crate::config_json(&repository.function("m").config);
    assert_eq!(json["name"], "m");
    assert_eq!(json["version_policy"], serde_json::json!({"latest": {"num_versions": 1}}));
    assert_eq!(json["dynamic_batching"]["preferred_batch_size"], serde_json::json!([4]));
    assert_eq!((&json["instance_group"][0]["name"], &json["instance_group"][0]["count"]), (&"m_0".into(), &1.into()));
    assert_eq!((&json["instance_group"][1]["name"], &json["instance_group"][1]["count"]), (&"own".into(), &2.into()));
    assert!(repository.function("m").versions[0].settings.preferred_batch_sizes.is_empty());
}
