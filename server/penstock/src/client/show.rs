//! What people see: tables, sizes, and progress on a terminal.
//!
//! Called by the commands.

use serde_json::Value;
use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Longest line of progress, in characters: one that wraps could not be taken back.
const LINE_MAX: usize = 79;
/// How often a line of progress is written anew.
const EVERY: Duration = Duration::from_millis(100);

/// Lines under each other, as wide as they need to be; without rows, that there are none.
pub(crate) fn table(heads: &[&str], rows: &[Vec<String>]) {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or_default()
    };
    let widths: Vec<_> = (0..heads.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let padded: Vec<_> = cells.zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        say(padded.join("  ").trim_end());
    };
    line(&mut heads.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}

/// A line of the result; whether somebody still reads. That nobody does is no mistake.
pub(crate) fn say(text: &str) -> bool {
    writeln!(std::io::stdout(), "{text}").is_ok()
}

/// A line of what is wrong, or beside the result.
pub(crate) fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// A member as text; empty if it is not there.
pub(crate) fn text(value: &Value, name: &str) -> String {
    match value.get(name) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

/// `12.3 MB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    match units.iter().find(|(_, unit)| bytes as f64 >= *unit) {
        Some((name, unit)) => format!("{:.1} {name}", bytes as f64 / unit),
        None => format!("{bytes} B"),
    }
}

/// Progress on standard error: one line that changes on a terminal, else a line for each step that is done.
pub(crate) struct Progress {
    quiet: bool,
    terminal: bool,
    written: Option<Instant>,
}

#[allow(clippy::disallowed_methods)] // how often a person is told
impl Progress {
    /// `quiet` says nothing at all.
    pub(crate) fn new(quiet: bool) -> Self {
        Self { quiet, terminal: std::io::stderr().is_terminal(), written: None }
    }

    /// Where things stand.
    pub(crate) fn now(&mut self, text: &str) {
        let due = self.written.is_none_or(|written| written.elapsed() >= EVERY);
        if !self.quiet && self.terminal && due {
            self.written = Some(Instant::now());
            let cut: String = text.chars().take(LINE_MAX).collect();
            let _ = write!(std::io::stderr(), "\r\x1b[K{cut}");
        }
    }

    /// A step is done.
    pub(crate) fn done(&mut self, text: &str) {
        self.clear();
        if !self.quiet {
            tell(text);
        }
    }

    fn clear(&mut self) {
        if self.written.take().is_some() {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn sizes_are_as_people_say_them() {
        let said = [0, 999, 1000, 3_163_737, 68_719_476_736].map(super::size);
        assert_eq!(said, ["0 B", "999 B", "1.0 kB", "3.2 MB", "68.7 GB"]);
    }
}
