//! The machine's time and this process's share of the processor: the only file that asks for either.

use rustix::time::{ClockId, clock_gettime};
use std::time::Instant;

/// Time since the generator started. Pure code takes microseconds from here as an argument.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts at zero.
    #[expect(clippy::disallowed_methods, reason = "a load generator is a composition root: it measures real time")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Microseconds since the start.
    pub fn now_us(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}

/// User and system time this process has used, in microseconds.
pub fn process_cpu_us() -> u64 {
    let used = clock_gettime(ClockId::ProcessCPUTime);
    used.tv_sec as u64 * 1_000_000 + used.tv_nsec as u64 / 1000
}

/// User and system time of another process of this machine, in microseconds at the kernel's tick (10 ms), from
/// `/proc/<pid>/stat`; `None` if there is no such process. Times of its children that still run are not in it.
pub fn cpu_us_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may hold spaces and parentheses: fields are counted after the last one. utime and stime are 14 and 15.
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks * 1_000_000 / rustix::param::clock_ticks_per_second())
}
