//! Logs: one line an event on standard error, for a person or as JSON.
//!
//! Called once by the composition root, before anything else. Never reads the environment: the filter is an argument.

use std::io::{self, IsTerminal};
use tracing::Subscriber;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

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

/// What is logged if no filter is given, or one that cannot be read.
const DEFAULT_FILTER: &str = "info";

/// Starts the log of this process; a second call changes nothing. `filter` is in the syntax of
/// `tracing_subscriber::EnvFilter` (`info`, `penstock_dispatch=debug,info`); one that cannot be read is answered with a
/// warning in the log, and `info` is used.
pub fn init_logs(format: LogFormat, filter: &str) {
    let (chosen, rejected) = read_filter(filter);
    let terminal = io::stderr().is_terminal();
    let json = match format {
        LogFormat::Human => false,
        LogFormat::Json => true,
        LogFormat::Auto => !terminal,
    };
    let started = tracing::subscriber::set_global_default(subscriber(json, terminal, chosen, io::stderr));
    if let (Ok(()), Some(error)) = (started, rejected) {
        tracing::warn!(filter, %error, "log filter not understood, using \"{DEFAULT_FILTER}\"");
    }
}

/// The filter of a text, and what was wrong with it if another is used instead.
pub(crate) fn read_filter(filter: &str) -> (EnvFilter, Option<ParseError>) {
    if filter.trim().is_empty() {
        return (EnvFilter::new(DEFAULT_FILTER), None);
    }
    match EnvFilter::builder().parse(filter) {
        Ok(chosen) => (chosen, None),
        Err(error) => (EnvFilter::new(DEFAULT_FILTER), Some(error)),
    }
}

/// What turns events into lines.
pub(crate) fn subscriber<W>(json: bool, ansi: bool, filter: EnvFilter, writer: W) -> Box<dyn Subscriber + Send + Sync>
where
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    // A line that cannot be written (the disk is full) is lost; telling that would end the task that logs.
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(ansi)
        .with_writer(writer)
        .log_internal_errors(false);
    if json { Box::new(builder.json().flatten_event(true).finish()) } else { Box::new(builder.finish()) }
}
