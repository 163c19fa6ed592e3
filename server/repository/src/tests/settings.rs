//! Configurations into settings.

use super::Repository;
use crate::text_format::parse_document;
use crate::{Engine, QueuePolicy, SettingsError, TimeoutAction, VersionSettings, WarmupContent, WorkerDevice};
use penstock_domain::Datatype;
use std::path::Path;

fn read_in(directory: &Path, text: &str) -> Result<VersionSettings, SettingsError> {
    VersionSettings::from_document(&parse_document("config.pbtxt", text).unwrap(), directory)
}

fn read(text: &str) -> Result<VersionSettings, SettingsError> {
    read_in(Path::new("/nowhere"), text)
}

#[test]
fn nothing_written_leaves_everything_open() {
    assert_eq!(read("").unwrap(), VersionSettings::default());
    assert_eq!(read("max_batch_size: 0").unwrap().max_batch_size, Some(0));
    let declared = "input { name: \"x\" data_type: TYPE_FP32 dims: 1 }";
    assert_eq!(read(declared).unwrap().max_batch_size, Some(0));
    assert!(read("dynamic_batching { }").unwrap().dynamic_batching);
    assert!(!read("max_batch_size: 0 dynamic_batching { }").unwrap().dynamic_batching);
}

#[test]
fn batching_and_queues_are_read() {
    let settings = read(
        "max_batch_size: 16
         dynamic_batching {
           preferred_batch_size: [ 8, 4, 8 ] max_queue_delay_microseconds: 250 preserve_ordering: true
           priority_levels: 2 default_priority_level: 2
           default_queue_policy { default_timeout_microseconds: 900 allow_timeout_override: true max_queue_size: 3 }
           priority_queue_policy { key: 1 value { timeout_action: DELAY } }
         }",
    )
    .unwrap();
    assert_eq!(settings.max_batch_size, Some(16));
    assert_eq!(settings.preferred_batch_sizes, [4, 8]);
    assert_eq!((settings.max_queue_delay_us, settings.preserve_ordering), (250, true));
    assert_eq!((settings.priority_levels, settings.default_priority_level), (2, 2));
    let queue = QueuePolicy {
        max_queue_requests: Some(3),
        default_timeout_us: Some(900),
        allow_timeout_override: true,
        timeout_action: TimeoutAction::Reject,
    };
    assert_eq!(settings.queue_policy, queue);
    let first = QueuePolicy { timeout_action: TimeoutAction::Delay, ..QueuePolicy::default() };
    assert_eq!(settings.priority_queue_policies.into_iter().collect::<Vec<_>>(), [(1, first)]);
}

#[test]
fn what_is_not_followed_is_noted_with_what_happens_instead() {
    let queue = |policy: &str| format!("dynamic_batching {{ default_queue_policy {{ {policy} }} }}");
    let table = [
        (queue("max_queue_size: 3"), vec![]),
        (queue("default_timeout_microseconds: 9 allow_timeout_override: true timeout_action: DELAY"), vec![]),
        (
            queue("default_timeout_microseconds: 9"),
            vec!["dynamic_batching.default_queue_policy.allow_timeout_override: "],
        ),
        ("instance_group { count: 2 kind: KIND_CPU }".into(), vec![]),
        (
            "response_cache { enable: true } dynamic_batching { preserve_ordering: true priority_levels: 1
             default_priority_level: 1 priority_queue_policy { key: 1 value { } } } model_warmup { }
             optimization { }"
                .into(),
            vec![
                "dynamic_batching.preserve_ordering: ",
                "dynamic_batching.priority_queue_policy: ",
                "model_warmup: not run",
                "optimization: has no effect here",
                "response_cache.enable: ",
            ],
        ),
    ];
    for (text, expected) in table {
        let notes = read(&text).unwrap().notes;
        let as_expected = notes.iter().zip(&expected).all(|(note, start)| note.starts_with(start));
        assert!(notes.len() == expected.len() && as_expected, "{text}\n{notes:?}");
    }
}

