//! The ends of asynchronous invocations: told where that is asked for, at least once, and forgotten.
//!
//! Called by the queue, which keeps an event for as long as its end is to be told. Its function never runs again for that.

use crate::destination::{Destination, record};
use crate::error::{ControlError, ErrorKind};
use crate::plane::ControlPlane;
use crate::queue::{AGE_S, BACKOFF_S, Event, Next};
use penstock_registry::EventInvoke;
use penstock_registry::store::Commit;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// Ends in memory alone: each is a request and its answer, some megabytes.
const UNKEPT_MAX: usize = 16;
/// How long one that is told now or never waits for its destination, in seconds.
const NOW_OR_NEVER_S: f64 = 5.0;

/// An end that is to be told.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct End {
    to: String,
    /// `null` if it did not fit into the store.
    record: Value,
    /// Since when it is to be told; earlier servers did not note it.
    since_s: Option<f64>,
}

/// Why an end was not told.
enum Untold {
    /// The destination is left alone until then, in seconds since the epoch.
    NotBefore(f64),
    /// Nobody took it; later somebody may.
    Failed(String),
    /// Nobody will ever take it.
    Refused(String),
}

impl ControlPlane {
    /// An event has ended: that is to be told if it is asked for, else it is forgotten.
    pub(crate) async fn end(
        &self,
        key: &str,
        mut event: Event,
        config: &EventInvoke,
        condition: &str,
        version: Option<String>,
        payload: Value,
    ) -> Result<Next, ControlError> {
        let to = if condition == "Success" { &config.on_success } else { &config.on_failure };
        let Some(to) = to.clone() else { return self.forget(key).await };
        let arn = |qualifier: &str| self.options.account.qualified_arn(&event.function, qualifier);
        let record = record(&event, &self.now_text(), arn, condition, version, payload);
        let end = End { to, record, since_s: Some(self.now_seconds()) };
        (event.pauses, event.due_s) = (0, self.now_seconds());
        if !Destination::is_elsewhere(&end.to) {
            match self.tell_once(&end).await {
                Ok(()) => return self.forget(key).await,
                Err(untold) => {
                    end.log(key, &untold, false);
                    self.pause(&mut event);
                }
            }
        }
        // Elsewhere it may take long: whatever happens meanwhile, the function does not run again for it. What it was asked is
        // in the record.
        event.end = Some(end.clone());
        event.payload.clear();
        match self.keep(key, &event).await {
            Ok(()) => Ok(Next::Tell(event.due_s)),
            Err(error) if cannot_be_kept(&error) => {
                tracing::warn!(event = key, %error, "the end of an event is kept in memory alone: it is not told after the server has ended");
                self.keep_in_memory(key, event, end).await
            }
            Err(error) => Err(error),
        }
    }

    /// An end whose record does not fit into the store: there is only that it has ended, so that its function does not run
    /// again. One more than memory has places for is told now or never.
    async fn keep_in_memory(&self, key: &str, mut event: Event, end: End) -> Result<Next, ControlError> {
        event.end = Some(End { record: Value::Null, ..end.clone() });
        let has_place = {
            let mut unkept = self.unkept.lock();
            let has_place = unkept.len() < UNKEPT_MAX;
            if has_place {
                unkept.insert(key.to_owned(), end.record.clone());
            }
            has_place
        };
        if has_place && self.keep(key, &event).await.is_ok() {
            return Ok(Next::Tell(event.due_s));
        }
        let mut told = self.tell_once(&end).await;
        if let Err(Untold::NotBefore(due_s)) = told {
            let pause = (due_s - self.now_seconds()).clamp(0.0, NOW_OR_NEVER_S);
            tokio::time::sleep(Duration::from_secs_f64(pause)).await;
            told = self.tell_once(&end).await;
        }
        if let Err(untold) = told {
            end.log(key, &untold, true);
        }
        self.forget(key).await
    }

    /// Tells one end that was kept.
    pub(crate) async fn run_end(&self, key: String) {
        match self.try_end(&key).await {
            Ok(Next::Over) => self.ends.over(&key),
            Ok(Next::At(due_s) | Next::Tell(due_s)) => self.ends.again(key, due_s),
            Err(error) => {
                tracing::error!(event = key, %error, "what became of an event's end cannot be written; it is told again");
                self.ends.again(key, self.now_seconds() + BACKOFF_S.1);
            }
        }
    }

