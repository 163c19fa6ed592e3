//! Charts as inline SVG: curves over a linear or logarithmic axis, stacked columns, and bars by name.
//!
//! Called by the sections of the report. Colours are names of the page's style sheet, so that they follow light and dark.

use std::fmt::Write;

const WIDTH: f64 = 560.0;
const HEIGHT: f64 = 230.0;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 10.0;
const BOTTOM: f64 = 36.0;

/// One curve, or one layer of stacked columns.
pub(super) struct Series<'a> {
    /// What the legend says.
    pub(super) name: &'a str,
    /// A colour of the style sheet, without the dashes.
    pub(super) colour: &'a str,
    /// Whether the curve is an aid and not a measurement.
    pub(super) dashed: bool,
    /// Points, by x.
    pub(super) points: Vec<(f64, f64)>,
}

/// What a chart is about.
pub(super) struct Labels<'a> {
    pub(super) title: &'a str,
    pub(super) x: &'a str,
    pub(super) y: &'a str,
}

/// Text made safe inside HTML.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

/// A number with as many digits as it needs.
pub(super) fn short(number: f64) -> String {
    match number.abs() {
        n if n >= 1e6 => format!("{:.3}M", number / 1e6),
        n if n >= 1000.0 => {
            let whole = format!("{number:.0}");
            let cut = whole.len() - 3;
            format!("{},{}", &whole[..cut], &whole[cut..])
        }
        n if n >= 100.0 => format!("{number:.0}"),
        n if n >= 10.0 => trimmed(format!("{number:.1}")),
        n if n >= 1.0 => trimmed(format!("{number:.2}")),
        0.0 => "0".to_owned(),
        _ => trimmed(format!("{number:.3}")),
    }
}

fn trimmed(text: String) -> String {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// Round numbers from 0 to at least `highest`, about five of them.
fn linear_ticks(highest: f64) -> Vec<f64> {
    let rough = highest.max(1e-9) / 4.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|n| n * power).find(|step| *step >= rough).unwrap_or(rough);
    let count = (highest / step).ceil().max(1.0) as usize;
    (0..=count).map(|n| n as f64 * step).collect()
}

/// Powers of ten around the values, with 2 and 5 between where there is room.
fn log_ticks(lowest: f64, highest: f64) -> Vec<f64> {
    let (first, last) = (lowest.log10().floor() as i32, highest.log10().ceil() as i32);
    let steps: &[f64] = if last - first <= 2 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let all = (first..=last).flat_map(|power| steps.iter().map(move |n| n * 10f64.powi(power)));
    let all: Vec<f64> = all.collect();
    let from = all.iter().rposition(|tick| *tick <= lowest * 1.001).unwrap_or(0);
    let to = all.iter().position(|tick| *tick >= highest * 0.999).unwrap_or(all.len() - 1);
    all[from..=to.max(from + 1).min(all.len() - 1)].to_vec()
}

struct Axis {
    ticks: Vec<f64>,
    log: bool,
}

impl Axis {
    /// 0 at the first tick, 1 at the last.
    fn share(&self, value: f64) -> f64 {
        let (low, high) = (self.ticks[0], self.ticks[self.ticks.len() - 1]);
        let share =
            if self.log { (value.max(low) / low).ln() / (high / low).ln() } else { (value - low) / (high - low) };
        share.clamp(0.0, 1.0)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - self.share(value) * (HEIGHT - BOTTOM - TOP)
    }
}

