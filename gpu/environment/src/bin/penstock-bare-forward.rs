//! The encoder's forward pass in this process, no server: on a GPU against the CPU, and in a loop, which is the ceiling for
//! what a server can do with it.
//!
//! usage: `penstock-bare-forward MODEL_FOLDER [SECONDS] [cpu|candle]`. Prints one JSON object a line, as soon as it is known:
//! `agree` (the same batches on both: greatest absolute difference, least cosine; a batch against its rows alone) and
//! `forward` (batches and tokens a second, milliseconds a batch: the median, the mean, and the mean in a loop that rests between
//! batches, as a server at its least load does). `cpu` runs the loop there, to try this program; `candle`
//! on the GPU by candle in 32 bit.

#![allow(clippy::disallowed_methods)] // measures, so it reads the clock

use penstock_bert::{BertModel, BertOptions, Device, Engine};
use penstock_executor::{Batch, Executor, Model, Part};
use std::time::{Duration, Instant};

/// Rows and tokens of each.
const SHAPES: [(usize, usize); 9] =
    [(1, 16), (8, 16), (32, 16), (128, 16), (1, 128), (8, 128), (32, 128), (64, 128), (64, 256)];
/// Lengths of one batch of strangers.
const MIXED: [usize; 12] = [3, 250, 17, 64, 9, 128, 31, 5, 200, 12, 77, 40];

/// What lies between the batches of a loop with one request at a time, about.
const REST: Duration = Duration::from_micros(300);

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: penstock-bare-forward MODEL_FOLDER [SECONDS] [cpu|candle]")?;
    let seconds: f64 = arguments.next().map_or(Ok(40.0), |text| text.parse())?;
    let (device, engine) = match arguments.next().as_deref() {
        Some("cpu") => (Device::Cpu, Engine::Candle),
        Some("candle") => (Device::Cuda, Engine::Candle),
        _ => (Device::Cuda, Engine::Auto),
    };
    let began = Instant::now();
    let model = load(&folder, device, engine)?;
    let mut executor = model.executor(0)?;
    let took = began.elapsed().as_secs_f64();
    println!("{{\"check\": \"load\", \"device\": \"{device:?}\", \"engine\": \"{engine:?}\", \"seconds\": {took:.3}}}");
    agree(&folder, &model, executor.as_mut())?;
    let each = Duration::from_secs_f64(seconds / SHAPES.len() as f64);
    for (rows, tokens) in SHAPES {
        forward(&model, executor.as_mut(), rows, tokens, each)?;
    }
    Ok(())
}

fn load(folder: &str, device: Device, engine: Engine) -> Result<BertModel, Failure> {
    let options = BertOptions {
        folder: folder.into(),
        engine,
        device,
        library: "".into(),
        threads: std::thread::available_parallelism().map_or(1, usize::from),
        max_batch_size: 128,
    };
    Ok(BertModel::load(options)?)
}

/// The same rows on the CPU; and alone.
fn agree(folder: &str, model: &BertModel, executor: &mut dyn Executor) -> Result<(), Failure> {
    let reference = load(folder, Device::Cpu, Engine::Candle)?;
    let mut on_cpu = reference.executor(0)?;
    let parts = parts(model, &MIXED)?;
    let together = rows(executor, parts.clone())?;
    let mut alone = Vec::new();
    for part in &parts {
        alone.extend(rows(executor, vec![part.clone()])?);
    }
    for (against, other) in [("cpu", rows(on_cpu.as_mut(), parts)?), ("singles", alone)] {
        let pairs = || together.iter().zip(&other);
        if together.len() != other.len() || !together.iter().chain(&other).flatten().all(|value| value.is_finite()) {
            return Err(format!("against {against}: a row is missing, or a value is not finite").into());
        }
        let difference = pairs().flat_map(|(a, b)| a.iter().zip(b).map(|(a, b)| (a - b).abs())).fold(0.0, f64::max);
        // What is not a number, as of a row of zeros, stays: it is no cosine.
        let cosine = pairs().map(|(a, b)| cosine(a, b)).fold(1.0, |worst, c| if c >= worst { worst } else { c });
        println!(
            "{{\"check\": \"agree\", \"against\": \"{against}\", \"rows\": {}, \"max_abs_difference\": {difference:e}, \
             \"min_cosine\": {cosine:.9}}}",
            together.len()
        );
    }
    Ok(())
}

fn cosine(a: &[f64], b: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    dot(a, b) / (dot(a, a) * dot(b, b)).sqrt()
}

fn rows(executor: &mut dyn Executor, parts: Vec<Part>) -> Result<Vec<Vec<f64>>, Failure> {
    let outputs = executor.execute(Batch { parts })?;
    let mut rows = Vec::new();
    for part in outputs.parts {
        let tensors = part?;
        let values = tensors[0]
            .data
            .chunks_exact(4)
            .map(|bytes| f64::from(f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])));
        rows.push(values.collect());
    }
    Ok(rows)
}

fn forward(
    model: &BertModel,
    executor: &mut dyn Executor,
    rows: usize,
    tokens: usize,
    time: Duration,
) -> Result<(), Failure> {
    let parts = parts(model, &vec![tokens; rows])?;
    for _ in 0..3 {
        executor.execute(Batch { parts: parts.clone() })?;
    }
    let (began, mut each) = (Instant::now(), Vec::new());
    while began.elapsed() < time {
        let start = Instant::now();
        executor.execute(Batch { parts: parts.clone() })?;
        each.push(start.elapsed().as_secs_f64());
    }
    let batches = each.len() as f64 / began.elapsed().as_secs_f64();
    each.sort_by(f64::total_cmp);
    let (began, mut rested) = (Instant::now(), Vec::new());
    while began.elapsed() < time / 4 {
        std::thread::sleep(REST);
        let start = Instant::now();
        executor.execute(Batch { parts: parts.clone() })?;
        rested.push(start.elapsed().as_secs_f64());
    }
    let mean_ms = |each: &[f64]| each.iter().sum::<f64>() / each.len().max(1) as f64 * 1e3;
    println!(
        "{{\"check\": \"forward\", \"rows\": {rows}, \"tokens\": {tokens}, \"batches_per_s\": {batches:.2}, \
         \"tokens_per_s\": {:.0}, \"median_ms\": {:.4}, \"mean_ms\": {:.4}, \"rested_mean_ms\": {:.4}}}",
        batches * (rows * tokens) as f64,
        each[each.len() / 2] * 1e3,
        mean_ms(&each),
        mean_ms(&rested)
    );
    Ok(())
}

fn parts(model: &BertModel, lengths: &[usize]) -> Result<Vec<Part>, Failure> {
    let mut all = Vec::new();
    for tokens in lengths {
        all.extend(model.prepare(model.sample(1, *tokens))?.parts);
    }
    Ok(all)
}
