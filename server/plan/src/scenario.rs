//! What is asked: one version's environments, its requests' limits, the scaler's policy, what may be bought, and fees.
//!
//! Made by the caller, checked before a run; its fields have the names of the options of `penstock plan`.

use crate::prices::Market;
use penstock_scaler::{Bounds, Needs, Policy, Rules};
use std::time::Duration;

/// Most slots of an environment, and most places in the line, as in the product.
const SLOTS_MAX: u32 = 65_536;
const WAITING_MAX: u32 = 1 << 20;
/// Most environments.
const ENVIRONMENTS_MAX: u32 = 1_000_000;
/// Most cores of all instances.
const VCPU_MAX: u32 = 1 << 30;
/// Longest start of an instance or environment.
const START_MAX: Duration = Duration::from_secs(3600);
/// Longest deadline, patience, and time that an instance is empty.
const WAIT_MAX: Duration = Duration::from_secs(7 * 86_400);
/// Intervals of the control loop, as in the product.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(10));
/// Highest headroom.
const HEADROOM_MAX: f64 = 10.0;
/// Highest management fee, as a part of the On-Demand price, and fee for a million requests, in US dollars.
const MANAGEMENT_MAX: f64 = 10.0;
const PER_MILLION_MAX: f64 = 1_000_000.0;

/// An option that is wrong.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("--{field}: found {found}; right is {right}")]
pub struct WrongOption {
    /// The option, as on the command line, without dashes.
    pub field: &'static str,
    /// What was found.
    pub found: String,
    /// What would be right.
    pub right: &'static str,
}

/// The version's environments.
#[derive(Clone, PartialEq, Debug)]
pub struct Environments {
    /// Requests that one takes at once, waiting or running.
    pub slots: u32,
    /// Requests that one runs at once; at most its slots.
    pub workers: u32,
    /// What one takes of an instance.
    pub needs: Needs,
    /// How many there may be. The least are ready when the load begins.
    pub bounds: Bounds,
    /// From having its place on an instance to being ready.
    pub start: Duration,
}

/// What requests are granted.
#[derive(Clone, PartialEq, Debug)]
pub struct Requests {
    /// Places in the line of those that wait for an environment.
    pub waiting: u32,
    /// From coming to being done; `None` for as long as it takes.
    pub deadline: Option<Duration>,
    /// How long one waits in line at most.
    pub patience: Duration,
}

/// What is paid beside instances.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Fees {
    /// A part of the instances' On-Demand price, whatever rate is paid: 0.15 is 15 %.
    pub management: f64,
    /// For a million requests that environments took, in US dollars.
    pub usd_per_million: f64,
}

/// What is asked.
#[derive(Clone, PartialEq, Debug)]
pub struct Scenario {
    /// The version's environments.
    pub environments: Environments,
    /// What its requests are granted.
    pub requests: Requests,
    /// How environments come and go.
    pub policy: Policy,
    /// How often the scaler looks.
    pub interval: Duration,
    /// What may be bought. An instance must be able to start within its start timeout.
    pub rules: Rules,
    /// From asking for an instance to its taking environments.
    pub instance_start: Duration,
    /// What can be bought.
    pub market: Market,
    /// What else is paid.
    pub fees: Fees,
    /// Of the choices among environments.
    pub seed: u64,
}

