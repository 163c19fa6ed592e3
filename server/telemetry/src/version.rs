//! The metrics of one version, registered once when it is first served.
//!
//! Owned by dispatch's entry for the version. Each call touches atomics through handles it already holds. Several of
//! these may exist for one function and version at a time (new content is loaded beside the old): counters add up, and
//! so do gauges, because each adds and takes back only its own share.

use crate::names;
use crate::outcome::OutcomeCounters;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use penstock_domain::{ErrorCode, Outcome, StageTimes};
use std::sync::atomic::{AtomicU64, Ordering};

/// What one batch was.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct BatchSample {
    /// Items in it.
    pub items: u32,
    /// Tokens in it, padding not counted; 0 if the function counts none.
    pub tokens: u64,
    /// Tokens computed, padding counted; 0 if the function counts none.
    pub padded_tokens: u64,
    /// Gathering its inputs.
    pub compute_input_ns: u64,
    /// The model itself.
    pub compute_ns: u64,
    /// Scattering its outputs.
    pub compute_output_ns: u64,
}

/// What waits and runs at a moment, over all environments of the version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LoadSample {
    /// Requests that wait.
    pub queued_requests: u32,
    /// Their items.
    pub queued_items: u64,
    /// Their tokens.
    pub queued_tokens: u64,
    /// Runtime workers that run a batch.
    pub busy_workers: u32,
    /// Resident memory of the environments' processes.
    pub resident_bytes: u64,
}

/// Handles to every metric of one version.
pub struct VersionMetrics {
    outcomes: OutcomeCounters,
    in_flight: Gauge,
    duration: Histogram,
    stages: Stages,
    batch: Batches,
    queue_requests: Share,
    queue_items: Share,
    queue_tokens: Share,
    busy_workers: Share,
    resident: Share,
    environments_ready: Share,
    restarts: Counter,
    triton: Triton,
}

impl VersionMetrics {
    /// Registers them with the recorder of this moment; without one, they count nothing.
    pub fn new(function: &str, version: u64) -> Self {
        let version = version.to_string();
        let share = |metric: names::Metric| Share::new(labelled_gauge(metric, function, &version));
        Self {
            outcomes: OutcomeCounters::new(function, &version),
            in_flight: labelled_gauge(names::REQUESTS_IN_FLIGHT, function, &version),
            duration: labelled_histogram(names::REQUEST_DURATION, function, &version),
            stages: Stages::new(function, &version),
            batch: Batches::new(function, &version),
            queue_requests: share(names::QUEUE_REQUESTS),
            queue_items: share(names::QUEUE_ITEMS),
            queue_tokens: share(names::QUEUE_TOKENS),
            busy_workers: share(names::BUSY_WORKERS),
            resident: share(names::ENVIRONMENT_RESIDENT),
            environments_ready: share(names::ENVIRONMENTS_READY),
            restarts: labelled_counter(names::ENVIRONMENT_RESTARTS, function, &version),
            triton: Triton::new(function, &version),
        }
    }

    /// A request was taken in.
    pub fn received(&self) {
        self.outcomes.received();
        self.in_flight.increment(1.0);
    }

    /// A request that was taken in has ended; `items` and `timing` count if it is done.
    pub fn ended(&self, outcome: Outcome, items: u64, timing: &StageTimes) {
        self.in_flight.decrement(1.0);
        self.outcomes.ended(outcome);
        if outcome == Outcome::Done {
            self.duration.record(seconds(timing.total_ns));
            self.stages.record(timing);
        }
        self.triton.ended(outcome, items, timing);
    }

    /// A batch was run.
    pub fn batch(&self, sample: &BatchSample) {
        self.batch.record(sample);
        self.triton.executions.increment(1);
    }

    /// What waits and runs now.
    pub fn load(&self, sample: &LoadSample) {
        self.queue_requests.set(sample.queued_requests.into());
        self.queue_items.set(sample.queued_items);
        self.queue_tokens.set(sample.queued_tokens);
        self.busy_workers.set(sample.busy_workers.into());
        self.resident.set(sample.resident_bytes);
        self.triton.pending.set(sample.queued_requests.into());
    }

    /// How many environments take requests now.
    pub fn environments(&self, ready: usize) {
        self.environments_ready.set(ready as u64);
    }

    /// An environment was started again after it ended unasked.
    pub fn environment_restarted(&self) {
        self.restarts.increment(1);
    }

    /// The version was unloaded: what it showed on gauges is taken back. Requests in flight take themselves back as
    /// they end. Dropping does the same.
    pub fn retired(&self) {
        self.load(&LoadSample::default());
        self.environments(0);
    }
}

impl Drop for VersionMetrics {
    fn drop(&mut self) {
        self.retired();
    }
}

/// One revision's part of a gauge that revisions of the same version share.
struct Share {
    gauge: Gauge,
    shown: AtomicU64,
}

