//! Recorded loads: CSV files, read row by row, in two formats.
//!
//! `TIMESTAMP,ContextTokens,GeneratedTokens`, as AzurePublicDataset has its traces of LLM inference: the tokens give the service
//! time. `seconds[,service_ms]`: a time from any origin, and the service time of those rows that have one; the header may be
//! missing. Rows that are out of order are sorted, and counted. The first request is the start of time. What cannot be read is
//! refused with its line, what was found and what would be right; nothing is skipped but empty lines.

use crate::load::{Arrival, SERVICE_MAX_NS, SPAN_MAX_NS};
use std::io::{self, BufRead, Read};
use std::time::Duration;

/// Most rows: what is kept of each is 16 bytes.
const ROWS_MAX: usize = 100_000_000;
/// Longest line, in bytes: a file that is no text has none that ends.
const LINE_BYTES_MAX: u64 = 4_096;
/// Longest text of a file that an error repeats, in characters.
const FOUND_MAX: usize = 60;
const AZURE: &str = "TIMESTAMP,ContextTokens,GeneratedTokens";

/// How long requests run, from what a row says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct ServiceTimes {
    /// Tokens of a request's context that are read in a second.
    pub prefill_tokens_per_s: f64,
    /// Tokens that are generated for it in a second.
    pub decode_tokens_per_s: f64,
    /// Of rows that say nothing.
    pub other: Duration,
}

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// Times of day with token counts, as in AzurePublicDataset.
    Tokens,
    /// Seconds, with or without service times.
    Seconds,
}

/// A recorded load.
#[derive(Clone, PartialEq, Debug)]
pub struct Trace {
    /// What it was.
    pub format: Format,
    /// In order of time, from 0 on.
    pub arrivals: Vec<Arrival>,
    /// Rows that came earlier than the row before them: they were sorted.
    pub out_of_order: u64,
}

/// Why a file is no trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A line is wrong.
    #[error("line {line}: found {found:?}; right is {right}")]
    Line {
        /// Its number, from 1.
        line: u64,
        /// What is there.
        found: String,
        /// What would be right.
        right: &'static str,
    },
    /// There are no rows.
    #[error("no rows; right is a first line `{AZURE}` or `seconds,service_ms`, and a row for each request")]
    Empty,
    /// There are too many.
    #[error("more than {ROWS_MAX} rows; take a part of it, and --scale")]
    TooLong,
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
}

impl Trace {
    /// Reads a file. Errors: a line is wrong, there are none or too many, or the file cannot be read.
    pub fn read(mut file: impl BufRead, times: &ServiceTimes) -> Result<Self, TraceError> {
        let (mut arrivals, mut format, mut line, mut number) = (Vec::new(), None, Vec::new(), 0);
        while next_line(&mut file, &mut line)? {
            number += 1;
            let wrong = |found: &str, right| TraceError::Line {
                line: number,
                found: found.chars().take(FOUND_MAX).collect(),
                right,
            };
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_start_matches('\u{feff}').trim();
            if text.is_empty() {
                continue;
            }
            let is_header = format.is_none();
            let format = *format.get_or_insert_with(|| format_of(text));
            if is_header && (text == AZURE || text == "seconds" || text == "seconds,service_ms") {
                continue;
            }
            if line.len() as u64 > LINE_BYTES_MAX {
                return Err(wrong(text, "a line of at most 4096 bytes"));
            }
            let arrival = match format {
                Format::Tokens => tokens(text, times),
                Format::Seconds => seconds(text, times),
            };
            let first =
                "a first line `TIMESTAMP,ContextTokens,GeneratedTokens` or `seconds,service_ms`, or a row of numbers";
            let arrival = arrival.map_err(|right| wrong(text, if is_header { first } else { right }))?;
            if arrivals.len() >= ROWS_MAX {
                return Err(TraceError::TooLong);
            }
            arrivals.push(arrival);
        }
        Self::of(format.unwrap_or(Format::Seconds), arrivals)
    }

