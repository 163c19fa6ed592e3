//! Figures of made-up runs, in virtual time.

use super::{Percentiles, summarize};
use crate::arrivals::{Arrivals, Process};
use crate::drive::{Run, SATURATED};
use crate::record::{Class, Tally, histogram};
use crate::wire::{Answer, Reply, Ticket};
use hdrhistogram::Histogram;

fn ok() -> Reply {
    Reply { grpc_status: Some(0), ..Reply::default() }
}

fn run_of(tally: Tally, seconds: u64) -> Run {
    let end = seconds * 1_000_000;
    Run { tally, span_us: (0, end), cpu_us: 10_000, wall_us: end, waited_for_connection: 0, lost_connections: 0 }
}

/// A server that takes 1 ms a request, and stands still from 1.0 s to 1.5 s. `sent` says when a request due at a time is
/// sent by a client whose last answer came at another.
fn stalled(sent: impl Fn(u64, u64) -> u64) -> Tally {
    let mut tally = Tally::default();
    let mut last = 0;
    for due in Arrivals::new(Process::Constant, 100.0, 1).take_while(|at| *at < 3_000_000) {
        let sent = sent(due, last);
        let start = if (1_000_000..1_500_000).contains(&sent) { 1_500_000 } else { sent };
        last = start + 1000;
        let ticket = Ticket { intended_us: due as u32, sent_us: sent as u32 };
        tally.answer(&Answer { ticket, result: Ok(ok()) }, last);
    }
    tally
}

#[test]
fn a_stall_cannot_hide_behind_a_client_that_waits_for_it() {
    // The client has one connection and sends the next request only when the last is answered: one request of 300 sees
    // the stall, and counted from sending the 99th percentile would be 1 ms.
    let waits = summarize(&run_of(stalled(|due, last| due.max(last)), 3), (Some(100.0), None), None);
    assert!(waits.service.p99 < 1.1, "{:?}", waits.service);
    // Counted from the intended time it shows: 50 requests were due while the server stood still.
    assert!((450.0..=502.0).contains(&waits.latency.p99), "{:?}", waits.latency);
    assert!(waits.latency.p50 < 1.1);
    // The generator itself sends on time, and both views agree.
    let open = summarize(&run_of(stalled(|due, _| due), 3), (Some(100.0), None), None);
    assert!(open.service.p99 > 450.0);
    assert_eq!(open.service, open.latency);
    // The second in which it happened says so.
    assert!(open.series[1].max > 495.0 && open.series[0].max < 1.1 && open.series[2].max < 1.1);
}

#[test]
fn late_sending_marks_a_run() {
    let late = summarize(&run_of(stalled(|due, last| due.max(last)), 3), (Some(100.0), None), None);
    assert!(late.marks.iter().any(|mark| mark.contains("late")), "{:?}", late.marks);
}

#[test]
fn percentiles_of_known_values() {
    let mut us: Histogram<u64> = histogram();
    (1..=10_000u64).for_each(|value| us.record(value).unwrap());
    let p = Percentiles::of_us(&us);
    for (found, right) in [(p.p50, 5.0), (p.p90, 9.0), (p.p99, 9.9), (p.p999, 9.99), (p.max, 10.0), (p.mean, 5.0)] {
        assert!((found / right - 1.0).abs() < 0.002, "{found} should be {right}");
    }
    assert_eq!(p.count, 10_000);
    assert_eq!(Percentiles::of_us(&histogram()), Percentiles::default());
}

#[test]
fn goodput_counts_what_came_in_time_and_sheds_are_no_results() {
    let mut tally = Tally::default();
    for at in 0..1000u32 {
        let ticket = Ticket { intended_us: at * 1000, sent_us: at * 1000 };
        let (reply, took) = match at % 4 {
            0 => (Reply { grpc_status: Some(8), shed_reason: Some("queue_requests".into()), ..Reply::default() }, 100),
            1 => (ok(), 30_000),
            2 if at < 100 => (Reply { grpc_status: Some(4), ..Reply::default() }, 10_400),
            _ => (ok(), 5_000),
        };
        tally.answer(&Answer { ticket, result: Ok(reply) }, u64::from(at) * 1000 + took);
    }
    tally.gone(Ticket::default(), Class::NotSent, SATURATED, 0);
    let step = summarize(&run_of(tally, 1), (Some(1000.0), None), Some(10));
    assert_eq!(step.goodput_rps, 475.0);
    assert_eq!(step.latency.count, 725);
    assert_eq!(step.refusal.count, 250);
    assert!((step.refusal.p99 - 0.1).abs() < 0.001);
    assert_eq!(step.expiry.count, 25);
    assert!((step.expiry.p50 - 10.4).abs() < 0.01);
    assert_eq!(step.intended, 1001);
    assert_eq!(step.outcomes.iter().map(|outcome| outcome.count).sum::<u64>(), step.intended);
    // Results that came after the step are none of its throughput.
    assert!(step.throughput_rps < 725.0 && step.throughput_rps > 690.0);
    assert_eq!(step.marks, ["1 requests not sent: generator saturated"]);
}
