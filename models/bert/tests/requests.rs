//! What a request may ask, and what it is told when it may not; and what a model says of itself.

mod support;

use penstock_bert::{BertModel, BertOptions, Engine};
use penstock_domain::{ParameterValue, RequestedOutput};
use penstock_executor::{Batch, BatchCost, ExecError, LoadError, Model, Part, PartInput, Work};
use support::{ENGINES, bytes_tensor, embed, ints, load, options, parameter, texts, work};

fn refusal(model: &BertModel, work: Work) -> String {
    match model.prepare(work) {
        Err(ExecError::Invalid(message)) => message,
        other => panic!("found {other:?}"),
    }
}

fn with_truncate(mut work: Work, value: ParameterValue) -> Work {
    work.parameters.push(("truncate".into(), value));
    work
}

#[test]
fn long_texts_are_cut_and_counted_or_refused() {
    let model = load(Engine::Candle);
    let long = "word ".repeat(300);
    let prepared = model.prepare(texts(&["short one", &long, &long])).unwrap();
    let tokens: Vec<u32> = prepared.parts.iter().map(|part| part.tokens).collect();
    assert_eq!(tokens, [4, 256, 256]);
    assert_eq!(parameter(&prepared, "prompt_tokens"), Some(516));
    assert_eq!(parameter(&prepared, "truncated_inputs"), Some(2));
    for part in &prepared.parts {
        let PartInput::Tokens(ids) = &part.input else { panic!("not tokens") };
        assert_eq!((ids[0], ids.last(), ids.len() as u32), (101, Some(&102), part.tokens));
    }
    assert!(model.prepare(with_truncate(texts(&["short"]), ParameterValue::Bool(false))).is_ok());
    let message = refusal(&model, with_truncate(texts(&["short", &long]), ParameterValue::Bool(false)));
    assert!(message.contains("input 'text': row 1: has 302 tokens, at most 256 fit"), "{message}");
    let message = refusal(&model, with_truncate(texts(&["short"]), ParameterValue::Int(0)));
    assert!(message.contains("parameter 'truncate': found Int(0)"), "{message}");

    let ids = || work(vec![ints("input_ids", [1, 300], &[7; 300])]);
    let prepared = model.prepare(ids()).unwrap();
    assert_eq!((prepared.parts[0].tokens, parameter(&prepared, "truncated_inputs")), (256, Some(1)));
    let message = refusal(&model, with_truncate(ids(), ParameterValue::Bool(false)));
    assert!(message.contains("row 0 has 300 tokens, at most 256 fit"), "{message}");
}

