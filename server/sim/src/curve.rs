//! Goodput: how much is done in time at which load, with deadlines that the house is told and with the same deadlines
//! kept from it. As CSV and as a picture.

use crate::arrivals::Arrivals;
use crate::script::{Request, Script};
use crate::world::{How, run};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use std::fmt::Write;
use std::time::Duration;

/// Offered load in multiples of what the house can do.
const LOADS: [f64; 9] = [0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0];
/// Environments that are not told of deadlines have slots for so many, which is no bound here.
const SLOTS_OFF: u32 = 1 << 20;
/// Default of `environments.concurrency`.
const SLOTS_ON: u32 = 512;

/// One point.
#[derive(Clone, Debug)]
pub struct Point {
    /// Offered, in multiples of the capacity.
    pub load: f64,
    /// Whether the house was told the deadlines.
    pub policies: bool,
    /// Requests a second that can be done.
    pub capacity_rps: f64,
    /// Requests a second that were done in time.
    pub goodput_rps: f64,
    /// Of those that were done: time that 99 in 100 took less than.
    pub p99_ms: f64,
    /// Share of the requests that were refused.
    pub refused: f64,
}

/// What is asked of each point.
#[derive(Clone, Debug)]
pub struct Question {
    /// Of the arrivals.
    pub seed: u64,
    /// Simulated seconds of load.
    pub seconds: f64,
    /// How requests come.
    pub arrivals: Arrivals,
    /// In which time they are of use; a batch takes 10 ms.
    pub timeout: Duration,
}

/// All points of a curve.
pub fn points(question: &Question) -> Vec<Point> {
    let settings = LOADS.iter().flat_map(|load| [(*load, true), (*load, false)]);
    settings.map(|(load, policies)| point(question, load, policies)).collect()
}

fn point(question: &Question, load: f64, policies: bool) -> Point {
    let Question { seed, seconds, ref arrivals, timeout } = *question;
    let mut script = Script {
        seed,
        environments: 1,
        scaling: None,
        start_time: Duration::ZERO,
        workers: 1,
        max_batch: 8,
        dynamic: true,
        max_delay: Duration::ZERO,
        priority_levels: 0,
        standing_wait: Duration::ZERO,
        slots: if policies { SLOTS_ON } else { SLOTS_OFF },
        concurrency: SLOTS_OFF,
        one_device: false,
        device_depth: 1,
        fixed: Duration::from_millis(10),
        per_item: Duration::ZERO,
        jitter: 0.05,
        run_timeout: Duration::from_secs(60),
        requests: Vec::new(),
        faults: Vec::new(),
    };
    let capacity_rps = script.capacity();
    let count = (load * capacity_rps * seconds) as usize;
    let told = policies.then_some(timeout);
    script.requests = arrivals
        .draw(count, load * capacity_rps, &mut SmallRng::seed_from_u64(seed))
        .into_iter()
        .map(|at| Request { at, items: 1, timeout: told, leaves: None, priority: 0, caller: None, deadly: false })
        .collect();
    let loaded = script.requests.last().map_or(seconds, |request| request.at.as_secs_f64());
    let happened = run(&script, None);
    let ends = || happened.ends.iter().filter(|end| end.number < happened.probes_from);
    let done = || ends().filter(|end| end.how == How::Done);
    let good = done().filter(|end| end.ended - end.came <= timeout).count();
    let mut took: Vec<Duration> = done().map(|end| end.ended - end.came).collect();
    took.sort_unstable();
    let p99 = took.get(took.len() * 99 / 100).copied().unwrap_or_default();
    let refused = ends().filter(|end| matches!(end.how, How::Refused(_))).count();
    Point {
        load,
        policies,
        capacity_rps,
        goodput_rps: good as f64 / loaded,
        p99_ms: p99.as_secs_f64() * 1e3,
        refused: refused as f64 / count.max(1) as f64,
    }
}

/// A table with a header.
pub fn csv(points: &[Point]) -> String {
    let mut text = String::from("load,policies,capacity_rps,goodput_rps,p99_ms,refused\n");
    for p in points {
        let policies = if p.policies { "on" } else { "off" };
        let _ = writeln!(
            text,
            "{},{policies},{:.0},{:.0},{:.1},{:.4}",
            p.load, p.capacity_rps, p.goodput_rps, p.p99_ms, p.refused
        );
    }
    text
}

/// Width and height of the plotted area, and what is around it, in pixels.
const AREA: (f64, f64, f64) = (560.0, 280.0, 60.0);

/// Goodput as a share of the capacity over the load, which is logarithmic: an SVG that needs nothing else.
pub fn svg(points: &[Point], timeout: Duration) -> String {
    let (width, height, margin) = AREA;
    let (least, most) = (LOADS[0].ln(), LOADS[LOADS.len() - 1].ln());
    let x = |load: f64| margin + (load.ln() - least) / (most - least) * width;
    let y = |share: f64| margin + height * (1.0 - share.min(1.0));
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" font-family=\"sans-serif\" \
         font-size=\"12\"><rect width=\"100%\" height=\"100%\" fill=\"white\"/>\
         <text x=\"{margin}\" y=\"30\" font-size=\"15\">Done within {} ms, as a share of capacity (simulated)</text>",
        timeout.as_millis(),
        w = width + 2.0 * margin,
        h = height + 2.0 * margin
    );
    for share in [0.0, 0.25, 0.5, 0.75, 1.0] {
        let (at, right) = (y(share), margin + width);
        let _ = write!(
            text,
            "<line x1=\"{margin}\" x2=\"{right}\" y1=\"{at}\" y2=\"{at}\" stroke=\"#ddd\"/>\
             <text x=\"{}\" y=\"{}\" text-anchor=\"end\">{:.0} %</text>",
            margin - 6.0,
            at + 4.0,
            share * 100.0
        );
    }
    for load in LOADS {
        let (at, below) = (x(load), margin + height + 18.0);
        let _ = write!(text, "<text x=\"{at}\" y=\"{below}\" text-anchor=\"middle\">{load}×</text>");
    }
    let curves = [(true, "#0a7d4f", "deadlines told"), (false, "#c0392b", "deadlines kept from the house")];
    for (index, (policies, colour, name)) in curves.into_iter().enumerate() {
        let of = points.iter().filter(|point| point.policies == policies);
        let path: Vec<String> =
            of.map(|p| format!("{:.1},{:.1}", x(p.load), y(p.goodput_rps / p.capacity_rps))).collect();
        let below = margin + height + 40.0;
        let _ = write!(
            text,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2.5\"/>\
             <text x=\"{}\" y=\"{below}\" fill=\"{colour}\">{name}</text>",
            path.join(" "),
            margin + 240.0 * index as f64
        );
    }
    text.push_str("</svg>\n");
    text
}