fn figure(labels: &Labels<'_>, legend: &[(&str, &str)], body: &str) -> String {
    let keys: String =
        legend.iter().map(|(name, colour)| format!(r#"<i style="--k:var(--{colour})">{}</i>"#, escape(name))).collect();
    let title = escape(labels.title);
    format!(
        r#"<figure><figcaption><span>{title}</span>{keys}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{title}">{body}</svg></figure>"#
    )
}

fn frame(labels: &Labels<'_>, y: &Axis) -> String {
    let mut out = String::new();
    for tick in &y.ticks {
        let at = y.y(*tick);
        let _ = write!(out, r#"<line class="rule" x1="{LEFT}" x2="{}" y1="{at:.1}" y2="{at:.1}"/>"#, WIDTH - RIGHT);
        let _ =
            write!(out, r#"<text x="{}" y="{:.1}" text-anchor="end">{}</text>"#, LEFT - 6.0, at + 4.0, short(*tick));
    }
    let (middle, low) = ((LEFT + WIDTH - RIGHT) / 2.0, HEIGHT - 4.0);
    let _ = write!(out, r#"<text x="{middle}" y="{low}" text-anchor="middle">{}</text>"#, escape(labels.x));
    let turn = (TOP + HEIGHT - BOTTOM) / 2.0;
    let y_name = escape(labels.y);
    let _ = write!(out, r#"<text transform="translate(11 {turn}) rotate(-90)" text-anchor="middle">{y_name}</text>"#);
    out
}

fn across(share: f64) -> f64 {
    LEFT + share * (WIDTH - RIGHT - LEFT)
}

/// Curves; with `log`, the y axis is logarithmic and points at or below 0 are left out.
pub(super) fn curves(labels: &Labels<'_>, series: &[Series<'_>], log: bool) -> String {
    let kept = |point: &&(f64, f64)| !log || point.1 > 0.0;
    let all: Vec<(f64, f64)> = series.iter().flat_map(|s| s.points.iter().filter(kept).copied()).collect();
    if all.is_empty() {
        return figure(labels, &[], r#"<text x="280" y="115" text-anchor="middle">nothing to show</text>"#);
    }
    let top = |of: fn(&(f64, f64)) -> f64| all.iter().map(of).fold(f64::MIN, f64::max);
    let low = all.iter().map(|point| point.1).fold(f64::MAX, f64::min);
    let y = Axis { ticks: if log { log_ticks(low, top(|p| p.1)) } else { linear_ticks(top(|p| p.1)) }, log };
    let x = Axis { ticks: linear_ticks(top(|p| p.0)), log: false };
    let mut out = frame(labels, &y);
    for tick in &x.ticks {
        let (at, low) = (across(x.share(*tick)), HEIGHT - BOTTOM + 14.0);
        let _ = write!(out, r#"<text x="{at:.1}" y="{low}" text-anchor="middle">{}</text>"#, short(*tick));
    }
    for s in series {
        let points: Vec<&(f64, f64)> = s.points.iter().filter(kept).collect();
        let path: Vec<String> = points.iter().map(|p| format!("{:.1},{:.1}", across(x.share(p.0)), y.y(p.1))).collect();
        let dashed = if s.dashed { " dashed" } else { "" };
        let _ = write!(
            out,
            r#"<g style="--k:var(--{})"><polyline class="curve{dashed}" points="{}"/>"#,
            s.colour,
            path.join(" ")
        );
        if !s.dashed && points.len() <= 60 {
            for p in points {
                let (at, name) = ((across(x.share(p.0)), y.y(p.1)), escape(s.name));
                let said = format!("{name}: {} at {}", short(p.1), short(p.0));
                let _ = write!(
                    out,
                    r#"<circle class="dot" cx="{:.1}" cy="{:.1}" r="3"><title>{said}</title></circle>"#,
                    at.0, at.1
                );
            }
        }
        out += "</g>";
    }
    let legend: Vec<(&str, &str)> = series.iter().map(|s| (s.name, s.colour)).collect();
    figure(labels, &legend, &out)
}

/// Columns by name, layers stacked; each layer's points are in the order of `names`.
pub(super) fn columns(labels: &Labels<'_>, names: &[String], layers: &[Series<'_>]) -> String {
    let count = names.len();
    let total = |at: usize| layers.iter().map(|layer| layer.points[at].1).sum::<f64>();
    let y = Axis { ticks: linear_ticks((0..count).map(total).fold(0.0, f64::max)), log: false };
    let mut out = frame(labels, &y);
    let slot = (WIDTH - RIGHT - LEFT) / count.max(1) as f64;
    let width = (slot * 0.78).min(46.0);
    let every = count.div_ceil(14).max(1);
    for (at, name) in names.iter().enumerate() {
        let middle = LEFT + slot * (at as f64 + 0.5);
        let mut base = 0.0;
        for layer in layers {
            let value = layer.points[at].1;
            let (high, low) = (y.y(base + value), y.y(base));
            base += value;
            if value > 0.0 {
                let said = format!("{} at {}: {}", escape(layer.name), escape(name), short(value));
                let (x, colour) = (middle - width / 2.0, layer.colour);
                let _ = write!(
                    out,
                    r#"<rect class="bar" style="--k:var(--{colour})" x="{x:.1}" y="{high:.1}" width="{width:.1}" height="{:.1}"><title>{said}</title></rect>"#,
                    (low - high).max(0.5)
                );
            }
        }
        if at % every == 0 {
            let low = HEIGHT - BOTTOM + 14.0;
            let _ = write!(out, r#"<text x="{middle:.1}" y="{low}" text-anchor="middle">{}</text>"#, escape(name));
        }
    }
    let legend: Vec<(&str, &str)> = layers.iter().filter(|_| layers.len() > 1).map(|s| (s.name, s.colour)).collect();
    figure(labels, &legend, &out)
}

#[cfg(test)]
mod tests {
    use super::{linear_ticks, log_ticks, short};

    #[test]
    fn ticks_are_round_and_cover_the_values() {
        assert_eq!(linear_ticks(37_000.0), [0.0, 10_000.0, 20_000.0, 30_000.0, 40_000.0]);
        assert_eq!(linear_ticks(0.0).len(), 2);
        assert_eq!(log_ticks(0.13, 7.0), [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0]);
        assert_eq!(log_ticks(0.13, 700.0), [0.1, 1.0, 10.0, 100.0, 1000.0]);
        assert!(log_ticks(1.0, 1.0).len() >= 2);
    }

    #[test]
    fn numbers_are_short() {
        let all = [0.0, 0.12, 3.456, 12.0, 250.0, 40_123.4].map(short);
        assert_eq!(all, ["0", "0.12", "3.46", "12", "250", "40,123"]);
    }
}
