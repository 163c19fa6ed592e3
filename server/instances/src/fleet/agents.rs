//! A fleet's talk with its agents: who may join, and what they say.

use super::{Fleet, TICK};
use crate::protocol::{FromAgent, Join, ToAgent, read, write};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use penstock_telemetry::{instance_event, instance_started};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout};

/// How long an agent may take to say who it is.
const GREETING_TIMEOUT: Duration = Duration::from_secs(10);
/// Agents that have not said who they are.
const GREETING_MAX: usize = 64;
/// Messages that wait for an agent.
const WAITING_MAX: usize = 256;

impl Fleet {
    pub(super) async fn listen(self: Arc<Self>, listener: UnixListener) {
        let greeting = Arc::new(Semaphore::new(GREETING_MAX));
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => match accepted {
                    // One more than may come at once is not an agent that was launched.
                    Ok((stream, _)) => if let Ok(place) = greeting.clone().try_acquire_owned() {
                        tokio::spawn(self.clone().attend(stream, place));
                    },
                    Err(error) => {
                        tracing::warn!(%error, "an agent could not connect");
                        tokio::time::sleep(TICK).await;
                    }
                },
            }
        }
    }

    /// One agent, for as long as its connection lasts.
    async fn attend(self: Arc<Self>, stream: UnixStream, greeting: OwnedSemaphorePermit) {
        let (mut from, mut to) = stream.into_split();
        let Ok(Ok(FromAgent::Join(join))) = timeout(GREETING_TIMEOUT, read(&mut from)).await else { return };
        let Join { id, token, pid, is_limited, address } = join;
        let expected = self.options.folder.join(format!("{id}.sock"));
        let joined = match address == expected {
            true => self.roster.lock().join(&id, &token, (pid, is_limited), address, Instant::now().into_std()),
            false => Err("its address is another"),
        };
        let took = match joined {
            Ok(took) => took,
            Err(why) => {
                tracing::warn!(instance = id, pid, why, "an agent may not join");
                return instance_event("not_joined");
            }
        };
        drop(greeting);
        tracing::info!(instance = id, pid, took_ms = took.as_millis() as u64, "an instance is ready");
        instance_started(took);
        instance_event("ready");
        let (tell, mut told) = mpsc::channel(WAITING_MAX);
        self.agents.lock().insert(id.clone(), tell);
        if !self.roster.lock().instances().contains_key(&id) {
            // It was ended in that moment.
            self.agents.lock().remove(&id);
            return;
        }
        let telling = tokio::spawn(async move {
            write(&mut to, &ToAgent::Welcome).await?;
            while let Some(message) = told.recv().await {
                write(&mut to, &message).await?;
            }
            to.shutdown().await
        });
        self.wake.notify_one();
        while let Ok(message) = read::<FromAgent>(&mut from).await {
            self.hear(&id, message).await;
        }
        telling.abort();
        self.gone(&id);
    }

    async fn hear(&self, id: &str, message: FromAgent) {
        match message {
            FromAgent::Join(_) => {}
            FromAgent::Beat(beat) => {
                let is_unhealthy = beat.unhealthy.is_some();
                self.roster.lock().beat(id, beat, Instant::now().into_std());
                if is_unhealthy {
                    self.wake.notify_one();
                }
            }
            FromAgent::Log { environment, piece } => {
                let environments = self.environments.lock();
                let begun = environments.get(&environment).filter(|begun| begun.instance == id);
                let log = begun.and_then(|begun| begun.log.clone());
                drop(environments);
                if let Some((log, piece)) = log.zip(STANDARD.decode(piece).ok()) {
                    // A flood that is not read in time is not kept.
                    let _ = log.try_send(piece);
                }
            }
            FromAgent::Ended { environment, status } => {
                let mut environments = self.environments.lock();
                if let Some(begun) = environments.get_mut(&environment).filter(|begun| begun.instance == id) {
                    begun.end(status);
                }
            }
        }
    }
}
