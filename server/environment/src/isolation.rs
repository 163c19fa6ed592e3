//! Isolation: what an environment gives up before it loads anything.
//!
//! Called once by the environment process, while it still has one thread, after it has read its specification and
//! before it opens the model. Each measure that cannot be had on this machine is reported with the reason and the
//! rest still apply.

use crate::room::Used;
use crate::specification::{IsolationPolicy, Measure};
use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus,
    path_beneath_rules,
};
use nix::libc;
use nix::sched::{CloneFlags, unshare};
use rustix::process::{Resource, Rlimit};
use seccompiler::{
    SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What every process needs to read: the dynamic linker's files, the CPU's description, its own status.
const READABLE_ALWAYS: [&str; 9] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/proc/self",
    "/proc/cpuinfo",
    "/sys/devices/system",
];
/// Where a process names its threads. CUDA's driver library does, and refuses to start if it cannot
/// (CUDA_ERROR_OPERATING_SYSTEM, seen with driver 580). A name's file comes with its thread, so it is all of the folder: the
/// process may also write its own memory there, which it can without, and, where Penstock runs as root, spare itself when
/// memory runs out.
const OWN_THREADS: &str = "/proc/self/task";
/// Device files that may be read and written.
const WRITABLE_ALWAYS: [&str; 1] = ["/dev/null"];
/// Threads, model files and libraries stay far below; a leak does not take the machine's descriptors.
const OPEN_FILES_MAX: u64 = 256;

/// Gives up what `policy` says. Returns every measure, in force or not.
pub fn enter(policy: &IsolationPolicy) -> Vec<Measure> {
    let mut measures = vec![
        measure("session", rustix::process::setsid(), "own session and process group"),
        cleared_environment(policy),
        one_descriptor(),
        limits(policy),
    ];
    measures.push(match policy.network {
        true => {
            Measure { name: "no_network".into(), in_force: false, detail: "the configuration keeps the network".into() }
        }
        false => no_network(),
    });
    let privileges = rustix::thread::set_no_new_privs(true);
    measures.push(measure("no_new_privileges", privileges, "no exec can gain privileges"));
    measures.push(proven(read_only_view(policy), file_outside_is_refused()));
    measures.push(proven(deny_system_calls(policy), denied_call_is_refused()));
    measures
}

/// A measure counts as in force only if what it forbids was tried and refused.
fn proven(measure: Measure, refused: bool) -> Measure {
    match measure.in_force && !refused {
        true => {
            Measure { in_force: false, detail: "it was set, and what it forbids is still possible".into(), ..measure }
        }
        false => measure,
    }
}

fn file_outside_is_refused() -> bool {
    matches!(std::fs::File::open("/etc/passwd"), Err(error) if error.kind() == io::ErrorKind::PermissionDenied)
}

fn denied_call_is_refused() -> bool {
    unshare(CloneFlags::CLONE_FS) == Err(nix::errno::Errno::EPERM)
}

fn measure<T, E: std::fmt::Display>(name: &str, result: Result<T, E>, detail: &str) -> Measure {
    match result {
        Ok(_) => Measure { name: name.into(), in_force: true, detail: detail.into() },
        Err(error) => Measure { name: name.into(), in_force: false, detail: error.to_string() },
    }
}

fn cleared_environment(policy: &IsolationPolicy) -> Measure {
    let given = |(name, value): &(OsString, OsString)| {
        let given = name.to_str().and_then(|name| policy.variables.get(name));
        given.is_some_and(|given| **value == **given)
    };
    let left: Vec<_> = std::env::vars_os().filter(|variable| !given(variable)).collect();
    let names = |names: Vec<String>| names.join(", ");
    let detail = match (left.is_empty(), policy.variables.is_empty()) {
        (true, true) => "no variable is inherited".into(),
        (true, false) => {
            format!("no variable is inherited; given: {}", names(policy.variables.keys().cloned().collect()))
        }
        (false, _) => {
            let left = left.into_iter().map(|(name, _)| name.to_string_lossy().into_owned());
            format!("inherited: {}", names(left.collect()))
        }
    };
    Measure { name: "cleared_environment".into(), in_force: !detail.starts_with("inherited"), detail }
}

/// Descriptor 0 is the link; 1 and 2 lead nowhere and to the log.
fn one_descriptor() -> Measure {
    let name = "one_descriptor".to_owned();
    match std::fs::read_dir("/proc/self/fd") {
        Err(error) => Measure { name, in_force: false, detail: error.to_string() },
        Ok(entries) => {
            // The link was duplicated once to be owned, and reading this folder holds one itself.
            let inherited = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse::<u32>().ok()).count();
            let in_force = inherited <= 5;
            Measure { name, in_force, detail: "the link, beside standard output and error".into() }
        }
    }
}

