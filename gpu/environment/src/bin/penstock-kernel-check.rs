//! Our kernels by themselves on a GPU: against their references, and how long a forward pass takes, as single launches, as one
//! graph, and in two lanes at once.
//!
//! usage: `penstock-kernel-check [SECONDS]`, of measuring; with 0 it only compares. Prints one JSON object a line, as soon as it is known: `kernels` (a made-up encoder of
//! each head's width against the reference, rounded to half where the kernels round), `memory`, and with MiniLM's shape and random
//! weights `pass`, `waiting` (spinning or asleep until the device is done) and `phases` (what it does at the same time).

#![allow(clippy::disallowed_methods)] // measures, so it reads the clock

use half::f16;
use penstock_device::{DeviceError, Gpu};
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

/// Where waiting is measured, and how long it spins before it sleeps.
const WAITING: [(usize, usize); 3] = [(1, 16), (32, 16), (128, 128)];
const SPINNING: [Duration; 3] = [Duration::ZERO, Duration::from_millis(2), Duration::MAX];
/// Where phases are measured.
const PHASES: [(usize, usize); 3] = [(32, 128), (64, 128), (128, 128)];

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
    let each = Duration::from_secs_f64(
        seconds / (SHAPES.len() * 3 + WAITING.len() * SPINNING.len() + PHASES.len() * 2) as f64,
    );
    for (rows, tokens) in SHAPES {
        pass(&weights, rows, tokens, false, 1, each)?;
        pass(&weights, rows, tokens, true, 1, each)?;
        pass(&weights, rows, tokens, true, 2, each)?;
    }
    for (rows, tokens) in WAITING {
        for spinning in SPINNING {
            waiting(&weights, rows, tokens, spinning, each)?;
        }
    }
    for (rows, tokens) in PHASES {
        for lanes in 1..=2 {
            phases(&gpu, &weights, rows, tokens, lanes, each)?;
        }
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
    // Each lane has texts of its own, so that one that got another's answer is seen.
    let texts: Vec<Vec<Vec<u32>>> = (0..lanes)
        .map(|lane| {
            let mut random = Random(10 + lane as u64);
            (0..rows).map(|_| random.row(tokens)).collect()
        })
        .collect();
    let ready = Barrier::new(lanes);
    let warm = |texts: &[&[u32]]| -> Result<Encoder, DeviceError> {
        let mut encoder = Encoder::new(weights.clone(), 16384 + 512, rows)?;
        if !graphs {
            encoder.without_graphs();
        }
        for _ in 0..5 {
            encoder.gather(texts)?;
            encoder.run()?;
        }
        Ok(encoder)
    };
    let lane = |texts: &[Vec<u32>]| -> Result<(Vec<f64>, Vec<f32>), DeviceError> {
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let warmed = warm(&texts);
        ready.wait(); // whatever it is: the others wait, too
        let (mut encoder, mut taken, mut last) = (warmed?, Vec::new(), Vec::new());
        let began = Instant::now();
        while began.elapsed() < time {
            let start = Instant::now();
            encoder.gather(&texts)?;
            let found = encoder.run()?;
            taken.push(start.elapsed().as_secs_f64());
            last.clear();
            last.extend_from_slice(found);
        }
        Ok((taken, last))
    };
    let found = std::thread::scope(|scope| {
        let threads: Vec<_> = texts.iter().map(|texts| scope.spawn(|| lane(texts))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a lane panicked")).collect::<Result<Vec<_>, _>>()
    })?;
    let mut same = true;
    for (texts, (_, last)) in texts.iter().zip(&found) {
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let mut alone = warm(&texts)?;
        alone.gather(&texts)?;
        let right = alone.run()?;
        same &= right.len() == last.len() && right.iter().zip(last).all(|(a, b)| (a - b).abs() < 1e-3);
    }
    let mut taken: Vec<f64> = found.into_iter().flat_map(|(taken, _)| taken).collect();
    taken.sort_by(f64::total_cmp);
    let passes = taken.len() as f64 / time.as_secs_f64();
    println!(
        "{{\"check\": \"pass\", \"rows\": {rows}, \"tokens\": {tokens}, \"graphs\": {graphs}, \"lanes\": {lanes}, \
         \"as_alone\": {same}, \"tokens_per_s\": {:.0}, \"median_ms\": {:.4}, \"p99_ms\": {:.4}}}",
        passes * (rows * tokens) as f64,
        taken[taken.len() / 2] * 1e3,
        taken[taken.len() * 99 / 100] * 1e3
    );
    Ok(())
}

/// What sleeping instead of spinning costs, and what it saves.
fn waiting(
    weights: &Arc<Weights>,
    rows: usize,
    tokens: usize,
    spinning: Duration,
    time: Duration,
) -> Result<(), Failure> {
    let mut random = Random(10);
    let texts: Vec<Vec<u32>> = (0..rows).map(|_| random.row(tokens)).collect();
    let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
    let mut encoder = Encoder::new(weights.clone(), 16384 + 512, rows)?;
    encoder.spin_for(spinning);
    for _ in 0..5 {
        encoder.gather(&texts)?;
        encoder.run()?;
    }
    let (began, cpu_began, mut taken) = (Instant::now(), cpu_time()?, Vec::new());
    while began.elapsed() < time {
        let start = Instant::now();
        encoder.gather(&texts)?;
        encoder.run()?;
        taken.push(start.elapsed().as_secs_f64());
    }
    let cpu = (cpu_time()? - cpu_began).as_secs_f64() / began.elapsed().as_secs_f64();
    taken.sort_by(f64::total_cmp);
    let spinning = if spinning == Duration::MAX { "\"always\"".to_owned() } else { spinning.as_micros().to_string() };
    println!(
        "{{\"check\": \"waiting\", \"rows\": {rows}, \"tokens\": {tokens}, \"spinning_us\": {spinning}, \"median_ms\": {:.4}, \
         \"p99_ms\": {:.4}, \"cpu\": {cpu:.3}}}",
        taken[taken.len() / 2] * 1e3,
        taken[taken.len() * 99 / 100] * 1e3
    );
    Ok(())
}

/// What this thread has had of a processor.
fn cpu_time() -> Result<Duration, Failure> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().ok_or("schedstat is empty")?.parse()?))
}

