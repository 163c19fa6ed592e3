//! Loads that are made up: a rate over time, and requests that come independently of each other at that rate.
//!
//! Read from what people write (`step:rate=20,to=200,at=300,seconds=900`), drawn from a seed, one request at a time.

use crate::load::{Arrival, SERVICE_MAX_NS};
use crate::scenario::WrongOption;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::time::Duration;

/// What can be written: name, members, meaning. Rates are in requests a second, times in seconds.
pub const SHAPES: [(&str, &str, &str); 4] = [
    ("constant", "rate, seconds", "always the same rate"),
    ("step", "rate, to, at, seconds", "rate, and from second `at` on the rate `to`"),
    (
        "diurnal",
        "rate, swing, period, seconds",
        "rate on average, from rate × (1 - swing) at the start to rate × (1 + swing) half a period later, and back; swing 0 to 1",
    ),
    ("spikes", "rate, to, every, for, seconds", "rate, but `to` for the last `for` seconds of every `every`"),
];

/// Most requests a second.
const RATE_MAX: f64 = 1e7;
/// Longest load: ten years.
const SECONDS_MAX: f64 = 315_576_000.0;
/// What is right, in one text: errors have no room for a list.
const RIGHT: &str = "constant:rate=R,seconds=S, step:rate=R,to=R,at=S,seconds=S, diurnal:rate=R,swing=0..1,period=S,seconds=S \
                     or spikes:rate=R,to=R,every=S,for=S,seconds=S, with R in requests/s up to 1e7";

/// A rate over time. Rates in requests a second, times in seconds.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum LoadShape {
    /// Always the same.
    Constant {
        /// The rate.
        rate: f64,
        /// For so long.
        seconds: f64,
    },
    /// One rate, then another.
    Step {
        /// The first.
        rate: f64,
        /// The second.
        to: f64,
        /// From when on.
        at: f64,
        /// For so long in all.
        seconds: f64,
    },
    /// Day and night, beginning in the night: a cosine.
    Diurnal {
        /// On average.
        rate: f64,
        /// By how much of the average it is more or less at most.
        swing: f64,
        /// A day.
        period: f64,
        /// For so long in all.
        seconds: f64,
    },
    /// Again and again a much higher rate.
    Spikes {
        /// In between.
        rate: f64,
        /// In a spike.
        to: f64,
        /// From the end of one to the end of the next.
        every: f64,
        /// How long each is.
        length: f64,
        /// For so long in all.
        seconds: f64,
    },
}

/// How long workers run requests.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Service {
    /// On average.
    pub mean: Duration,
    /// How they differ.
    pub spread: Spread,
}

/// How service times differ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Spread {
    /// All alike.
    Fixed,
    /// Exponentially: many short, a few long ones.
    Exponential,
}

/// A load that is made up.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Synthetic {
    /// When requests come.
    pub shape: LoadShape,
    /// How long they run.
    pub service: Service,
}

impl LoadShape {
    /// Reads what people write. Errors: no such shape; a member is missing, is not known, is no number or is out of bounds.
    pub fn parse(text: &str) -> Result<Self, WrongOption> {
        Self::read(text).ok_or_else(|| WrongOption { field: "synthetic", found: format!("{text:?}"), right: RIGHT })
    }

    fn read(text: &str) -> Option<Self> {
        let (name, members) = text.split_once(':')?;
        let mut given = BTreeMap::new();
        for member in members.split(',') {
            let (key, value) = member.split_once('=')?;
            let value: f64 = value.trim().parse().ok()?;
            if given.insert(key.trim(), value).is_some() {
                return None;
            }
        }
        let mut take = |key: &str| given.remove(key);
        let rate = take("rate")?;
        let seconds = take("seconds")?;
        let shape = match name.trim() {
            "constant" => LoadShape::Constant { rate, seconds },
            "step" => LoadShape::Step { rate, to: take("to")?, at: take("at")?, seconds },
            "diurnal" => LoadShape::Diurnal { rate, swing: take("swing")?, period: take("period")?, seconds },
            "spikes" => {
                LoadShape::Spikes { rate, to: take("to")?, every: take("every")?, length: take("for")?, seconds }
            }
            _ => return None,
        };
        (given.is_empty() && shape.is_sound()).then_some(shape)
    }

