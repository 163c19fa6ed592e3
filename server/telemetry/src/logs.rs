//! Logs: one line an event on standard error, for a person or as JSON.
//!
//! Called once by the composition root, before anything else.

use std::io::{self, IsTerminal};
use tracing_subscriber::EnvFilter;

/// How a line of the log looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum LogFormat {
    /// For a person at a terminal.
    Human,
    /// One JSON object a line, its fields at the top level, with the spans it lies in.
    Json,
    /// Human if standard error is a terminal, JSON otherwise.
    #[default]
    Auto,
}

/// What is logged if the filter asked for cannot be read.
const FALLBACK_FILTER: &str = "info";

/// Starts the log of this process; a second call changes nothing. `filter` is in the syntax of
/// `tracing_subscriber::EnvFilter` (`info`, `penstock_dispatch=debug,info`); one that cannot be read is answered with a
/// warning in the log, and `info` is used.
pub fn init_logs(format: LogFormat, filter: &str) {
    let (chosen, rejected) = match EnvFilter::builder().parse(filter) {
        Ok(chosen) => (chosen, None),
        Err(error) => (EnvFilter::new(FALLBACK_FILTER), Some(error)),
    };
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Human => false,
        LogFormat::Json => true,
        LogFormat::Auto => !terminal,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(chosen).with_writer(io::stderr).with_ansi(terminal);
    let started = if json { builder.json().flatten_event(true).try_init() } else { builder.try_init() };
    if let (Ok(()), Some(error)) = (started, rejected) {
        tracing::warn!(filter, %error, "log filter not understood, using \"{FALLBACK_FILTER}\"");
    }
}
