//! ghz's own summaries (`--format json`), folded in as the word of an independent client. Called by `page`.

use super::chart::{Labels, Series, columns, escape, short};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The parts of ghz's report that are shown. Times are nanoseconds, histogram marks seconds.
#[derive(Deserialize)]
pub(super) struct GhzSummary {
    pub(super) name: Option<String>,
    count: u64,
    rps: f64,
    average: f64,
    slowest: f64,
    options: GhzOptions,
    #[serde(rename = "latencyDistribution", default)]
    latencies: Option<Vec<GhzLatency>>,
    #[serde(rename = "statusCodeDistribution", default)]
    codes: Option<BTreeMap<String, u64>>,
    #[serde(default)]
    histogram: Option<Vec<GhzBucket>>,
}

#[derive(Deserialize)]
struct GhzOptions {
    call: String,
    #[serde(default)]
    concurrency: u64,
    #[serde(default)]
    connections: u64,
    #[serde(default)]
    rps: f64,
}

#[derive(Deserialize)]
struct GhzLatency {
    percentage: f64,
    latency: f64,
}

#[derive(Deserialize)]
struct GhzBucket {
    mark: f64,
    count: f64,
}

impl GhzSummary {
    fn at(&self, percentage: f64) -> f64 {
        let all = self.latencies.iter().flatten();
        all.filter(|entry| entry.percentage == percentage).map(|entry| entry.latency / 1e6).next().unwrap_or(0.0)
    }

    fn codes(&self) -> String {
        let all = self.codes.iter().flatten().map(|(code, count)| format!("{} {count}", escape(code)));
        all.collect::<Vec<_>>().join(", ")
    }

    fn row(&self) -> String {
        let pace = match self.options.rps {
            0.0 => format!("{} workers", self.options.concurrency),
            rps => format!("{}/s, {} workers", short(rps), self.options.concurrency),
        };
        let call = self.options.call.rsplit('.').next().unwrap_or_default();
        let times = [self.average / 1e6, self.at(50.0), self.at(90.0), self.at(99.0), self.slowest / 1e6];
        let times: String = times.iter().map(|ms| format!("<td>{}</td>", short(*ms))).collect();
        format!(
            "<tr><td>{}</td><td class=\"text\">{}</td><td class=\"text\">{pace}, {} conn.</td><td>{}</td><td>{}</td>{times}<td class=\"text\">{}</td></tr>",
            escape(self.name.as_deref().unwrap_or_default()),
            escape(call),
            self.options.connections,
            self.count,
            short(self.rps),
            self.codes()
        )
    }

    fn figure(&self) -> String {
        let Some(buckets) = &self.histogram else { return String::new() };
        let names: Vec<String> = buckets.iter().map(|bucket| short(bucket.mark * 1e3)).collect();
        let points = buckets.iter().enumerate().map(|(at, bucket)| (at as f64, bucket.count)).collect();
        let title = format!("ghz: {}", self.name.as_deref().unwrap_or_default());
        let labels = Labels { title: &title, x: "milliseconds, up to", y: "calls" };
        columns(&labels, &names, &[Series { name: "calls", colour: "c1", dashed: false, points }])
    }
}

pub(super) fn section(proven: &[&GhzSummary]) -> String {
    let rows: String = proven.iter().map(|summary| summary.row()).collect();
    let figures: String = proven.iter().map(|summary| summary.figure()).collect();
    format!(
        "<h2>Scenarios proven with ghz</h2><p>An independent gRPC client, over reflection and without a proto file. Its \
         latencies count from sending, and on a stream a call is the whole stream.</p><div class=\"scroll\"><table><tr>\
         <th>scenario</th><th class=\"text\">call</th><th class=\"text\">load</th><th>calls</th><th>calls/s</th>\
         <th>mean</th><th>p50</th><th>p90</th><th>p99</th><th>max</th><th class=\"text\">codes</th></tr>{rows}</table></div>\
         <div class=\"grid\" style=\"margin-top:14px\">{figures}</div>"
    )
}
