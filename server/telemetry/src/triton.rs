//! The metrics of one version once more, under the names that Triton's clients and dashboards read.
//!
//! Part of a version's metrics. As in Triton, durations add up over successful requests, so a batch's time counts once
//! for each request in it.

use crate::names;
use crate::share::{Microseconds, Share};
use metrics::{Counter, counter, gauge};
use penstock_domain::{ErrorCode, Outcome, StageTimes};

/// The same once more, under Triton's names.
pub(crate) struct Triton {
    success: Counter,
    rejected: Counter,
    canceled: Counter,
    backend: Counter,
    other: Counter,
    inferences: Counter,
    pub(crate) executions: Counter,
    pub(crate) pending: Share,
    request: Microseconds,
    queue: Microseconds,
    compute_input: Microseconds,
    compute_infer: Microseconds,
    compute_output: Microseconds,
}

impl Triton {
    pub(crate) fn new(model: &str, version: &str) -> Self {
        let plain =
            |metric: names::Metric| counter!(metric.name, "model" => model.to_owned(), "version" => version.to_owned());
        let failure = |reason: &'static str| {
            counter!(names::NV_FAILURE.name, "model" => model.to_owned(), "version" => version.to_owned(),
                "reason" => reason)
        };
        Self {
            success: plain(names::NV_SUCCESS),
            rejected: failure("REJECTED"),
            canceled: failure("CANCELED"),
            backend: failure("BACKEND"),
            other: failure("OTHER"),
            inferences: plain(names::NV_COUNT),
            executions: plain(names::NV_EXEC_COUNT),
            pending: Share::new(
                gauge!(names::NV_PENDING.name, "model" => model.to_owned(), "version" => version.to_owned()),
            ),
            request: Microseconds::new(plain(names::NV_REQUEST_US)),
            queue: Microseconds::new(plain(names::NV_QUEUE_US)),
            compute_input: Microseconds::new(plain(names::NV_COMPUTE_INPUT_US)),
            compute_infer: Microseconds::new(plain(names::NV_COMPUTE_INFER_US)),
            compute_output: Microseconds::new(plain(names::NV_COMPUTE_OUTPUT_US)),
        }
    }

    pub(crate) fn ended(&self, outcome: Outcome, items: u64, timing: &StageTimes) {
        match outcome {
            Outcome::Done => {
                self.success.increment(1);
                self.inferences.increment(items);
                self.request.add(timing.total_ns);
                self.queue.add(timing.queue_ns);
                self.compute_input.add(timing.compute_input_ns);
                self.compute_infer.add(timing.compute_ns);
                self.compute_output.add(timing.compute_output_ns);
            }
            Outcome::Shed(_) | Outcome::Expired => self.rejected.increment(1),
            Outcome::Cancelled => self.canceled.increment(1),
            Outcome::Failed(ErrorCode::Internal) => self.backend.increment(1),
            Outcome::Failed(_) => self.other.increment(1),
        }
    }
}
