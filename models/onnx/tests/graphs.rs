//! Small graphs, each with one thing that goes wrong easily. `graphs/make.py` makes them.

#![allow(clippy::unwrap_used)] // the lint looks only at functions marked as tests, not at those they call

mod common;

use common::*;
use half::{bf16, f16};
use penstock_domain::{Datatype, TensorSpec};
use penstock_executor::{ExecError, Model};
use penstock_onnx::{GraphSource, Input, Library, OnnxModel, OnnxOptions, Outputs, Session, SessionOptions};

#[test]
fn every_datatype_passes_through_unchanged_in_a_batch() {
    let model = load("types.onnx");
    let onnx_name = |datatype: Datatype| match datatype {
        Datatype::Fp16 => "FLOAT16",
        Datatype::Fp32 => "FLOAT",
        Datatype::Fp64 => "DOUBLE",
        Datatype::Bf16 => "BFLOAT16",
        Datatype::Bytes => "STRING",
        other => other.name(),
    };
    let request = |rows: i64, salt: u8| {
        let input = |datatype: Datatype| {
            let name = format!("in_{}", onnx_name(datatype));
            let count = (rows * 2) as usize;
            match datatype.element_bytes() {
                None => words(&name, &[rows, 2], &vec![[b'a' + salt; 3].as_slice(); count]),
                // A bit pattern that is a finite number in every type; a BOOL is 0 or 1.
                Some(size) => {
                    let byte = if datatype == Datatype::Bool { salt % 2 } else { 0x11 + salt };
                    tensor(&name, datatype, &[rows, 2], vec![byte; count * size])
                }
            }
        };
        Datatype::ALL.map(input).to_vec()
    };
    let requests = [request(1, 0), request(3, 1), request(2, 2)];
    let mut executor = model.executor(0).unwrap();
    let parts = requests.iter().map(|inputs| part(&model, inputs.clone())).collect();
    for (inputs, outputs) in requests.iter().zip(run(executor.as_mut(), parts).unwrap()) {
        let outputs = outputs.unwrap();
        for input in inputs {
            let output = outputs.iter().find(|output| output.name[4..] == input.name[3..]).unwrap();
            assert_eq!((output.datatype, &output.shape, &output.data), (input.datatype, &input.shape, &input.data));
        }
    }
}

#[test]
fn strings_keep_their_lengths_in_a_batch() {
    let model = load("strings.onnx");
    let requests = [
        words("words", &[2, 2], &[b"", "h\u{e9}".as_bytes(), b"long enough", b"x"]),
        words("words", &[1, 2], &[b"yes", b""]),
    ];
    let mut executor = model.executor(0).unwrap();
    let parts = requests.iter().map(|words| part(&model, vec![words.clone()])).collect();
    for (request, outputs) in requests.iter().zip(run(executor.as_mut(), parts).unwrap()) {
        assert_eq!(outputs.unwrap()[0].data, request.data);
    }
    let mut fails = |element: &[u8]| {
        let parts = vec![part(&model, vec![words("words", &[1, 2], &[b"ok", element])])];
        run(executor.as_mut(), parts).unwrap_err()
    };
    let ExecError::Invalid(text) = fails(b"a\0b") else { panic!() };
    assert!(text.contains("input 'words': BYTES element 1 contains a zero byte"), "{text}");
    let ExecError::Failed(text) = fails(b"\xff") else { panic!() };
    assert!(text.contains("output 'echo'") && text.contains("UTF-8"), "{text}");
}

#[test]
fn a_fixed_batch_is_not_batched() {
    let model = load("fixed_batch.onnx");
    assert_eq!(model.signature().max_batch_size, 0);
    assert_eq!(model.signature().inputs, [TensorSpec::new("x", Datatype::Fp32, [1, 3])]);
    let mut executor = model.executor(0).unwrap();
    let parts = (0..3).map(|n| part(&model, vec![floats("x", &[1, 3], &[n as f32, 1.0, 2.0])])).collect();
    for (n, outputs) in run(executor.as_mut(), parts).unwrap().into_iter().enumerate() {
        assert_eq!(values(&outputs.unwrap()[0]), [2.0 * n as f32, 2.0, 4.0]);
    }
    assert_eq!(model.warmup().len(), 1);
}

