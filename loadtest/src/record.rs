//! What happened to each request: 16 bytes a request, and counts beside. Filled by `drive`, read by `summary`.

use crate::timing;
use crate::wire::{Answer, Loss, Reply, Ticket};
use hdrhistogram::Histogram;
use std::collections::BTreeMap;

/// How a request ended.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// A result.
    Ok,
    /// Refused early and on purpose.
    Shed,
    /// The deadline passed.
    Expired,
    /// An error of the server.
    Failed,
    /// No answer: the connection or the stream was lost, or the run ended first.
    Lost,
    /// Never sent, as the generator had as many in flight as it may.
    NotSent,
}

/// One request. Times are microseconds since the generator started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Record {
    /// When it should have been sent.
    pub intended_us: u32,
    /// When it was sent.
    pub sent_us: u32,
    /// When its answer was read.
    pub done_us: u32,
    /// Index into [`Tally::outcomes`].
    pub outcome: u16,
    /// Items or requests in its batch, as the server said; 0 if it did not.
    pub batch: u16,
}

/// Everything recorded in one step of a run.
pub struct Tally {
    /// All requests, in the order of their ends.
    pub records: Vec<Record>,
    /// Kinds of ends that came up.
    pub outcomes: Vec<(Class, String)>,
    /// Stage times in microseconds, by name.
    pub stages: BTreeMap<String, Histogram<u64>>,
    /// When sheds said to come back, in milliseconds.
    pub retry_after_ms: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self { records: Vec::new(), outcomes: Vec::new(), stages: BTreeMap::new(), retry_after_ms: histogram() }
    }
}

/// Three significant digits over any range; it grows with what is recorded.
pub fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("3 is a valid number of digits")
}

/// Records a value. (`saturating_record` would not grow the histogram, but cut at its present end.)
pub fn add(histogram: &mut Histogram<u64>, value: u64) {
    histogram.record(value).expect("a histogram that may grow takes any value");
}

impl Tally {
    /// Records the end of a request at `now_us`.
    pub fn answer(&mut self, answer: &Answer, now_us: u64) {
        let mut batch = 0;
        let (class, name) = match &answer.result {
            Err(Loss::ConnectionLost) => (Class::Lost, "connection lost".into()),
            Err(Loss::StreamReset) => (Class::Lost, "stream reset".into()),
            Ok(reply) => {
                if let Some(text) = &reply.stage_times {
                    batch = self.stage_times(text);
                }
                if let Some(ms) = reply.retry_after_ms {
                    add(&mut self.retry_after_ms, ms);
                }
                classify(reply)
            }
        };
        let outcome = self.outcome(class, &name);
        let Ticket { intended_us, sent_us } = answer.ticket;
        self.records.push(Record { intended_us, sent_us, done_us: now_us as u32, outcome, batch });
    }

    /// Records a request that never left or never came back.
    pub fn gone(&mut self, ticket: Ticket, class: Class, name: &str, now_us: u64) {
        let outcome = self.outcome(class, name);
        let Ticket { intended_us, sent_us } = ticket;
        self.records.push(Record { intended_us, sent_us, done_us: now_us as u32, outcome, batch: 0 });
    }

    /// The class a record ended in.
    pub fn class(&self, record: &Record) -> Class {
        self.outcomes[usize::from(record.outcome)].0
    }

    fn outcome(&mut self, class: Class, name: &str) -> u16 {
        let known = self.outcomes.iter().position(|(c, n)| *c == class && n == name);
        known.unwrap_or_else(|| {
            self.outcomes.push((class, name.to_owned()));
            self.outcomes.len() - 1
        }) as u16
    }

    fn stage_times(&mut self, text: &str) -> u16 {
        let mut batch = 0;
        timing::metrics(text, |name, ms, description| {
            if let Some(ms) = ms {
                let stage = match self.stages.get_mut(name) {
                    Some(stage) => stage,
                    None => self.stages.entry(name.to_owned()).or_insert_with(histogram),
                };
                add(stage, (ms * 1000.0) as u64);
            } else if name == "batch" {
                batch = description.and_then(|text| text.parse().ok()).unwrap_or(0);
            }
        });
        batch
    }
}

const GRPC_NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Sorts a reply. A reason makes a refusal a shed only together with a code of overload or of a deadline, as failures
/// carry reasons too. A server that sends no reason is sorted by its code alone.
pub fn classify(reply: &Reply) -> (Class, std::borrow::Cow<'static, str>) {
    let reason = || reply.shed_reason.clone();
    // A message that says only that it failed.
    if reply.stream_error && reply.grpc_status == Some(0) {
        return match reason() {
            Some(reason) => (Class::Shed, reason.into()),
            None => (Class::Failed, "error on the stream".into()),
        };
    }
    let (overload, deadline, code) = match reply.grpc_status {
        Some(0) => return (Class::Ok, "ok".into()),
        Some(code) => {
            let name = GRPC_NAMES.get(usize::from(code)).copied().unwrap_or("a code above 16");
            (matches!(code, 8 | 14), code == 4, name.into())
        }
        None if (200..300).contains(&reply.http_status) => return (Class::Ok, "ok".into()),
        None => {
            let code = reply.http_status;
            (matches!(code, 429 | 503 | 529), matches!(code, 408 | 504), format!("HTTP {code}").into())
        }
    };
    match (overload, deadline, reason()) {
        (true, _, Some(reason)) | (_, true, Some(reason)) => (Class::Shed, reason.into()),
        (true, _, None) => (Class::Shed, code),
        (_, true, None) => (Class::Expired, code),
        (_, _, Some(reason)) => (Class::Failed, format!("{code}: {reason}").into()),
        (_, _, None) => (Class::Failed, code),
    }
}

#[cfg(test)]
mod tests {
    use super::{Class, classify};
    use crate::wire::Reply;

    #[test]
    fn replies_are_sorted_by_code_and_reason() {
        let reply = |http_status, grpc_status, reason: Option<&str>| Reply {
            http_status,
            grpc_status,
            shed_reason: reason.map(str::to_owned),
            ..Reply::default()
        };
        let cases = [
            (reply(200, Some(0), None), Class::Ok, "ok"),
            (reply(200, None, None), Class::Ok, "ok"),
            (reply(200, Some(8), Some("queue_requests")), Class::Shed, "queue_requests"),
            (reply(504, None, Some("deadline_unmeetable")), Class::Shed, "deadline_unmeetable"),
            (reply(503, None, None), Class::Shed, "HTTP 503"),
            (reply(200, Some(4), None), Class::Expired, "DEADLINE_EXCEEDED"),
            (reply(200, Some(13), Some("execution_crashed")), Class::Failed, "INTERNAL: execution_crashed"),
            (reply(404, None, None), Class::Failed, "HTTP 404"),
        ];
        for (reply, class, name) in cases {
            assert_eq!(classify(&reply), (class, name.into()), "{reply:?}");
        }
    }
}
