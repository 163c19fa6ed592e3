//! Packages that could not be fetched: asked for again until they can.
//!
//! Begun at start. A server whose disk lacks its packages may start while the storage that has them is away; what could not
//! be served for that reason alone is served as soon as it is back, without anybody's doing. A version that was coming up goes
//! on to come up.

use crate::error::ControlError;
use crate::plane::{ControlPlane, Writing};
use crate::sources::Reach;
use crate::versions::is_coming_up;
use penstock_dispatch::Deployment;
use penstock_registry::store::Commit;
use penstock_registry::{FunctionRecord, Reason, State, VersionRecord, keys};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// First and longest pause; it doubles for as long as something cannot be fetched.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

/// The pauses before something is asked for again.
pub(crate) fn pauses() -> impl Iterator<Item = Duration> + Send {
    std::iter::successors(Some(PAUSE.0), |pause| Some((*pause * 2).min(PAUSE.1)))
}

impl ControlPlane {
    /// Serves what was not on disk at the start, as far as it can be fetched: the first that cannot ends it.
    pub(crate) async fn fetch_unread(&self) -> Result<Vec<Deployment>, ControlError> {
        let mut deployments = Vec::new();
        if !self.unreachable.swap(false, Ordering::AcqRel) {
            return Ok(deployments);
        }
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            match self.serve_function(&function.name, Reach::Anywhere).await {
                Ok(deployment) => deployments.push(deployment),
                Err(error) => {
                    tracing::error!(function = function.name, %error, "what it lacks was not asked for");
                    self.unreachable.store(true, Ordering::Release);
                }
            }
            if self.unreachable.load(Ordering::Acquire) {
                break;
            }
        }
        Ok(deployments)
    }

    /// Serves what could not be fetched, for as long as the server lives.
    pub(crate) fn follow_unreachable(&self) {
        let weak = self.this.clone();
        tokio::spawn(async move {
            let mut waits = pauses();
            loop {
                tokio::time::sleep(waits.next().unwrap_or(PAUSE.1)).await;
                let Some(plane) = weak.upgrade() else { return };
                match plane.unreachable.swap(false, Ordering::AcqRel) {
                    false => waits = pauses(),
                    true => {
                        if let Err(error) = plane.serve_all().await {
                            tracing::error!(%error, "what could not be fetched was not asked for again");
                            plane.unreachable.store(true, Ordering::Release);
                        }
                    }
                }
            }
        });
    }

    /// Has everything served that can be; what serves already is not disturbed.
    async fn serve_all(&self) -> Result<(), ControlError> {
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            if let Err(error) = self.serve_function(&function.name, Reach::Anywhere).await {
                tracing::error!(function = function.name, %error, "what it lacks was not asked for");
                self.unreachable.store(true, Ordering::Release);
            }
        }
        Ok(())
    }

    /// Says of a version that comes up what it waits for, once.
    pub(crate) async fn note_wait(&self, attempt: &VersionRecord, why: &str) -> Result<(), ControlError> {
        let said = Reason { text: format!("{why}; it is tried again"), ..Reason::creating() };
        let turn = self.turn().await?;
        let Some((mut version, revision)) = self.version(&attempt.function, attempt.number).await? else {
            return Ok(());
        };
        let standing = &mut version.standing;
        let shown = match standing.state {
            State::Pending => &mut standing.reason,
            _ => &mut standing.update_reason,
        };
        if shown.as_ref() == Some(&said) {
            return Ok(());
        }
        *shown = Some(said);
        if !is_coming_up(&version) || version.standing.revision_id != attempt.standing.revision_id {
            return Ok(());
        }
        let key = keys::version(&version.function, version.number);
        turn.commit(Commit::new().replace(key, &version, revision)?).await.map(drop)
    }
}
