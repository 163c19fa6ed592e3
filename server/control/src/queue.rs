//! Asynchronous invocations: kept durably before they are answered for, run at least once, tried again, given up.
//!
//! Called by the front end, which puts them in and says how one is run. Each is a blob of the store until its end is
//! told; a server that starts finds those of the one before. Numbers are Lambda's own, where it has them.

use crate::destination::{Destination, record};
use crate::error::{ControlError, ErrorKind};
use crate::names::FunctionRef;
use crate::plane::ControlPlane;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_registry::store::{Commit, StoreError};
use penstock_registry::{EventInvoke, FunctionRecord, keys};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::task::JoinSet;

/// Largest payload, in bytes.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
/// Events that run at once: they share the functions' slots with everybody and must not fill them.
const RUNNING_MAX: usize = 16;
/// After a function's error: the pause before the first try again and before the second, in seconds.
const RETRY_S: [f64; 2] = [60.0, 120.0];
/// After a try that did not get to run, or an end that could not be told: first and longest pause, in seconds; it doubles.
const BACKOFF_S: (f64, f64) = (1.0, 300.0);
/// How long one may wait, in seconds, if nothing is said.
const AGE_S: f64 = 21_600.0;
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
    received_s: f64,
    due_s: f64,
    /// Runs that ended with the function's error.
    pub(crate) failures: u32,
    /// In a row: tries that did not get to run, or to tell the end.
    pauses: u32,
    /// How it ended, until that is told.
    end: Option<End>,
}

/// An end that is to be told.
#[derive(Clone, Serialize, Deserialize)]
struct End {
    to: String,
    record: Value,
    /// Since when it is to be told; earlier servers did not note it.
    since_s: Option<f64>,
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

/// What became of telling an end.
enum Told {
    /// It was told.
    Done,
    /// The destination is left alone until then.
    NotBefore(f64),
}

/// What becomes of an event after a try.
enum Next {
    /// It is tried again, or its end is told again, then.
    At(f64),
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
        if self.due.knows(&key) {
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
        match self.store.put_blob(&key, serde_json::to_vec(&event)?.into()).await {
            Ok(_) => {}
            Err(StoreError::Full { .. }) => {
                let text = "Rate Exceeded. As many asynchronous invocations wait as this server keeps.";
                return Err(ControlError::new(ErrorKind::TooManyRequests, text));
            }
            Err(error) => return Err(error.into()),
        }
        self.due.add(key, now);
        Ok(())
    }

