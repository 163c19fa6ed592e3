//! What instances cost, and whom for. Pure: `now` is an argument.
//!
//! Kept by the fleet. An environment's part of its instance's price is its part of the cores that environments may have there;
//! what nobody has is nobody's, under the empty name.

use crate::roster::{Entry, Leased};
use std::collections::BTreeMap;
use std::time::Instant;

/// Functions that are remembered when they have no environments any more.
const KNOWN_MAX: usize = 1024;

/// Prices an hour now, and what they came to, in US dollars, by function.
#[derive(Default)]
pub(crate) struct Costs {
    looked: Option<Instant>,
    rates: BTreeMap<String, f64>,
    accrued: BTreeMap<String, f64>,
    /// Of that, millionths of US dollars that were told.
    told: BTreeMap<String, u64>,
}

/// Of one function.
#[derive(Clone, Debug, PartialEq)]
pub struct FunctionCost {
    /// Its name; empty for what no environment has.
    pub function: String,
    /// US dollars an hour, as it is now.
    pub usd_per_hour: f64,
    /// US dollars since the server's start.
    pub usd: f64,
}

impl Costs {
    /// Takes note of what there is now: what was before cost until now.
    pub(crate) fn look(&mut self, instances: &BTreeMap<String, Entry>, price: impl Fn(&Entry) -> f64, now: Instant) {
        let hours = self.looked.map_or(0.0, |at| now.saturating_duration_since(at).as_secs_f64() / 3600.0);
        for (function, rate) in &self.rates {
            *self.accrued.entry(function.clone()).or_default() += rate * hours;
        }
        self.looked = Some(now);
        if self.accrued.len() > KNOWN_MAX {
            let rates = &self.rates;
            self.accrued.retain(|function, _| rates.get(function).is_some_and(|rate| *rate > 0.0));
            let accrued = &self.accrued;
            self.told.retain(|function, _| accrued.contains_key(function));
        }
        self.rates.retain(|_, rate| *rate > 0.0);
        self.rates.values_mut().for_each(|rate| *rate = 0.0);
        for entry in instances.values() {
            let (price, cores) = (price(entry), f64::from(entry.shape.for_environments().0.max(1)));
            let mut unused = price;
            for Leased { version, needs, .. } in entry.leases.values() {
                let part = (price * f64::from(needs.vcpu) / cores).min(unused);
                unused -= part;
                let function = version.rsplit_once(':').map_or(version.as_str(), |(function, _)| function);
                *self.rates.entry(function.to_owned()).or_default() += part;
            }
            *self.rates.entry(String::new()).or_default() += unused;
        }
        for function in self.rates.keys() {
            self.accrued.entry(function.clone()).or_default();
        }
    }

    /// What a function has come to since it was last asked for, in millionths of US dollars.
    pub(crate) fn untold_microusd(&mut self, cost: &FunctionCost) -> u64 {
        let (all, told) = ((cost.usd * 1e6) as u64, self.told.entry(cost.function.clone()).or_default());
        let more = all.saturating_sub(*told);
        *told += more;
        more
    }

    pub(crate) fn of_all(&self) -> Vec<FunctionCost> {
        let of = |(function, usd): (&String, &f64)| FunctionCost {
            function: function.clone(),
            usd_per_hour: self.rates.get(function).copied().unwrap_or(0.0),
            usd: *usd,
        };
        self.accrued.iter().map(of).collect()
    }
}