#[test]
fn what_is_wrong_with_a_request_is_named() {
    let model = load(Engine::Candle);
    let text = || bytes_tensor(&[1, 1], &[b"a"]);
    let ids = || ints("input_ids", [1, 1], &[5]);
    let mask = || ints("attention_mask", [1, 1], &[1]);
    let mut misnamed = ids();
    misnamed.name = "tokens".into();
    let mut mistyped = ids();
    mistyped.name = "text".into();
    let table = [
        (vec![bytes_tensor(&[2, 1], &[b"fine", b"\xff\xfe"])], "input 'text': row 1 is not UTF-8"),
        (vec![bytes_tensor(&[1, 2], &[b"a", b"b"])], "found shape [1, 2]; it must be [rows, 1] or [rows]"),
        (vec![bytes_tensor(&[3], &[b"a", b"b"])], "expected 3 BYTES elements"),
        (vec![], "right would be either 'text' (BYTES) alone"),
        (vec![text(), ids()], r#"found ["text", "input_ids"]"#),
        (vec![text(), mask()], r#"found ["text", "attention_mask"]"#),
        (vec![mask()], "right would be either 'text'"),
        (vec![text(), text()], "input 'text' was sent twice"),
        (vec![misnamed], "input 'tokens' is not known"),
        (vec![mistyped], "input 'text': found INT64; it must be BYTES"),
        (vec![ints("input_ids", [1, 2], &[5, 30522])], "found id 30522; the vocabulary has 30522 tokens"),
    ];
    for (inputs, right) in table {
        let message = refusal(&model, work(inputs));
        assert!(message.contains(right), "{message}\nis not\n{right}");
    }
    let asking = |name: &str, classification| Work {
        outputs: vec![RequestedOutput { name: name.into(), classification }],
        ..texts(&["a"])
    };
    assert!(refusal(&model, asking("logits", 0)).contains("output 'logits' is not known"));
    assert!(refusal(&model, asking("embedding", 3)).contains("no classes"));
    assert!(model.prepare(asking("embedding", 0)).is_ok());
}

#[test]
fn a_model_says_what_it_takes_and_warms_up() {
    for engine in ENGINES {
        let model = load(engine);
        let signature = model.signature();
        assert_eq!((signature.platform.as_str(), signature.max_batch_size), ("penstock_bert", 32));
        assert!(signature.inputs.iter().all(|input| input.optional));
        assert_eq!(signature.outputs[0].shape, [384]);
        assert_eq!((model.batch_cost(), model.prepares_slowly()), (BatchCost::Tokens { longest: 256 }, true));
        let mut executor = model.executor(0).unwrap();
        let counts = model.warmup().into_iter().map(|work| embed(&model, executor.as_mut(), work).unwrap().len());
        assert_eq!(counts.collect::<Vec<_>>(), [1, 8, 1, 8]);
    }
}

#[test]
fn edges_of_a_batch() {
    let model = load(Engine::Auto);
    let mut executor = model.executor(0).unwrap();
    assert_eq!(executor.execute(Batch { parts: Vec::new() }).unwrap().parts.len(), 0);
    assert_eq!(model.prepare(work(vec![bytes_tensor(&[0, 1], &[])])).unwrap().parts.len(), 0);
    // Shape [rows] is as good as [rows, 1].
    let flat = embed(&model, executor.as_mut(), work(vec![bytes_tensor(&[2], &[b"one", b"two"])])).unwrap();
    assert_eq!(flat, embed(&model, executor.as_mut(), texts(&["one", "two"])).unwrap());
    let foreign = Part { input: PartInput::Tensors(Vec::new()), items: 1, tokens: 0, kind: 0 };
    assert!(matches!(executor.execute(Batch { parts: vec![foreign] }), Err(ExecError::Failed(_))));
    // After an error the next batch is served, and its times are told.
    let parts = model.prepare(texts(&["after", "that, business as usual"])).unwrap().parts;
    let outputs = executor.execute(Batch { parts }).unwrap();
    assert!(outputs.compute_ns > outputs.compute_input_ns && outputs.compute_input_ns > 0);
}

#[test]
fn loading_says_which_folder_and_what_is_missing() {
    let invalid = |options: BertOptions| match BertModel::load(options) {
        Err(LoadError::Invalid(message) | LoadError::Failed(message)) => message,
        Ok(_) => panic!("it loaded"),
    };
    let empty = tempfile::tempdir().unwrap();
    let message = invalid(BertOptions { folder: empty.path().into(), ..options(Engine::Auto) });
    assert!(message.contains("config.json: cannot be read: there is no such file"), "{message}");
    assert!(message.contains(&empty.path().display().to_string()), "{message}");
    let message = invalid(BertOptions { library: "nowhere/libonnxruntime.so".into(), ..options(Engine::Auto) });
    assert!(message.contains("nowhere/libonnxruntime.so"), "{message}");
    let message = invalid(BertOptions { max_batch_size: 0, ..options(Engine::Auto) });
    assert!(message.contains("max_batch_size: found 0"), "{message}");
    // candle needs no library.
    assert!(BertModel::load(BertOptions { library: "nowhere".into(), ..options(Engine::Candle) }).is_ok());
}
