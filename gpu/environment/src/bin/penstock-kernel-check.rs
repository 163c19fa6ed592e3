//! Our kernels by themselves on a GPU: against their references, and how long a forward pass takes, as single launches, as one
//! graph, and in two lanes at once; and by the device's own clock, how much of two lanes' passes falls together.
//!
//! usage: `penstock-kernel-check [SECONDS]`, of measuring; with 0 it only compares. Prints one JSON object a line, as soon as it is known: `kernels` (a made-up encoder of
//! each head's width against the reference, rounded to half where the kernels round), `memory`, `overlap`, and `pass` (MiniLM's shape, random
//! weights).

#![allow(clippy::disallowed_methods)] // measures, so it reads the clock

use half::f16;
use penstock_device::{DeviceError, Gpu, Moment};
use penstock_kernels::{
    Activation, Architecture, Encoder, EncoderWeights, LayerWeights, Linear, NormWeights, Weights, reference,
};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

type Failure = Box<dyn std::error::Error>;

const VOCABULARY: usize = 1000;
const POSITIONS: usize = 512;
/// Lengths of one run of strangers: around every border of a tile.
const MIXED: [usize; 14] = [1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 130, 200, 7, 31];
/// Rows and tokens of each.
const SHAPES: [(usize, usize); 9] =
    [(1, 16), (8, 16), (32, 16), (128, 16), (1, 128), (8, 128), (32, 128), (128, 128), (32, 512)];

/// Numbers that are alike in every run.
struct Random(u64);

impl Random {
    /// From -1 to 1.
    fn next(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    fn floats(&mut self, count: usize, size: f32) -> Vec<f32> {
        (0..count).map(|_| self.next() * size).collect()
    }

    fn halves(&mut self, count: usize, size: f32) -> Vec<f16> {
        (0..count).map(|_| f16::from_f32(self.next() * size)).collect()
    }

    fn row(&mut self, tokens: usize) -> Vec<u32> {
        (0..tokens).map(|_| ((self.next() + 1.0) * 499.0) as u32).collect()
    }
}

fn main() -> Result<(), Failure> {
    let seconds: f64 = std::env::args().nth(1).map_or(Ok(20.0), |text| text.parse())?;
    let gpu = Gpu::open()?;
    for (hidden, heads, activation, mean, lengths) in [
        (128, 4, Activation::Gelu, true, &MIXED[..]),
        (128, 2, Activation::GeluTanh, false, &MIXED[..]),
        // The reference takes its time.
        (384, 12, Activation::Relu, true, &MIXED[..6]),
        (1024, 16, Activation::Gelu, true, &MIXED[3..5]),
    ] {
        let architecture = Architecture { hidden, heads, activation, eps: 1e-12, mean, unit: true };
        check(&gpu, architecture, lengths)?;
    }
    if seconds == 0.0 {
        return Ok(());
    }
    let architecture =
        Architecture { hidden: 384, heads: 12, activation: Activation::Gelu, eps: 1e-12, mean: true, unit: true };
    let weights = Arc::new(Weights::new(&gpu, &made_up(architecture, 6))?);
    let (free, all) = gpu.memory()?;
    println!("{{\"check\": \"memory\", \"free\": {free}, \"all\": {all}, \"weights\": {}}}", weights.device_bytes());
    let each = Duration::from_secs_f64(seconds / (SHAPES.len() * 3) as f64);
    for (rows, tokens) in SHAPES {
        pass(&weights, rows, tokens, false, 1, each)?;
        pass(&weights, rows, tokens, true, 1, each)?;
        pass(&weights, rows, tokens, true, 2, each)?;
    }
    for (rows, tokens) in [(32, 16), (32, 128), (128, 128)] {
        overlap(&weights, rows, tokens)?;
    }
    Ok(())
}

fn made_up(architecture: Architecture, layers: usize) -> EncoderWeights {
    let Architecture { hidden, .. } = architecture;
    let wide = 4 * hidden;
    let mut random = Random(7);
    let mut linear = |outputs: usize, inputs: usize| Linear {
        weight: random.halves(outputs * inputs, 2.0 / (inputs as f32).sqrt()),
        bias: random.floats(outputs, 0.1),
    };
    let norm = || NormWeights { weight: vec![1.0; hidden], bias: vec![0.01; hidden] };
    let layers = (0..layers).map(|_| LayerWeights {
        projections: linear(3 * hidden, hidden),
        attention_output: linear(hidden, hidden),
        attention_norm: norm(),
        intermediate: linear(wide, hidden),
        output: linear(hidden, wide),
        output_norm: norm(),
    });
    let layers = layers.collect();
    let mut random = Random(8);
    let (words, places) = (random.halves(VOCABULARY * hidden, 1.0), random.halves(POSITIONS * hidden, 0.5));
    EncoderWeights { architecture, words, places, norm: norm(), layers }
}

/// Each way of giving the work to the device, against the reference.
fn check(gpu: &Gpu, architecture: Architecture, lengths: &[usize]) -> Result<(), Failure> {
    let weights = made_up(architecture, 2);
    let mut random = Random(9);
    let rows: Vec<Vec<u32>> = lengths.iter().map(|tokens| random.row(*tokens)).collect();
    let rows: Vec<&[u32]> = rows.iter().map(Vec::as_slice).collect();
    let right = reference::encode(&weights, &rows, |value| f16::from_f32(value).to_f32());
    let mut encoder = Encoder::new(Arc::new(Weights::new(gpu, &weights)?), 4096, 64)?;
    // Alone, captured, replayed; and once more after another run was in the buffers.
    for how in ["launches", "captured", "replayed", "again"] {
        if how == "again" {
            encoder.gather(&[&[5; 500], &[6; 300]])?;
            encoder.run()?;
        }
        encoder.gather(&rows)?;
        let found = encoder.run()?;
        let finite = found.len() == right.len() && found.iter().all(|value| value.is_finite());
        let far = found.iter().zip(&right).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        let norm = |values: &[f32]| values.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>().sqrt();
        let difference: Vec<f32> = found.iter().zip(&right).map(|(a, b)| a - b).collect();
        println!(
            "{{\"check\": \"kernels\", \"hidden\": {}, \"heads\": {}, \"activation\": \"{:?}\", \"how\": \"{how}\", \"rows\": {}, \
             \"finite\": {finite}, \"max_abs_difference\": {far:e}, \"relative_error\": {:e}}}",
            architecture.hidden,
            architecture.heads,
            architecture.activation,
            rows.len(),
            norm(&difference) / norm(&right)
        );
    }
    Ok(())
}

/// Passes a second in `lanes` threads.
fn pass(
    weights: &Arc<Weights>,
    rows: usize,
    tokens: usize,
    graphs: bool,
    lanes: usize,
    time: Duration,
) -> Result<(), Failure> {
    let ids = vec![Random(10).row(tokens); rows];
    let ready = Barrier::new(lanes);
    let of_rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let one = |encoder: &mut Encoder| -> Result<f64, DeviceError> {
        let start = Instant::now();
        encoder.gather(&of_rows)?;
        encoder.run()?;
        Ok(start.elapsed().as_secs_f64())
    };
    let warm = || -> Result<Encoder, DeviceError> {
        let mut encoder = Encoder::new(weights.clone(), 16384 + 512, rows)?;
        if !graphs {
            encoder.without_graphs();
        }
        (0..5).try_for_each(|_| one(&mut encoder).map(|_| ()))?;
        Ok(encoder)
    };
    let lane = || -> Result<Vec<f64>, DeviceError> {
        let warmed = warm();
        ready.wait(); // whatever it is: the others wait, too
        let (mut encoder, began, mut taken) = (warmed?, Instant::now(), Vec::new());
        while began.elapsed() < time {
            taken.push(one(&mut encoder)?);
        }
        Ok(taken)
    };
    let taken = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..lanes).map(|_| scope.spawn(lane)).collect();
        threads.into_iter().map(|thread| thread.join().expect("a lane panicked")).collect::<Result<Vec<_>, _>>()
    })?;
    let mut taken = taken.concat();
    taken.sort_by(f64::total_cmp);
    let passes = taken.len() as f64 / time.as_secs_f64();
    println!(
        "{{\"check\": \"pass\", \"rows\": {rows}, \"tokens\": {tokens}, \"graphs\": {graphs}, \"lanes\": {lanes}, \
         \"tokens_per_s\": {:.0}, \"median_ms\": {:.4}, \"p99_ms\": {:.4}}}",
        passes * (rows * tokens) as f64,
        taken[taken.len() / 2] * 1e3,
        taken[taken.len() * 99 / 100] * 1e3
    );
    Ok(())
}