    async fn try_end(&self, key: &str) -> Result<Next, ControlError> {
        // Its function may have been deleted, and its events with it.
        let Some(entry) = self.store.get_blob(key).await? else {
            self.unkept.lock().remove(key);
            return Ok(Next::Over);
        };
        let mut event: Event = serde_json::from_slice(&entry.value)?;
        let Some(mut end) = event.end.clone() else { return Ok(Next::Over) };
        if end.record.is_null() {
            let Some(record) = self.unkept.lock().get(key).cloned() else {
                let to = shown(&end.to);
                tracing::error!(
                    event = key,
                    to,
                    "the end of an event is not told: it was in memory alone, before a restart"
                );
                return self.forget(key).await;
            };
            end.record = record;
        }
        let now = self.now_seconds();
        if event.due_s > now {
            return Ok(Next::At(event.due_s));
        }
        let gives_up = now - end.since_s.unwrap_or(event.received_s) > AGE_S;
        match self.tell_once(&end).await {
            Ok(()) => self.forget(key).await,
            // Nothing was tried: nothing is written.
            Err(Untold::NotBefore(due_s)) if !gives_up => Ok(Next::At(due_s)),
            Err(untold) => {
                let gives_up = gives_up || matches!(untold, Untold::Refused(_));
                end.log(key, &untold, gives_up);
                if gives_up {
                    return self.forget(key).await;
                }
                self.pause(&mut event);
                match self.keep(key, &event).await {
                    // As it was before: only when it is told next is not known after a kill.
                    Err(error) if cannot_be_kept(&error) => Ok(Next::At(event.due_s)),
                    kept => kept.map(|()| Next::At(event.due_s)),
                }
            }
        }
    }

    async fn forget(&self, key: &str) -> Result<Next, ControlError> {
        self.commit_event(Commit::new().delete_large(key)).await?;
        self.unkept.lock().remove(key);
        Ok(Next::Over)
    }

    async fn tell_once(&self, end: &End) -> Result<(), Untold> {
        let failed = |error: ControlError| Untold::Failed(error.message);
        match self.destination(&end.to).map_err(failed)? {
            Destination::File(file) => {
                let record = end.record.clone();
                let append = move || file.append(&record).map_err(|error| ControlError::service(error.to_string()));
                self.blocking(append).await.map_err(failed)
            }
            Destination::Elsewhere(target) => {
                let host = target.host();
                let telling = self.elsewhere.enter(&host, &end.to, self.now_seconds()).map_err(Untold::NotBefore)?;
                let told = self.options.remote.tell(&target, &end.record.to_string()).await;
                // One that refuses a record is there.
                let is_there = told.as_ref().err().is_none_or(|error| error.is_final());
                telling.ended(is_there, self.now_seconds());
                told.map_err(|error| match error.is_final() {
                    true => Untold::Refused(error.to_string()),
                    false => Untold::Failed(error.to_string()),
                })
            }
        }
    }

    /// Reads a destination. Errors: it is none, or not allowed.
    pub(crate) fn destination(&self, text: &str) -> Result<Destination, ControlError> {
        Destination::parse(text, &self.options.destinations, &self.options.remote)
    }
}

impl End {
    fn log(&self, key: &str, untold: &Untold, gives_up: bool) {
        let why = match untold {
            Untold::NotBefore(_) => "it fails all the time",
            Untold::Failed(why) | Untold::Refused(why) => why,
        };
        tracing::error!(event = key, to = shown(&self.to), why, gives_up, "the end of an event cannot be told");
    }
}

/// It is too large for the store, or the store is full: trying again makes no room.
fn cannot_be_kept(error: &ControlError) -> bool {
    matches!(error.kind, ErrorKind::InvalidParameterValue | ErrorKind::CodeStorageExceeded)
}

/// A destination for the log: of a URL its host alone, since the rest may be a secret.
fn shown(to: &str) -> &str {
    let Some((scheme, rest)) = to.split_once("://").filter(|(scheme, _)| *scheme != "file") else { return to };
    let host = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    &to[..scheme.len() + 3 + host]
}
