//! The page around the sections: head, the table of everything, comparisons. Called by `report`.

use super::Document;
use super::chart::{Labels, Series, curves, escape, short};
use super::{ghz, runs};
use crate::compare::{Comparison, Spread};
use crate::summary::{StepSummary, Summary};
use crate::table::load;
use std::fmt::Write;

const STYLE: &str = include_str!("style.css");

pub(super) fn page(title: &str, documents: &[Document]) -> String {
    let summaries: Vec<&Summary> =
        documents.iter().filter_map(|d| if let Document::Run(s) = d { Some(&**s) } else { None }).collect();
    let compared: Vec<&Comparison> =
        documents.iter().filter_map(|d| if let Document::Compare(c) = d { Some(&**c) } else { None }).collect();
    let proven: Vec<&ghz::GhzSummary> =
        documents.iter().filter_map(|d| if let Document::Ghz(g) = d { Some(&**g) } else { None }).collect();
    let mut body = String::new();
    if !summaries.is_empty() {
        body += &overview(&summaries);
    }
    if !compared.is_empty() {
        body += "<h2>Comparisons</h2><p>Both targets in alternating slices of one run, closed loop. The ratio is A's \
                 throughput over B's, round by round.</p>";
        body.extend(compared.iter().map(|comparison| comparison_section(comparison)));
    }
    if !proven.is_empty() {
        body += &ghz::section(&proven);
    }
    body.extend(summaries.iter().map(|summary| runs::section(summary)));
    let title = escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><title>{title}</title>\n<style>\n{STYLE}</style></head>\n\
         <body><h1>{title}</h1><p>Latencies in milliseconds. In an open loop they count from the time a request was due, so \
         a server that stalls cannot hide it. Percentiles are of results; refusals are counted apart.</p>\n{body}</body></html>\n"
    )
}

/// Whether a step's figures stand as they are.
pub(super) fn mark(step: &StepSummary) -> String {
    match step.marks.is_empty() {
        true => r#"<span class="good">valid</span>"#.to_owned(),
        false => format!(r#"<span class="care" title="{}">with care</span>"#, escape(&step.marks.join("; "))),
    }
}

fn overview(summaries: &[&Summary]) -> String {
    let heads = [
        "results/s",
        "goodput/s",
        "p50",
        "p90",
        "p99",
        "p99.9",
        "max",
        "not ok",
        "generator CPU",
        "CPU µs/request",
        "figures",
    ];
    let heads: String = heads.iter().map(|head| format!("<th>{head}</th>")).collect();
    let mut rows = String::new();
    for summary in summaries {
        for (at, step) in summary.steps.iter().enumerate() {
            let name = if at == 0 { escape(&summary.name) } else { String::new() };
            let class = if at == 0 { " class=\"first\"" } else { "" };
            let l = &step.latency;
            let numbers = [step.throughput_rps, step.goodput_rps, l.p50, l.p90, l.p99, l.p999, l.max];
            let cells: String = numbers.iter().map(|number| format!("<td>{}</td>", short(*number))).collect();
            let _ = write!(
                rows,
                "<tr{class}><td>{name}</td><td>{}</td>{cells}<td>{}</td><td>{:.0} %</td><td>{:.1}</td><td>{}</td></tr>",
                load(step),
                step.intended - l.count,
                step.generator_cpu_percent,
                step.generator_cpu_us_per_request,
                mark(step)
            );
        }
    }
    format!(r#"<div class="scroll"><table><tr><th>scenario</th><th>load</th>{heads}</tr>{rows}</table></div>"#)
}

fn comparison_section(comparison: &Comparison) -> String {
    let spread =
        |s: &Spread| format!("{} <small>({} to {})</small>", short(s.median), short(s.lowest), short(s.highest));
    let rows: String = [("A", &comparison.a), ("B", &comparison.b)]
        .map(|(name, side)| {
            let server = side.server_cpu_us.map_or("not asked".to_owned(), |us| format!("{us:.1}"));
            format!(
                "<tr><td>{name}: {}</td><td>{}</td><td>{}</td><td>{}</td><td>{server}</td><td>{:.1}</td><td>{}</td></tr>",
                escape(&side.url),
                spread(&side.throughput_rps),
                spread(&side.p50_ms),
                spread(&side.p99_ms),
                side.generator_cpu_us,
                side.not_ok
            )
        })
        .concat();
    let points = comparison.rounds.iter().enumerate().map(|(at, ratio)| (at as f64 + 1.0, *ratio)).collect();
    let labels = Labels { title: "A over B, round by round", x: "round", y: "ratio of throughputs" };
    let series = [Series { name: "ratio", colour: "c1", dashed: false, points }];
    format!(
        "<h3>{}: {} at the median ({} to {}), {} in flight</h3><div class=\"scroll\"><table><tr><th>target</th>\
         <th>results/s</th><th>p50</th><th>p99</th><th>server CPU µs/request</th><th>generator CPU µs/request</th>\
         <th>not ok</th></tr>{rows}</table></div><div class=\"grid\" style=\"margin-top:14px\">{}</div>",
        escape(&comparison.name),
        short(comparison.ratio.median),
        short(comparison.ratio.lowest),
        short(comparison.ratio.highest),
        comparison.closed,
        curves(&labels, &series, false)
    )
}
