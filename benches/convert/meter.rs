//! CPU time, wall time and memory of a piece of work in this process.

use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

/// What a piece of work took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Cost {
    /// From its begin to its end.
    pub wall: Duration,
    /// Of all threads together, user and system.
    pub cpu: Duration,
}

/// Runs `work` and measures it. Nothing else may run meanwhile.
pub fn measure<T>(work: impl FnOnce() -> T) -> (T, Cost) {
    let (cpu, wall) = (cpu_time(), Instant::now());
    let result = work();
    let cost = Cost {
        wall: wall.elapsed(),
        cpu: cpu_time().saturating_sub(cpu),
    };
    (result, cost)
}

fn cpu_time() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).expect("the system tells a process its usage");
    let micros = usage.user_time().num_microseconds() + usage.system_time().num_microseconds();
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Forgets the peak of memory so far. `false` where the system does not let us.
pub fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// The most resident memory since the last reset, in bytes.
pub fn peak() -> u64 {
    peak_of(&std::fs::read_to_string("/proc/self/status").unwrap_or_default())
}

/// The most resident memory that a `/proc/PID/status` tells, in bytes.
pub fn peak_of(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = line.and_then(|line| {
        line.trim()
            .trim_end_matches("kB")
            .trim()
            .parse::<u64>()
            .ok()
    });
    kib.unwrap_or(0) * 1024
}
