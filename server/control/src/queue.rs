//! Asynchronous invocations: kept durably before they are answered for, run at least once, tried again, given up.
//!
//! Called by the front end, which puts them in and says how one is run. Each is a blob of the store until its end is
//! known; a server that starts finds those of the one before. Numbers are Lambda's own, where it has them.

use crate::error::{ControlError, ErrorKind};
use crate::names::FunctionRef;
use crate::plane::ControlPlane;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_registry::store::{Commit, StoreError};
use penstock_registry::{EventInvoke, FunctionRecord, keys};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Largest payload, in bytes.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;
const EVENTS: &str = "event/";
/// Events that run at once: they share the functions' slots with everybody and must not fill them.
const RUNNING_MAX: usize = 16;
/// After a function's error: the pause before the first try again and before the second, in seconds.
const RETRY_S: [f64; 2] = [60.0, 120.0];
/// After a throttled try: first and longest pause, in seconds; it doubles.
const BACKOFF_S: (f64, f64) = (1.0, 300.0);
/// How long one may wait, in seconds, if nothing is said.
const AGE_S: f64 = 21_600.0;

/// An event as it is kept.
#[derive(Clone, Serialize, Deserialize)]
struct Event {
    id: String,
    function: String,
    qualifier: Option<String>,
    payload: String,
    received_s: f64,
    due_s: f64,
    /// Runs that ended with the function's error.
    failures: u32,
    /// Tries in a row that did not get to run.
    throttles: u32,
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
}

/// What is due, and when; the store has the rest.
#[derive(Default)]
pub(crate) struct Due {
    events: parking_lot::Mutex<BTreeMap<String, f64>>,
    changed: Notify,
}

impl ControlPlane {
    /// Takes an event in. It is durable when this answers. Errors: too large, too many wait, it cannot be invoked at all.
    pub async fn enqueue(&self, named: &FunctionRef, payload: &[u8], id: &str) -> Result<(), ControlError> {
        if payload.len() > PAYLOAD_BYTES_MAX {
            let text = format!(
                "{} byte payload is too large for the Event invocation type (limit {PAYLOAD_BYTES_MAX} bytes)",
                payload.len()
            );
            return Err(ControlError::new(ErrorKind::RequestTooLarge, text));
        }
        self.invocable(named).await?;
        let now = self.now_seconds();
        let event = Event {
            id: id.to_owned(),
            function: named.name.clone(),
            qualifier: named.qualifier.clone(),
            payload: STANDARD.encode(payload),
            received_s: now,
            due_s: now,
            failures: 0,
            throttles: 0,
        };
        let key = format!("{EVENTS}{:020}-{id}", (now * 1e6) as u64);
        match self.store.put_blob(&key, serde_json::to_vec(&event)?.into()).await {
            Ok(_) => {}
            Err(StoreError::Full { .. }) => {
                let text = "Rate Exceeded. As many asynchronous invocations wait as this server keeps.";
                return Err(ControlError::new(ErrorKind::TooManyRequests, text));
            }
            Err(error) => return Err(error.into()),
        }
        self.due.events.lock().insert(key, now);
        self.due.changed.notify_one();
        Ok(())
    }

    /// Runs what waits, for as long as the server lives; `invoke` runs one.
    pub async fn run_events<F, R>(self: Arc<Self>, invoke: F) -> Result<(), ControlError>
    where
        F: Fn(FunctionRef, Vec<u8>, String) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = EventEnd> + Send + 'static,
    {
        let mut after: Option<String> = None;
        loop {
            let page = self.store.list_blobs(EVENTS, after.as_deref(), 512).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            let mut due = self.due.events.lock();
            page.into_iter().for_each(|(key, _)| {
                due.entry(key).or_insert(0.0);
            });
        }
        let mut running = JoinSet::new();
        loop {
            while running.try_join_next().is_some() {}
            if running.len() >= RUNNING_MAX {
                running.join_next().await;
                continue;
            }
            let (next, wait) = self.next_due();
            match next {
                Some(key) => {
                    let (plane, invoke) = (self.clone(), invoke.clone());
                    running.spawn(async move {
                        if let Err(error) = plane.run_event(&key, invoke).await {
                            tracing::error!(event = key, %error, "an event could not be written; it is run again at the next start");
                        }
                    });
                }
                None => tokio::select! {
                    _ = running.join_next(), if !running.is_empty() => {}
                    () = self.due.changed.notified() => {}
                    () = tokio::time::sleep_until(Instant::now() + wait) => {}
                },
            }
        }
    }

    /// An event that is due, taken out; and how long until there may be one.
    fn next_due(&self) -> (Option<String>, Duration) {
        let (now, mut due) = (self.now_seconds(), self.due.events.lock());
        let first = due.iter().min_by(|one, other| one.1.total_cmp(other.1)).map(|(key, at)| (key.clone(), *at));
        match first {
            Some((key, at)) if at <= now => {
                due.remove(&key);
                (Some(key), Duration::ZERO)
            }
            Some((_, at)) => (None, Duration::from_secs_f64((at - now).clamp(0.001, 60.0))),
            None => (None, Duration::from_secs(60)),
        }
    }