    fn of(format: Format, mut arrivals: Vec<Arrival>) -> Result<Self, TraceError> {
        let out_of_order = arrivals.windows(2).filter(|pair| pair[1].at_ns < pair[0].at_ns).count() as u64;
        arrivals.sort_by_key(|arrival| arrival.at_ns);
        let (first, last) = arrivals.first().zip(arrivals.last()).ok_or(TraceError::Empty)?;
        let (first_ns, last_ns) = (first.at_ns, last.at_ns);
        if last_ns - first_ns > SPAN_MAX_NS {
            let found = format!("{} s between the first row and the last", (last_ns - first_ns) / 1_000_000_000);
            return Err(TraceError::Line { line: 1, found, right: "at most ten years" });
        }
        arrivals.iter_mut().for_each(|arrival| arrival.at_ns -= first_ns);
        Ok(Self { format, arrivals, out_of_order })
    }
}

/// The next line, with its end; `false` at the end of the file. No more of it is read than may be there.
fn next_line(file: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    Ok(file.take(LINE_BYTES_MAX + 1).read_until(b'\n', line)? > 0)
}

fn format_of(first_line: &str) -> Format {
    if first_line.starts_with("TIMESTAMP") { Format::Tokens } else { Format::Seconds }
}

fn tokens(row: &str, times: &ServiceTimes) -> Result<Arrival, &'static str> {
    const RIGHT: &str = "`YYYY-MM-DD hh:mm:ss.fraction,ContextTokens,GeneratedTokens`, the tokens whole numbers";
    let mut cells = row.split(',');
    let (moment, context, generated) = (cells.next(), cells.next(), cells.next());
    let count = |cell: Option<&str>| cell.and_then(|cell| cell.trim().parse::<u32>().ok()).map(f64::from);
    let at_ns = moment.and_then(unix_ns).ok_or(RIGHT)?;
    let (context, generated) = count(context).zip(count(generated)).ok_or(RIGHT)?;
    if cells.next().is_some() {
        return Err(RIGHT);
    }
    let service_s = context / times.prefill_tokens_per_s + generated / times.decode_tokens_per_s;
    let service_ns = (service_s * 1e9) as u64;
    if service_ns > SERVICE_MAX_NS {
        return Err("tokens that take at most a day at the rates of --prefill-tokens-per-s and --decode-tokens-per-s");
    }
    Ok(Arrival { at_ns, service_ns })
}

fn seconds(row: &str, times: &ServiceTimes) -> Result<Arrival, &'static str> {
    const RIGHT: &str =
        "`seconds` or `seconds,service_ms`, numbers such as 12.5, at least 0, and no service longer than a day";
    let mut cells = row.split(',');
    let at_ns = cells.next().and_then(|cell| decimal(cell.trim(), 9)).ok_or(RIGHT)?;
    let service_ns = match cells.next() {
        None => u64::try_from(times.other.as_nanos()).map_err(|_| RIGHT)?,
        Some(cell) => decimal(cell.trim(), 6).ok_or(RIGHT)?,
    };
    if service_ns > SERVICE_MAX_NS {
        return Err(RIGHT);
    }
    if cells.next().is_some() { Err(RIGHT) } else { Ok(Arrival { at_ns, service_ns }) }
}

/// A decimal number times ten to a power, exactly; further digits are dropped. `None` for what is not one, is negative or too
/// large.
fn decimal(text: &str, power: usize) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(fraction) {
        return None;
    }
    let mut scaled = whole.to_owned();
    scaled.extend(fraction.chars().chain(std::iter::repeat('0')).take(power));
    scaled.parse().ok()
}

/// Nanoseconds from 1970 to `YYYY-MM-DD hh:mm:ss.fraction` in UTC; a `T` between them, and `Z` or `+00:00` behind, are taken.
fn unix_ns(text: &str) -> Option<u64> {
    let text = text.trim();
    let text = text.strip_suffix('Z').or_else(|| text.strip_suffix("+00:00")).unwrap_or(text);
    let (date, clock) = text.split_once([' ', 'T'])?;
    let numbers = |text: &str, between: char| -> Option<[u64; 3]> {
        let whole = |part: &str| decimal(part, 0).filter(|_| !part.contains('.'));
        let parts: Vec<u64> = text.split(between).map(whole).collect::<Option<_>>()?;
        parts.try_into().ok()
    };
    let [year, month, day] = numbers(date, '-')?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let [hour, minute, second] = numbers(clock, ':')?;
    let within = (1970..=2100).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    if !within || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second;
    Some(seconds * 1_000_000_000 + decimal(&format!("0.{fraction}"), 9)?)
}

/// Days from 1970-01-01, in the Gregorian calendar: years begin in March, so that the odd day is the last
/// (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let of_year = (153 * (if month > 2 { month - 3 } else { month + 9 }) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}
