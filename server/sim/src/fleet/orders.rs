//! Orders of a provider that is played: what becomes of each, and what is said of it.

use super::cloud::{Cloud, Known, Stage, State};
use penstock_instances::{Launched, Market, Missing, Offer, Order, Outcome};
use std::io;
use std::sync::Arc;
use tokio::time::{Instant, sleep};

/// What will become of an order.
struct Fate {
    fails: bool,
    loses_answer: bool,
    doubles: bool,
    count: usize,
}

impl Cloud {
    pub(super) async fn launch(self: &Arc<Self>, order: &Order) -> io::Result<Outcome> {
        self.accept(order);
        let temper = self.temper();
        let fate = Fate {
            fails: self.chance(temper.fails),
            loses_answer: self.chance(temper.loses_answers),
            doubles: self.chance(temper.doubles),
            count: if self.chance(temper.is_short) { order.ids.len() / 2 } else { order.ids.len() },
        };
        let (before, mut after) = (self.between(temper.call), self.between(temper.call));
        if self.chance(temper.is_late) {
            after += self.between((self.start_timeout / 2, self.start_timeout * 2));
        }
        sleep(before).await;
        let (come, missing) = if fate.fails { (Vec::new(), Vec::new()) } else { self.come(order, &fate) };
        sleep(after).await;
        self.answer(order, &fate, come, missing)
    }

    /// What it counts for itself: nothing is ordered beyond what there may be.
    fn accept(&self, order: &Order) {
        let mut state = self.state.lock();
        let vcpu = order.shape.vcpu * order.ids.len() as u32;
        if state.orders.insert(order.token.clone(), vcpu).is_some() {
            state.broken.push("two orders have one token".into());
        }
        let (all, limit) = (self.vcpu(&state), self.limit(&state));
        state.most_vcpu = state.most_vcpu.max(all);
        if all > limit {
            let at = self.now();
            state.broken.push(format!("{all} vCPU run or are ordered at {at:?}, {limit} are allowed"));
        }
        if order.offers.iter().any(|offer| self.shapes[&offer.instance_type].vcpu > order.shape.vcpu) {
            state.broken.push("an offer has more cores than its order".into());
        }
    }

    /// Cores of what runs or is ending and was answered, of orders that may come, and of what was told to run beside them.
    pub(super) fn vcpu(&self, state: &State) -> u32 {
        let there = state.machines.values().filter(|one| one.stage != Stage::Gone && one.answered.is_some());
        let there: u32 = there.map(|one| self.shapes[&one.instance_type].vcpu).sum();
        there + state.orders.values().sum::<u32>() + state.unknown_vcpu
    }

    /// Cores of what runs or is ending, and that no answer has named or will.
    pub(super) fn tell_unknown_vcpu(&self) -> u32 {
        let mut state = self.state.lock();
        let is_unknown =
            |one: &&Known| one.stage != Stage::Gone && one.answered.is_none() && !state.orders.contains_key(&one.order);
        let unknown = state.machines.values().filter(is_unknown).map(|one| self.shapes[&one.instance_type].vcpu).sum();
        state.unknown_vcpu = unknown;
        unknown
    }

    /// The highest limit that holds at this moment.
    fn limit(&self, state: &State) -> u32 {
        let now = self.now();
        let before = state.limits.iter().rfind(|(at, _)| *at < now).map(|(_, limit)| *limit);
        let just_now = state.limits.iter().filter(|(at, _)| *at == now).map(|(_, limit)| *limit);
        just_now.chain(before).max().unwrap_or(0)
    }

    fn come(self: &Arc<Self>, order: &Order, fate: &Fate) -> (Vec<(String, Offer)>, Vec<Missing>) {
        let is_dry = |offer: &Offer| {
            let now = Instant::now();
            self.state.lock().droughts.iter().any(|(instance_type, zone, until)| {
                *until > now
                    && instance_type.as_ref().is_none_or(|dry| *dry == offer.instance_type)
                    && zone.as_ref().is_none_or(|dry| *dry == offer.zone)
            })
        };
        let had = order.offers.iter().position(|offer| !is_dry(offer));
        let tried = &order.offers[..had.unwrap_or(order.offers.len())];
        let missing = |offer: &Offer| Missing { offer: offer.clone(), reason: "none left".into() };
        let missing = tried.iter().map(missing).collect();
        let Some(offer) = had.map(|index| order.offers[index].clone()) else { return (Vec::new(), missing) };
        let boot = |_| (self.boot(&offer, &order.token, &order.told), offer.clone());
        let come = (0..fate.count).map(boot).collect();
        if fate.doubles {
            (0..fate.count).for_each(|_| drop(self.boot(&offer, &order.token, &order.told)));
        }
        (come, missing)
    }

    fn answer(
        &self,
        order: &Order,
        fate: &Fate,
        come: Vec<(String, Offer)>,
        missing: Vec<Missing>,
    ) -> io::Result<Outcome> {
        let now = self.now();
        let mut state = self.state.lock();
        state.orders.remove(&order.token);
        let is_told = !fate.fails && !fate.loses_answer;
        let mut launched = Vec::new();
        if is_told {
            for (id, (name, offer)) in order.ids.iter().zip(come) {
                if let Some(known) = state.machines.get_mut(&name) {
                    known.answered = Some(now);
                }
                launched.push(Launched { id: id.clone(), name, offer, market: Market::OnDemand, usd_per_hour: None });
            }
        }
        let unknown = state.machines.values_mut().filter(|one| one.order == order.token && one.answered.is_none());
        unknown.for_each(|one| one.orphan_since = Some(now));
        match is_told {
            true => Ok(Outcome { launched, missing }),
            false => Err(io::Error::other("the provider does not answer")),
        }
    }
}