    async fn run_event<F, R>(&self, key: &str, invoke: F) -> Result<(), ControlError>
    where
        F: Fn(FunctionRef, Vec<u8>, String) -> R,
        R: Future<Output = EventEnd>,
    {
        let Some(entry) = self.store.get_blob(key).await? else { return Ok(()) };
        let mut event: Event = serde_json::from_slice(&entry.value)?;
        let now = self.now_seconds();
        if event.due_s > now {
            // From before a restart: its time has not come.
            self.again(key, event.due_s);
            return Ok(());
        }
        let config = self.event_config(&event).await?;
        let age = config.maximum_event_age_in_seconds.map_or(AGE_S, f64::from);
        if now - event.received_s > age {
            let last = json!({ "errorMessage": "the event is older than it may become" });
            return self.end(key, &event, &config, "EventAgeExceeded", None, last).await;
        }
        let named = FunctionRef { name: event.function.clone(), qualifier: event.qualifier.clone() };
        let payload = STANDARD.decode(&event.payload).unwrap_or_default();
        match invoke(named, payload, event.id.clone()).await {
            EventEnd::Done { payload, version } => {
                let told = serde_json::from_str(&payload).unwrap_or(Value::String(payload));
                return self.end(key, &event, &config, "Success", Some(version), told).await;
            }
            EventEnd::Failed { payload } => {
                event.throttles = 0;
                event.failures += 1;
                let most = config.maximum_retry_attempts.unwrap_or(RETRY_S.len() as u32) as usize;
                let Some(pause) = RETRY_S.iter().take(most).nth(event.failures as usize - 1) else {
                    let told = serde_json::from_str(&payload).unwrap_or(Value::String(payload));
                    return self.end(key, &event, &config, "RetriesExhausted", None, told).await;
                };
                event.due_s = self.now_seconds() + pause;
            }
            EventEnd::Throttled { message } => {
                tracing::debug!(event = key, message, "an event waits");
                let pause = BACKOFF_S.0 * 2f64.powi(event.throttles.min(20) as i32);
                event.throttles += 1;
                event.due_s = self.now_seconds() + pause.min(BACKOFF_S.1);
            }
        }
        self.commit(Commit::new().put_large(key, serde_json::to_vec(&event)?)).await?;
        self.again(key, event.due_s);
        Ok(())
    }

    fn again(&self, key: &str, due_s: f64) {
        self.due.events.lock().insert(key.to_owned(), due_s);
        self.due.changed.notify_one();
    }

    async fn event_config(&self, event: &Event) -> Result<EventInvoke, ControlError> {
        let function = self.read::<FunctionRecord>(&keys::function(&event.function)).await?;
        let qualifier = event.qualifier.as_deref().unwrap_or("$LATEST");
        Ok(function.and_then(|(function, _)| function.event_invoke.get(qualifier).cloned()).unwrap_or_default())
    }

    /// Tells how an event ended where that is asked for, and forgets it.
    async fn end(
        &self,
        key: &str,
        event: &Event,
        config: &EventInvoke,
        condition: &str,
        version: Option<String>,
        payload: Value,
    ) -> Result<(), ControlError> {
        let done = condition == "Success";
        let destination = if done { &config.on_success } else { &config.on_failure };
        if let Some(path) = destination.as_deref().and_then(|to| to.strip_prefix("file://")) {
            let qualifier = version.clone().or(event.qualifier.clone()).unwrap_or_else(|| "$LATEST".into());
            let request = STANDARD.decode(&event.payload).unwrap_or_default();
            let mut response = json!({ "statusCode": 200, "executedVersion": version });
            if !done {
                response["functionError"] = "Unhandled".into();
            }
            let record = json!({
                "version": "1.0",
                "timestamp": self.now_text(),
                "requestContext": {
                    "requestId": event.id,
                    "functionArn": self.options.account.qualified_arn(&event.function, &qualifier),
                    "condition": condition,
                    "approximateInvokeCount": event.failures + u32::from(done),
                },
                "requestPayload": serde_json::from_slice::<Value>(&request).unwrap_or_default(),
                "responseContext": response,
                "responsePayload": payload,
            });
            let path = path.to_owned();
            let written = self.blocking(move || {
                let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path)?;
                file.write_all(format!("{record}\n").as_bytes())?;
                file.sync_data()
            });
            if let Err(error) = written.await {
                tracing::error!(event = key, %error, "the destination of an event cannot be written");
            }
        }
        self.commit(Commit::new().delete_large(key)).await.map(drop)
    }
}

impl From<std::io::Error> for ControlError {
    fn from(error: std::io::Error) -> Self {
        Self::service(error.to_string())
    }
}
