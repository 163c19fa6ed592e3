//! `penstock-sim`: runs seeds by hand, shows one, draws the goodput curve.

use clap::{Parser, Subcommand};
use penstock_sim::arrivals::{Arrivals, recorded};
use penstock_sim::checkers::check;
use penstock_sim::curve;
use penstock_sim::fleet;
use penstock_sim::script::Script;
use penstock_sim::world::run;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The whole house under a simulated clock.
#[derive(Parser)]
#[command(name = "penstock-sim", version, about)]
struct Cli {
    /// A recorded trace of arrivals: a CSV whose first column is a time.
    #[arg(long, global = true)]
    trace: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many seeds on all cores; prints those that do not hold, and why.
    Seeds {
        /// The first.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// How many.
        #[arg(long, default_value_t = 2000)]
        count: u64,
        /// Of a house on instances.
        #[arg(long)]
        fleet: bool,
    },
    /// Prints the script of one seed, what came of it, and what does not hold.
    Show {
        /// The seed.
        seed: u64,
        /// Of a house on instances.
        #[arg(long)]
        fleet: bool,
    },
    /// Goodput over load: curve.csv and curve.svg.
    Curve {
        /// Where to write them.
        #[arg(long, default_value = ".")]
        out: PathBuf,
        /// Simulated seconds of each point.
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
        /// The seed.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// In which time an answer is of use; a batch takes 10 ms.
        #[arg(long, default_value_t = 100)]
        timeout_ms: u64,
    },
}

fn main() -> ExitCode {
    match act(Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("penstock-sim: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(cli: Cli) -> Result<bool, Box<dyn std::error::Error>> {
    let trace = cli.trace.map(std::fs::read_to_string).transpose()?.map(|text| recorded(&text));
    match cli.command {
        Command::Seeds { from, count, fleet: false } => Ok(seeds(from, count, |seed| {
            let script = Script::draw(seed, trace.as_ref());
            check(&script, &run(&script, None))
        })),
        Command::Seeds { from, count, fleet: true } => Ok(seeds(from, count, |seed| {
            let script = fleet::script::Script::draw(seed);
            fleet::checkers::check(&script, &fleet::world::run(&script, None))
        })),
        Command::Show { seed, fleet: false } => Ok(show(seed, trace.as_ref())),
        Command::Show { seed, fleet: true } => Ok(show_fleet(seed)),
        Command::Curve { out, seconds, seed, timeout_ms } => {
            let (arrivals, timeout) = (trace.unwrap_or(Arrivals::Poisson), Duration::from_millis(timeout_ms));
            let points = curve::points(&curve::Question { seed, seconds, arrivals, timeout });
            std::fs::create_dir_all(&out)?;
            std::fs::write(out.join("curve.csv"), curve::csv(&points))?;
            std::fs::write(out.join("curve.svg"), curve::svg(&points, timeout))?;
            print!("{}", curve::csv(&points));
            Ok(true)
        }
    }
}

fn seeds(from: u64, count: u64, broken_by: impl Fn(u64) -> Vec<String> + Sync) -> bool {
    let (next, failed) = (AtomicU64::new(from), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= from + count {
                        return;
                    }
                    let broken = broken_by(seed);
                    if !broken.is_empty() {
                        failed.fetch_add(1, Ordering::Relaxed);
                        println!("seed {seed}: {}", broken.join("\n    "));
                    }
                    let done = seed + 1 - from;
                    if done.is_multiple_of(1000) {
                        eprintln!("{done} of {count} seeds");
                    }
                }
            });
        }
    });
    let failed = failed.into_inner();
    println!("{count} seeds from {from}: {failed} do not hold");
    failed == 0
}

fn show(seed: u64, trace: Option<&Arrivals>) -> bool {
    let script = Script::draw(seed, trace);
    println!("{script:#?}");
    let happened = run(&script, None);
    for end in &happened.ends {
        println!("{:?} to {:?}: request {}: {:?}", end.came, end.ended, end.number, end.how);
    }
    println!("starts: {:?}\nbooks: {:?}", happened.starts, happened.balance);
    let broken = check(&script, &happened);
    println!("{}", if broken.is_empty() { "all holds".to_owned() } else { broken.join("\n") });
    broken.is_empty()
}

fn show_fleet(seed: u64) -> bool {
    let script = fleet::script::Script::draw(seed);
    println!("{script:#?}");
    let happened = fleet::world::run(&script, None);
    for end in &happened.ends {
        println!("{:?} to {:?}: request {}: {:?}", end.came, end.ended, end.number, end.how);
    }
    let fleet::world::Run { losses, machines, most_vcpu, rested, balances, .. } = &happened;
    println!("losses: {losses:?}\nbooks: {balances:?}");
    println!("{machines} machines, at most {most_vcpu} vCPU; at rest {rested:?} after the faults");
    let broken = fleet::checkers::check(&script, &happened);
    println!("{}", if broken.is_empty() { "all holds".to_owned() } else { broken.join("\n") });
    broken.is_empty()
}
