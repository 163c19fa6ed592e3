//! What is ordered of the provider, what becomes of it, and what is left alone for a while.

use super::{Action, Entry, Gone, Roster};
use crate::protocol::Beat;
use crate::provider::{Market, Offer, Outcome};
use penstock_scaler::{InstanceType, Launch, Needs, Shape, Stage, Unavailable};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long a type is left alone in a zone after one of it was not ready in time: first and longest; it doubles.
pub(super) const AWAY: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));
/// How long nothing is launched after the provider could not be asked: first and longest; it doubles.
const HELD: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// Most offers of an order.
const OFFERS_MAX: usize = 60;

impl Roster {
    /// One order for all that are alike.
    pub(super) fn order(&mut self, launches: Vec<Launch>, unavailable: &Unavailable, now: Instant) -> Vec<Action> {
        let mut alike: BTreeMap<(String, String), Vec<Launch>> = BTreeMap::new();
        for launch in launches {
            alike.entry((launch.instance_type.clone(), launch.zone.clone())).or_default().push(launch);
        }
        let mut actions = Vec::new();
        for ((instance_type, zone), launches) in alike {
            let Some(chosen) = self.types.iter().find(|one| one.name == instance_type) else { continue };
            let (shape, offers) = (chosen.shape, self.offers(chosen, &zone, &launches, unavailable));
            let ids = launches.into_iter().map(|launch| self.launch(launch, shape, now)).collect();
            actions.push(Action::Launch { ids, offers, shape });
        }
        actions
    }

    /// What became of an order for some: those that are not coming are given up, and what could not be had is left alone.
    pub(crate) fn ordered(&mut self, ids: &[String], outcome: &Outcome, now: Instant) -> Vec<Action> {
        self.held = None;
        for launched in &outcome.launched {
            let shape = self.types.iter().find(|one| one.name == launched.offer.instance_type).map(|one| one.shape);
            let Some(entry) = self.instances.get_mut(&launched.id) else { continue };
            entry.name = Some(launched.name.clone());
            entry.is_answered = true;
            if entry.stage == Stage::Launching {
                // From now on it has to be ready in time.
                entry.since = now;
            }
            (entry.market, entry.usd_per_hour) = (launched.market, launched.usd_per_hour);
            (entry.instance_type, entry.zone) = (launched.offer.instance_type.clone(), launched.offer.zone.clone());
            entry.shape = shape.unwrap_or(entry.shape);
            self.fit(&launched.id);
        }
        let missing = outcome.missing.iter().map(|missing| &missing.offer).collect::<BTreeSet<_>>();
        missing.into_iter().for_each(|offer| self.leave_alone(&offer.instance_type, &offer.zone, now));
        let comes = |id: &String| outcome.launched.iter().any(|launched| launched.id == *id);
        let given_up: Vec<&String> = ids.iter().filter(|id| !comes(id)).collect();
        given_up.into_iter().filter_map(|id| self.forget(id)).collect()
    }

    /// It may come as something smaller than others found a place on meanwhile: those that do not fit there have none any more.
    fn fit(&mut self, id: &str) {
        let Some(entry) = self.instances.get(id) else { return };
        let mut there: Vec<(&Needs, u32)> = entry.leases.values().map(|leased| (&leased.needs, 1)).collect();
        for seeker in self.seekers.values_mut().filter(|seeker| seeker.is_for(id)) {
            there.push((&seeker.needs, 1));
            if !entry.shape.holds_all(there.iter().copied()) {
                there.pop();
                seeker.place = None;
            }
        }
    }

    /// The provider could not be asked: nothing is launched for a while.
    pub(crate) fn not_ordered(&mut self, ids: &[String], now: Instant) -> Vec<Action> {
        let times = self.held.map_or(0, |(_, times)| times);
        // Orders that fail together count once.
        if self.held.is_none_or(|(until, _)| until <= now) {
            self.held = Some((now + (HELD.0 * 2u32.pow(times.min(6))).min(HELD.1), times + 1));
        }
        ids.iter().filter_map(|id| self.forget(id)).collect()
    }

