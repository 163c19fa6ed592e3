//! A request's turn: where no environment is ready yet it waits, in line with others, until it is called.
//!
//! Called by `invoke`. Who waits for an environment goes on to wait for a slot, so that what came first is not refused for what
//! comes after; who finds an environment and no slot is refused at once, as always.

use super::{Placed, ServedVersion, start_wait};
use crate::function::VersionState;
use crate::waiting::Place;
use penstock_admission::Slot;
use penstock_domain::{Refusal, ShedReason};
use tokio::time::{Instant, timeout_at};

/// Where a request stands.
pub(super) struct Turn<'a> {
    version: &'a ServedVersion,
    deadline: Option<std::time::Instant>,
    /// Its place, once it has one, and when it stops waiting there.
    place: Option<(Place<'a>, Instant)>,
}

impl<'a> Turn<'a> {
    pub(super) fn new(version: &'a ServedVersion, deadline: Option<std::time::Instant>) -> Self {
        Self { version, deadline, place: None }
    }

    /// Others wait that came before.
    pub(super) fn is_before_me(&self) -> bool {
        self.place.is_none() && self.version.waiting.waiting() > 0
    }

    /// It has its slot.
    pub(super) fn comes(&mut self) {
        if let Some((place, _)) = self.place.take() {
            place.leave();
        }
    }

    /// Whether a refusal is one to wait after: there is no environment yet, or no slot for one that has waited for one.
    pub(super) fn is_after(&self, refusal: &Refusal) -> bool {
        let waits = self.place.is_some();
        match refusal.shed {
            Some(ShedReason::EnvironmentConcurrency) => waits,
            Some(ShedReason::NoCapacity) => match *self.version.state.borrow() {
                VersionState::Loading | VersionState::Ready | VersionState::Resting => true,
                // Without a deadline its caller can wait, and is told how long.
                VersionState::Restarting(_) => waits || self.deadline.is_some(),
                VersionState::Unloading | VersionState::Unavailable(_) => false,
            },
            _ => false,
        }
    }

    /// Takes its place in the line. What became free before that has called nobody: look once more before waiting. Errors: the
    /// room is full; an environment cannot be ready by the deadline, as far as is known.
    pub(super) fn line_up(&mut self) -> Result<(), Refusal> {
        let (version, now) = (self.version, Instant::now());
        // Whatever becomes of this one, somebody asks.
        self.demand();
        if let Some((place, _)) = &mut self.place {
            place.again();
            return Ok(());
        }
        let name = || format!("function '{}' version {} has no environment ready", version.function, version.number);
        let ready_in = version.starts.lock().ready_in(now);
        if let Some((deadline, ready_in)) = self.deadline.zip(ready_in)
            && now + ready_in > deadline.into()
        {
            let milliseconds = ready_in.as_millis();
            let text = format!("{}, and one is in {milliseconds} ms: later than this request may wait", name());
            return Err(Refusal::shed(ShedReason::NoCapacity, text, Some(ready_in)));
        }
        let Some(place) = version.waiting.enter() else {
            let limit = version.waiting.limit();
            let text = format!("{}, and {limit} requests wait for one, the most", name());
            return Err(Refusal::shed(ShedReason::NoCapacity, text, Some(start_wait(version))));
        };
        self.place = Some((place, now + version.patience));
        Ok(())
    }

    /// Waits until it is called. Errors: `refusal`, when it has waited as long as a start may take.
    pub(super) async fn called(&mut self, refusal: Refusal) -> Result<(), Refusal> {
        let Some((place, until)) = &mut self.place else { return Err(refusal) };
        timeout_at(*until, place.called()).await.map_err(|_| refusal)
    }

    /// Has an environment started, if none is being.
    fn demand(&self) {
        if self.version.environments_kept() == 0 {
            self.version.demanded.notify_one();
        }
    }
}

/// An environment's slot; when it is given back, the first who waits for one is called.
pub(super) struct Taken<'a> {
    version: &'a ServedVersion,
    slot: Option<Slot>,
}

impl<'a> Taken<'a> {
    pub(super) fn try_take(version: &'a ServedVersion, environment: &Placed) -> Option<Self> {
        environment.slots().try_take().map(|slot| Self { version, slot: Some(slot) })
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        drop(self.slot.take());
        self.version.waiting.call(1);
    }
}
