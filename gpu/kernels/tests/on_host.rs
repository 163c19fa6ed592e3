//! The kernels' own source, run on the CPU block by block (`on_host.h` gives it what it uses of CUDA), against their references.
//! Says nothing of how a GPU runs them: `make gpu-check` does.

use half::f16;
use penstock_kernels::reference::{self, Activation, Norm};
use rand::{Rng, SeedableRng, rngs::SmallRng};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

/// The program that runs one kernel, built by this machine's C++ compiler.
static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let program = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("on_host");
    let mut compiler = Command::new("c++");
    compiler.args([
        "-std=c++20",
        "-O1",
        "-fno-strict-aliasing",
        "-Wall",
        "-Wno-unknown-pragmas",
        "-Werror",
        "-DPENSTOCK_ON_HOST",
    ]);
    compiler.arg(format!("-I{}", folder.join("tests").display())).arg(format!("-I{}", folder.join("src").display()));
    compiler.arg(folder.join("tests/on_host.cpp")).arg("-o").arg(&program);
    assert!(compiler.status().expect("a C++ compiler is needed").success());
    program
});

fn run(kernel: &str, arguments: &[Vec<u8>]) -> Vec<u8> {
    let mut child =
        Command::new(&*PROGRAM).arg(kernel).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it starts");
    let mut input = child.stdin.take().expect("it has an input");
    for argument in arguments {
        input.write_all(&(argument.len() as u64).to_le_bytes()).expect("it reads");
        input.write_all(argument).expect("it reads");
    }
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{kernel}: {}", output.status);
    output.stdout
}

fn halves(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| f16::from_f32(*value).to_le_bytes()).collect()
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn words(values: &[u32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn of_halves(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(2).map(|bytes| f16::from_le_bytes([bytes[0], bytes[1]]).to_f32()).collect()
}

fn of_floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])).collect()
}

/// Values that are halves.
fn random(rng: &mut SmallRng, count: usize, size: f32) -> Vec<f32> {
    (0..count).map(|_| f16::from_f32(rng.random_range(-size..size)).to_f32()).collect()
}

/// NaN is never close.
fn assert_close(what: &str, found: &[f32], right: &[f32], tolerance: f32) {
    assert_eq!(found.len(), right.len(), "{what}");
    let far = |(i, (a, b)): (usize, (&f32, &f32))| {
        let close = (a - b).abs() <= tolerance * (1.0 + b.abs());
        (!close).then(|| format!("{what}: at {i} found {a}, right would be {b}"))
    };
    let first = found.iter().zip(right).enumerate().find_map(far);
    assert_eq!(first, None);
}

/// One step of half.
const ROUNDING: f32 = 1.0 / 1024.0;

#[test]
fn embeddings_and_sums_are_normalised() {
    let mut rng = SmallRng::seed_from_u64(1);
    for (tokens, hidden) in [(1, 64), (5, 384), (6, 1024), (3, 130)] {
        let (words_, places) = (random(&mut rng, 50 * hidden, 1.0), random(&mut rng, 20 * hidden, 1.0));
        let (weight, bias) = (random(&mut rng, hidden, 2.0), random(&mut rng, hidden, 1.0));
        let norm = Norm { weight: &weight, bias: &bias, eps: 1e-12 };
        let ids: Vec<u32> = (0..tokens).map(|_| rng.random_range(0..50)).collect();
        let positions: Vec<u32> = (0..tokens).map(|_| rng.random_range(0..20)).collect();
        let size = [words(&[tokens as u32]), words(&[hidden as u32]), floats(&[norm.eps])];
        let nothing = vec![0; tokens * hidden * 2];
        let mut arguments = vec![words(&ids), words(&positions), halves(&words_), halves(&places)];
        arguments.extend([floats(&weight), floats(&bias), nothing]);
        arguments.extend(size.clone());
        let found = of_halves(&run("embed", &arguments));
        assert_close("embed", &found, &reference::embed(&ids, &positions, &words_, &places, norm), ROUNDING);

        let (product, product_bias) = (random(&mut rng, tokens * hidden, 3.0), random(&mut rng, hidden, 1.0));
        let state = random(&mut rng, tokens * hidden, 2.0);
        let mut arguments =
            vec![halves(&product), floats(&product_bias), floats(&weight), floats(&bias), halves(&state)];
        arguments.extend(size);
        let found = of_halves(&run("add_norm", &arguments));
        assert_close("add_norm", &found, &reference::add_norm(&product, &product_bias, &state, norm), ROUNDING);
    }
}

#[test]
fn activations() {
    let mut rng = SmallRng::seed_from_u64(2);
    for kind in [Activation::Gelu, Activation::GeluTanh, Activation::Relu] {
        let (tokens, width) = (7, 1536);
        let (values, bias) = (random(&mut rng, tokens * width, 6.0), random(&mut rng, width, 1.0));
        let numbers = [(tokens * width / 8) as u32, width as u32, kind as u32].map(|number| words(&[number]));
        let found = of_halves(&run("activate", &[&[halves(&values), floats(&bias)][..], &numbers].concat()));
        assert_close("activate", &found, &reference::activate(&values, &bias, kind), ROUNDING);
    }
}

#[test]
fn each_row_attends_to_itself_alone() {
    let mut rng = SmallRng::seed_from_u64(3);
    let mixed: [usize; 12] = [1, 2, 15, 16, 17, 63, 64, 65, 100, 128, 130, 200];
    for (heads, width, lengths) in [(3, 32, &mixed[..]), (2, 64, &mixed[..]), (12, 32, &[9, 33][..])] {
        let (tokens, hidden) = (lengths.iter().sum::<usize>(), heads * width);
        let (projected, bias) = (random(&mut rng, tokens * 3 * hidden, 2.0), random(&mut rng, 3 * hidden, 0.5));
        let mut tiles: Vec<[u32; 4]> = penstock_kernels::tiles(lengths.iter().copied()).collect();
        tiles.push([0; 4]); // one too many does nothing
        let arguments = [
            halves(&projected),
            floats(&bias),
            words(&tiles.concat()),
            vec![0xff; tokens * hidden * 2], // NaN: whatever is not written is seen
            words(&[heads as u32]),
            floats(&[1.0 / (width as f32).sqrt()]),
        ];
        let found = of_halves(&run(&format!("attend_{width}"), &arguments));
        // Scores are products of rounded halves, and weights are rounded before they are summed.
        assert_close("attend", &found, &reference::attend(&projected, &bias, lengths, heads, width), 4.0 * ROUNDING);
    }
}

#[test]
fn rows_are_pooled() {
    let mut rng = SmallRng::seed_from_u64(4);
    let lengths = [1, 7, 40, 3];
    for (hidden, mean, unit) in [(384, true, true), (1024, true, false), (64, false, true)] {
        let state = random(&mut rng, lengths.iter().sum::<usize>() * hidden, 2.0);
        let mut starts = vec![0];
        lengths.iter().for_each(|length| starts.push(starts[starts.len() - 1] + *length as u32));
        starts.push(starts[starts.len() - 1]); // an empty row writes nothing
        let out = vec![0; lengths.len() * hidden * 4];
        let numbers = [hidden as u32, u32::from(mean), u32::from(unit)].map(|number| words(&[number]));
        let found = of_floats(&run("pool", &[&[halves(&state), words(&starts), out][..], &numbers].concat()));
        assert_close("pool", &found, &reference::pool(&state, &lengths, hidden, mean, unit), 1e-5);
    }
}
