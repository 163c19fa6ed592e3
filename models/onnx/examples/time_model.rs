//! Times a model's calls on zeros at several batch sizes, on one worker: `time_model LIBRARY MODEL.onnx THREADS`.
//! `time_model.py` beside it does the same with Python's onnxruntime. Each prints the median of many calls, and the
//! fastest, which a busy machine disturbs least.

use penstock_executor::{Batch, Model};
use penstock_onnx::{OnnxModel, OnnxOptions};
use std::time::{Duration, Instant};

#[allow(clippy::disallowed_methods)] // a program that measures
fn now() -> Instant {
    Instant::now()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, library, file, threads] = arguments.as_slice() else {
        return Err("usage: time_model LIBRARY MODEL.onnx THREADS".into());
    };
    for rows in [1u32, 8, 32] {
        let options = OnnxOptions {
            library: library.into(),
            file: file.into(),
            threads_per_worker: threads.parse()?,
            max_batch_size: Some(rows),
            ..OnnxOptions::default()
        };
        let model = OnnxModel::load(options)?;
        let mut executor = model.executor(0)?;
        let sample = model.warmup().pop().ok_or("the signature is too large to sample")?;
        // The batch as it comes in production: one request for each row.
        let one = model.warmup().remove(0);
        for (name, work, copies) in [("one request", sample, 1), ("gathered", one, rows as usize)] {
            let mut times = Vec::new();
            let mut outside = Vec::new();
            let began = now();
            while times.len() < 10 || began.elapsed() < Duration::from_secs(3) {
                let parts: Result<Vec<_>, _> = (0..copies).map(|_| model.prepare(work.clone())).collect();
                let parts = parts?.into_iter().flat_map(|prepared| prepared.parts).collect();
                let start = now();
                let outputs = executor.execute(Batch { parts })?;
                times.push(start.elapsed());
                outside.push(outputs.compute_input_ns + outputs.compute_output_ns);
            }
            times.sort();
            outside.sort();
            let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
            println!(
                "rows {rows:>3} {name:<11} {:>9.1} us a call, fastest {:>9.1}; gathering and scattering {:.1} us",
                microseconds(times[times.len() / 2]),
                microseconds(times[0]),
                outside[outside.len() / 2] as f64 / 1e3
            );
        }
    }
    Ok(())
}
