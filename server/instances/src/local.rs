//! Instances that are processes of this machine: scale-out, loss and rotation are real on a laptop.
//!
//! Each has a declared shape, which its agent keeps to; nothing is bought. They end with the server: when its end of their
//! connection closes.

use crate::protocol::Told;
use crate::provider::Provider;
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

/// Launches agents on this machine.
pub struct LocalProvider {
    program: PathBuf,
    arguments: Vec<OsString>,
    running: Mutex<BTreeMap<String, Child>>,
}

impl LocalProvider {
    /// Runs `program` with these arguments as an instance.
    pub fn new(program: PathBuf, arguments: Vec<OsString>) -> Self {
        Self { program, arguments, running: Mutex::default() }
    }
}

#[async_trait]
impl Provider for LocalProvider {
    async fn launch(&self, _instance_type: &str, _zone: &str, told: &Told) -> io::Result<()> {
        let mut child = Command::new(&self.program)
            .args(&self.arguments)
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
        let mut running = self.running.lock().await;
        // Those that have ended by themselves.
        running.retain(|_, child| matches!(child.try_wait(), Ok(None)));
        running.insert(told.id.clone(), child);
        Ok(())
    }

    async fn terminate(&self, id: &str) {
        let child = self.running.lock().await.remove(id);
        if let Some(mut child) = child
            && let Err(error) = child.kill().await
        {
            tracing::warn!(instance = id, %error, "an instance could not be ended");
        }
    }
}