    fn is_sound(&self) -> bool {
        let time = |seconds: f64| seconds > 0.0 && seconds <= SECONDS_MAX;
        let rate = |rate: f64| (0.0..=RATE_MAX).contains(&rate);
        self.most() > 0.0
            && time(self.seconds())
            && match *self {
                LoadShape::Constant { rate: one, .. } => rate(one),
                LoadShape::Step { rate: one, to, at, .. } => rate(one) && rate(to) && at >= 0.0,
                LoadShape::Diurnal { rate: one, swing, period, .. } => {
                    rate(one) && (0.0..=1.0).contains(&swing) && time(period)
                }
                LoadShape::Spikes { rate: one, to, every, length, .. } => {
                    rate(one) && rate(to) && time(every) && time(length) && length <= every
                }
            }
    }

    /// How long it is.
    fn seconds(&self) -> f64 {
        match *self {
            LoadShape::Constant { seconds, .. }
            | LoadShape::Step { seconds, .. }
            | LoadShape::Diurnal { seconds, .. }
            | LoadShape::Spikes { seconds, .. } => seconds,
        }
    }

    /// The rate at a second.
    fn rate(&self, second: f64) -> f64 {
        match *self {
            LoadShape::Constant { rate, .. } => rate,
            LoadShape::Step { rate, to, at, .. } => {
                if second < at {
                    rate
                } else {
                    to
                }
            }
            LoadShape::Diurnal { rate, swing, period, .. } => {
                rate * (1.0 - swing * (std::f64::consts::TAU * second / period).cos())
            }
            LoadShape::Spikes { rate, to, every, length, .. } => {
                if second % every < every - length {
                    rate
                } else {
                    to
                }
            }
        }
    }

    /// The highest rate.
    fn most(&self) -> f64 {
        match *self {
            LoadShape::Constant { rate, .. } => rate,
            LoadShape::Step { rate, to, .. } | LoadShape::Spikes { rate, to, .. } => rate.max(to),
            LoadShape::Diurnal { rate, swing, .. } => rate * (1.0 + swing),
        }
    }
}

impl Synthetic {
    pub(crate) fn check(&self) -> Result<(), WrongOption> {
        if !self.shape.is_sound() {
            return Err(WrongOption { field: "synthetic", found: format!("{:?}", self.shape), right: RIGHT });
        }
        if self.service.mean > Duration::from_nanos(SERVICE_MAX_NS) {
            let found = format!("{:?}", self.service.mean.as_secs_f64() * 1e3);
            return Err(WrongOption { field: "service-ms", found, right: "at most 86400000, which is a day" });
        }
        Ok(())
    }

    /// As many as there would be if the highest rate were the only one.
    pub(crate) fn requests_most(&self) -> f64 {
        self.shape.most() * self.shape.seconds()
    }

    pub(crate) fn span_ns(&self) -> u64 {
        (self.shape.seconds() * 1e9) as u64
    }

    /// A Poisson process whose rate changes: drawn at the highest rate and thinned (Lewis and Shedler, "Simulation of
    /// nonhomogeneous Poisson processes by thinning", 1979).
    pub(crate) fn arrivals(&self, seed: u64) -> impl Iterator<Item = Arrival> + use<> {
        let Self { shape, service } = *self;
        let (most, ends, mean_ns) = (shape.most(), shape.seconds(), service.mean.as_nanos() as f64);
        let (mut random, mut second) = (SmallRng::seed_from_u64(seed), 0.0);
        std::iter::from_fn(move || {
            loop {
                second += exponential(&mut random) / most;
                if second >= ends {
                    return None;
                }
                let rate = shape.rate(second);
                if rate < most && random.random::<f64>() * most >= rate {
                    continue;
                }
                let factor = match service.spread {
                    Spread::Fixed => 1.0,
                    Spread::Exponential => exponential(&mut random),
                };
                let service_ns = (mean_ns * factor) as u64;
                return Some(Arrival { at_ns: (second * 1e9) as u64, service_ns: service_ns.min(SERVICE_MAX_NS) });
            }
        })
    }
}

/// A draw with the mean 1.
fn exponential(random: &mut SmallRng) -> f64 {
    -(1.0 - random.random::<f64>()).ln()
}
