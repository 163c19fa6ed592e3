//! One order: who of it is to be Spot, the requests that it takes, and what became of it.

use super::Inner;
use crate::api::error::{ApiError, Fault};
use crate::fleet_request::{Bought, FleetAnswer, FleetRequest, Override, Refusal, client_token, mark};
use crate::ledger::State;
use crate::machines;
use crate::market::spot_of;
use crate::user_data::user_data;
use penstock_instances::{Launched, Market, Missing, Offer, Outcome};
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How long an order waits for the price of what it has already.
const PRICE_TIMEOUT: Duration = Duration::from_secs(10);

/// An order whose instances are not unknown; done when dropped, whatever became of it.
struct UnderWay<'a>(&'a Inner, &'a str);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.ledger.lock().finish(self.1);
    }
}

impl Inner {
    pub(super) async fn order(&self, token: &str, ids: &[String], offers: &[Offer], told: &str) -> io::Result<Outcome> {
        let was_blind = self.looks.borrow().0 == 0;
        self.looked().await?;
        // Whoever ordered did not know of it.
        let vcpu = self.ledger.lock().unknown_vcpu();
        if was_blind && vcpu > 0 {
            let text = format!("instances that a server before has left have {vcpu} vCPU and have not ended yet");
            return Err(io::Error::other(text));
        }
        let tags = self.tags();
        let (overrides, missing) = self.overrides(offers, &tags).await?;
        let mut outcome = Outcome { launched: Vec::new(), missing };
        if overrides.is_empty() || ids.is_empty() {
            return Ok(outcome);
        }
        let user_data = user_data(&self.options, told).map_err(io::Error::other)?;
        let count = u32::try_from(ids.len()).map_err(io::Error::other)?;
        let mark = mark(token, self.options.seed);
        let only_spot = self.options.spot_percent >= 100;
        let spot = {
            let leaves = self.refused.lock().leaves(overrides.iter().map(|one| &one.offer), Instant::now().into_std());
            let mut ledger = self.ledger.lock();
            let spot = if leaves || only_spot { spot_of(count, self.options.spot_percent, ledger.counts()) } else { 0 };
            ledger.begin(&mark, count - spot, spot);
            spot
        };
        let _under_way = UnderWay(self, &mark);
        // After it is known to be under way: who ends all waits for it, or it is not made.
        if self.is_closing.load(Ordering::SeqCst) {
            return Err(io::Error::new(io::ErrorKind::NotConnected, "the server ends: nothing is launched"));
        }
        let request = FleetRequest {
            token: &client_token(&mark, ""),
            order: &mark,
            on_demand: count - spot,
            spot,
            overrides: &overrides,
            user_data: &user_data,
            tags: &tags,
        };
        let mut answer = FleetAnswer::default();
        let is_whole = self.buy(&request, &mut answer).await?;
        let had = answer.instances.iter().filter(|one| one.market == Market::Spot).count() as u32;
        let short = spot.saturating_sub(had);
        let is_refused = answer.refusals.iter().any(|refusal| refusal.market == Market::OnDemand);
        // What is not known may come yet.
        if short > 0 && !only_spot && !is_refused && is_whole {
            tracing::info!(order = token, short, "Spot has too few: the rest is bought On-Demand");
            let token = &client_token(&mark, ".on-demand");
            let rest = FleetRequest { token, on_demand: short, spot: 0, ..request.clone() };
            match self.buy(&rest, &mut answer).await {
                Err(error) if answer.instances.is_empty() => return Err(error.into()),
                Err(error) => tracing::warn!(%error, "the rest of an order is not launched"),
                Ok(_) => {}
            }
        }
        self.judge(&answer.refusals, &overrides, only_spot, answer.instances.is_empty(), &mut outcome)?;
        outcome.launched = self.launched(ids, answer.instances).await;
        Ok(outcome)
    }