#[test]
fn instance_groups_add_up() {
    let table = [
        ("", None, WorkerDevice::Auto, vec![]),
        ("instance_group { }", None, WorkerDevice::Auto, vec![]),
        ("instance_group { count: 3 kind: KIND_CPU }", Some(3), WorkerDevice::Cpu, vec![]),
        ("instance_group { count: 2 kind: KIND_GPU gpus: [ 1, 0 ] }", Some(4), WorkerDevice::Gpu, vec![0, 1]),
        (
            "instance_group [ { count: 1 kind: KIND_GPU }, { count: 2 kind: KIND_GPU } ]",
            Some(3),
            WorkerDevice::Gpu,
            vec![],
        ),
        (
            "instance_group [ { count: 1 kind: KIND_GPU }, { count: 2 kind: KIND_CPU } ]",
            Some(3),
            WorkerDevice::Auto,
            vec![],
        ),
        ("instance_group [ { count: 1 }, { count: 9 passive: true } ]", Some(1), WorkerDevice::Auto, vec![]),
    ];
    for (text, workers, device, gpus) in table {
        let settings = read(text).unwrap();
        assert_eq!((settings.worker_count, settings.worker_device, settings.gpus), (workers, device, gpus), "{text}");
    }
}

#[test]
fn tensors_labels_and_warmup_are_read() {
    let repository = Repository::new().with("labels.txt", "cat\r\ndog\n").with("warmup/x.bin", "....");
    let settings = read_in(
        repository.path(),
        "max_batch_size: 4
         input [ { name: \"x\" data_type: TYPE_STRING dims: [ -1, 3 ] optional: true } ]
         output [ { name: \"y\" data_type: TYPE_BF16 dims: 2 label_filename: \"labels.txt\" } ]
         model_warmup { name: \"w\" batch_size: 4 inputs { key: \"x\" value { data_type: TYPE_FP32 dims: 1 input_data_file: \"x.bin\" } } }",
    )
    .unwrap();
    let input = &settings.inputs.unwrap()[0];
    assert_eq!((input.datatype, input.shape.as_slice(), input.optional), (Datatype::Bytes, &[-1, 3][..], true));
    assert_eq!(settings.outputs.unwrap()[0].labels, ["cat", "dog"]);
    let warmup = &settings.warmup[0];
    assert_eq!((warmup.name.as_str(), warmup.batch_size, warmup.count), ("w", 4, 1));
    assert_eq!(warmup.inputs["x"].content, WarmupContent::File(repository.path().join("warmup/x.bin")));
}

#[test]
fn our_own_parameters_are_read() {
    let parameter =
        |key: &str, value: &str| format!("parameters {{ key: \"{key}\" value {{ string_value: \"{value}\" }} }} ");
    let text = [
        parameter("penstock.engine", "candle"),
        parameter("penstock.max_batch_tokens", "4096"),
        parameter("penstock.threads", "2"),
        parameter("penstock.max_concurrency", "64"),
        parameter("penstock.max_queue_items", "100"),
        parameter("penstock.memory_limit_bytes", "1073741824"),
        parameter("other", "kept"),
    ];
    let settings = read(&text.concat()).unwrap();
    assert_eq!(settings.parameters["other"], "kept");
    let own = settings.penstock;
    assert_eq!((own.engine, own.max_batch_tokens, own.threads), (Engine::Candle, Some(4096), Some(2)));
    assert_eq!(
        (own.max_concurrency, own.max_queue_items, own.memory_limit_bytes),
        (Some(64), Some(100), Some(1 << 30))
    );
    let wrong = [
        ("penstock.engine", "tensorrt", "expected auto, candle or onnxruntime, found 'tensorrt'"),
        ("penstock.thread", "2", "did you mean 'penstock.threads'?"),
        ("penstock.threads", "0", "expected a whole number from 1 to 1024, found '0'"),
        ("penstock.max_queue_items", "many", "found 'many'"),
    ];
    for (key, value, message) in wrong {
        let error = read(&parameter(key, value)).unwrap_err();
        assert_eq!(error.field, format!("parameters[{key:?}]"));
        assert!(error.message.contains(message), "{error}");
    }
}

#[test]
fn what_is_wrong_is_named() {
    let io = "input { name: \"x\" data_type: TYPE_FP32 dims: 1 ";
    let table = [
        ("max_batch_size: -1", "max_batch_size: expected 0 (no batch dimension) or more, found -1"),
        (
            "max_batch_size: 4 dynamic_batching { preferred_batch_size: [ 2, 8 ] }",
            "dynamic_batching.preferred_batch_size[1]: expected from 1 to max_batch_size 4, found 8",
        ),
        (
            "dynamic_batching { preferred_batch_size: 0 }",
            "dynamic_batching.preferred_batch_size[0]: expected 1 or more, found 0",
        ),
        (
            "dynamic_batching { priority_levels: 2 }",
            "dynamic_batching.default_priority_level: expected 1 to priority_levels 2, found 0",
        ),
        (
            "dynamic_batching { priority_queue_policy { key: 1 value { } } }",
            "dynamic_batching.priority_queue_policy: expected keys from 1 to priority_levels 0, found 1",
        ),
        ("input { data_type: TYPE_FP32 dims: 1 }", "input[0].name: every tensor needs a name"),
        ("output { name: \"y\" dims: 1 }", "output[0].data_type: expected a type such as TYPE_FP32, found none"),
        (
            "output { name: \"y\" data_type: 99 dims: 1 }",
            "output[0].data_type: there is no element type with number 99",
        ),
        (
            "input { name: \"x\" data_type: TYPE_FP32 dims: [ 1, 0 ] }",
            "input[0].dims[1]: expected 1 or more, or -1 for any size, found 0",
        ),
        (
            "input { name: \"x\" data_type: TYPE_FP32 dims: -2 }",
            "input[0].dims[0]: expected 1 or more, or -1 for any size, found -2",
        ),
        (
            "output { name: \"y\" data_type: TYPE_FP32 dims: 1 label_filename: \"l.txt\" }",
            "output[0].label_filename: there is no file /nowhere/l.txt",
        ),
        (
            "output { name: \"y\" data_type: TYPE_FP32 dims: 1 label_filename: \"../l.txt\" }",
            "output[0].label_filename: expected a file name within /nowhere, found '../l.txt'",
        ),
        ("instance_group { count: -1 }", "instance_group[0].count: expected 0 (the server chooses) or more, found -1"),
        ("instance_group { count: 1000 }", "instance_group[0].count: more than 256 workers altogether"),
        ("instance_group { kind: KIND_CPU gpus: 0 }", "instance_group[0].gpus: a KIND_CPU group cannot name GPUs"),
        ("instance_group { kind: KIND_GPU gpus: -1 }", "instance_group[0].gpus: expected 0 or more, found -1"),
        ("model_warmup { batch_size: 2 }", "model_warmup[0].batch_size: 2 is above max_batch_size 0"),
        (
            "model_warmup { inputs { key: \"x\" value { dims: 1 data_type: TYPE_FP32 } } }",
            "model_warmup[0].inputs[\"x\"]: expected one of zero_data, random_data and input_data_file",
        ),
        ("sequence_batching { }", "sequence_batching: "),
        ("ensemble_scheduling { }", "ensemble_scheduling: "),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy.decoupled: "),
        ("batch_input { }", "batch_input: "),
        ("model_operations { op_library_filename: \"x.so\" }", "model_operations.op_library_filename: "),
        (&format!("{io} reshape {{ }} }}"), "input[0].reshape: "),
        (&format!("{io} is_shape_tensor: true }}"), "input[0].is_shape_tensor: "),
        (&format!("{io} allow_ragged_batch: true }}"), "input[0].allow_ragged_batch: "),
        (&format!("{io} }} {io} }}"), "input[1].name: 'x' is declared twice"),
    ];
    for (text, message) in table {
        let error = read(text).unwrap_err().to_string();
        assert!(error.starts_with(message), "{text}\n{error}");
    }
}