impl Scenario {
    pub(crate) fn check(&self) -> Result<(), WrongOption> {
        let right = |holds: bool, field, found: String, right| match holds {
            true => Ok(()),
            false => Err(WrongOption { field, found, right }),
        };
        let Self { environments, requests, policy, rules, fees, .. } = self;
        let Environments { slots, workers, bounds, .. } = environments;
        right((1..=SLOTS_MAX).contains(slots), "slots", slots.to_string(), "1 to 65536")?;
        right((1..=*slots).contains(workers), "workers", workers.to_string(), "1 to the environment's slots")?;
        right(environments.needs.vcpu > 0, "vcpu", "0".into(), "at least 1")?;
        let most = bounds.max;
        right((1..=ENVIRONMENTS_MAX).contains(&most), "environments-max", most.to_string(), "1 to 1000000")?;
        right(bounds.min <= most, "environments-min", bounds.min.to_string(), "at most --environments-max")?;
        let starts = [("environment-start-s", environments.start), ("instance-start-s", self.instance_start)];
        for (field, start) in starts {
            right(start <= START_MAX, field, start.as_secs_f64().to_string(), "0 to 3600")?;
        }
        right(requests.waiting <= WAITING_MAX, "waiting", requests.waiting.to_string(), "0 to 1048576")?;
        let waits = |wait: Duration| wait > Duration::ZERO && wait <= WAIT_MAX;
        if let Some(deadline) = requests.deadline {
            let found = deadline.as_millis().to_string();
            right(waits(deadline), "deadline-ms", found, "1 to 604800000, or the option left out")?;
        }
        let (patience, empty_after) = (requests.patience, rules.empty_after);
        right(waits(patience), "patience-s", patience.as_secs_f64().to_string(), "above 0, at most 604800")?;
        right(empty_after <= WAIT_MAX, "empty-after-s", empty_after.as_secs_f64().to_string(), "0 to 604800")?;
        let interval = self.interval.as_millis().to_string();
        right(self.interval >= INTERVALS.0 && self.interval <= INTERVALS.1, "interval-ms", interval, "50 to 10000")?;
        let headroom = (policy.headroom * 100.0).to_string();
        right((0.0..=HEADROOM_MAX).contains(&policy.headroom), "headroom-percent", headroom, "0 to 1000")?;
        right((1..=VCPU_MAX).contains(&rules.vcpu_max), "vcpu-max", rules.vcpu_max.to_string(), "1 to 1073741824")?;
        let named = !rules.zones.is_empty() && rules.zones.iter().all(|zone| !zone.is_empty());
        right(named, "zones", format!("{:?}", rules.zones.join(",")), "names, such as us-east-1a,us-east-1b")?;
        let management = (fees.management * 100.0).to_string();
        right((0.0..=MANAGEMENT_MAX).contains(&fees.management), "management-fee-percent", management, "0 to 1000")?;
        let per_million = fees.usd_per_million.to_string();
        right((0.0..=PER_MILLION_MAX).contains(&fees.usd_per_million), "fee-per-million", per_million, "0 to 1000000")?;
        self.check_market()
    }

    /// Something can be bought that is large enough.
    fn check_market(&self) -> Result<(), WrongOption> {
        let Self { market, rules, environments, .. } = self;
        if market.offers.is_empty() {
            let right = "a rate that the table of prices has; the table that is built in has on-demand alone";
            return Err(WrongOption { field: "rate", found: market.rate.name().into(), right });
        }
        let may = |name: &str| rules.may_buy(name);
        if !market.offers.iter().any(|offer| may(&offer.instance_type.name)) {
            let names: Vec<String> = rules.allowed.iter().map(ToString::to_string).collect();
            let right = "patterns that leave a type of the table of prices, such as g6.*";
            return Err(WrongOption { field: "allow", found: format!("{:?}", names.join(",")), right });
        }
        let large = market.offers.iter().filter(|offer| may(&offer.instance_type.name));
        let mut large = large.filter(|offer| offer.instance_type.shape.holds(&environments.needs) > 0).peekable();
        if large.peek().is_none() {
            let needs = environments.needs;
            let architecture = needs.architecture.name();
            let found = format!(
                "no type that has {} vCPU and {} MiB beside its agent's 1 vCPU and 1 GiB, {} MiB in a device, and is {architecture}",
                needs.vcpu, needs.memory_mib, needs.device_memory_mib
            );
            let right = "types that are as large as --vcpu, --memory-mib and --device-memory-mib, and of --arch";
            return Err(WrongOption { field: "allow", found, right });
        }
        if !large.any(|offer| offer.instance_type.zones.iter().any(|zone| rules.zones.contains(zone))) {
            let right = "zones where a type that is allowed and large enough is offered";
            return Err(WrongOption { field: "zones", found: rules.zones.join(","), right });
        }
        Ok(())
    }
}
