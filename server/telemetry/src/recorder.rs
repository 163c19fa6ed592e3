//! The recorder behind the `metrics` facade: the exporter's counters and gauges, our own histograms.
//!
//! Installed once by the composition root, before anything is served; [`Scrape`] is what it keeps.

use crate::histogram::Histograms;
use crate::names::{self, Kind};
use crate::{outcome, process};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::sync::Arc;

/// Why there is no recorder.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// A process has one.
    #[error("a metrics recorder is already installed in this process")]
    AlreadyInstalled,
}

/// Installs the recorder of this process. What is registered before counts nothing.
pub fn install() -> Result<Scrape, TelemetryError> {
    let (recorder, scrape) = recorder();
    metrics::set_global_recorder(recorder).map_err(|_| TelemetryError::AlreadyInstalled)?;
    outcome::register_unrouted();
    Ok(scrape)
}

/// A recorder with every metric described, and its reader.
pub(crate) fn recorder() -> (HouseRecorder, Scrape) {
    let exporter = PrometheusBuilder::new().build_recorder();
    for metric in names::ALL {
        match metric.kind {
            Kind::Counter => exporter.describe_counter(metric.name.into(), Some(metric.unit), metric.help.into()),
            Kind::Gauge => exporter.describe_gauge(metric.name.into(), Some(metric.unit), metric.help.into()),
            Kind::Histogram(_) => {}
        }
    }
    let histograms = Arc::new(Histograms::default());
    let scrape = Scrape { exporter: exporter.handle(), histograms: histograms.clone() };
    (HouseRecorder { exporter, histograms }, scrape)
}

/// What `/metrics` is read from.
pub struct Scrape {
    exporter: PrometheusHandle,
    histograms: Arc<Histograms>,
}

impl Scrape {
    /// All metrics in Prometheus' text format 0.0.4 (`text/plain; version=0.0.4`).
    pub fn render(&self) -> String {
        let mut text = self.exporter.render();
        for metric in names::ALL {
            self.histograms.render(metric, &mut text);
        }
        process::render(&mut text);
        text
    }

    /// To be called every few seconds, so that a server nobody scrapes does not gather what is to be done at a scrape.
    pub fn upkeep(&self) {
        self.exporter.run_upkeep();
    }
}

/// Sends each registration to where the series lives.
pub(crate) struct HouseRecorder {
    exporter: PrometheusRecorder,
    histograms: Arc<Histograms>,
}

impl Recorder for HouseRecorder {
    fn describe_counter(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_counter(key, unit, description);
    }

    fn describe_gauge(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_gauge(key, unit, description);
    }

    fn describe_histogram(&self, key: KeyName, unit: Option<Unit>, description: SharedString) {
        self.exporter.describe_histogram(key, unit, description);
    }

    fn register_counter(&self, key: &Key, metadata: &Metadata<'_>) -> Counter {
        self.exporter.register_counter(key, metadata)
    }

    fn register_gauge(&self, key: &Key, metadata: &Metadata<'_>) -> Gauge {
        self.exporter.register_gauge(key, metadata)
    }

    /// A histogram that is not declared has no buckets and goes to the exporter, which makes it a summary; for our own
    /// a test sees to it that there is none, but a library may record one.
    fn register_histogram(&self, key: &Key, metadata: &Metadata<'_>) -> Histogram {
        let declared = names::ALL.iter().find(|metric| metric.name == key.name());
        match declared.and_then(|metric| self.histograms.register(metric, key)) {
            Some(counts) => Histogram::from_arc(counts),
            None => self.exporter.register_histogram(key, metadata),
        }
    }
}
