//! Sentences per second in this process, no server: engine x threads x batch x tokens, then mixed lengths.
//!
//! usage: `cargo run --release -p penstock-bert --example encode_speed -- MODEL_FOLDER LIBONNXRUNTIME [SECONDS]`
//!
//! Every case is run in slices that alternate with those of all other cases, so that a noisy minute falls on all of
//! them; printed are the median and the best tenth of all calls, as sentences per second of wall clock, and the median per
//! second of CPU time of all threads, which says more where the machine is shared (Linux only).
#![allow(clippy::disallowed_methods)] // measures, so it reads the clock

use penstock_bert::{BertModel, BertOptions, Device, Engine};
use penstock_executor::{Batch, Executor, Model, Part};
use std::time::{Duration, Instant};

/// One thing to measure.
struct Case {
    name: String,
    /// Batches that are run one after the other; together they are one call.
    batches: Vec<Vec<Part>>,
    rows: usize,
    seconds: Vec<f64>,
    cpu_seconds: Vec<f64>,
}

struct Setup {
    name: String,
    executor: Box<dyn Executor>,
    cases: Vec<Case>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(folder), Some(library)) = (arguments.next(), arguments.next()) else {
        return Err("usage: encode_speed MODEL_FOLDER LIBONNXRUNTIME [SECONDS]".into());
    };
    let seconds: f64 = arguments.next().map_or(Ok(60.0), |text| text.parse())?;
    let mut setups = Vec::new();
    for (engine, threads) in [(Engine::OnnxRuntime, 1), (Engine::OnnxRuntime, 2), (Engine::Candle, 2)] {
        let model = BertModel::load(BertOptions {
            folder: folder.clone().into(),
            engine,
            device: Device::Cpu,
            library: library.clone().into(),
            threads,
            max_batch_size: 64,
        })?;
        let name = match engine {
            Engine::Candle => "candle, the process's threads".to_owned(),
            _ => format!("{engine:?}, {threads} threads"),
        };
        setups.push(Setup { name, executor: model.executor(0)?, cases: cases(&model)? });
    }
    let all: usize = setups.iter().map(|setup| setup.cases.len()).sum();
    let slice = Duration::from_secs_f64(seconds / (all * 4) as f64);
    for _ in 0..4 {
        for case in 0..setups[0].cases.len() {
            for setup in &mut setups {
                measure(setup.executor.as_mut(), &mut setup.cases[case], slice)?;
            }
        }
    }
    for setup in &mut setups {
        println!("{}", setup.name);
        for case in &mut setup.cases {
            case.seconds.sort_by(f64::total_cmp);
            case.cpu_seconds.sort_by(f64::total_cmp);
            let at = |seconds: &[f64], share: f64| case.rows as f64 / seconds[(seconds.len() as f64 * share) as usize];
            let (median, best, cpu) = (at(&case.seconds, 0.5), at(&case.seconds, 0.1), at(&case.cpu_seconds, 0.5));
            println!("  {:50} {median:7.1} median {best:7.1} best tenth {cpu:7.1} per CPU second", case.name);
        }
    }
    Ok(())
}

fn measure(executor: &mut dyn Executor, case: &mut Case, slice: Duration) -> Result<(), Box<dyn std::error::Error>> {
    let begin = Instant::now();
    while begin.elapsed() < slice {
        let (start, cpu) = (Instant::now(), cpu_seconds());
        for parts in &case.batches {
            executor.execute(Batch { parts: parts.clone() })?;
        }
        case.seconds.push(start.elapsed().as_secs_f64());
        case.cpu_seconds.push(cpu_seconds() - cpu);
    }
    Ok(())
}

/// CPU time of all threads of this process so far; 0 where there is no /proc.
fn cpu_seconds() -> f64 {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let running = |text: String| text.split(' ').next().and_then(|ns| ns.parse::<f64>().ok());
    let times = tasks.filter_map(|task| running(std::fs::read_to_string(task.path().join("schedstat")).ok()?));
    times.sum::<f64>() / 1e9
}

fn cases(model: &BertModel) -> Result<Vec<Case>, Box<dyn std::error::Error>> {
    let mut cases = Vec::new();
    for (rows, tokens) in [(1, 16), (8, 16), (32, 16), (1, 128), (8, 128), (32, 128)] {
        let batches = vec![parts(model, &vec![tokens; rows])?];
        cases.push(Case {
            name: format!("{rows} x {tokens} tokens"),
            batches,
            rows,
            seconds: Vec::new(),
            cpu_seconds: Vec::new(),
        });
    }
    let lengths = lognormal(64);
    let mut sorted = lengths.clone();
    sorted.sort_unstable();
    for (name, lengths) in [("as they come", &lengths), ("sorted", &sorted)] {
        for size in [8, 32] {
            let batches = lengths.chunks(size).map(|chunk| parts(model, chunk)).collect::<Result<_, _>>()?;
            let name = format!("64 rows of 8-256, {name}, batches of {size}");
            cases.push(Case { name, batches, rows: lengths.len(), seconds: Vec::new(), cpu_seconds: Vec::new() });
        }
    }
    Ok(cases)
}

fn parts(model: &BertModel, lengths: &[usize]) -> Result<Vec<Part>, Box<dyn std::error::Error>> {
    let mut all = Vec::new();
    for tokens in lengths {
        all.extend(model.prepare(model.sample(1, *tokens))?.parts);
    }
    Ok(all)
}

/// Log-normal lengths (median 33 tokens, sigma 0.8), held to 8-256: the same on every run, from a fixed sequence.
fn lognormal(count: usize) -> Vec<usize> {
    let mut state = 1u64;
    let mut uniform = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((state >> 11) as f64 + 1.0) / (1u64 << 53) as f64
    };
    let mut normal = || (-2.0 * uniform().ln()).sqrt() * (std::f64::consts::TAU * uniform()).cos();
    (0..count).map(|_| ((3.5 + 0.8 * normal()).exp() as usize).clamp(8, 256)).collect()
}