    /// One that was ordered does not come.
    fn forget(&mut self, id: &str) -> Option<Action> {
        if self.instances.get(id)?.has_joined {
            // It came all the same.
            return Some(self.remove(id, Gone::Refused));
        }
        self.instances.remove(id);
        self.unseat(id);
        Some(Action::Forget { id: id.to_owned() })
    }

    pub(super) fn leave_alone(&mut self, instance_type: &str, zone: &str, now: Instant) {
        let away = self.away.entry((instance_type.to_owned(), zone.to_owned())).or_insert((now, 0));
        // Those that fail together count once.
        if away.0 <= now {
            *away = (now + (AWAY.0 * 2u32.pow(away.1.min(8))).min(AWAY.1), away.1 + 1);
        }
    }

    /// What cannot be had just now.
    pub(super) fn unavailable(&self, now: Instant) -> Unavailable {
        if self.held.is_some_and(|(until, _)| until > now) {
            let zones = |one: &InstanceType| {
                let name = one.name.clone();
                one.zones.clone().into_iter().map(move |zone| (name.clone(), zone))
            };
            return self.types.iter().flat_map(zones).collect();
        }
        self.away.iter().filter(|(_, (until, _))| *until > now).map(|(key, _)| key.clone()).collect()
    }

    /// What would do for all of some launches: what was chosen, the same type elsewhere, then what has no more cores and room
    /// for as much, the cheapest first.
    fn offers(&self, chosen: &InstanceType, zone: &str, launches: &[Launch], unavailable: &Unavailable) -> Vec<Offer> {
        let holds = |one: &InstanceType, launch: &Launch| {
            one.shape.holds_all(launch.environments.values().map(|held| (&held.needs, held.count)))
        };
        let would_do = |one: &&InstanceType| {
            one.name != chosen.name
                && one.shape.vcpu <= chosen.shape.vcpu
                && self.rules.may_buy(&one.name)
                && launches.iter().all(|launch| holds(one, launch))
        };
        let mut others: Vec<&InstanceType> = self.types.iter().filter(would_do).collect();
        others.sort_by(|one, other| one.usd_per_hour.total_cmp(&other.usd_per_hour));
        let mut offers = vec![Offer { instance_type: chosen.name.clone(), zone: zone.to_owned() }];
        for one in std::iter::once(chosen).chain(others) {
            let zones = one.zones.iter().filter(|offered| self.rules.zones.contains(offered));
            // Where the first was to be, so that the zones stay even.
            let (here, elsewhere): (Vec<_>, Vec<_>) = zones.partition(|offered| *offered == zone);
            for zone in here.into_iter().chain(elsewhere) {
                let offer = Offer { instance_type: one.name.clone(), zone: zone.clone() };
                let key = (offer.instance_type.clone(), offer.zone.clone());
                if offers.len() < OFFERS_MAX && !unavailable.contains(&key) && offers[0] != offer {
                    offers.push(offer);
                }
            }
        }
        offers
    }

    fn launch(&mut self, launch: Launch, shape: Shape, now: Instant) -> String {
        let Launch { instance_type, zone, environments } = launch;
        let id = format!("i-{:08x}", self.next);
        self.next += 1;
        let entry = Entry {
            name: None,
            market: Market::OnDemand,
            usd_per_hour: None,
            instance_type,
            shape,
            zone,
            stage: Stage::Launching,
            since: now,
            launched: now,
            heard: now,
            beat: Beat::default(),
            machine: None,
            leases: BTreeMap::new(),
            is_answered: false,
            token: None,
            known_key: None,
            has_joined: false,
            address: None,
            empty_since: None,
            leaving: None,
            stopped: None,
        };
        self.instances.insert(id.clone(), entry);
        for (version, held) in environments {
            self.seat(&id, &version, held.count);
        }
        id
    }
}
