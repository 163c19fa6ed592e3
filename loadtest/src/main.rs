//! `penstock-loadtest`: the command line. Everything it does is in the library.

use clap::{Parser, Subcommand};
use penstock_loadtest::clock::Clock;
use penstock_loadtest::compare::{CompareOptions, compare, text};
use penstock_loadtest::drive::{Pace, Step, run};
use penstock_loadtest::options::{OptionsError, RunOptions};
use penstock_loadtest::record::Tally;
use penstock_loadtest::summary::{Summary, summarize};
use penstock_loadtest::{echo, report, table};
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

#[derive(Parser)]
#[command(name = "penstock-loadtest", about = "Loads an inference server and reports what came of it")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Load one server: at given rates whatever it does (open loop), or with so many in flight (closed loop)
    Run(RunOptions),
    /// Two servers in alternating slices
    Compare(CompareOptions),
    /// A bare echo server: the ceiling of the machine
    Echo {
        /// gRPC address
        #[arg(long, default_value = "127.0.0.1:8101")]
        listen: SocketAddr,
        /// HTTP/1.1 address for http://, http-json:// and embeddings:// targets
        #[arg(long)]
        http: Option<SocketAddr>,
        /// Worker threads
        #[arg(long, default_value_t = 2)]
        threads: usize,
    },
    /// One HTML file from summaries of `run` and `compare`, and from ghz's (`--format json`)
    Report {
        /// Where to write it
        #[arg(long, default_value = "report.html")]
        out: PathBuf,
        /// Its title
        #[arg(long, default_value = "Penstock under load")]
        title: String,
        /// Summaries
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

#[derive(Debug, thiserror::Error)]
enum CliError {
    #[error(transparent)]
    Options(#[from] OptionsError),
    #[error(transparent)]
    Echo(#[from] echo::EchoError),
    #[error(transparent)]
    Report(#[from] report::ReportError),
    #[error("cannot write {0}")]
    Write(PathBuf, #[source] std::io::Error),
    #[error("cannot encode the summary")]
    Encode(#[from] serde_json::Error),
}

fn main() -> ExitCode {
    match act(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(inner) = cause {
                let _ = write!(text, ": {inner}");
                cause = inner.source();
            }
            eprintln!("penstock-loadtest: {text}");
            ExitCode::FAILURE
        }
    }
}

fn act(command: Command) -> Result<(), CliError> {
    match command {
        Command::Run(options) => load(&options),
        Command::Compare(options) => {
            let comparison = compare(&options, Clock::start())?;
            print!("{}", text(&comparison));
            write(options.json.as_deref(), || Ok(serde_json::to_string_pretty(&comparison)?))
        }
        Command::Echo { listen, http, threads } => {
            Ok(echo::serve(listen, http, threads, |address| println!("echo ready on {address}"))?)
        }
        Command::Report { out, title, files } => {
            let page = report::page(&title, &files)?;
            write(Some(&out), || Ok(page))?;
            println!("wrote {}", out.display());
            Ok(())
        }
    }
}

fn load(options: &RunOptions) -> Result<(), CliError> {
    // Sleeps end when they should and not up to 50 us later.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let clock = Clock::start();
    let steps = options.steps()?;
    let (mut fleet, mut payloads) =
        options.request.open(&options.target, options.closed.iter().max().copied(), clock)?;
    if options.warmup > 0.0 {
        let warmup = Step { seconds: options.warmup, ..steps[0] };
        run(&mut fleet, &mut payloads, warmup, clock).map_err(OptionsError::from)?;
    }
    let mut config = options.request.describe(&payloads)?;
    config.insert("target".to_owned(), options.target.clone());
    config.insert("max in flight".to_owned(), options.max_in_flight.to_string());
    if options.closed.is_empty() {
        config.insert("arrivals".to_owned(), options.arrivals.to_string());
    }
    let limit = options.goodput_ms.or(options.request.deadline_ms);
    let mut summary =
        Summary { kind: "penstock-loadtest run".to_owned(), name: options.title(), config, steps: Vec::new() };
    let mut records = String::from("step,intended_us,sent_us,done_us,class,outcome,batch\n");
    for (at, step) in steps.into_iter().enumerate() {
        let done = run(&mut fleet, &mut payloads, step, clock).map_err(OptionsError::from)?;
        let pace = match step.pace {
            Pace::Open { rps, .. } => (Some(rps), None),
            Pace::Closed { in_flight } => (None, Some(in_flight)),
        };
        summary.steps.push(summarize(&done, pace, limit));
        if options.records.is_some() {
            csv(&mut records, at, &done.tally);
        }
    }
    print!("{}", table::table(&summary));
    write(options.records.as_deref(), || Ok(records))?;
    write(options.json.as_deref(), || Ok(serde_json::to_string_pretty(&summary)?))
}

fn csv(out: &mut String, step: usize, tally: &Tally) {
    for record in &tally.records {
        let (class, name) = &tally.outcomes[usize::from(record.outcome)];
        let (intended, sent, done) = (record.intended_us, record.sent_us, record.done_us);
        let _ = writeln!(out, "{step},{intended},{sent},{done},{class:?},{name},{}", record.batch);
    }
}

fn write(path: Option<&Path>, text: impl FnOnce() -> Result<String, CliError>) -> Result<(), CliError> {
    let Some(path) = path else { return Ok(()) };
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| CliError::Write(path.to_owned(), error))?;
    }
    std::fs::write(path, text()?).map_err(|error| CliError::Write(path.to_owned(), error))
}
