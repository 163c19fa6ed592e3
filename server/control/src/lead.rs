//! Who changes records: of servers that share a state, the one that leads; one operation at a time.
//!
//! Called by all operations. The rule is simple: whatever is changed, or begun because a record says so, is so by the server
//! that leads, and bound to its term. What was read in a turn was changed by nobody else before what follows from it is
//! written: within this server because there is one turn at a time, between servers because the store refuses what is of
//! another term. Whoever leads next begins anew whatever the records say is not finished (`follow`).

use crate::error::ControlError;
use crate::plane::ControlPlane;
use penstock_registry::store::{Commit, Leadership, StoreError};
use tokio::sync::MutexGuard;

/// The right to change records, held from reading them to writing them.
pub(crate) struct Turn<'a> {
    plane: &'a ControlPlane,
    term: u64,
    _one: MutexGuard<'a, ()>,
}

impl Turn<'_> {
    pub(crate) async fn commit(&self, commit: Commit) -> Result<u64, ControlError> {
        Ok(self.plane.store.commit(commit.in_term(self.term)).await?)
    }
}

impl ControlPlane {
    /// Waits for a turn. Errors: this server does not lead.
    pub(crate) async fn turn(&self) -> Result<Turn<'_>, ControlError> {
        let one = self.writes.lock().await;
        match self.leadership() {
            Leadership::Held { term } => Ok(Turn { plane: self, term, _one: one }),
            Leadership::Elsewhere { leader } => Err(StoreError::NotLeading { leader }.into()),
        }
    }

    /// Whether this server leads now, or where the one that does can be reached.
    pub fn leadership(&self) -> Leadership {
        self.leadership.borrow().clone()
    }

    /// Tells in a metric whether this server leads, for as long as the store is open.
    pub(crate) fn tell_leadership(&self) {
        let mut leadership = self.leadership.clone();
        tokio::spawn(async move {
            loop {
                penstock_telemetry::leads(leadership.borrow_and_update().term().is_some());
                if leadership.changed().await.is_err() {
                    return;
                }
            }
        });
    }

    /// Waits until another leads, or none, instead of the one at this address.
    pub async fn leader_changed(&self, leader: &str) {
        let mut leadership = self.leadership.clone();
        let is_other = |now: &Leadership| !matches!(now, Leadership::Elsewhere { leader: Some(now) } if now == leader);
        if leadership.wait_for(is_other).await.is_err() {
            std::future::pending().await
        }
    }

    /// Several servers may share the state.
    pub(crate) fn is_shared(&self) -> bool {
        self.store.is_shared()
    }

    /// Waits until this server leads, and gives the term.
    pub(crate) async fn term(&self) -> u64 {
        let mut leadership = self.leadership.clone();
        let term = leadership.wait_for(|now| now.term().is_some()).await.ok().and_then(|now| now.term());
        match term {
            Some(term) => term,
            // The store is closed.
            None => std::future::pending().await,
        }
    }

    /// Waits until this server leads no more, or leads anew.
    pub(crate) async fn term_over(&self, term: u64) {
        let mut leadership = self.leadership.clone();
        if leadership.wait_for(|now| now.term() != Some(term)).await.is_err() {
            std::future::pending().await
        }
    }
}