fn limits(policy: &IsolationPolicy) -> Measure {
    let set = |resource, maximum: u64| {
        rustix::process::setrlimit(resource, Rlimit { current: Some(maximum), maximum: Some(maximum) })
    };
    let result = set(Resource::Core, 0).and_then(|()| set(Resource::Nofile, OPEN_FILES_MAX)).and_then(|()| {
        match policy.memory_limit_bytes {
            0 => Ok(()),
            // Not the address space: device libraries reserve far more of it than they use.
            bytes => set(Resource::Data, bytes),
        }
    });
    let result = result.and_then(|()| match policy.nice {
        0 => Ok(()),
        nice => rustix::process::setpriority_process(None, nice),
    });
    let memory = match policy.memory_limit_bytes {
        0 => "memory as the machine has it".into(),
        bytes => format!("{bytes} bytes of private memory"),
    };
    measure("resource_limits", result, &format!("{OPEN_FILES_MAX} open files, no core dumps, {memory}"))
}

fn no_network() -> Measure {
    let result =
        unshare(CloneFlags::CLONE_NEWNET).or_else(|_| unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET));
    measure("no_network", result, "a network namespace without an interface")
}

fn read_only_view(policy: &IsolationPolicy) -> Measure {
    let name = "read_only_view";
    let abi = ABI::V3;
    let always = READABLE_ALWAYS.iter().map(PathBuf::from);
    let readable: Vec<PathBuf> = always.chain(policy.readable.iter().cloned()).filter(|path| path.exists()).collect();
    let devices = policy.devices.iter().map(PathBuf::as_path);
    let writable: Vec<&Path> =
        WRITABLE_ALWAYS.iter().map(Path::new).chain(devices).filter(|path| path.exists()).collect();
    let named: &[&str] = if policy.devices.is_empty() { &[] } else { &[OWN_THREADS] };
    let naming = AccessFs::WriteFile | AccessFs::Truncate;
    let restrict = || {
        Ruleset::default()
            .set_compatibility(CompatLevel::BestEffort)
            .handle_access(AccessFs::from_all(abi))?
            .create()?
            .add_rules(path_beneath_rules(&readable, AccessFs::from_read(abi)))?
            .add_rules(path_beneath_rules(&writable, AccessFs::from_all(abi)))?
            .add_rules(path_beneath_rules(named, naming))?
            .restrict_self()
    };
    match restrict() {
        Ok(status) if status.ruleset != RulesetStatus::NotEnforced => {
            let detail = match policy.devices.is_empty() {
                true => "only its model and libraries can be read, nothing written (Landlock)",
                false => "only its model and libraries can be read, its devices and threads' names written (Landlock)",
            };
            Measure { name: name.into(), in_force: true, detail: detail.into() }
        }
        Ok(_) => Measure { name: name.into(), in_force: false, detail: "this kernel has no Landlock".into() },
        Err(error) => Measure { name: name.into(), in_force: false, detail: error.to_string() },
    }
}

/// System calls that no model needs: other processes' memory, mounts, kernel modules, key rings, new programs.
const DENIED: [libc::c_long; 32] = [
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_open_by_handle_at,
    libc::SYS_name_to_handle_at,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
];

#[derive(Debug, thiserror::Error)]
enum SeccompError {
    #[error("this processor is not known to the filter: {0}")]
    Arch(String),
    #[error(transparent)]
    Backend(#[from] seccompiler::BackendError),
    #[error(transparent)]
    Apply(#[from] seccompiler::Error),
}

fn deny_system_calls(policy: &IsolationPolicy) -> Measure {
    let apply = || -> Result<(), SeccompError> {
        let arch =
            TargetArch::try_from(std::env::consts::ARCH).map_err(|error| SeccompError::Arch(error.to_string()))?;
        let mut rules: BTreeMap<i64, Vec<SeccompRule>> = DENIED.iter().map(|call| (*call, Vec::new())).collect();
        if !policy.network {
            let family = |family: i32| {
                let equal = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, family as u64)?;
                SeccompRule::new(vec![equal])
            };
            rules.insert(
                libc::SYS_socket,
                vec![family(libc::AF_INET)?, family(libc::AF_INET6)?, family(libc::AF_PACKET)?],
            );
        }
        let denied = SeccompAction::Errno(libc::EPERM as u32);
        let filter = SeccompFilter::new(rules, SeccompAction::Allow, denied, arch)?;
        let program: seccompiler::BpfProgram = filter.try_into()?;
        Ok(seccompiler::apply_filter(&program)?)
    };
    measure("system_call_filter", apply(), "system calls that no model needs are refused (seccomp)")
}

/// What this process uses of its machine.
pub(crate) fn used() -> Used {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Used { resident_bytes: resident_bytes(), cpu: Duration::try_from(time).unwrap_or_default() }
}

/// Resident memory of this process in bytes; 0 where `/proc` does not tell.
fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|text| text.split_ascii_whitespace().nth(1)?.parse::<u64>().ok());
    pages.unwrap_or_default() * rustix::param::page_size() as u64
}
