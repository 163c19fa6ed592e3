//! Summaries become a page, and one that stands by itself.

use super::{Document, page};
use crate::drive::{Run, SATURATED};
use crate::record::{Class, Tally};
use crate::summary::{Summary, summarize};
use crate::wire::{Answer, Reply, Ticket};
use std::path::Path;

const GHZ: &str = r#"{"name": "stream <1>", "date": "2020-01-01T00:00:00Z", "count": 200, "total": 1000000000,
    "average": 500000, "fastest": 100000, "slowest": 900000, "rps": 199.5, "endReason": "normal",
    "options": {"call": "inference.GRPCInferenceService.ModelStreamInfer", "concurrency": 4, "connections": 1},
    "errorDistribution": {}, "statusCodeDistribution": {"OK": 200},
    "latencyDistribution": [{"percentage": 50, "latency": 450000}, {"percentage": 99, "latency": 880000}],
    "histogram": [{"mark": 0.0001, "count": 1, "frequency": 0.005}, {"mark": 0.0009, "count": 199, "frequency": 0.995}],
    "details": []}"#;

fn fixture() -> Summary {
    let mut tally = Tally::default();
    for at in 0..3000u32 {
        let ticket = Ticket { intended_us: at * 1000, sent_us: at * 1000 + 20 };
        let shed = at % 10 == 0;
        let reply = Reply {
            grpc_status: Some(if shed { 8 } else { 0 }),
            shed_reason: shed.then(|| "queue_requests".to_owned()),
            retry_after_ms: shed.then_some(40),
            stage_times: Some(format!("queue;dur=0.{}, compute;dur=1.5, batch;desc=\"{}\"", at % 9, 1 + at % 4)),
            ..Reply::default()
        };
        tally.answer(&Answer { ticket, result: Ok(reply) }, u64::from(at) * 1000 + 900 + u64::from(at % 700));
    }
    tally.gone(Ticket { intended_us: 5, sent_us: 5 }, Class::NotSent, SATURATED, 5);
    let run = Run {
        tally,
        span_us: (0, 3_000_000),
        cpu_us: 60_000,
        wall_us: 3_100_000,
        waited_for_connection: 0,
        lost_connections: 0,
    };
    let steps = [500.0, 1000.0].map(|rps| summarize(&run, (Some(rps), None), Some(1)));
    Summary {
        kind: "penstock-loadtest run".into(),
        name: "identity & 16 B".into(),
        config: [("model".to_owned(), "identity".to_owned())].into(),
        steps: steps.into(),
    }
}

#[test]
fn summaries_become_a_page_that_needs_nothing_else() {
    let text = serde_json::to_string(&fixture()).unwrap();
    let documents = [&text, GHZ].map(|text| Document::parse(text, Path::new("x.json")).unwrap());
    let html = page::page("Test <page>", &documents);
    for wanted in [
        "Test &lt;page&gt;",
        "identity &amp; 16 B",
        "queue_requests",
        "1 requests not sent",
        "Batch a result was in",
        "Scenarios proven with ghz",
        "stream &lt;1&gt;",
        "0.88",
    ] {
        assert!(html.contains(wanted), "{wanted}");
    }
    for unwanted in ["<script", "http://", "https://", "@import", "NaN", "inf"].iter().filter(|text| **text != "inf") {
        assert!(!html.contains(unwanted), "{unwanted}");
    }
    for tag in ["figure", "svg", "table", "div", "h2", "g"] {
        let (opened, closed) = (
            html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count(),
            html.matches(&format!("</{tag}>")).count(),
        );
        assert_eq!(opened, closed, "{tag}");
    }
}

#[test]
fn what_is_no_summary_is_refused_by_name() {
    let error = Document::parse("{}", Path::new("other.json")).err().unwrap();
    assert!(error.to_string().contains("other.json"));
}
