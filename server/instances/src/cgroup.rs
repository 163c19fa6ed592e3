//! A control group for each local instance, so that its environments together have no more memory than it.
//!
//! Made by the local provider, entered by the agent, inherited by environments. Works where this process may make groups below
//! its own: with cgroup v1 as root, with v2 where the memory controller is delegated to it. Elsewhere the limits of each
//! environment (`RLIMIT_DATA`) are all there is.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

const ROOT: &str = "/sys/fs/cgroup";
const PREFIX: &str = "penstock-";
/// Between two tries to remove a group whose processes are ending, and how many there are.
const PAUSE: Duration = Duration::from_millis(100);
const TRIES: u32 = 30;

/// A group with a limit of memory; removed by [`MemoryGroup::remove`].
#[derive(Debug)]
pub(crate) struct MemoryGroup(PathBuf);

impl MemoryGroup {
    /// Makes one below this process's own. Errors: why there can be none.
    pub(crate) fn make(name: &str, bytes: u64) -> io::Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup")?;
        let (parent, file) = parent_of(&own, Path::new(ROOT))
            .ok_or_else(|| io::Error::new(io::ErrorKind::Unsupported, "no memory controller is mounted"))?;
        let group = Self(parent.join(name));
        fs::create_dir(&group.0)?;
        match fs::write(group.0.join(file), bytes.to_string()) {
            Ok(()) => Ok(group),
            Err(error) => {
                // It has no processes yet.
                let _ = fs::remove_dir(&group.0);
                Err(error)
            }
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Removes it, once its processes have ended.
    pub(crate) async fn remove(self) {
        for _ in 0..TRIES {
            match fs::remove_dir(&self.0) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => sleep(PAUSE).await,
                _ => return,
            }
        }
        tracing::warn!(group = %self.0.display(), "a control group could not be removed");
    }
}

/// A group's name: whose it is, and which.
pub(crate) fn name(id: &str) -> String {
    format!("{PREFIX}{}-{id}", std::process::id())
}

/// Removes groups of servers that were killed.
pub(crate) fn remove_left() {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let Some((parent, _)) = parent_of(&own, Path::new(ROOT)) else { return };
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX)).and_then(|name| name.split('-').next());
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // One that has processes stays.
            let _ = fs::remove_dir(path);
        }
    }
}

/// This process enters a group, and all that it starts from then on.
pub(crate) fn enter(group: &Path) -> io::Result<()> {
    fs::write(group.join("cgroup.procs"), std::process::id().to_string())
}

/// Where groups below one's own are made, and the name of the limit's file there, by what `/proc/self/cgroup` says: lines of
/// `id:controllers:path`, of which v2 has the one without controllers.
fn parent_of(own: &str, root: &Path) -> Option<(PathBuf, &'static str)> {
    let lines = || own.lines().filter_map(|line| line.splitn(3, ':').skip(1).collect::<Vec<_>>().try_into().ok());
    let below = |root: PathBuf, path: &str| root.join(path.trim_start_matches('/'));
    let v1 = lines().find(|[controllers, _]: &[&str; 2]| controllers.split(',').any(|one| one == "memory"));
    if let Some([_, path]) = v1 {
        return Some((below(root.join("memory"), path), "memory.limit_in_bytes"));
    }
    let [_, path] = lines().find(|[controllers, _]: &[&str; 2]| controllers.is_empty())?;
    Some((below(root.to_owned(), path), "memory.max"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_groups_are_found() {
        let root = Path::new("/sys/fs/cgroup");
        let v1 = "9:name=systemd:/\n5:cpu,cpuacct:/\n4:memory:/a/b\n0::/\n";
        assert_eq!(parent_of(v1, root), Some(("/sys/fs/cgroup/memory/a/b".into(), "memory.limit_in_bytes")));
        let v2 = "0::/system.slice/penstock.service\n";
        let expected = ("/sys/fs/cgroup/system.slice/penstock.service".into(), "memory.max");
        assert_eq!(parent_of(v2, root), Some(expected));
        assert_eq!(parent_of("", root), None);
        assert_eq!(parent_of("1:name=systemd:/\n", root), None);
    }
}
