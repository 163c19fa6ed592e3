//! What an agent runs on: starts environments there, and says how it is.
//!
//! A machine is this one, whose environments are processes. A simulation plays others.

use crate::transport::{Link, Reader, Wires};
use penstock_domain::Variables;
use penstock_environment::{Launcher, Life};
use std::io;
use std::path::Path;

/// Of the disk that has to be free, in bytes.
const DISK_LEAST: u64 = 64 << 20;

/// Where an agent runs.
pub trait Host: Send + Sync + 'static {
    /// Starts an environment on its link: what it runs as, and what it writes to standard error. `accelerated` is one that
    /// needs the executable for GPUs. Errors: it cannot be started.
    fn start(&self, link: Link, variables: &Variables, accelerated: bool) -> io::Result<(Life, Option<Reader>)>;

    /// How it is. `disk` is one that must not be full.
    fn vitals(&self, disk: Option<&Path>) -> Vitals;

    /// How the fleet is reached, where it is not by a folder or TCP.
    fn wires(&self) -> Option<&dyn Wires> {
        None
    }
}

/// How a machine is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Vitals {
    /// Memory that is free, in MiB.
    pub memory_free_mib: u64,
    /// Runnable processes, on average over a minute.
    pub load: f64,
    /// Why it should not be used any more.
    pub complaint: Option<String>,
}

impl Host for Launcher {
    fn start(&self, link: Link, variables: &Variables, accelerated: bool) -> io::Result<(Life, Option<Reader>)> {
        let Link::Socket(link) = link else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a process has a socket as its link"));
        };
        let mut child = self.launch_on(link, variables, accelerated)?;
        let log = child.stderr.take().map(|log| Box::new(log) as Reader);
        Ok((Life::Process(child), log))
    }

    fn vitals(&self, disk: Option<&Path>) -> Vitals {
        let system = rustix::system::sysinfo();
        let unit = u64::from(system.mem_unit).max(1);
        Vitals {
            memory_free_mib: (system.freeram as u64).saturating_mul(unit) >> 20,
            // Linux counts in parts of 65536.
            load: system.loads[0] as f64 / 65536.0,
            complaint: disk.and_then(complaint_of),
        }
    }
}

fn complaint_of(disk: &Path) -> Option<String> {
    match rustix::fs::statvfs(disk) {
        Ok(found) if found.f_bavail.saturating_mul(found.f_frsize) < DISK_LEAST => {
            Some(format!("its disk is full ({})", disk.display()))
        }
        Ok(_) => None,
        Err(error) => Some(format!("its disk cannot be used ({}): {error}", disk.display())),
    }
}

/// Memory of this machine, in MiB.
pub fn machine_memory_mib() -> u64 {
    let system = rustix::system::sysinfo();
    (system.totalram as u64).saturating_mul(u64::from(system.mem_unit).max(1)) >> 20
}
