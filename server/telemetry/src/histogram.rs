//! Histograms with fixed buckets: recording is a search among about thirty bounds and two atomic additions.
//!
//! Used by the recorder, in place of the exporter's own, which keeps every sample until the next upkeep: memory that
//! grows with traffic, and an allocation now and then on the request path.

use crate::names::{Kind, Metric};
use metrics::{HistogramFn, Key};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// One series.
pub(crate) struct BucketCounts {
    bounds: &'static [f64],
    /// One more than there are bounds: the last is `+Inf`. Not cumulative; the text is.
    counts: Box<[AtomicU64]>,
    /// Bits of an `f64`.
    sum: AtomicU64,
}

impl BucketCounts {
    pub(crate) fn new(bounds: &'static [f64]) -> Self {
        let counts = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, counts, sum: AtomicU64::new(0f64.to_bits()) }
    }
}

impl HistogramFn for BucketCounts {
    fn record(&self, value: f64) {
        let bucket = self.bounds.partition_point(|bound| *bound < value);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let mut sum = self.sum.load(Ordering::Relaxed);
        while let Err(now) = self.sum.compare_exchange_weak(
            sum,
            (f64::from_bits(sum) + value).to_bits(),
            Ordering::Relaxed,
            Ordering::Relaxed,
        ) {
            sum = now;
        }
    }
}

/// All series, by metric and by their labels as text.
#[derive(Default)]
pub(crate) struct Histograms(Mutex<BTreeMap<&'static str, BTreeMap<String, Arc<BucketCounts>>>>);

impl Histograms {
    /// The series of a key, made if it is new.
    pub(crate) fn register(&self, metric: &Metric, key: &Key) -> Option<Arc<BucketCounts>> {
        let Kind::Histogram(buckets) = metric.kind else { return None };
        let mut families = self.0.lock();
        let series = families.entry(metric.name).or_default();
        let counts = series.entry(labels(key)).or_insert_with(|| Arc::new(BucketCounts::new(buckets.bounds())));
        Some(counts.clone())
    }

    /// Appends the text of one metric's series, or nothing if there are none.
    pub(crate) fn render(&self, metric: &Metric, text: &mut String) {
        let families = self.0.lock();
        let Some(series) = families.get(metric.name) else { return };
        write_header(metric, text);
        for (labels, counts) in series {
            counts.render(metric.name, labels, text);
        }
        text.push('\n');
    }
}

impl BucketCounts {
    fn render(&self, name: &str, labels: &str, text: &mut String) {
        let comma = if labels.is_empty() { "" } else { "," };
        let mut count = 0;
        for (index, in_bucket) in self.counts.iter().enumerate() {
            count += in_bucket.load(Ordering::Relaxed);
            let _ = match self.bounds.get(index) {
                Some(bound) => writeln!(text, "{name}_bucket{{{labels}{comma}le=\"{bound}\"}} {count}"),
                None => writeln!(text, "{name}_bucket{{{labels}{comma}le=\"+Inf\"}} {count}"),
            };
        }
        let sum = f64::from_bits(self.sum.load(Ordering::Relaxed));
        let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {count}");
    }
}

/// The two lines above a metric's series. Help texts are ours and hold no line break.
pub(crate) fn write_header(metric: &Metric, text: &mut String) {
    let kind = match metric.kind {
        Kind::Counter => "counter",
        Kind::Gauge => "gauge",
        Kind::Histogram(_) => "histogram",
    };
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}", name = metric.name, help = metric.help);
}

/// `a="b",c="d"`, values escaped as the text format wants: backslash, quote and line break.
fn labels(key: &Key) -> String {
    let mut text = String::new();
    for label in key.labels() {
        let comma = if text.is_empty() { "" } else { "," };
        let value = label.value().replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let _ = write!(text, "{comma}{}=\"{value}\"", label.key());
    }
    text
}
