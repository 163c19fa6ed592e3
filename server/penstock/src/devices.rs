//! `penstock devices`: what this machine has, and which isolation measures hold on it.
//!
//! Starts a real environment and prints what it reports of itself, so that nothing is claimed that is not in force.

use crate::config::Config;
use crate::gpus::Gpus;
use crate::{EXIT_FAILED, runtime, serve};
use penstock_environment::EnvironmentHandle;
use std::process::ExitCode;

pub(crate) fn run(config: &Config) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(&error.to_string()),
    };
    runtime.block_on(async {
        let probe = runtime::probe(config);
        let launched = match serve::launcher().and_then(|launcher| launcher.launch(&probe.isolation)) {
            Ok(launched) => launched,
            Err(error) => return failed(&format!("an environment could not be started: {error}")),
        };
        let (from, to) = launched.link.into_split();
        let environment = match EnvironmentHandle::start(from, to, &probe, None, Box::new(|_| {})).await {
            Ok(environment) => environment,
            Err(error) => return failed(&error.to_string()),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        println!("device  cpu: {cores} cores");
        let gpus = Gpus::look(config, |error| eprintln!("penstock: warning: {error}"));
        gpus.iter().flat_map(Gpus::lines).for_each(|line| println!("{line}"));
        println!();
        println!("isolation of execution environments on this machine:");
        for measure in &environment.report().isolation {
            let mark = if measure.in_force { "in force    " } else { "NOT in force" };
            println!("  {mark}  {:<20} {}", measure.name, measure.detail);
        }
        environment.cut();
        ExitCode::SUCCESS
    })
}

fn failed(text: &str) -> ExitCode {
    eprintln!("penstock: {text}");
    ExitCode::from(EXIT_FAILED)
}
