//! Asynchronous invocations: kept durably before they are answered for, run at least once, tried again, given up.
//!
//! Called by the front end, which puts them in and says how one is run. Each is a blob of the store until its end is
//! told, which is `ends`' to do; a server that starts finds those of the one before. Of servers that share a state the one that
//! leads keeps and runs them all, in its own environments, and whoever leads next finds those that it left: what was under
//! way then runs again. Numbers are Lambda's own, where it has them.

use crate::due::Due;
use crate::ends::End;
use crate::error::{ControlError, ErrorKind};
use crate::lead::Turn;
use crate::names::FunctionRef;
use crate::plane::ControlPlane;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_registry::store::{Commit, StoreError};
use penstock_registry::{EventInvoke, FunctionRecord, keys};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;

/// Largest payload, in bytes.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Events that run at once: they share the functions' slots with everybody and must not fill them.
const RUNNING_MAX: usize = 16;
/// After a function's error: the pause before the first try again and before the second, in seconds.
const RETRY_S: [f64; 2] = [60.0, 120.0];
/// After a try that did not get to run, or an end that could not be told: first and longest pause, in seconds; it doubles.
pub(crate) const BACKOFF_S: (f64, f64) = (1.0, 300.0);
/// How long one may wait, and how long its end is told, in seconds, if nothing is said.
pub(crate) const AGE_S: f64 = 21_600.0;
/// Ends that are told at once.
const TELLING_MAX: usize = 16;
/// Keys of the store read at once.
const PAGE: usize = 512;

/// An event as it is kept.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Event {
    pub(crate) id: String,
    pub(crate) function: String,
    pub(crate) qualifier: Option<String>,
    /// In base64.
    pub(crate) payload: String,
    pub(crate) received_s: f64,
    pub(crate) due_s: f64,
    /// Runs that ended with the function's error.
    pub(crate) failures: u32,
    /// In a row: tries that did not get to run, or to tell the end.
    pub(crate) pauses: u32,
    /// How it ended, until that is told.
    pub(crate) end: Option<End>,
}

/// How a try ended.
pub enum EventEnd {
    /// The function answered.
    Done {
        /// What.
        payload: String,
        /// The version that ran.
        version: String,
    },
    /// The function failed.
    Failed {
        /// Its error.
        payload: String,
    },
    /// It did not get to run.
    Throttled {
        /// Why.
        message: String,
    },
    /// There is nothing to run any more.
    Gone {
        /// What is missing.
        message: String,
    },
}

/// What becomes of an event after a try.
pub(crate) enum Next {
    /// It is tried again, or its end is told again, then.
    At(f64),
    /// Its end is told, then.
    Tell(f64),
    /// Nothing: its end is told.
    Over,
}