    /// Makes one request, until it is known what became of it: `false` if there may be more than that.
    async fn buy(&self, request: &FleetRequest<'_>, all: &mut FleetAnswer) -> Result<bool, ApiError> {
        let error = match self.api.ec2_of_new("CreateFleet", request.params()).await {
            Ok(root) => {
                let answer = request.read(&root);
                all.instances.extend(answer.instances);
                all.refusals.extend(answer.refusals);
                return Ok(true);
            }
            Err(error) => error,
        };
        match error.fault {
            Fault::NoCapacity => {
                let market = if request.on_demand > 0 { Market::OnDemand } else { Market::Spot };
                let words = format!("{}: {}", error.code, error.message);
                let refusal = |one: &Override| Refusal {
                    offer: Some(one.offer.clone()),
                    market,
                    fault: Fault::NoCapacity,
                    words: words.clone(),
                };
                all.refusals.extend(request.overrides.iter().map(refusal));
                Ok(true)
            }
            // It may have been done: what there is of it is taken.
            Fault::Lost | Fault::Unavailable => {
                let found = machines::of_order(&self.api, &self.options.fleet, request.order, &self.types()).await;
                let found = found.inspect_err(|_| self.doubt(request, 0))?;
                let is_new =
                    |name: &str| !all.instances.iter().any(|one| one.name == name) && !self.ledger.lock().has(name);
                let found = found.into_iter().filter(|one| one.state == State::Alive && is_new(&one.name));
                let found: Vec<Bought> =
                    found.map(|one| Bought { name: one.name, offer: one.offer, market: one.market }).collect();
                let (order, count) = (request.order, found.len());
                tracing::warn!(order, %error, count, "an order has no answer: what there is of it is taken");
                self.doubt(request, count as u32);
                all.instances.extend(found);
                if count > 0 { Ok(count as u32 >= request.on_demand + request.spot) } else { Err(error) }
            }
            Fault::NotFound => {
                self.templates.forget();
                Err(error)
            }
            Fault::Throttled | Fault::Expired | Fault::Denied | Fault::Wrong => Err(error),
        }
    }

    /// A request may have brought more than the instances that were found of it.
    fn doubt(&self, request: &FleetRequest<'_>, found: u32) {
        let (wanted, types) = (request.on_demand + request.spot, self.types());
        let each = request.overrides.iter().map(|one| types.vcpu_of(&one.offer.instance_type)).max().unwrap_or(0);
        let vcpu = wanted.saturating_sub(found) * each;
        self.ledger.lock().doubt(request.order, vcpu, Instant::now().into_std());
    }

    /// What refusals mean: a type in a zone that is to be left alone, or that the whole order has failed.
    fn judge(
        &self,
        refusals: &[Refusal],
        overrides: &[Override],
        only_spot: bool,
        is_empty: bool,
        outcome: &mut Outcome,
    ) -> io::Result<()> {
        let of_type = |refusal: &&Refusal| matches!(refusal.fault, Fault::NoCapacity | Fault::Wrong);
        if let Some(other) = refusals.iter().find(|refusal| !of_type(refusal)) {
            let is_all = !refusals.iter().any(|refusal| of_type(&refusal));
            tracing::warn!(reason = other.words, "a part of an order is refused");
            if is_empty && is_all {
                return Err(io::Error::other(format!("EC2 CreateFleet: {}", other.words)));
            }
        }
        for refusal in refusals.iter().filter(of_type) {
            let all = overrides.iter().map(|one| &one.offer);
            let meant: Vec<&Offer> =
                all.filter(|offer| refusal.offer.as_ref().is_none_or(|named| named == *offer)).collect();
            for offer in meant {
                if refusal.market == Market::Spot {
                    self.refused.lock().refuse(offer.clone(), Instant::now().into_std());
                }
                let counts = refusal.market == Market::OnDemand || only_spot;
                if counts && !outcome.missing.iter().any(|one| one.offer == *offer) {
                    outcome.missing.push(Missing { offer: offer.clone(), reason: refusal.words.clone() });
                }
            }
        }
        Ok(())
    }

    /// Gives the fleet's names to what comes. What is more than was wanted is ended.
    async fn launched(&self, ids: &[String], instances: Vec<Bought>) -> Vec<Launched> {
        let (now, types) = (Instant::now().into_std(), self.types());
        {
            let mut ledger = self.ledger.lock();
            for (at, one) in instances.iter().enumerate() {
                match ids.get(at) {
                    Some(_) => ledger.launched(&one.name, one.market, now),
                    None => ledger.leave(&one.name, types.vcpu_of(&one.offer.instance_type), now),
                }
            }
        }
        if instances.len() > ids.len() {
            self.wake.notify_one();
        }
        let mut launched = Vec::new();
        // For all of them: agents are not known before this is answered.
        let until = Instant::now() + PRICE_TIMEOUT;
        for (id, Bought { name, offer, market }) in ids.iter().zip(instances) {
            let usd_per_hour = match market {
                Market::OnDemand => None,
                Market::Spot => timeout_at(until, self.prices.of(&self.api, &offer)).await.unwrap_or(None),
            };
            tracing::info!(
                instance = name,
                id,
                instance_type = offer.instance_type,
                zone = offer.zone,
                ?market,
                "an instance comes"
            );
            launched.push(Launched { id: id.clone(), name, offer, market, usd_per_hour });
        }
        launched
    }
}
