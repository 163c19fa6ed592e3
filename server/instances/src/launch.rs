//! Environments, started on instances: what the supervisor sees of it.

use crate::contents::relocate;
use crate::fleet::{Begun, Fleet};
use crate::protocol::{Begin, FromFleet, ToAgent, write};
use crate::transport::Connection;
use async_trait::async_trait;
use penstock_environment::{Ending, Launch, LaunchError, Life, Specification, Started};
use penstock_scaler::{Architecture, Needs, Why};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncWriteExt, SimplexStream, WriteHalf, simplex};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Pieces of a log that wait to be read.
const LOG_PIECES: usize = 64;
/// Of those, what is passed on at once.
const LOG_BYTES: usize = 64 * 1024;
/// Beyond its patience, how long an agent may take to say how an environment ended.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// Starts environments on a fleet's instances.
pub struct OnInstances(pub Arc<Fleet>);

#[async_trait]
impl Launch for OnInstances {
    async fn start(&self, specification: &Specification) -> Result<Started, LaunchError> {
        let version = format!("{}:{}", specification.function, specification.version);
        let needs = Needs {
            vcpu: specification.cores,
            memory_mib: specification.memory_bytes.div_ceil(1 << 20),
            // Devices are given out by whoever starts the environment.
            device_memory_mib: 0,
            architecture: Architecture::OWN,
        };
        let (place, lease) =
            self.0.seek(version, needs).await.map_err(|why| LaunchError::NoRoom(words(why, &needs)))?;
        let (pieces, log) = mpsc::channel(LOG_PIECES);
        let (told, ended) = oneshot::channel();
        let leaving = CancellationToken::new();
        let begun = Begun {
            instance: place.id.clone(),
            link: None,
            log: Some(pieces),
            ended: Some(told),
            leaving: leaving.clone(),
        };
        // Known before it is begun: what becomes of its instance meanwhile is heard.
        let number = lease.keep();
        let elsewhere = Elsewhere { fleet: self.0.clone(), number, ended };
        self.0.begun(number, begun);
        let Connection { mut from, mut to, cut, local: _ } = self.0.connect(&place).await?;
        let there = match self.0.catalog() {
            None => None,
            Some(catalog) => {
                // Of what it needs of a GPU, each machine has its own.
                let of_gpu =
                    specification.accelerator.iter().flat_map(|gpu| gpu.readable.iter().chain(&gpu.library_path));
                let of_gpu: Vec<&PathBuf> = of_gpu.collect();
                let paths = specification.isolation.readable.iter().filter(|path| !of_gpu.contains(path)).cloned();
                let places = catalog.send(paths.collect(), &place.token, (&mut from, &mut to)).await?;
                Some(relocate(specification, &places)?)
            }
        };
        let begin = Begin {
            token: place.token,
            environment: number,
            variables: specification.isolation.variables.clone(),
            accelerated: specification.accelerator.is_some(),
            vcpu: needs.vcpu,
            memory_mib: needs.memory_mib,
        };
        write(&mut to, &FromFleet::Begin(begin)).await?;
        self.0.linked(number, cut);
        let (read, write) = simplex(LOG_BYTES);
        tokio::spawn(pass_on(log, write));
        Ok(Started {
            from,
            to,
            log: Some(Box::new(read)),
            life: Life::Elsewhere(Box::new(elsewhere)),
            leaving: Some(leaving),
            specification: there,
        })
    }
}

fn words(why: Why, needs: &Needs) -> String {
    let Needs { vcpu, memory_mib, .. } = needs;
    let reason = match why {
        Why::NoType => "no type of instance is so large",
        Why::Unavailable => "no instance of a type that is large enough can be had now",
        Why::VcpuMax => "the capacity provider's instances have as many vCPU as they may",
    };
    format!("it needs {vcpu} vCPU and {memory_mib} MiB of an instance, and {reason}")
}

async fn pass_on(mut from: mpsc::Receiver<Vec<u8>>, mut to: WriteHalf<SimplexStream>) {
    while let Some(piece) = from.recv().await {
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// The process of an environment on an instance. Its room is given back when this is dropped.
struct Elsewhere {
    fleet: Arc<Fleet>,
    number: u64,
    ended: oneshot::Receiver<String>,
}

#[async_trait]
impl Ending for Elsewhere {
    async fn end(&mut self, patience: Duration) -> String {
        if let Ok(status) = self.ended.try_recv() {
            return status;
        }
        let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
        let message = ToAgent::End { environment: self.number, patience_ms };
        let asked = timeout(ANSWER_TIMEOUT, self.fleet.tell_about(self.number, message)).await;
        if !matches!(asked, Ok(true)) {
            return self.ended.try_recv().unwrap_or_else(|_| "its instance does not answer".into());
        }
        match timeout(patience + ANSWER_TIMEOUT, &mut self.ended).await {
            Ok(Ok(status)) => status,
            _ => "its instance does not say how".into(),
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.fleet.release(self.number);
    }
}