    /// Runs what waits, for as long as the server lives; `invoke` runs one.
    pub async fn run_events<F, R>(self: Arc<Self>, invoke: F) -> Result<(), ControlError>
    where
        F: Fn(FunctionRef, Vec<u8>, String) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = EventEnd> + Send + 'static,
    {
        for key in self.event_keys(keys::EVENTS).await? {
            // When it is due is in it.
            self.due.add(key, 0.0);
        }
        let mut running = JoinSet::new();
        loop {
            while running.try_join_next().is_some() {}
            if running.len() >= RUNNING_MAX {
                running.join_next().await;
                continue;
            }
            match self.due.take(self.now_seconds()) {
                Ok(key) => {
                    let (plane, invoke) = (self.clone(), invoke.clone());
                    running.spawn(async move { plane.run_event(key, invoke).await });
                }
                Err(wait) => self.due.changed_within(wait).await,
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
    pub(crate) async fn forget_events(&self, function: &str) -> Result<(), ControlError> {
        let keys = self.event_keys(&keys::events(function)).await?;
        for some in keys.chunks(100) {
            self.commit(some.iter().fold(Commit::new(), |commit, key| commit.delete_large(key))).await?;
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
        let now = self.now_seconds();
        if event.due_s > now {
            // From before a restart: its time has not come.
            return Ok(Next::At(event.due_s));
        }
        let config = self.event_config(&event).await?;
        let aged = now - event.received_s > config.maximum_event_age_in_seconds.map_or(AGE_S, f64::from);
        if let Some(end) = &event.end {
            // How long the function may take to end it is one thing, how long it is told another.
            let aged = now - end.since_s.unwrap_or(event.received_s) > AGE_S;
            return self.tell(key, event, aged).await;
        }
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
        self.keep(key, &event).await
    }

    /// Puts its next try off, each time twice as far.
    fn pause(&self, event: &mut Event) {
        let pause = BACKOFF_S.0 * 2f64.powi(event.pauses.min(20) as i32);
        event.pauses += 1;
        event.due_s = self.now_seconds() + pause.min(BACKOFF_S.1);
    }

    async fn keep(&self, key: &str, event: &Event) -> Result<Next, ControlError> {
        self.commit(Commit::new().put_large(key, serde_json::to_vec(event)?)).await?;
        Ok(Next::At(event.due_s))
    }

    /// Keeps an end that is to be told later; one that there is no room for is given up, since its function must not run again.
    async fn keep_or_give_up(&self, key: &str, event: &Event, to: &str) -> Result<Next, ControlError> {
        match self.keep(key, event).await {
            Err(error) if cannot_be_kept(&error) => {
                let to = shown(to);
                tracing::error!(event = key, to, %error, gives_up = true, "the end of an event can neither be told nor kept");
                self.commit(Commit::new().delete_large(key)).await?;
                Ok(Next::Over)
            }
            kept => kept,
        }
    }

    async fn event_config(&self, event: &Event) -> Result<EventInvoke, ControlError> {
        let function = self.read::<FunctionRecord>(&keys::function(&event.function)).await?;
        let qualifier = event.qualifier.as_deref().unwrap_or("$LATEST");
        Ok(function.and_then(|(function, _)| function.event_invoke.get(qualifier).cloned()).unwrap_or_default())
    }

    /// An event has ended: that is told where it is asked for, and then it is forgotten.
    async fn end(
        &self,
        key: &str,
        mut event: Event,
        config: &EventInvoke,
        condition: &str,
        version: Option<String>,
        payload: Value,
    ) -> Result<Next, ControlError> {
        let to = if condition == "Success" { &config.on_success } else { &config.on_failure };
        if let Some(to) = to {
            let arn = |qualifier: &str| self.options.account.qualified_arn(&event.function, qualifier);
            let record = record(&event, &self.now_text(), arn, condition, version, payload);
            event.pauses = 0;
            event.end = Some(End { to: to.clone(), record, since_s: Some(self.now_seconds()) });
            if Destination::is_elsewhere(to) {
                // It may take long: whatever happens meanwhile, the function does not run again for it.
                match self.keep(key, &event).await {
                    Err(error) if cannot_be_kept(&error) => {
                        tracing::warn!(event = key, %error, "the end of an event is told without being kept: not after a kill");
                    }
                    kept => {
                        kept?;
                    }
                }
            }
        }
        self.tell(key, event, false).await
    }

    /// Tells the end of an event and forgets it. What cannot be told is told again later, until it is too old.
    async fn tell(&self, key: &str, mut event: Event, aged: bool) -> Result<Next, ControlError> {
        if let Some(End { to, record, .. }) = event.end.clone() {
            match self.tell_record(&to, record).await {
                Ok(Told::Done) => {}
                Ok(Told::NotBefore(due_s)) if !aged => {
                    event.due_s = due_s;
                    return self.keep_or_give_up(key, &event, &to).await;
                }
                Ok(Told::NotBefore(_)) => {
                    let to = shown(&to);
                    tracing::error!(
                        event = key,
                        to,
                        gives_up = aged,
                        "the end of an event cannot be told: it fails all the time"
                    );
                }
                Err(error) => {
                    let shown = shown(&to);
                    tracing::error!(event = key, to = shown, %error, gives_up = aged, "the end of an event cannot be told");
                    if !aged {
                        self.pause(&mut event);
                        return self.keep_or_give_up(key, &event, &to).await;
                    }
                }
            }
        }
        self.commit(Commit::new().delete_large(key)).await?;
        Ok(Next::Over)
    }

    /// Tells one destination once. Errors: nobody took it.
    async fn tell_record(&self, to: &str, record: Value) -> Result<Told, ControlError> {
        match self.destination(to)? {
            Destination::File(file) => self
                .blocking(move || file.append(&record).map_err(|error| ControlError::service(error.to_string())))
                .await
                .map(|()| Told::Done),
            Destination::Elsewhere(target) => {
                let telling = match self.elsewhere.enter(to, self.now_seconds()) {
                    Ok(telling) => telling,
                    Err(due_s) => return Ok(Told::NotBefore(due_s)),
                };
                let told = self.options.remote.tell(&target, &record.to_string()).await;
                telling.ended(told.is_ok(), self.now_seconds());
                told.map(|()| Told::Done).map_err(|error| ControlError::service(error.to_string()))
            }
        }
    }

    /// Reads a destination. Errors: it is none, or not allowed.
    pub(crate) fn destination(&self, text: &str) -> Result<Destination, ControlError> {
        Destination::parse(text, &self.options.destinations, &self.options.remote)
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
