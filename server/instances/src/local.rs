//! Instances that are processes of this machine: scale-out, loss and rotation are real on a laptop.
//!
//! Each has a declared shape, which its agent keeps to; nothing is bought. They end with the server: when its end of their
//! connection closes.

use crate::cgroup::MemoryGroup;
use crate::protocol::Told;
use crate::provider::{Launched, Missing, Order, Outcome, Provider};
use async_trait::async_trait;
use penstock_scaler::Shape;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, mpsc};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

/// How long instances may take to stop when the server ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// Names of instances that have ended and were not asked for yet.
const ENDED_MAX: usize = 256;

/// Launches agents on this machine.
pub struct LocalProvider {
    program: PathBuf,
    arguments: Vec<OsString>,
    /// Devices of this machine that no instance has.
    devices: Arc<parking_lot::Mutex<Vec<String>>>,
    running: Mutex<BTreeMap<String, Running>>,
    tell: mpsc::Sender<String>,
    ended: Mutex<mpsc::Receiver<String>>,
}

/// One instance: a task has its process.
struct Running {
    end: mpsc::Sender<Duration>,
    task: JoinHandle<()>,
}

impl LocalProvider {
    /// Runs `program` with these arguments as an instance, and `--devices` with those that it has: as many of `devices` as its
    /// shape says, which are nobody else's while it lives.
    pub fn new(program: PathBuf, arguments: Vec<OsString>, devices: Vec<String>) -> Self {
        crate::cgroup::remove_left();
        let (tell, ended) = mpsc::channel(ENDED_MAX);
        let devices = Arc::new(parking_lot::Mutex::new(devices));
        Self { program, arguments, devices, running: Mutex::default(), tell, ended: Mutex::new(ended) }
    }
}

/// Devices that an instance has; others may have them when this is dropped.
struct Taken {
    devices: Vec<String>,
    left: Arc<parking_lot::Mutex<Vec<String>>>,
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.left.lock().append(&mut self.devices);
    }
}

impl Running {
    async fn end(self, patience: Duration) {
        // A process that has ended needs no telling.
        let _ = self.end.try_send(patience);
        let _ = self.task.await;
    }
}

/// Waits for an instance to end, by itself or because it is told to; says so, and clears up.
async fn keep(
    id: String,
    mut child: Child,
    (group, disk, devices): (Option<MemoryGroup>, Option<PathBuf>, Taken),
    mut end: mpsc::Receiver<Duration>,
    tell: mpsc::Sender<String>,
) {
    tokio::select! {
        _ = child.wait() => {}
        patience = end.recv() => {
            let patience = patience.unwrap_or_default();
            if !matches!(timeout(patience, child.wait()).await, Ok(Ok(_)))
                && let Err(error) = child.kill().await
            {
                tracing::warn!(instance = id, %error, "an instance could not be ended");
            }
        }
    }
    // If nobody asks, it is found by its silence.
    let _ = tell.try_send(id);
    // What it had ends with its links.
    if let Some(group) = group {
        group.remove().await;
    }
    // Nobody is on them any more.
    drop(devices);
    if let Some(disk) = disk
        && let Err(error) = tokio::fs::remove_dir_all(&disk).await
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(folder = %disk.display(), %error, "what an instance was sent is left");
    }
}

impl LocalProvider {
    /// So many devices, if nobody has them.
    fn take(&self, count: u32) -> io::Result<Taken> {
        let (mut left, count) = (self.devices.lock(), count as usize);
        if count > left.len() {
            let text = format!("it is to have {count} of this machine's GPUs, and others have all but {}", left.len());
            return Err(io::Error::other(text));
        }
        let devices = left.drain(..count).collect();
        Ok(Taken { devices, left: self.devices.clone() })
    }

    async fn launch_one(&self, id: &str, shape: &Shape, told: &Told) -> io::Result<()> {
        let devices = self.take(shape.devices)?;
        let named = if devices.devices.is_empty() { "none".to_owned() } else { devices.devices.join(",") };
        let group = MemoryGroup::make(&crate::cgroup::name(id), shape.memory_mib << 20)
            .inspect_err(|error| tracing::debug!(instance = id, %error, "an instance has no control group"))
            .ok();
        let disk = told.disk.as_ref().map(|disk| disk.join(id));
        let group_path = group.as_ref().map(|group| group.path().to_owned());
        let told = Told { name: Some(id.to_owned()), group: group_path, disk: disk.clone(), ..told.clone() };
        let child = match self.spawn(&named, &told).await {
            Ok(child) => child,
            Err(error) => {
                if let Some(group) = group {
                    group.remove().await;
                }
                return Err(error);
            }
        };
        let (end, ends) = mpsc::channel(1);
        let task = tokio::spawn(keep(id.to_owned(), child, (group, disk, devices), ends, self.tell.clone()));
        let mut running = self.running.lock().await;
        // Those that have ended by themselves.
        running.retain(|_, one| !one.task.is_finished());
        running.insert(id.to_owned(), Running { end, task });
        Ok(())
    }

    /// An agent's process, which has been told what to do.
    async fn spawn(&self, devices: &str, told: &Told) -> io::Result<Child> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
            .args(["--devices", devices])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            // A group of its own: what a terminal sends to the server is the server's to pass on.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        // Where others do not read it.
        let mut json = serde_json::to_vec(told).map_err(io::Error::other)?;
        json.push(b'\n');
        let mut stdin = child.stdin.take().ok_or_else(|| io::Error::other("no standard input"))?;
        stdin.write_all(&json).await?;
        Ok(child)
    }
}

#[async_trait]
impl Provider for LocalProvider {
    async fn launch(&self, order: &Order) -> io::Result<Outcome> {
        let Some(offer) = order.offers.first() else { return Ok(Outcome::default()) };
        let mut outcome = Outcome::default();
        for id in &order.ids {
            match self.launch_one(id, &order.shape, &order.told).await {
                Ok(()) => outcome.launched.push(Launched::by_list(id, offer)),
                Err(error) => outcome.missing.push(Missing { offer: offer.clone(), reason: error.to_string() }),
            }
        }
        Ok(outcome)
    }

    async fn terminate(&self, name: &str) {
        let running = self.running.lock().await.remove(name);
        if let Some(running) = running {
            running.end(Duration::ZERO).await;
        }
    }

    async fn ended(&self) -> String {
        match self.ended.lock().await.recv().await {
            Some(id) => id,
            None => std::future::pending().await,
        }
    }

    async fn close(&self) -> io::Result<()> {
        let running = std::mem::take(&mut *self.running.lock().await);
        let mut ends: JoinSet<()> = running.into_values().map(|one| one.end(CLOSE_TIMEOUT)).collect();
        while ends.join_next().await.is_some() {}
        Ok(())
    }
}
