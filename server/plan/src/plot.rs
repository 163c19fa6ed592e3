//! The report as a picture: an SVG that needs nothing else.
//!
//! Called by `penstock plan`, which writes it. Four plots under each other over the same time: load and capacity, what was
//! refused or expired, instances, waits.

use crate::report::Report;
use crate::series::Point;
use crate::text::number;
use std::fmt::Write;

/// Width of the plotted area, height of each plot, and what is around them, in pixels.
const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 120.0;
const MARGIN: f64 = 64.0;
const GAP: f64 = 44.0;
const TOP: f64 = 56.0;

/// One line: its name, colour, and value at a point.
type Line = (&'static str, &'static str, fn(&Point) -> f64);

/// The plots: what and in which unit, and their lines.
const PLOTS: [(&str, &[Line]); 4] = [
    (
        "slots",
        &[
            ("capacity", "#8e44ad", |point| point.slots),
            ("load: all requests, if each were taken at once", "#2471a3", |point| point.offered),
            ("in flight", "#0a7d4f", |point| point.in_flight),
        ],
    ),
    (
        "requests/s not done",
        &[
            ("refused", "#c0392b", |point| point.shed as f64 / point.seconds),
            ("expired", "#d68910", |point| point.expired as f64 / point.seconds),
        ],
    ),
    ("instances", &[("instances", "#34495e", |point| point.instances)]),
    (
        "wait, ms",
        &[("longest", "#d68910", |point| point.wait_most_ms), ("mean", "#0a7d4f", |point| point.wait_mean_ms)],
    ),
];

/// Draws it, with a title.
pub fn svg(report: &Report, title: &str) -> String {
    let points = &report.series.points;
    let ends = points.last().map_or(1.0, |last| last.from_s + last.seconds);
    let height = TOP + PLOTS.len() as f64 * (HEIGHT + GAP) + 24.0;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{}\" height=\"{height}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>\
         <text x=\"{MARGIN}\" y=\"22\" font-size=\"15\">{}</text>",
        WIDTH + 2.0 * MARGIN,
        escaped(title)
    );
    for (index, (unit, lines)) in PLOTS.iter().enumerate() {
        let top = TOP + index as f64 * (HEIGHT + GAP);
        plot(&mut text, top, unit, lines, points, ends);
    }
    times(&mut text, ends, height - 24.0);
    text.push_str("</svg>\n");
    text
}

fn plot(text: &mut String, top: f64, unit: &str, lines: &[Line], points: &[Point], ends: f64) {
    let values = lines.iter().flat_map(|(_, _, value)| points.iter().map(value));
    let most = round_up(values.fold(0.0, f64::max));
    let (x, y) = (|second: f64| MARGIN + second / ends * WIDTH, |value: f64| top + HEIGHT * (1.0 - value / most));
    for share in [0.0, 0.5, 1.0] {
        let at = y(share * most);
        let _ = write!(
            text,
            "<line x1=\"{MARGIN}\" x2=\"{}\" y1=\"{at}\" y2=\"{at}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>",
            MARGIN + WIDTH,
            MARGIN - 6.0,
            at + 4.0,
            short(share * most)
        );
    }
    let _ = write!(text, "<text x=\"{MARGIN}\" y=\"{}\" font-weight=\"bold\">{unit}</text>", top - 8.0);
    let mut beside = MARGIN + 150.0;
    for (name, colour, value) in lines {
        // Each point is a step: as high from its beginning to its end.
        let steps = points.iter().flat_map(|point| {
            let at = y(value(point));
            [(x(point.from_s), at), (x(point.from_s + point.seconds), at)]
        });
        let path: Vec<String> = steps.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"1.5\"/>\
             <text x=\"{beside}\" y=\"{}\" fill=\"{colour}\">{name}</text>",
            path.join(" "),
            top - 8.0
        );
        beside += 24.0 + 6.6 * name.len() as f64;
    }
}

/// Ticks of the axis of time: every so many seconds, the unit, and its seconds.
const TICKS: [(f64, &str, f64); 14] = [
    (1.0, "s", 1.0),
    (5.0, "s", 1.0),
    (10.0, "s", 1.0),
    (30.0, "s", 1.0),
    (60.0, "min", 60.0),
    (300.0, "min", 60.0),
    (600.0, "min", 60.0),
    (1_800.0, "h", 3_600.0),
    (3_600.0, "h", 3_600.0),
    (10_800.0, "h", 3_600.0),
    (43_200.0, "d", 86_400.0),
    (86_400.0, "d", 86_400.0),
    (864_000.0, "d", 86_400.0),
    (8_640_000.0, "d", 86_400.0),
];
/// Most ticks, where a unit has them so close.
const TICKS_MAX: f64 = 14.0;

/// The axis of time.
fn times(text: &mut String, ends: f64, y: f64) {
    let fits = |(every, ..): &(f64, &str, f64)| ends / every <= TICKS_MAX;
    let (every, unit, length) = TICKS.into_iter().find(fits).unwrap_or((ends / TICKS_MAX, "d", 86_400.0));
    for tick in 0..=(ends / every) as u32 {
        let second = every * f64::from(tick);
        let (x, told) = (MARGIN + WIDTH * second / ends, short(second / length));
        let _ = write!(text, "<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\">{told} {unit}</text>");
    }
}

/// A number without zeros that say nothing.
fn short(value: f64) -> String {
    let text = number(value);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// The next of 1, 2 or 5 times a power of ten, so that a scale can be read; at least a little.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(value)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
