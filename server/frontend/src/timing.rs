//! Room 8, response: where the time went, as text. The same on both protocols: header `Server-Timing` over HTTP,
//! trailer `penstock-timing` over gRPC.
//!
//! Called by every door for every response; never reads a clock.

use http::{HeaderName, HeaderValue};
use penstock_domain::StageTimes;
use std::time::Duration;

/// The gRPC trailer with the stage times.
pub const GRPC_TIMING: HeaderName = HeaderName::from_static("penstock-timing");
/// The HTTP header with the stage times.
pub const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// Enough for every stage in six digits of milliseconds: one allocation.
const TEXT_BYTES: usize = 192;

/// `queue;dur=0.123, prepare;dur=0.000, …, total;dur=1.234, batch;desc="8"`: milliseconds with three decimals, as the
/// Server-Timing specification has them. The batch is in items and left out when nothing ran.
pub fn timing_text(times: &StageTimes) -> String {
    let mut text = String::with_capacity(TEXT_BYTES);
    let stages = [
        ("queue;dur=", times.queue_ns),
        (", prepare;dur=", times.prepare_ns),
        (", compute_input;dur=", times.compute_input_ns),
        (", compute;dur=", times.compute_ns),
        (", compute_output;dur=", times.compute_output_ns),
        (", total;dur=", times.total_ns),
    ];
    for (name, ns) in stages {
        text.push_str(name);
        push_milliseconds(&mut text, ns);
    }
    if times.batch_items > 0 {
        text.push_str(", batch;desc=\"");
        push_digits(&mut text, u64::from(times.batch_items));
        text.push('"');
    }
    text
}

/// The same as a header or trailer value.
pub fn timing_value(times: &StageTimes) -> HeaderValue {
    HeaderValue::try_from(timing_text(times)).expect("digits and ASCII punctuation make a header value")
}

/// What is told when nothing ran: the time between the request's head and the answer.
pub fn total_value(total: Duration) -> HeaderValue {
    let mut text = String::from("total;dur=");
    push_milliseconds(&mut text, u64::try_from(total.as_nanos()).unwrap_or(u64::MAX));
    HeaderValue::try_from(text).expect("digits and ASCII punctuation make a header value")
}

/// Milliseconds with three decimals, cut (not rounded) to whole microseconds.
fn push_milliseconds(text: &mut String, ns: u64) {
    let us = ns / 1000;
    push_digits(text, us / 1000);
    text.push('.');
    let fraction = us % 1000;
    for digit in [fraction / 100, fraction / 10 % 10, fraction % 10] {
        text.push(char::from(b'0' + digit as u8));
    }
}

/// Decimal digits, without the formatting machinery: this runs several times for every response.
fn push_digits(text: &mut String, mut number: u64) {
    let mut digits = [0u8; 20];
    let mut first = digits.len();
    loop {
        first -= 1;
        digits[first] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    digits[first..].iter().for_each(|&digit| text.push(char::from(digit)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_in_milliseconds() {
        let times = StageTimes {
            prepare_ns: 1_000,
            queue_ns: 123_456,
            compute_input_ns: 0,
            compute_ns: 1_234_567_890,
            compute_output_ns: 999,
            total_ns: 10_000_000,
            batch_items: 8,
        };
        assert_eq!(
            timing_text(&times),
            "queue;dur=0.123, prepare;dur=0.001, compute_input;dur=0.000, compute;dur=1234.567, \
             compute_output;dur=0.000, total;dur=10.000, batch;desc=\"8\""
        );
    }

    #[test]
    fn nothing_ran_and_the_longest_time() {
        assert!(!timing_text(&StageTimes::default()).contains("batch"));
        assert_eq!(total_value(Duration::from_micros(1050)), "total;dur=1.050");
        let longest = StageTimes { total_ns: u64::MAX, ..StageTimes::default() };
        assert!(timing_text(&longest).ends_with("total;dur=18446744073709.551"));
    }
}