#[test]
fn half_precision_keeps_its_bits() {
    let model = load("half.onnx");
    let numbers = [1.5f32, -0.25, 3.0, 65504.0];
    let data: Vec<u8> = numbers.iter().flat_map(|&number| f16::from_f32(number).to_le_bytes()).collect();
    let outputs = answer(&model, vec![tensor("x", Datatype::Fp16, &[2, 2], data)]);
    assert_eq!(values(&outputs[0]), numbers);
    let brain: Vec<u8> = numbers.iter().flat_map(|&number| bf16::from_f32(number).to_le_bytes()).collect();
    assert_eq!((outputs[1].datatype, outputs[1].data.as_ref()), (Datatype::Bf16, brain.as_slice()));
}

#[test]
fn open_shapes_decide_who_shares_a_batch() {
    let model = load("two_inputs.onnx");
    assert_eq!(model.signature().outputs, [TensorSpec::new("c", Datatype::Fp32, [-1])]);
    let request = |rows: i64, n: i64, m: i64| {
        let fill = |columns: i64, value: f32| vec![value; (rows * columns) as usize];
        // In the other order than the graph has them.
        part(&model, vec![floats("b", &[rows, m], &fill(m, 2.0)), floats("a", &[rows, n], &fill(n, 1.0))])
    };
    let (one, two) = (request(1, 2, 1), request(2, 2, 1));
    assert_eq!(one.kind, two.kind);
    assert_ne!(one.kind, request(1, 1, 2).kind);
    let mut executor = model.executor(0).unwrap();
    let outputs = run(executor.as_mut(), vec![one.clone(), two]).unwrap();
    assert_eq!(values(&outputs[0].as_ref().unwrap()[0]), [1.0, 1.0, 2.0]);
    assert_eq!(values(&outputs[1].as_ref().unwrap()[0]), [1.0, 1.0, 2.0, 1.0, 1.0, 2.0]);
    // A batch that breaks the promise fails, rather than mix rows.
    let error = run(executor.as_mut(), vec![one, request(1, 1, 2)]).unwrap_err();
    assert_eq!(error, ExecError::Failed("a batch holds parts of different kinds".into()));
}

#[test]
fn an_output_whose_rows_are_not_the_batch_fails_alone_or_not() {
    let model = load("doubled.onnx");
    let mut executor = model.executor(0).unwrap();
    for count in [1, 2] {
        let parts = (0..count).map(|_| part(&model, vec![floats("x", &[1, 2], &[1.0, 2.0])])).collect();
        for outcome in run(executor.as_mut(), parts).unwrap() {
            let Err(ExecError::Failed(text)) = outcome else { panic!("{outcome:?}") };
            assert!(text.contains("output 'y'") && text.contains("max_batch_size: 0"), "{text}");
        }
    }
    let whole = OnnxModel::load(OnnxOptions { max_batch_size: Some(0), ..options("doubled.onnx") }).unwrap();
    assert_eq!(values(&answer(&whole, vec![floats("x", &[1, 2], &[1.0, 2.0])])[0]), [1.0, 2.0, 1.0, 2.0]);
}

#[test]
fn failures_of_a_run_keep_their_reason() {
    let model = load("gather.onnx");
    let mut executor = model.executor(0).unwrap();
    let good = part(&model, vec![integers("index", &[1, 1], &[2])]);
    let bad = part(&model, vec![integers("index", &[1, 1], &[9])]);
    assert_eq!(values(&run(executor.as_mut(), vec![good.clone()]).unwrap().remove(0).unwrap()[0]), [30.0]);
    let ExecError::Failed(text) = run(executor.as_mut(), vec![good.clone(), bad]).unwrap_err() else { panic!() };
    assert!(text.contains("out of data bounds"), "{text}");
    assert!(run(executor.as_mut(), vec![good]).is_ok(), "the session works on");

    let model = load("zeros.onnx");
    let mut executor = model.executor(0).unwrap();
    let huge = part(&model, vec![integers("shape", &[1], &[1 << 50])]);
    let error = run(executor.as_mut(), vec![huge]).unwrap_err();
    assert!(matches!(error, ExecError::OutOfMemory(_)), "{error}");
}

