//! What one version has done since it was first loaded: the numbers behind the statistics API.
//!
//! Written once per request by the house, once per batch by the supervisor; read by the front end.

use parking_lot::Mutex;
use penstock_domain::{Outcome, StageTimes};
use std::collections::BTreeMap;

/// A count and the nanoseconds it took in all.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Duration {
    /// How often.
    pub count: u64,
    /// Nanoseconds in all.
    pub ns: u64,
}

impl Duration {
    fn add(&mut self, ns: u64) {
        self.count += 1;
        self.ns += ns;
    }
}

/// Batches of one size.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct BatchStatistics {
    /// Gathering inputs.
    pub compute_input: Duration,
    /// The model.
    pub compute_infer: Duration,
    /// Scattering outputs.
    pub compute_output: Duration,
}

/// A version's numbers, as Triton's statistics extension names them.
#[derive(Clone, Default, Debug)]
pub struct VersionStatistics {
    /// Milliseconds since the epoch of the last inference; 0 for none.
    pub last_inference_ms: u64,
    /// Items done (a batch of 8 counts 8).
    pub inference_count: u64,
    /// Batches run.
    pub execution_count: u64,
    /// Requests done.
    pub success: Duration,
    /// Requests not done, whatever the reason.
    pub fail: Duration,
    /// Waiting.
    pub queue: Duration,
    /// Gathering inputs.
    pub compute_input: Duration,
    /// The model.
    pub compute_infer: Duration,
    /// Scattering outputs.
    pub compute_output: Duration,
    /// By batch size in items.
    pub batches: BTreeMap<u32, BatchStatistics>,
}

/// Sums over all requests and batches.
pub(crate) struct Totals {
    /// Nanoseconds that requests waited in queues.
    pub(crate) queue_ns: u64,
    /// Batches that were run.
    pub(crate) batches: u64,
    /// Nanoseconds that workers ran them.
    pub(crate) busy_ns: u64,
}

/// The cell the house writes to.
#[derive(Default)]
pub(crate) struct StatisticsCell(Mutex<VersionStatistics>);

impl StatisticsCell {
    /// Records the end of one request of `items` rows.
    pub(crate) fn request(&self, outcome: Outcome, items: u64, timing: &StageTimes, now_ms: u64) {
        let mut s = self.0.lock();
        match outcome {
            Outcome::Done => {
                s.last_inference_ms = now_ms;
                s.inference_count += items;
                s.success.add(timing.total_ns);
                s.queue.add(timing.queue_ns);
                s.compute_input.add(timing.compute_input_ns);
                s.compute_infer.add(timing.compute_ns);
                s.compute_output.add(timing.compute_output_ns);
            }
            _ => s.fail.add(timing.total_ns),
        }
    }

    /// Records the end of one batch.
    pub(crate) fn batch(&self, items: u32, input_ns: u64, infer_ns: u64, output_ns: u64) {
        let mut s = self.0.lock();
        s.execution_count += 1;
        let batch = s.batches.entry(items).or_default();
        batch.compute_input.add(input_ns);
        batch.compute_infer.add(infer_ns);
        batch.compute_output.add(output_ns);
    }

    /// What the scaler asks for.
    pub(crate) fn totals(&self) -> Totals {
        let s = self.0.lock();
        let busy = |batch: &BatchStatistics| batch.compute_input.ns + batch.compute_infer.ns + batch.compute_output.ns;
        Totals { queue_ns: s.queue.ns, batches: s.execution_count, busy_ns: s.batches.values().map(busy).sum() }
    }

    pub(crate) fn snapshot(&self) -> VersionStatistics {
        self.0.lock().clone()
    }
}
