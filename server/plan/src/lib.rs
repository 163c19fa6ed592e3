//! The plan of a load: what the product's scaler would do with it, on which instances, and what that would cost. Pure
//! computation under a simulated clock.
//!
//! Called by `penstock plan`. Never reads a clock, starts nothing, asks nobody for prices: a load, a table of prices and the
//! options go in, a [`Report`] comes out, and the same input always gives the same.
//!
//! **What is simulated.** Every single request: it comes, takes a slot, waits in the bounded line where no environment is
//! ready, or is refused; it runs, and is done or expires. The rules are those of the dispatch room: two random choices among the
//! environments with a free slot; who finds environments and no slot is refused; who finds no environment lines up, unless
//! starting one would take longer than its deadline leaves; who waits in line comes before who comes later. An environment runs
//! as many requests at once as it has workers; what else has a slot waits in its queue. One that is taken away gets no more and
//! goes when it is empty. Every interval the same [`decide`](penstock_scaler::decide) as in the product sees the same signals,
//! and what it wants goes to the same [`plan_instances`](penstock_scaler::plan_instances).
//!
//! **What is not.** Requests of one version only; no batches, so a request's service time is what it takes beside as many
//! neighbours as it may have; a request that is late frees its slot and its worker at its deadline; nothing fails, and every
//! type can be had whenever it is asked for. Slots that a function reserves and limits beyond an environment's are left out.
//!
//! **What is paid.** Each instance from its launch until it is given back, by the second, a minute at least, as EC2 bills
//! Linux: what is still there when the run ends is paid until then.

mod books;
mod ceilings;
mod events;
mod level;
mod load;
mod machines;
mod plot;
mod pool;
mod prices;
mod report;
mod scaling;
mod scenario;
mod series;
mod synthetic;
mod text;
mod trace;
mod world;

pub use ceilings::{Ceilings, Fixed};
pub use load::{Arrival, Load, Source};
pub use plot::svg;
pub use prices::{Market, Offer, Prices, PricesError, Rate};
pub use report::{Cost, OfType, Report, Steps, Totals, Wait};
pub use scenario::{Environments, Fees, Requests, Scenario, WrongOption};
pub use series::{Point, Series};
pub use synthetic::{LoadShape, SHAPES, Service, Spread, Synthetic};
pub use text::{over_time, totals};
pub use trace::{Format, ServiceTimes, Trace, TraceError};

use std::time::Instant;

/// Runs a load through the scaler, from its first request until its last has ended. `origin` stands for the moment at which the
/// load begins: any will do, only differences count. Errors: an option is wrong; what is found and what would be right is said.
pub fn plan(load: &Load, scenario: &Scenario, origin: Instant) -> Result<Report, WrongOption> {
    load.check()?;
    scenario.check()?;
    Ok(report::report(load, scenario, world::World::run(load, scenario, origin), origin))
}

#[cfg(test)]
mod tests;