/// Two lanes, a pass after another each: how much of the time when one is at work the other is, too.
fn overlap(weights: &Arc<Weights>, rows: usize, tokens: usize) -> Result<(), Failure> {
    const PASSES: usize = 200;
    let ids = vec![Random(11).row(tokens); rows];
    let of_rows: Vec<&[u32]> = ids.iter().map(Vec::as_slice).collect();
    let ready = Barrier::new(2);
    let lane = || -> Result<Vec<[Moment; 2]>, DeviceError> {
        let made = Encoder::new(weights.clone(), 16384 + 512, rows);
        ready.wait();
        let (mut encoder, mut moments) = (made?, Vec::new());
        for _ in 0..PASSES {
            encoder.gather(&of_rows)?;
            let begin = encoder.moment()?;
            encoder.give()?;
            let end = encoder.moment()?;
            encoder.take()?;
            moments.push([begin, end]);
        }
        Ok(moments)
    };
    let lanes = std::thread::scope(|scope| {
        let threads = [scope.spawn(lane), scope.spawn(lane)];
        threads.into_iter().map(|thread| thread.join().expect("a lane panicked")).collect::<Result<Vec<_>, _>>()
    })?;
    let origin = &lanes[0][0][0];
    let mut edges: Vec<(f32, i32)> = Vec::new();
    for moments in &lanes {
        for [begin, end] in &moments[PASSES / 4..] {
            edges.extend([(begin.ms_since(origin)?, 1), (end.ms_since(origin)?, -1)]);
        }
    }
    edges.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut at_work, mut both, mut one) = (0, 0.0, 0.0);
    for pair in edges.windows(2) {
        at_work += pair[0].1;
        let time = pair[1].0 - pair[0].0;
        both += if at_work == 2 { time } else { 0.0 };
        one += if at_work > 0 { time } else { 0.0 };
    }
    println!(
        "{{\"check\": \"overlap\", \"rows\": {rows}, \"tokens\": {tokens}, \"at_work_ms\": {one:.3}, \"both\": {:.3}}}",
        both / one
    );
    Ok(())
}