#[test]
fn large_outputs_outlive_the_session() {
    let model = load("zeros.onnx");
    let outputs = answer(&model, vec![integers("shape", &[1], &[1 << 20])]);
    drop(model);
    assert_eq!(outputs[0].shape.as_slice(), [1 << 20]);
    assert!(outputs[0].data.len() == 4 << 20 && outputs[0].data.iter().all(|&byte| byte == 0));

    let model = load("two_inputs.onnx");
    let (a, b) = (vec![1.0; 40_000], vec![2.0; 20_000]);
    let mut executor = model.executor(0).unwrap();
    let request = || part(&model, vec![floats("a", &[2, 20_000], &a), floats("b", &[2, 10_000], &b)]);
    let first = run(executor.as_mut(), vec![request(), request()]).unwrap();
    run(executor.as_mut(), vec![request(), request()]).unwrap();
    drop(executor);
    for outputs in first {
        let row = [&a[..20_000], &b[..10_000]].concat();
        assert_eq!(values(&outputs.unwrap()[0]), [row.clone(), row].concat());
    }
}

#[test]
fn outputs_never_share_memory_with_inputs_or_weights() {
    never_share_memory(Outputs::Anywhere);
    never_share_memory(Outputs::Host);
}

fn never_share_memory(outputs: Outputs) {
    let library = Library::open(&library()).unwrap();
    let options = SessionOptions { outputs, ..SessionOptions::default() };
    let open = || Session::open(&library, GraphSource::File(graph("through.onnx")), &options).unwrap();
    let (mut session, input) = (open(), vec![7u8; 80_000]);
    let aligned = usize::from(input.as_ptr().align_offset(4) != 0);
    for (begin, what) in [(aligned, "borrowed"), (aligned + 1, "copied")] {
        let bytes = &input[begin..begin + 64_000];
        let fed = Input { name: "x", datatype: Datatype::Fp32, dims: &[2, 8000], bytes };
        let outputs = session.run(&[fed], &[]).unwrap();
        assert!(!bytes.as_ptr_range().contains(&outputs[0].data.as_ptr()), "{what}");
        // The next run overwrites what the session keeps for itself.
        let zeros = vec![0u8; 64_001];
        session.run(&[Input { bytes: &zeros[..64_000], ..fed }], &[]).unwrap();
        session.run(&[Input { bytes: &zeros[1..], ..fed }], &[]).unwrap();
        assert_eq!(outputs[0].data, bytes, "{what}");
        let again = session.run(&[fed], &[]).unwrap();
        assert_ne!(outputs[1].data.as_ptr(), again[1].data.as_ptr(), "{what}");
        drop(std::mem::replace(&mut session, open()));
        assert!(outputs[1].data.iter().chain(&again[1].data).all(|&byte| byte == 0));
    }
}

#[test]
fn an_optional_input_may_be_left_out() {
    let declared = |optional: bool| {
        let scale = TensorSpec { optional, ..TensorSpec::new("scale", Datatype::Fp32, [1]) };
        OnnxOptions {
            max_batch_size: Some(8),
            inputs: Some(vec![TensorSpec::new("x", Datatype::Fp32, [2]), scale]),
            ..options("optional.onnx")
        }
    };
    let model = OnnxModel::load(declared(true)).unwrap();
    let x = || floats("x", &[1, 2], &[1.0, 2.0]);
    assert_eq!(values(&answer(&model, vec![x()])[0]), [3.0, 6.0]);
    assert_eq!(values(&answer(&model, vec![x(), floats("scale", &[1, 1], &[5.0])])[0]), [5.0, 10.0]);
    assert_ne!(part(&model, vec![x()]).kind, part(&model, vec![x(), floats("scale", &[1, 1], &[5.0])]).kind);
}

