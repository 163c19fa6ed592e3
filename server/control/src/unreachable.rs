//! Packages that could not be fetched: asked for again until they can.
//!
//! Begun at start. A server whose disk lacks its packages may start while the storage that has them is away; what could not
//! be served for that reason alone is served as soon as it is back, without anybody's doing.

use crate::error::ControlError;
use crate::plane::ControlPlane;
use penstock_packages::PackageError;
use penstock_registry::{FunctionRecord, keys};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// First and longest pause; it doubles for as long as something cannot be fetched.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(300));

impl ControlPlane {
    /// Notes a failure that may pass.
    pub(crate) fn note_unreachable(&self, error: &PackageError) {
        if matches!(error, PackageError::Backing { .. }) {
            self.unreachable.store(true, Ordering::Release);
        }
    }

    /// Serves what could not be fetched, for as long as the server lives.
    pub(crate) fn follow_unreachable(&self) {
        let weak = self.this.clone();
        tokio::spawn(async move {
            let mut pause = PAUSE.0;
            loop {
                tokio::time::sleep(pause).await;
                let Some(plane) = weak.upgrade() else { return };
                if !plane.unreachable.swap(false, Ordering::AcqRel) {
                    pause = PAUSE.0;
                    continue;
                }
                if let Err(error) = plane.serve_all().await {
                    tracing::error!(%error, "what could not be fetched was not asked for again");
                    plane.unreachable.store(true, Ordering::Release);
                }
                pause = (pause * 2).min(PAUSE.1);
            }
        });
    }

    /// Has everything served that can be; what serves already is not disturbed.
    async fn serve_all(&self) -> Result<(), ControlError> {
        for (function, _) in self.read_all::<FunctionRecord>(keys::FUNCTIONS).await? {
            self.serve_function(&function.name).await?;
        }
        Ok(())
    }
}
