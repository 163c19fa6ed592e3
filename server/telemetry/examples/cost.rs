//! What counting costs: nanoseconds a call with one thread and with as many as there are cores, and what a scrape
//! costs with many versions. With the argument `text` it prints a scrape instead.
//!
//! `cargo run --release -p penstock-telemetry --example cost`

#![allow(clippy::disallowed_methods, reason = "it measures")]

use penstock_domain::{BatchReport, Outcome, StageTimes};
use penstock_telemetry::{LoadSample, TelemetryError, VersionMetrics, install};
use std::thread;
use std::time::Instant;

const CALLS: u32 = 1_000_000;
const VERSIONS: u64 = 50;

fn main() -> Result<(), TelemetryError> {
    let scrape = install()?;
    let timing = StageTimes {
        prepare_ns: 40_000,
        queue_ns: 600_000,
        compute_input_ns: 9_000,
        compute_ns: 5_000_000,
        compute_output_ns: 4_000,
        total_ns: 5_700_000,
        batch_items: 8,
    };
    let batch = BatchReport {
        items: 8,
        tokens: 300,
        padded_tokens: 320,
        compute_input_ns: 9_000,
        compute_ns: 5_000_000,
        compute_output_ns: 4_000,
    };
    let load = LoadSample {
        queued_requests: 2,
        queued_items: 2,
        queued_tokens: 60,
        busy_workers: 1,
        resident_bytes: 1,
        concurrency_limit: 1,
    };
    let version = VersionMetrics::new("minilm", 1);
    if std::env::args().nth(1).as_deref() == Some("text") {
        version.received();
        version.ended(Outcome::Done, 1, &timing);
        version.batch(&batch);
        version.load(&load);
        version.environments(1);
        version.environment_restarted();
        print!("{}", scrape.render());
        return Ok(());
    }

    report("received()", || version.received());
    report("ended(Done)", || version.ended(Outcome::Done, 1, &timing));
    report("ended(Expired)", || version.ended(Outcome::Expired, 1, &timing));
    report("batch()", || version.batch(&batch));
    report("load()", || version.load(&load));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| (0..CALLS).for_each(|_| version.ended(Outcome::Done, 1, &timing)));
        }
    });
    let each = started.elapsed().as_nanos() / u128::from(CALLS);
    println!("{:<16}{each:>6} ns a call, {threads} threads on one version", "ended(Done)");

    let versions: Vec<_> = (1..=VERSIONS).map(|number| VersionMetrics::new("many", number)).collect();
    versions.iter().for_each(|version| version.ended(Outcome::Done, 1, &timing));
    let started = Instant::now();
    let text = scrape.render();
    println!("render()        {:>6} us, {VERSIONS} versions, {} bytes", started.elapsed().as_micros(), text.len());
    Ok(())
}

fn report(name: &str, call: impl Fn()) {
    let started = Instant::now();
    (0..CALLS).for_each(|_| call());
    println!("{name:<16}{:>6} ns a call", started.elapsed().as_nanos() / u128::from(CALLS));
}