#[test]
fn external_weights_are_found_beside_the_file_and_for_memory() {
    let model = load("external.onnx");
    let x = [10.0, 20.0, 30.0, 40.0];
    assert_eq!(values(&answer(&model, vec![floats("x", &[1, 4], &x)])[0]), [11.0, 22.0, 33.0, 44.0]);

    let library = Library::open(&library()).unwrap();
    let source = GraphSource::Memory {
        bytes: std::fs::read(graph("external.onnx")).unwrap(),
        external_data_folder: Some(graph("")),
    };
    let folder = tempfile::tempdir().unwrap();
    let dump = folder.path().join("optimized.onnx");
    let session_options = SessionOptions { optimized_dump: Some(dump.clone()), ..SessionOptions::default() };
    let mut session = Session::open(&library, source, &session_options).unwrap();
    assert!(dump.is_file());
    assert_eq!((session.inputs()[0].dims.as_slice(), session.inputs()[0].symbols[0].as_str()), (&[-1, 4][..], "batch"));
    let tensor = floats("x", &[1, 4], &x);
    let input = Input { name: "x", datatype: Datatype::Fp32, dims: &[1, 4], bytes: &tensor.data };
    assert_eq!(values(&session.run(&[input], &["y"]).unwrap()[0]), [11.0, 22.0, 33.0, 44.0]);
    let short = Input { dims: &[2, 4], ..input };
    let ExecError::Invalid(text) = session.run(&[short], &[]).unwrap_err() else { panic!() };
    assert_eq!(text, "input 'x': found 4 FP32 elements for shape [2, 4]");
}

#[test]
fn an_output_that_is_no_tensor_can_be_left_out() {
    let declared = Some(vec![TensorSpec::new("echo", Datatype::Fp32, [2])]);
    let model = OnnxModel::load(OnnxOptions { max_batch_size: Some(4), outputs: declared, ..options("sequence.onnx") })
        .unwrap();
    assert_eq!(values(&answer(&model, vec![floats("x", &[1, 2], &[1.0, 2.0])])[0]), [1.0, 2.0]);
}

#[test]
fn bound_outputs_are_the_same_and_stay() {
    let library = Library::open(&library()).unwrap();
    let open = |outputs| {
        let options = SessionOptions { outputs, ..SessionOptions::default() };
        Session::open(&library, GraphSource::File(graph("types.onnx")), &options).unwrap()
    };
    let (mut plain, mut bound) = (open(Outputs::Anywhere), open(Outputs::Host));
    let datatypes: Vec<_> = plain.inputs().iter().map(|input| (input.name.clone(), input.datatype)).collect();
    // Large enough to be lent and not copied.
    let bytes = |datatype: Datatype, byte: u8| match datatype.element_bytes() {
        None => [1, 0, 0, 0, b'a' + byte].repeat(2 * 500),
        Some(_) if datatype == Datatype::Bool => vec![byte % 2; 2 * 500],
        Some(size) => vec![0x11 + byte; 2 * 500 * size],
    };
    let mut kept = Vec::new();
    for byte in 0..3 {
        let data: Vec<Vec<u8>> = datatypes.iter().map(|(_, datatype)| bytes(*datatype, byte)).collect();
        let dims = [500, 2];
        let inputs: Vec<Input<'_>> = datatypes
            .iter()
            .zip(&data)
            .map(|((name, datatype), bytes)| Input { name, datatype: *datatype, dims: &dims, bytes })
            .collect();
        let right = plain.run(&inputs, &[]).unwrap();
        assert_eq!(bound.run(&inputs, &[]).unwrap(), right);
        let last = right.last().unwrap().name.clone();
        assert_eq!(bound.run(&inputs, &[&last]).unwrap(), right[right.len() - 1..]);
        kept.push((bound.run(&inputs, &[]).unwrap(), right));
    }
    for (found, right) in kept {
        assert_eq!(found, right, "a later run does not write into an answer");
    }
}

#[test]
fn a_library_without_cuda_says_so() {
    let on_gpu = OnnxOptions { gpu_memory_bytes: Some(1 << 30), ..options("types.onnx") };
    let error = OnnxModel::load(on_gpu).unwrap_err().to_string();
    assert!(error.contains("types.onnx") && error.contains("CUDA"), "{error}");
}
