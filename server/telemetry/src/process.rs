//! What the kernel says of this process, read from `/proc/self` when somebody asks.
//!
//! Called by the render of `/metrics`. A figure that cannot be read is left out.

use crate::histogram::write_header;
use crate::names;
use std::fmt::Write;
use std::fs;

/// Clock ticks a second of `/proc/self/stat`: `USER_HZ`, which is 100 on every architecture that we build for
/// (proc(5), `sysconf(_SC_CLK_TCK)`).
const TICKS_PER_SECOND: f64 = 100.0;

/// Appends the process metrics and the build's.
pub(crate) fn render(text: &mut String) {
    write_header(&names::BUILD_INFO, text);
    let _ = writeln!(text, "{}{{version=\"{}\"}} 1\n", names::BUILD_INFO.name, env!("CARGO_PKG_VERSION"));
    let resident = fs::read_to_string("/proc/self/status").ok().and_then(|status| resident_bytes(&status));
    let cpu = fs::read_to_string("/proc/self/stat").ok().and_then(|stat| cpu_seconds(&stat));
    // The descriptor that lists the folder is itself in it.
    let fds = fs::read_dir("/proc/self/fd").ok().map(|entries| entries.count().saturating_sub(1));
    for (metric, value) in [
        (names::PROCESS_RESIDENT, resident.map(|bytes| bytes as f64)),
        (names::PROCESS_CPU, cpu),
        (names::PROCESS_OPEN_FDS, fds.map(|count| count as f64)),
    ] {
        if let Some(value) = value {
            write_header(&metric, text);
            let _ = writeln!(text, "{} {value}\n", metric.name);
        }
    }
}

/// `VmRSS` of `/proc/self/status`, which is in KiB.
pub(crate) fn resident_bytes(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

/// User and system time: fields 14 and 15 of `/proc/self/stat`. The second field, the program's name in parentheses,
/// may hold spaces and parentheses, so fields are counted from the last one.
pub(crate) fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}
