//! What the roster knows of an instance, and what it tells the fleet to do.

use crate::protocol::{Beat, DeviceAccess, Machine};
use crate::provider::{Market, Offer};
use crate::transport::Address;
use penstock_scaler::{Needs, Shape, Stage, Why};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// Between two signs of life.
    pub beat: Duration,
    /// From the beginning of a drain to its end.
    pub drain: Duration,
    /// From being told to stop to being gone.
    pub stop: Duration,
    /// After which an instance is replaced; `None` for never.
    pub age: Option<Duration>,
}

/// Why an instance went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Gone {
    /// It was not ready in time.
    GivenUp,
    /// It could not be launched.
    Refused,
    /// No sign of life, or its connection ended.
    Lost,
    /// It was empty for long.
    Empty,
    /// It was as old as it may become.
    Aged,
    /// It said itself that it should not be used.
    Unhealthy,
    /// It was told that it would be taken away.
    TakenAway,
}

impl Gone {
    /// For logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Gone::GivenUp => "given_up",
            Gone::Refused => "refused",
            Gone::Lost => "lost",
            Gone::Empty => "empty",
            Gone::Aged => "aged",
            Gone::Unhealthy => "unhealthy",
            Gone::TakenAway => "taken_away",
        }
    }
}

/// What the fleet is to do.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Action {
    /// Have the provider launch some, each of any of the offers; none of them has more cores than the shape.
    Launch { ids: Vec<String>, offers: Vec<Offer>, shape: Shape },
    /// Give room on an instance to one that waits.
    Give { seeker: u64, place: Place },
    /// Tell one that waits that there is none.
    Refuse { seeker: u64, why: Why },
    /// Tell one that has room to look for other room.
    Leave { lease: u64 },
    /// Tell the agent to stop.
    Stop { id: String },
    /// One that was ordered does not come: there is nothing to end.
    Forget { id: String },
    /// End it by force: its cores count until it has ended. Of one whose order is not answered yet, that is known later.
    Terminate { id: String, name: String, is_answered: bool, leases: Vec<u64>, why: Gone },
}

/// An instance that takes environments.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Place {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) address: Address,
    pub(crate) token: String,
    /// The device that it is on, by its uuid, and what it touches there; `None` if it is on the CPU.
    pub(crate) device: Option<(String, DeviceAccess)>,
}

/// Room that an environment has.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Leased {
    pub(crate) version: String,
    pub(crate) needs: Needs,
    /// The device that it is on, by its uuid.
    pub(crate) device: Option<String>,
}

/// How an agent shows that it is an instance's.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof<'a> {
    Token(&'a str),
    /// It has shown the certificate that it got for its token.
    Certificate,
}

/// One instance.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// What its provider calls it; until that is known, it is called as here.
    pub(crate) name: Option<String>,
    pub(crate) market: Market,
    /// What an hour costs, in US dollars, where that is not by the list.
    pub(crate) usd_per_hour: Option<f64>,
    pub(crate) instance_type: String,
    pub(crate) shape: Shape,
    pub(crate) zone: String,
    pub(crate) stage: Stage,
    pub(crate) since: Instant,
    pub(crate) launched: Instant,
    pub(crate) heard: Instant,
    pub(crate) beat: Beat,
    /// `None` before it has joined.
    pub(crate) machine: Option<Machine>,
    pub(crate) leases: BTreeMap<u64, Leased>,
    /// Its order was answered. Until then it may come, and has its cores, whatever time it takes.
    pub(super) is_answered: bool,
    pub(super) token: Option<String>,
    /// Its token was used, for this key; on one machine for none.
    pub(super) known_key: Option<String>,
    pub(super) has_joined: bool,
    pub(super) address: Option<Address>,
    pub(super) empty_since: Option<Instant>,
    /// Why it drains.
    pub(super) leaving: Option<Gone>,
    /// When it was told to stop.
    pub(super) stopped: Option<Instant>,
}

impl Entry {
    #[cfg(test)]
    pub(crate) fn address(&self) -> Option<Address> {
        self.address.clone()
    }
}
