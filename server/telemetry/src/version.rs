//! The metrics of one version, registered once when it is first served.
//!
//! Owned by dispatch's entry for the version. Each call touches atomics through handles it already holds. Several of
//! these may exist for one function and version at a time (new content is loaded beside the old): counters add up, and
//! so do gauges, because each adds and takes back only its own share.

use crate::names;
use crate::outcome::OutcomeCounters;
use crate::share::Share;
use crate::triton::Triton;
use metrics::{Counter, Gauge, Histogram, counter, gauge, histogram};
use penstock_domain::{BatchReport, Outcome, StageTimes};
use std::time::Duration;

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
    /// Requests that may be in flight.
    pub concurrency_limit: u32,
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
    concurrency_limit: Share,
    environments_ready: Share,
    environments_wanted: Share,
    environments_max: Share,
    waiting: Share,
    start: Gauge,
    restarts: Counter,
    cpu: Gauge,
    triton: Triton,
    function: String,
    version: String,
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
            concurrency_limit: share(names::CONCURRENCY_LIMIT),
            environments_ready: share(names::ENVIRONMENTS_READY),
            environments_wanted: share(names::ENVIRONMENTS_WANTED),
            environments_max: share(names::ENVIRONMENTS_MAX),
            waiting: share(names::WAITING_REQUESTS),
            start: labelled_gauge(names::ENVIRONMENT_START, function, &version),
            restarts: labelled_counter(names::ENVIRONMENT_RESTARTS, function, &version),
            cpu: labelled_gauge(names::CPU, function, &version),
            triton: Triton::new(function, &version),
            function: function.to_owned(),
            version,
        }
    }

    /// How many environments it is to have, of how many at most, and how many requests wait for one.
    pub fn wanted(&self, environments: u32, most: u32, waiting: u32) {
        self.environments_wanted.set(environments.into());
        self.environments_max.set(most.into());
        self.waiting.set(waiting.into());
    }

    /// Its environments have used so many microseconds of cores more.
    pub fn cpu(&self, microseconds: u64) {
        self.cpu.increment(microseconds as f64 / 1e6);
    }

    /// An environment was ready so long after it was asked for.
    pub fn environment_started(&self, after: Duration) {
        self.start.set(after.as_secs_f64());
    }

    /// Its load changed how many environments it is to have.
    pub fn scaled(&self, is_up: bool, reason: &'static str) {
        let direction = if is_up { "up" } else { "down" };
        counter!(names::SCALING_STEPS.name, "function" => self.function.clone(), "version" => self.version.clone(),
            "direction" => direction, "reason" => reason)
        .increment(1);
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
    pub fn batch(&self, batch: &BatchReport) {
        self.batch.record(batch);
        self.triton.executions.increment(1);
    }

    /// What waits and runs now.
    pub fn load(&self, sample: &LoadSample) {
        self.queue_requests.set(sample.queued_requests.into());
        self.queue_items.set(sample.queued_items);
        self.queue_tokens.set(sample.queued_tokens);
        self.busy_workers.set(sample.busy_workers.into());
        self.resident.set(sample.resident_bytes);
        self.concurrency_limit.set(u64::from(sample.concurrency_limit));
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
        self.wanted(0, 0, 0);
    }
}

impl Drop for VersionMetrics {
    fn drop(&mut self) {
        self.retired();
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
    compute_input: Histogram,
    compute: Histogram,
    compute_output: Histogram,
}

impl Batches {
    fn new(function: &str, version: &str) -> Self {
        let duration = |stage: &'static str| {
            histogram!(names::BATCH_DURATION.name, "function" => function.to_owned(),
                "version" => version.to_owned(), "stage" => stage)
        };
        Self {
            items: labelled_histogram(names::BATCH_ITEMS, function, version),
            tokens: labelled_histogram(names::BATCH_TOKENS, function, version),
            tokens_total: labelled_counter(names::TOKENS, function, version),
            padded_tokens_total: labelled_counter(names::PADDED_TOKENS, function, version),
            compute_input: duration("compute_input"),
            compute: duration("compute"),
            compute_output: duration("compute_output"),
        }
    }

    fn record(&self, batch: &BatchReport) {
        self.items.record(f64::from(batch.items));
        if batch.padded_tokens > 0 {
            self.tokens.record(batch.tokens as f64);
            self.tokens_total.increment(batch.tokens);
            self.padded_tokens_total.increment(batch.padded_tokens);
        }
        self.compute_input.record(seconds(batch.compute_input_ns));
        self.compute.record(seconds(batch.compute_ns));
        self.compute_output.record(seconds(batch.compute_output_ns));
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