impl ControlPlane {
    /// Takes an event in. It is durable when this answers. `call` tells a client's calls apart: one that is sent again
    /// while it is kept is kept once. Errors: too large, too many wait, it cannot be invoked at all.
    pub async fn enqueue(
        &self,
        named: &FunctionRef,
        payload: &[u8],
        id: &str,
        call: Option<&str>,
    ) -> Result<(), ControlError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            let bytes = payload.len();
            let text = format!(
                "{bytes} byte payload is too large for the Event invocation type (limit {PAYLOAD_BYTES_MAX} bytes)"
            );
            return Err(ControlError::new(ErrorKind::RequestTooLarge, text));
        }
        self.invocable(named).await?;
        let (now, own) = (self.now_seconds(), penstock_packages::ContentSha256::of(call.unwrap_or(id).as_bytes()));
        let key = format!("{}{own}", keys::events(&named.name));
        if self.due.knows(&key) || self.ends.knows(&key) {
            return Ok(());
        }
        let event = Event {
            id: id.to_owned(),
            function: named.name.clone(),
            qualifier: named.qualifier.clone(),
            payload: STANDARD.encode(payload),
            received_s: now,
            due_s: now,
            failures: 0,
            pauses: 0,
            end: None,
        };
        let (plane, event) = (self.this.upgrade(), serde_json::to_vec(&event)?);
        let Some(plane) = plane else { return Err(ControlError::service("the server ends")) };
        // Whoever sends it may leave: what is kept is run.
        let kept = tokio::spawn(async move {
            let term = plane.events_term.load(Ordering::Acquire);
            plane.store.commit(Commit::new().put_large(&key, event).in_term(term)).await?;
            plane.due.add(key, now);
            Ok(())
        });
        match kept.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(StoreError::Full { .. } | StoreError::NoSpace(_))) => {
                let text = "Rate Exceeded. As many asynchronous invocations wait as this server keeps.";
                Err(ControlError::new(ErrorKind::TooManyRequests, text))
            }
            Ok(Err(error)) => Err(error.into()),
            Err(error) => Err(ControlError::service(error.to_string())),
        }
    }

    /// Runs what waits, for as long as the server lives, and whenever it leads; `invoke` runs one.
    pub async fn run_events<F, R>(self: Arc<Self>, invoke: F)
    where
        F: Fn(FunctionRef, Vec<u8>, String) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = EventEnd> + Send + 'static,
    {
        loop {
            let term = self.term().await;
            let (mut running, mut telling) = (JoinSet::new(), JoinSet::new());
            tokio::select! {
                ran = self.run_events_of(term, &invoke, (&mut running, &mut telling)) => {
                    if let Err(error) = ran {
                        tracing::error!(%error, "which asynchronous invocations wait is not known; it is asked again");
                        tokio::time::sleep(Duration::from_secs_f64(BACKOFF_S.0)).await;
                    }
                }
                () = self.term_over(term) => {}
            }
            // What is under way is another's to run, or this server's in its next term.
            running.shutdown().await;
            telling.shutdown().await;
        }
    }

    async fn run_events_of<F, R>(
        self: &Arc<Self>,
        term: u64,
        invoke: &F,
        (running, telling): (&mut JoinSet<()>, &mut JoinSet<()>),
    ) -> Result<(), ControlError>
    where
        F: Fn(FunctionRef, Vec<u8>, String) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = EventEnd> + Send + 'static,
    {
        self.due.clear();
        self.ends.clear();
        self.events_term.store(term, Ordering::Release);
        for key in self.event_keys(keys::EVENTS).await? {
            // When it is due is in it.
            self.due.add(key, 0.0);
        }
        let running = self.run_due(&self.due, RUNNING_MAX, running, |plane, key| {
            let invoke = invoke.clone();
            async move { plane.run_event(key, invoke).await }
        });
        // Apart from those that run, so that a destination that hangs keeps nothing from running.
        let telling =
            self.run_due(&self.ends, TELLING_MAX, telling, |plane, key| async move { plane.run_end(key).await });
        tokio::join!(running, telling);
        Ok(())
    }

    /// Starts what is due, so many at once, until it is dropped.
    async fn run_due<R>(
        self: &Arc<Self>,
        due: &Due,
        at_once: usize,
        running: &mut JoinSet<()>,
        start: impl Fn(Arc<Self>, String) -> R,
    ) where
        R: Future<Output = ()> + Send + 'static,
    {
        loop {
            while running.try_join_next().is_some() {}
            if running.len() >= at_once {
                running.join_next().await;
                continue;
            }
            match due.take(self.now_seconds()) {
                Ok(key) => drop(running.spawn(start(self.clone(), key))),
                Err(wait) => due.changed_within(wait).await,
            }
        }
    }

    async fn event_keys(&self, prefix: &str) -> Result<Vec<String>, ControlError> {
        let mut all: Vec<String> = Vec::new();
        loop {
            let page = self.store.list_blobs(prefix, all.last().map(String::as_str), PAGE).await?;
            let last = page.len() < PAGE;
            all.extend(page.into_iter().map(|(key, _)| key));
            if last {
                return Ok(all);
            }
        }
    }

    /// Forgets the events of a function that is no more.
    pub(crate) async fn forget_events(&self, turn: &Turn<'_>, function: &str) -> Result<(), ControlError> {
        let keys = self.event_keys(&keys::events(function)).await?;
        for some in keys.chunks(100) {
            turn.commit(some.iter().fold(Commit::new(), |commit, key| commit.delete_large(key))).await?;
        }
        Ok(())
    }

    async fn run_event<F, R>(&self, key: String, invoke: F)
    where
        F: Fn(FunctionRef, Vec<u8>, String) -> R,
        R: Future<Output = EventEnd>,
    {
        match self.try_event(&key, invoke).await {
            Ok(Next::Over) => self.due.over(&key),
            Ok(Next::At(due_s)) => self.due.again(key, due_s),
            Ok(Next::Tell(due_s)) => {
                // Known all the time.
                self.ends.add(key.clone(), due_s);
                self.due.over(&key);
            }
            Err(error) => {
                tracing::error!(event = key, %error, "what became of an event cannot be written; it is tried again");
                self.due.again(key, self.now_seconds() + BACKOFF_S.1);
            }
        }
    }

    async fn try_event<F, R>(&self, key: &str, invoke: F) -> Result<Next, ControlError>
    where
        F: Fn(FunctionRef, Vec<u8>, String) -> R,
        R: Future<Output = EventEnd>,
    {
        // Its function may have been deleted, and its events with it.
        let Some(entry) = self.store.get_blob(key).await? else { return Ok(Next::Over) };
        let mut event: Event = serde_json::from_slice(&entry.value)?;
        if event.end.is_some() {
            return Ok(Next::Tell(event.due_s));
        }
        let now = self.now_seconds();
        if event.due_s > now {
            // From before a restart: its time has not come.
            return Ok(Next::At(event.due_s));
        }
        let config = self.event_config(&event).await?;
        let aged = now - event.received_s > config.maximum_event_age_in_seconds.map_or(AGE_S, f64::from);
        if aged {
            let last = json!({ "errorMessage": "the event is older than it may become" });
            return self.end(key, event, &config, "EventAgeExceeded", None, last).await;
        }
        let named = FunctionRef { name: event.function.clone(), qualifier: event.qualifier.clone() };
        let payload = STANDARD.decode(&event.payload).unwrap_or_default();
        let as_json = |payload: String| serde_json::from_str(&payload).unwrap_or(Value::String(payload));
        match invoke(named, payload, event.id.clone()).await {
            EventEnd::Done { payload, version } => {
                return self.end(key, event, &config, "Success", Some(version), as_json(payload)).await;
            }
            EventEnd::Gone { message } => {
                let last = json!({ "errorMessage": message });
                return self.end(key, event, &config, "RetriesExhausted", None, last).await;
            }
            EventEnd::Failed { payload } => {
                event.pauses = 0;
                event.failures += 1;
                let most = config.maximum_retry_attempts.unwrap_or(RETRY_S.len() as u32) as usize;
                let Some(pause) = RETRY_S.iter().take(most).nth(event.failures as usize - 1) else {
                    return self.end(key, event, &config, "RetriesExhausted", None, as_json(payload)).await;
                };
                event.due_s = self.now_seconds() + pause;
            }
            EventEnd::Throttled { message } => {
                tracing::debug!(event = key, message, "an event waits");
                self.pause(&mut event);
            }
        }
        self.keep(key, &event).await.map(|()| Next::At(event.due_s))
    }

    /// Puts its next try off, each time twice as far.
    pub(crate) fn pause(&self, event: &mut Event) {
        let pause = BACKOFF_S.0 * 2f64.powi(event.pauses.min(20) as i32);
        event.pauses += 1;
        event.due_s = self.now_seconds() + pause.min(BACKOFF_S.1);
    }

    pub(crate) async fn keep(&self, key: &str, event: &Event) -> Result<(), ControlError> {
        self.commit_event(Commit::new().put_large(key, serde_json::to_vec(event)?)).await.map(drop)
    }

    async fn event_config(&self, event: &Event) -> Result<EventInvoke, ControlError> {
        let function = self.read::<FunctionRecord>(&keys::function(&event.function)).await?;
        let qualifier = event.qualifier.as_deref().unwrap_or("$LATEST");
        Ok(function.and_then(|(function, _)| function.event_invoke.get(qualifier).cloned()).unwrap_or_default())
    }
}
