//! Who instances come from.
//!
//! Called by the fleet, from tasks of its own. A provider launches and ends; how many, and of which types, is not its business.

use crate::protocol::Told;
use async_trait::async_trait;
use penstock_scaler::Shape;
use std::collections::BTreeMap;
use std::io;

/// Instances that are wanted at once: alike, and of any of some types.
#[derive(Clone, Debug)]
pub struct Order {
    /// The order's own, never used for another: what is asked twice under it is launched once, where the service can tell.
    pub token: String,
    /// The fleet's names of the instances that are wanted, one or more.
    pub ids: Vec<String>,
    /// What would do, the best first; never empty.
    pub offers: Vec<Offer>,
    /// What the first of them has; the others have no more cores.
    pub shape: Shape,
    /// What their agents are told; a provider that knows an instance's name before it is launched adds it.
    pub told: Told,
}

/// A type in a zone.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Offer {
    /// Such as `g6.xlarge`.
    pub instance_type: String,
    /// Such as `eu-west-1a`.
    pub zone: String,
}

/// How an instance is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Market {
    /// By the list.
    OnDemand,
    /// By what others leave; it can be taken away.
    Spot,
}

/// One instance that comes.
#[derive(Clone, Debug, PartialEq)]
pub struct Launched {
    /// Of [`Order::ids`].
    pub id: String,
    /// What the provider calls it, and what its agent says that it is called.
    pub name: String,
    /// What it is.
    pub offer: Offer,
    /// How it is paid for.
    pub market: Market,
    /// What an hour costs, in US dollars, where that is not by the list of prices.
    pub usd_per_hour: Option<f64>,
}

impl Launched {
    /// One that has the fleet's name and the list's price.
    pub fn by_list(id: &str, offer: &Offer) -> Self {
        let (id, name) = (id.to_owned(), id.to_owned());
        Self { id, name, offer: offer.clone(), market: Market::OnDemand, usd_per_hour: None }
    }
}

/// Something that could not be had.
#[derive(Clone, Debug, PartialEq)]
pub struct Missing {
    /// What.
    pub offer: Offer,
    /// Why, in the provider's words.
    pub reason: String,
}

/// What became of an order. What was neither launched nor is coming is given up.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// What comes: as many as were wanted, or fewer.
    pub launched: Vec<Launched>,
    /// What is to be left alone for a while.
    pub missing: Vec<Missing>,
}

/// A source of instances.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Launches what is ordered, whose agents are to do what they are told. Answers when it has been asked for; that they are
    /// there is said by their agents. Until it answers, all that was ordered counts as coming: it has to, in bounded time. Errors:
    /// nothing of it comes, for no reason that lies with a type or a zone; what comes all the same is ended by the provider.
    async fn launch(&self, order: &Order) -> io::Result<Outcome>;

    /// Ends the instance of this name by force, if it is still there. Completes when it has ended, or is known to: until then
    /// its cores count.
    async fn terminate(&self, name: &str);

    /// What is launched from now on has these tags, where instances have any; what there is keeps those that it has.
    fn set_tags(&self, _tags: BTreeMap<String, String>) {}

    /// Cores of instances that the fleet does not know, and that have not ended: of an order that was answered with an error or
    /// carried out twice, or left by a server before. They count until they are known to end.
    fn unknown_vcpu(&self) -> u32 {
        0
    }

    /// The name of the next instance that has ended by itself; never, if that is not known here.
    async fn ended(&self) -> String;

    /// Nothing is wanted any more: instances that were told to stop have a moment for it, then they are ended, and those too that
    /// an earlier server has left. Errors: some may be left.
    async fn close(&self) -> io::Result<()>;
}
