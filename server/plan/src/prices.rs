//! What instances have and cost: a table in TOML, checked row by row, and what can be bought of it at one rate.
//!
//! Read by the caller from a file, or as it is built in ([`Prices::built_in`]). Never asks anybody: `server/plan/prices.toml`
//! says where its numbers are from and how they are refreshed.
//!
//! A table has `region`, a text, and `[[types]]`, one for each type:
//!
//! | field | meaning |
//! |---|---|
//! | `name` | such as `g6.xlarge` |
//! | `vcpu` | virtual cores |
//! | `memory_mib` | host memory, in MiB |
//! | `devices`, `device_memory_mib`, `device` | accelerators, memory of each in MiB, their name; left out if there are none |
//! | `architecture` | `x86_64` or `arm64` |
//! | `zones` | where it is offered; left out for everywhere |
//! | `on_demand_usd_per_hour` | On-Demand price, in US dollars an hour |
//! | `spot_usd_per_hour`, `savings_plan_usd_per_hour` | these rates, if there are any |
//! | `source`, `date` | where the prices are from, and of which day (`YYYY-MM-DD`) |

use penstock_scaler::{Architecture, InstanceType, Shape};
use serde::Deserialize;

/// The table that is taken if no other is given.
const BUILT_IN: &str = include_str!("../prices.toml");
/// Most types.
const TYPES_MAX: usize = 10_000;
/// Highest price of an hour, in US dollars.
const USD_MAX: f64 = 100_000.0;

/// A table of prices.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Prices {
    /// Where they hold.
    pub region: String,
    types: Vec<Row>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    name: String,
    vcpu: u32,
    memory_mib: u64,
    #[serde(default)]
    devices: u32,
    #[serde(default)]
    device_memory_mib: u64,
    device: Option<String>,
    architecture: Processor,
    zones: Option<Vec<String>>,
    on_demand_usd_per_hour: f64,
    spot_usd_per_hour: Option<f64>,
    savings_plan_usd_per_hour: Option<f64>,
    source: String,
    date: String,
}

#[derive(Clone, Copy, PartialEq, Debug, Deserialize)]
enum Processor {
    #[serde(rename = "x86_64")]
    X86,
    #[serde(rename = "arm64")]
    Arm,
}

/// Which price is paid.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Rate {
    /// On-Demand.
    OnDemand,
    /// Spot.
    Spot,
    /// A savings plan's.
    SavingsPlan,
}

/// What can be bought, at one rate.
#[derive(Clone, PartialEq, Debug)]
pub struct Market {
    /// Types that have the rate.
    pub offers: Vec<Offer>,
    /// Names of those that do not: they are not bought.
    pub without_rate: Vec<String>,
    /// The rate.
    pub rate: Rate,
    /// Dates of the prices: the first and the last.
    pub dates: Option<(String, String)>,
}

/// A type that can be bought.
#[derive(Clone, PartialEq, Debug)]
pub struct Offer {
    /// Its shape, its zones, and its price as the scaler compares it.
    pub instance_type: InstanceType,
    /// What an hour costs, in millionths of a US dollar.
    pub micro_usd_per_hour: u64,
    /// What an hour costs On-Demand, on which a management fee is paid, in millionths of a US dollar.
    pub on_demand_micro_usd_per_hour: u64,
}

/// Why a table cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PricesError {
    /// It is no TOML, or has other fields.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// A field of a type is wrong.
    #[error("type {name:?}: {field}: found {found}; right is {right}")]
    Field {
        /// The type.
        name: String,
        /// The field.
        field: &'static str,
        /// What is there.
        found: String,
        /// What would be right.
        right: &'static str,
    },
    /// There are none, or too many.
    #[error("{0} types; right is 1 to {TYPES_MAX} of `[[types]]`")]
    Types(usize),
}

impl Rate {
    /// As it is written on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Rate::OnDemand => "on-demand",
            Rate::Spot => "spot",
            Rate::SavingsPlan => "savings-plan",
        }
    }
}

impl Prices {
    /// The table in `server/plan/prices.toml`.
    pub fn built_in() -> Self {
        Self::parse(BUILT_IN).expect("a test reads it")
    }