impl Share {
    fn new(gauge: Gauge) -> Self {
        gauge.increment(0.0);
        Self { gauge, shown: AtomicU64::new(0) }
    }

    /// Exact while values stay below 2^53, where every whole number is an `f64`.
    fn set(&self, value: u64) {
        let shown = self.shown.swap(value, Ordering::Relaxed);
        if shown != value {
            self.gauge.increment(value as f64 - shown as f64);
        }
    }
}

/// Where the time of requests went.
struct Stages {
    prepare: Histogram,
    queue: Histogram,
    compute_input: Histogram,
    compute: Histogram,
    compute_output: Histogram,
    overhead: Histogram,
}

impl Stages {
    fn new(function: &str, version: &str) -> Self {
        let stage = |stage: &'static str| {
            histogram!(names::STAGE_DURATION.name, "function" => function.to_owned(),
                "version" => version.to_owned(), "stage" => stage)
        };
        Self {
            prepare: stage("prepare"),
            queue: stage("queue"),
            compute_input: stage("compute_input"),
            compute: stage("compute"),
            compute_output: stage("compute_output"),
            overhead: stage("overhead"),
        }
    }

    fn record(&self, timing: &StageTimes) {
        let known = timing.prepare_ns
            + timing.queue_ns
            + timing.compute_input_ns
            + timing.compute_ns
            + timing.compute_output_ns;
        self.prepare.record(seconds(timing.prepare_ns));
        self.queue.record(seconds(timing.queue_ns));
        self.compute_input.record(seconds(timing.compute_input_ns));
        self.compute.record(seconds(timing.compute_ns));
        self.compute_output.record(seconds(timing.compute_output_ns));
        self.overhead.record(seconds(timing.total_ns.saturating_sub(known)));
    }
}

/// What batches were.
struct Batches {
    items: Histogram,
    tokens: Histogram,
    tokens_total: Counter,
    padded_tokens_total: Counter,
    compute_input: Microseconds,
    compute: Microseconds,
    compute_output: Microseconds,
}

impl Batches {
    fn new(function: &str, version: &str) -> Self {
        let busy = |stage: &'static str| {
            Microseconds::new(counter!(names::BATCH_BUSY.name, "function" => function.to_owned(),
                "version" => version.to_owned(), "stage" => stage))
        };
        Self {
            items: labelled_histogram(names::BATCH_ITEMS, function, version),
            tokens: labelled_histogram(names::BATCH_TOKENS, function, version),
            tokens_total: labelled_counter(names::TOKENS, function, version),
            padded_tokens_total: labelled_counter(names::PADDED_TOKENS, function, version),
            compute_input: busy("compute_input"),
            compute: busy("compute"),
            compute_output: busy("compute_output"),
        }
    }

    fn record(&self, sample: &BatchSample) {
        self.items.record(f64::from(sample.items));
        if sample.padded_tokens > 0 {
            self.tokens.record(sample.tokens as f64);
            self.tokens_total.increment(sample.tokens);
            self.padded_tokens_total.increment(sample.padded_tokens);
        }
        self.compute_input.add(sample.compute_input_ns);
        self.compute.add(sample.compute_ns);
        self.compute_output.add(sample.compute_output_ns);
    }
}

/// The same once more, under Triton's names.
struct Triton {
    success: Counter,
    rejected: Counter,
    canceled: Counter,
    backend: Counter,
    other: Counter,
    inferences: Counter,
    executions: Counter,
    pending: Share,
    request: Microseconds,
    queue: Microseconds,
    compute_input: Microseconds,
    compute_infer: Microseconds,
    compute_output: Microseconds,
}

impl Triton {
    fn new(model: &str, version: &str) -> Self {
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

    fn ended(&self, outcome: Outcome, items: u64, timing: &StageTimes) {
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

/// A counter of whole microseconds that is fed nanoseconds and loses none of them to rounding.
struct Microseconds {
    counter: Counter,
    total_ns: AtomicU64,
}

impl Microseconds {
    fn new(counter: Counter) -> Self {
        Self { counter, total_ns: AtomicU64::new(0) }
    }

    fn add(&self, ns: u64) {
        let before = self.total_ns.fetch_add(ns, Ordering::Relaxed);
        self.counter.increment(before.wrapping_add(ns) / 1000 - before / 1000);
    }
}

fn seconds(ns: u64) -> f64 {
    ns as f64 * 1e-9
}

fn labelled_counter(metric: names::Metric, function: &str, version: &str) -> Counter {
    counter!(metric.name, "function" => function.to_owned(), "version" => version.to_owned())
}

fn labelled_gauge(metric: names::Metric, function: &str, version: &str) -> Gauge {
    gauge!(metric.name, "function" => function.to_owned(), "version" => version.to_owned())
}

fn labelled_histogram(metric: names::Metric, function: &str, version: &str) -> Histogram {
    histogram!(metric.name, "function" => function.to_owned(), "version" => version.to_owned())
}