/// Whether copies run while another lane computes, and how much of the time the device has work of one, by its own clock.
fn phases(
    gpu: &Gpu,
    weights: &Arc<Weights>,
    rows: usize,
    tokens: usize,
    lanes: usize,
    time: Duration,
) -> Result<(), Failure> {
    let ready = Barrier::new(lanes);
    let base = gpu.mark()?;
    let lane = |lane: usize| -> Result<Vec<[f64; 4]>, DeviceError> {
        let mut random = Random(10 + lane as u64);
        let texts: Vec<Vec<u32>> = (0..rows).map(|_| random.row(tokens)).collect();
        let texts: Vec<&[u32]> = texts.iter().map(Vec::as_slice).collect();
        let warm = || {
            let mut encoder = Encoder::new(weights.clone(), 16384 + 512, rows)?;
            encoder.note_phases()?;
            for _ in 0..5 {
                encoder.gather(&texts)?;
                encoder.run()?;
            }
            Ok::<_, DeviceError>(encoder)
        };
        let warmed = warm();
        ready.wait(); // whatever it is: the others wait, too
        let (mut encoder, mut seen) = (warmed?, Vec::new());
        let began = Instant::now();
        while began.elapsed() < time {
            encoder.gather(&texts)?;
            encoder.run()?;
            seen.extend(encoder.phases(&base)?);
        }
        Ok(seen)
    };
    let lane = &lane;
    let seen = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..lanes).map(|number| scope.spawn(move || lane(number))).collect();
        threads.into_iter().map(|thread| thread.join().expect("a lane panicked")).collect::<Result<Vec<_>, _>>()
    })?;
    // While all lanes ran.
    let first = seen.iter().map(|runs| runs[0][0]).fold(0.0, f64::max);
    let last = seen.iter().map(|runs| runs[runs.len() - 1][3]).fold(f64::MAX, f64::min);
    let within = |runs: &Vec<[f64; 4]>| -> Vec<[f64; 4]> {
        runs.iter().filter(|run| run[0] >= first && run[3] <= last).copied().collect()
    };
    let seen: Vec<_> = seen.iter().map(within).collect();
    let (mut copies, mut beside) = (0.0, 0.0);
    for (number, runs) in seen.iter().enumerate() {
        for [begun, copied_in, computed, copied_out] in runs {
            for copy in [[*begun, *copied_in], [*computed, *copied_out]] {
                copies += copy[1] - copy[0];
                let others = seen.iter().enumerate().filter(|(other, _)| *other != number);
                beside += others.flat_map(|(_, runs)| runs).map(|run| common(copy, [run[1], run[2]])).sum::<f64>();
            }
        }
    }
    let mut computing: Vec<[f64; 2]> = seen.iter().flatten().map(|run| [run[1], run[2]]).collect();
    computing.sort_by(|a, b| a[0].total_cmp(&b[0]));
    let (mut busy, mut until) = (0.0, first);
    for [from, to] in computing {
        busy += (to - from.max(until)).max(0.0);
        until = until.max(to);
    }
    let median = |from: usize, to: usize| {
        let mut all: Vec<f64> = seen.iter().flatten().map(|run| run[to] - run[from]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    println!(
        "{{\"check\": \"phases\", \"rows\": {rows}, \"tokens\": {tokens}, \"lanes\": {lanes}, \"runs_per_s\": {:.1}, \"copy_in_ms\": {:.4}, \
         \"compute_ms\": {:.4}, \"copy_out_ms\": {:.4}, \"copying_while_another_computes\": {:.3}, \"computing\": {:.3}}}",
        seen.iter().map(Vec::len).sum::<usize>() as f64 / (last - first) * 1e3,
        median(0, 1),
        median(1, 2),
        median(2, 3),
        beside / copies,
        busy / (last - first)
    );
    Ok(())
}

/// What two spans of time have in common.
fn common([a_from, a_to]: [f64; 2], [b_from, b_to]: [f64; 2]) -> f64 {
    (a_to.min(b_to) - a_from.max(b_from)).max(0.0)
}
