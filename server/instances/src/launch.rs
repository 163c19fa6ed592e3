//! Environments, started on instances: what the supervisor sees of it.

use crate::contents::{Catalog, relocate};
use crate::fleet::{Begun, Fleet};
use crate::protocol::{Begin, DeviceAccess, FromFleet, ToAgent, write};
use crate::transport::Connection;
use async_trait::async_trait;
use penstock_domain::{Architecture, VersionNumber};
use penstock_environment::{Accelerator, Ending, Launch, LaunchError, Life, Specification, Started};
use penstock_scaler::{Needs, Why};
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
        let version = format!("{}:{}", specification.function, VersionNumber(specification.version));
        let needs = self.needs(specification);
        let (place, lease) =
            self.0.seek(version, needs).await.map_err(|why| refused(why, &needs, self.0.may_ever_hold(&needs)))?;
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
        let elsewhere = Elsewhere { fleet: self.0.clone(), number, ended: Some(ended) };
        self.0.begun(number, begun);
        let folders = match self.0.catalog() {
            None => Vec::new(),
            Some(catalog) => {
                // Of what it needs of a GPU, each machine has its own.
                let of_gpu =
                    specification.accelerator.iter().flat_map(|gpu| gpu.readable.iter().chain(&gpu.library_path));
                let of_gpu: Vec<&PathBuf> = of_gpu.collect();
                let paths = specification.isolation.readable.iter().filter(|path| !of_gpu.contains(path)).cloned();
                // Before anybody waits for it at the other end.
                catalog.look(paths.collect()).await?
            }
        };
        let Connection { mut from, mut to, cut, local: _ } = self.0.connect(&place).await?;
        let places = Catalog::send(folders, &place.token, (&mut from, &mut to)).await?;
        let mut there = relocate(specification, &places)?;
        put_on(&mut there, place.device);
        let begin = Begin {
            token: place.token,
            environment: number,
            variables: there.isolation.variables.clone(),
            accelerated: there.accelerator.is_some(),
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
            specification: Some(there),
        })
    }
}

impl OnInstances {
    /// What an environment takes of an instance. One that may run on a GPU does, unless it need not and no instance that may be
    /// bought has so much of one; where there is one it waits for it.
    fn needs(&self, specification: &Specification) -> Needs {
        let host = Needs {
            vcpu: specification.cores,
            memory_mib: specification.memory_bytes.div_ceil(1 << 20),
            device_memory_mib: 0,
            architecture: specification.architecture,
        };
        let wanted = specification.accelerator.as_ref().filter(|wanted| wanted.with_instance);
        let Some(wanted) = wanted else { return host };
        let needs = Needs { device_memory_mib: wanted.memory_bytes.div_ceil(1 << 20).max(1), ..host };
        if wanted.required || self.0.may_hold(&needs) {
            return needs;
        }
        let (function, device_memory_mib) = (&specification.function, needs.device_memory_mib);
        tracing::warn!(
            function,
            device_memory_mib,
            "no type of instance has so much of a GPU: a version runs on the CPU"
        );
        host
    }
}

/// What it is told: the device that it is on, with what it touches on that machine, or that it is on the CPU.
fn put_on(specification: &mut Specification, device: Option<(String, DeviceAccess)>) {
    match (device, &mut specification.accelerator) {
        // It has one, from whoever has it started.
        (_, Some(Accelerator { with_instance: false, .. })) => {}
        (Some((uuid, access)), Some(accelerator)) => {
            let DeviceAccess { device_files, readable, library_path } = access;
            (accelerator.device_files, accelerator.readable) = (device_files, readable);
            accelerator.library_path = library_path;
            specification.place_on(&uuid);
        }
        (_, accelerator) => *accelerator = None,
    }
}

fn refused(why: Why, needs: &Needs, may_ever: bool) -> LaunchError {
    let Needs { vcpu, memory_mib, device_memory_mib, architecture } = needs;
    let device = match device_memory_mib {
        0 => String::new(),
        wanted => format!(", {wanted} MiB of one device"),
    };
    let instance = match *architecture {
        Architecture::OWN => "an instance".to_owned(),
        other => format!("an instance that is {}", other.name()),
    };
    let reason = match why {
        Why::NoType if *architecture != Architecture::OWN => {
            "no type of instance is so large: see InstanceRequirements, and ec2.agent_x86 and ec2.agent_arm, without which there are none"
        }
        Why::NoType => "no type of instance is so large",
        Why::Unavailable => "no instance of a type that is large enough can be had now",
        Why::VcpuMax => "the capacity provider's instances have as many vCPU as they may",
    };
    let text = format!("it needs {vcpu} vCPU{device} and {memory_mib} MiB of {instance}, and {reason}");
    match why {
        Why::Unavailable | Why::VcpuMax if may_ever => LaunchError::NoRoom(text),
        Why::NoType | Why::Unavailable | Why::VcpuMax => LaunchError::NeverRoom(text),
    }
}

async fn pass_on(mut from: mpsc::Receiver<Vec<u8>>, mut to: WriteHalf<SimplexStream>) {
    while let Some(piece) = from.recv().await {
        if to.write_all(&piece).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}

/// The process of an environment on an instance. When this is dropped, it ends, and then its room is given back.
struct Elsewhere {
    fleet: Arc<Fleet>,
    number: u64,
    /// `None` once that was told, or is not waited for any more.
    ended: Option<oneshot::Receiver<String>>,
}

#[async_trait]
impl Ending for Elsewhere {
    async fn end(&mut self, patience: Duration) -> String {
        let Some(ended) = self.ended.as_mut() else { return "it has ended".into() };
        let status = end(&self.fleet, self.number, ended, patience).await;
        self.ended = None;
        status
    }

    fn resize(&self, device_memory_bytes: u64) -> Result<(), String> {
        self.fleet.resize(self.number, device_memory_bytes.div_ceil(1 << 20))
    }
}

async fn end(fleet: &Fleet, number: u64, ended: &mut oneshot::Receiver<String>, patience: Duration) -> String {
    if let Ok(status) = ended.try_recv() {
        return status;
    }
    let patience_ms = u64::try_from(patience.as_millis()).unwrap_or(u64::MAX);
    let message = ToAgent::End { environment: number, patience_ms };
    let asked = timeout(ANSWER_TIMEOUT, fleet.tell_about(number, message)).await;
    if !matches!(asked, Ok(true)) {
        return ended.try_recv().unwrap_or_else(|_| "its instance does not answer".into());
    }
    match timeout(patience + ANSWER_TIMEOUT, ended).await {
        Ok(Ok(status)) => status,
        _ => "its instance does not say how".into(),
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        let (fleet, number) = (self.fleet.clone(), self.number);
        match (self.ended.take(), tokio::runtime::Handle::try_current()) {
            // Until then somebody else would find less room than was given.
            (Some(mut ended), Ok(runtime)) => drop(runtime.spawn(async move {
                end(&fleet, number, &mut ended, Duration::ZERO).await;
                fleet.release(number);
            })),
            _ => fleet.release(number),
        }
    }
}