    /// Reads a table. Errors: it is no TOML, a field is missing, not known or wrong, a name comes twice.
    pub fn parse(text: &str) -> Result<Self, PricesError> {
        let prices: Self = toml::from_str(text)?;
        if prices.types.is_empty() || prices.types.len() > TYPES_MAX {
            return Err(PricesError::Types(prices.types.len()));
        }
        for (index, row) in prices.types.iter().enumerate() {
            row.check()?;
            if prices.types[..index].iter().any(|before| before.name == row.name) {
                return Err(row.wrong("name", row.name.clone(), "each type once"));
            }
        }
        Ok(prices)
    }

    /// What can be bought at a rate. Types whose zones are not said are offered in all of `zones`.
    pub fn at(&self, rate: Rate, zones: &[String]) -> Market {
        let (mut offers, mut without_rate) = (Vec::new(), Vec::new());
        for row in &self.types {
            match row.usd_per_hour(rate) {
                Some(usd_per_hour) => offers.push(row.offer(usd_per_hour, zones)),
                None => without_rate.push(row.name.clone()),
            }
        }
        let dates = self.types.iter().map(|row| &row.date);
        let dates = dates.clone().min().cloned().zip(dates.max().cloned());
        Market { offers, without_rate, rate, dates }
    }
}

impl Row {
    fn wrong(&self, field: &'static str, found: String, right: &'static str) -> PricesError {
        PricesError::Field { name: self.name.clone(), field, found, right }
    }

    fn check(&self) -> Result<(), PricesError> {
        if self.name.is_empty() {
            return Err(self.wrong("name", "nothing".into(), "a type, such as g6.xlarge"));
        }
        if self.vcpu == 0 || self.memory_mib == 0 {
            let found = format!("{} and {}", self.vcpu, self.memory_mib);
            return Err(self.wrong("vcpu and memory_mib", found, "both at least 1"));
        }
        if (self.devices == 0) != (self.device_memory_mib == 0) || self.devices > 64 {
            let found = format!("{} and {}", self.devices, self.device_memory_mib);
            return Err(self.wrong(
                "devices and device_memory_mib",
                found,
                "both at least 1, devices at most 64, or neither",
            ));
        }
        let rates = [
            ("on_demand_usd_per_hour", Some(self.on_demand_usd_per_hour)),
            ("spot_usd_per_hour", self.spot_usd_per_hour),
            ("savings_plan_usd_per_hour", self.savings_plan_usd_per_hour),
        ];
        for (field, usd) in rates {
            if let Some(usd) = usd.filter(|usd| micro_usd(*usd) == 0 || *usd > USD_MAX) {
                return Err(self.wrong(
                    field,
                    usd.to_string(),
                    "US dollars an hour, at least 0.000001, at most 100000",
                ));
            }
        }
        let is_date = self.date.len() == 10 && self.date.split('-').map(str::len).eq([4, 2, 2]);
        if !is_date {
            return Err(self.wrong("date", self.date.clone(), "YYYY-MM-DD"));
        }
        if self.source.is_empty() {
            return Err(self.wrong("source", "nothing".into(), "where the prices are from"));
        }
        if self.zones.as_ref().is_some_and(Vec::is_empty) || self.device.as_ref().is_some_and(String::is_empty) {
            return Err(self.wrong("zones or device", "nothing".into(), "something, or the field left out"));
        }
        Ok(())
    }

    fn usd_per_hour(&self, rate: Rate) -> Option<f64> {
        match rate {
            Rate::OnDemand => Some(self.on_demand_usd_per_hour),
            Rate::Spot => self.spot_usd_per_hour,
            Rate::SavingsPlan => self.savings_plan_usd_per_hour,
        }
    }

    fn offer(&self, usd_per_hour: f64, zones: &[String]) -> Offer {
        let architecture = match self.architecture {
            Processor::X86 => Architecture::X86,
            Processor::Arm => Architecture::Arm,
        };
        let shape = Shape {
            vcpu: self.vcpu,
            memory_mib: self.memory_mib,
            devices: self.devices,
            device_memory_mib: self.device_memory_mib,
            architecture,
        };
        let zones = self.zones.clone().unwrap_or_else(|| zones.to_vec());
        Offer {
            instance_type: InstanceType { name: self.name.clone(), shape, usd_per_hour, zones },
            micro_usd_per_hour: micro_usd(usd_per_hour),
            on_demand_micro_usd_per_hour: micro_usd(self.on_demand_usd_per_hour),
        }
    }
}

/// AWS's prices have six decimals.
fn micro_usd(usd: f64) -> u64 {
    (usd * 1e6).round().max(0.0) as u64
}
