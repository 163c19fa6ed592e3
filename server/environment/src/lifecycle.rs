//! The life of an environment, seen from outside: started with nothing but its link, ended by its end.
//!
//! Called by the supervisor. Unloading is process exit, so memory provably returns. A simulation starts environments
//! as tasks instead ([`crate::rehearsal`]); all that is different for the supervisor is in [`Life`].

use crate::specification::{IsolationPolicy, Specification};
use async_trait::async_trait;
use penstock_domain::Variables;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// Starts environments.
#[async_trait]
pub trait Launch: Send + Sync {
    /// Starts one; waits for room where there is to be some. Dropped, it is not wanted any more.
    async fn start(&self, specification: &Specification) -> Result<Started, LaunchError>;
}

/// Why an environment was not started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// No descriptors, no processes, no such executable, no way to the instance.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There is no instance for it now.
    #[error("{0}")]
    NoRoom(String),
    /// There is none, and as things are there never will be.
    #[error("{0}")]
    NeverRoom(String),
}

/// An environment that has been started, and this side of its link.
pub struct Started {
    /// What it sends.
    pub from: Box<dyn AsyncRead + Send + Unpin>,
    /// What it is sent.
    pub to: Box<dyn AsyncWrite + Send + Unpin>,
    /// What it writes to standard error.
    pub log: Option<Box<dyn AsyncRead + Send + Unpin>>,
    /// Ends when this is dropped.
    pub life: Life,
    /// Cancelled when it is to be somewhere else: another is to be started, and then this one drained. `None` where it never is.
    pub leaving: Option<CancellationToken>,
    /// What it is to be told, where that is not what was asked for: its paths are another machine's.
    pub specification: Option<Specification>,
}

/// What an environment runs as.
pub enum Life {
    /// A process of its own.
    Process(Child),
    /// A task of this process.
    Task(JoinHandle<()>),
    /// A process of an instance.
    Elsewhere(Box<dyn Ending>),
}

/// What ends an environment that is not this process's own.
#[async_trait]
pub trait Ending: Send + Sync {
    /// As [`Life::end`].
    async fn end(&mut self, patience: Duration) -> String;

    /// As [`Life::resize`].
    fn resize(&self, device_memory_bytes: u64) -> Result<(), String>;
}

impl Life {
    /// It turned out to take so much of its device, of which whoever started it gave it a part. Errors: there is not so much,
    /// in words; it keeps what it had.
    pub fn resize(&self, device_memory_bytes: u64) -> Result<(), String> {
        match self {
            Life::Elsewhere(other) => other.resize(device_memory_bytes),
            Life::Process(_) | Life::Task(_) => Ok(()),
        }
    }

    /// Waits until it ends by itself, and says how; one of an instance is not waited for here. May be dropped and called again.
    pub async fn ended(&mut self) -> String {
        match self {
            Life::Process(child) => {
                child.wait().await.map_or_else(|error| error.to_string(), |status| status.to_string())
            }
            Life::Task(task) => {
                let _ = task.await;
                "ended".into()
            }
            Life::Elsewhere(_) => std::future::pending().await,
        }
    }

    /// Waits for it to end, ends it if it does not, and says how it ended.
    pub async fn end(&mut self, patience: Duration) -> String {
        match self {
            Life::Process(child) => {
                if let Ok(Ok(status)) = timeout(patience, child.wait()).await {
                    return status.to_string();
                }
                match child.kill().await {
                    Ok(()) => "killed".into(),
                    Err(error) => format!("could not be killed: {error}"),
                }
            }
            Life::Task(task) => match timeout(patience, &mut *task).await {
                Ok(_) => "ended".into(),
                Err(_) => {
                    task.abort();
                    let _ = task.await;
                    "aborted".into()
                }
            },
            Life::Elsewhere(other) => other.end(patience).await,
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if let Life::Task(task) = self {
            task.abort();
        }
    }
}

/// How to start the environment executable.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The executable.
    pub program: PathBuf,
    /// The one for environments on a GPU; `None` where there is none.
    pub accelerated: Option<PathBuf>,
    /// The arguments of either.
    pub arguments: Vec<OsString>,
}

/// A process that has been started, and this side of its link.
pub struct Launched {
    /// The process; killed when this is dropped.
    pub child: Child,
    /// The link. The other end is the process's descriptor 0.
    pub link: UnixStream,
}

impl Launcher {
    /// Starts a process: its own process group, no variables but those of `policy`, the link as descriptor 0, standard
    /// error kept for its log. Errors: no descriptors, no processes, no such executable.
    pub fn launch(&self, policy: &IsolationPolicy) -> io::Result<Launched> {
        self.spawn(&self.program, policy)
    }

    fn spawn(&self, program: &Path, policy: &IsolationPolicy) -> io::Result<Launched> {
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let child = self.process(program, theirs.into(), &policy.variables)?;
        Ok(Launched { child, link: UnixStream::from_std(ours)? })
    }

    /// The same on a link that there is already: a blocking socket, the process's end of it. `accelerated` is for the executable
    /// for GPUs, where there is one.
    pub fn launch_on(&self, link: OwnedFd, variables: &Variables, accelerated: bool) -> io::Result<Child> {
        let program = self.accelerated.as_deref().filter(|_| accelerated).unwrap_or(&self.program);
        self.process(program, link, variables)
    }

    fn process(&self, program: &Path, link: OwnedFd, variables: &Variables) -> io::Result<Child> {
        // What this process opens itself does not pass on; what a shell or a service manager left open would.
        close_fds::set_fds_cloexec(3, &[]);
        Command::new(program)
            .args(&self.arguments)
            .env_clear()
            .envs(variables.iter())
            .current_dir("/")
            .stdin(Stdio::from(link))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
    }
}

#[async_trait]
impl Launch for Launcher {
    async fn start(&self, specification: &Specification) -> Result<Started, LaunchError> {
        let accelerated = specification.accelerator.as_ref().and(self.accelerated.as_deref());
        let program = accelerated.unwrap_or(&self.program);
        let Launched { mut child, link } = self.spawn(program, &specification.isolation)?;
        let (from, to) = link.into_split();
        let log = child.stderr.take().map(|log| Box::new(log) as Box<dyn AsyncRead + Send + Unpin>);
        Ok(Started {
            from: Box::new(from),
            to: Box::new(to),
            log,
            life: Life::Process(child),
            leaving: None,
            specification: None,
        })
    }
}
