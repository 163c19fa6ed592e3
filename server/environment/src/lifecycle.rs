//! The life of an environment's process, seen from outside: started with nothing but its link, ended by its end.
//!
//! Called by the supervisor. Unloading is process exit, so memory provably returns.

use crate::specification::IsolationPolicy;
use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdUnixStream;
use std::path::PathBuf;
use std::process::Stdio;
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

/// How to start the environment executable.
#[derive(Clone, Debug)]
pub struct Launcher {
    /// The executable.
    pub program: PathBuf,
    /// Its arguments.
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
        let (ours, theirs) = StdUnixStream::pair()?;
        ours.set_nonblocking(true)?;
        // What this process opens itself does not pass on; what a shell or a service manager left open would.
        close_fds::set_fds_cloexec(3, &[]);
        let child = Command::new(&self.program)
            .args(&self.arguments)
            .env_clear()
            .envs(&policy.variables)
            .current_dir("/")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        Ok(Launched { child, link: UnixStream::from_std(ours)? })
    }
}
