//! How ends are counted: one counter for each outcome and reason, all registered beforehand.
//!
//! Used by the metrics of a version and, for requests that named nothing served, by [`unrouted`].

use crate::names;
use metrics::{Counter, counter};
use penstock_domain::{ErrorCode, Outcome, ShedReason};
use std::sync::OnceLock;

/// Error codes in the order of their counters, with the text of the label `reason`.
const CODES: [(ErrorCode, &str); 12] = [
    (ErrorCode::InvalidArgument, "invalid_argument"),
    (ErrorCode::NotFound, "not_found"),
    (ErrorCode::Conflict, "conflict"),
    (ErrorCode::TooLarge, "too_large"),
    (ErrorCode::Unsupported, "unsupported"),
    (ErrorCode::Exhausted, "exhausted"),
    (ErrorCode::Unavailable, "unavailable"),
    (ErrorCode::DeadlineExceeded, "deadline_exceeded"),
    (ErrorCode::Cancelled, "cancelled"),
    (ErrorCode::Internal, "internal"),
    (ErrorCode::Unauthenticated, "unauthenticated"),
    (ErrorCode::Forbidden, "forbidden"),
];

/// The counters `penstock_requests_received_total` and `penstock_requests_total` of one function and version.
pub(crate) struct OutcomeCounters {
    received: Counter,
    done: Counter,
    expired: Counter,
    cancelled: Counter,
    failed: [Counter; CODES.len()],
    shed: [Counter; ShedReason::ALL.len()],
}

impl OutcomeCounters {
    pub(crate) fn new(function: &str, version: &str) -> Self {
        let ended = |outcome: &'static str, reason: &'static str| {
            counter!(names::REQUESTS.name, "function" => function.to_owned(), "version" => version.to_owned(),
                "outcome" => outcome, "reason" => reason)
        };
        Self {
            received: counter!(names::REQUESTS_RECEIVED.name, "function" => function.to_owned(),
                "version" => version.to_owned()),
            done: ended("done", ""),
            expired: ended("expired", ""),
            cancelled: ended("cancelled", ""),
            failed: CODES.map(|(_, reason)| ended("failed", reason)),
            shed: ShedReason::ALL.map(|reason| ended("shed", reason.name())),
        }
    }

    pub(crate) fn received(&self) {
        self.received.increment(1);
    }

    pub(crate) fn ended(&self, outcome: Outcome) {
        let counter = match outcome {
            Outcome::Done => &self.done,
            Outcome::Expired => &self.expired,
            Outcome::Cancelled => &self.cancelled,
            Outcome::Failed(code) => &self.failed[code_index(code)],
            Outcome::Shed(reason) => &self.shed[shed_index(reason)],
        };
        counter.increment(1);
    }
}

/// Position of a code in [`CODES`]; a test holds the two together.
pub(crate) const fn code_index(code: ErrorCode) -> usize {
    match code {
        ErrorCode::InvalidArgument => 0,
        ErrorCode::NotFound => 1,
        ErrorCode::Conflict => 2,
        ErrorCode::TooLarge => 3,
        ErrorCode::Unsupported => 4,
        ErrorCode::Exhausted => 5,
        ErrorCode::Unavailable => 6,
        ErrorCode::DeadlineExceeded => 7,
        ErrorCode::Cancelled => 8,
        ErrorCode::Internal => 9,
        ErrorCode::Unauthenticated => 10,
        ErrorCode::Forbidden => 11,
    }
}

/// Position of a reason in [`ShedReason::ALL`]; a test holds the two together.
pub(crate) const fn shed_index(reason: ShedReason) -> usize {
    match reason {
        ShedReason::EnvironmentConcurrency => 0,
        ShedReason::FunctionConcurrency => 1,
        ShedReason::CallerConcurrency => 2,
        ShedReason::ServerConcurrency => 3,
        ShedReason::QueueRequests => 4,
        ShedReason::QueueItems => 5,
        ShedReason::MemoryBudget => 6,
        ShedReason::DeadlineUnmeetable => 7,
        ShedReason::NoCapacity => 8,
        ShedReason::Draining => 9,
    }
}

#[cfg(test)]
pub(crate) fn codes() -> &'static [(ErrorCode, &'static str)] {
    const { &CODES }
}

/// Counters for requests that named no function or version that is served, so that the books are whole. Their labels
/// `function` and `version` are empty: a name from outside never becomes a label.
pub struct UnroutedMetrics(OutcomeCounters);

static UNROUTED: OnceLock<UnroutedMetrics> = OnceLock::new();

impl UnroutedMetrics {
    /// Registers them with the recorder of this moment.
    pub fn new() -> Self {
        Self(OutcomeCounters::new("", ""))
    }

    /// Counts one request as received and as ended.
    pub fn count(&self, outcome: Outcome) {
        self.0.received();
        self.0.ended(outcome);
    }
}

impl Default for UnroutedMetrics {
    fn default() -> Self {
        Self::new()
    }
}

/// Counts a request that named nothing served, once at its end. Nothing is counted before the recorder is installed.
pub fn unrouted(outcome: Outcome) {
    if let Some(metrics) = UNROUTED.get() {
        metrics.count(outcome);
    }
}

/// Called once, right after the recorder was installed.
pub(crate) fn register_unrouted() {
    UNROUTED.get_or_init(UnroutedMetrics::new);
}
