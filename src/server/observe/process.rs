//! What the process takes, by the names that Prometheus' own client libraries use.

use std::fs;
use std::sync::atomic::{AtomicI64, AtomicU64};

use nix::unistd::{SysconfVar, sysconf};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Registry, Unit};

/// What the kernel says of this process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(in crate::server) struct ProcessStat {
    /// Processor time, in seconds.
    cpu: f64,
    /// Bytes in memory.
    resident: i64,
    threads: i64,
    open_files: i64,
    /// Most files that may be open.
    max_files: i64,
    /// Seconds since 1970.
    started: i64,
}

impl ProcessStat {
    /// Of this process; zeros for what cannot be read.
    pub fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
        let files = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        Self {
            open_files: i64::try_from(files).unwrap_or(i64::MAX),
            max_files: limit.map_or(0, |(soft, _)| i64::try_from(soft).unwrap_or(i64::MAX)),
            ..parse(
                &stat,
                &boot,
                system(SysconfVar::CLK_TCK),
                system(SysconfVar::PAGE_SIZE),
            )
        }
    }
}

fn system(name: SysconfVar) -> i64 {
    sysconf(name).ok().flatten().unwrap_or(1).max(1)
}

/// What `/proc/self/stat` and `/proc/stat` say; `tick` is in a second so often, `page` in bytes
/// (`proc_pid_stat(5)`).
fn parse(stat: &str, boot: &str, tick: i64, page: i64) -> ProcessStat {
    // The name before it may hold anything.
    let fields: Vec<&str> = match stat.rsplit_once(')') {
        Some((_, after)) => after.split_whitespace().collect(),
        None => Vec::new(),
    };
    // The first field here is the third one there.
    let field = |number: usize| -> i64 {
        let text = number.checked_sub(3).and_then(|place| fields.get(place));
        text.and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    let booted = boot.lines().find_map(|line| line.strip_prefix("btime "));
    let booted: i64 = booted
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(0);
    let ticks = field(14).saturating_add(field(15));
    let hundredths = ticks.saturating_mul(100) / tick;
    ProcessStat {
        cpu: f64::from(u32::try_from(hundredths / 100).unwrap_or(u32::MAX))
            + f64::from(u32::try_from(hundredths % 100).unwrap_or(0)) / 100.0,
        resident: field(24).saturating_mul(page),
        threads: field(20),
        started: booted.saturating_add(field(22) / tick),
        ..ProcessStat::default()
    }
}

/// Metrics of the process.
pub(super) struct ProcessMetrics {
    registry: Registry,
    cpu: Counter<f64, AtomicU64>,
    levels: [Gauge<i64, AtomicI64>; 5],
}

impl ProcessMetrics {
    pub(super) fn new() -> Self {
        let mut registry = Registry::with_prefix("process");
        let (cpu, levels) = (Counter::default(), <[Gauge<i64, AtomicI64>; 5]>::default());
        registry.register_with_unit(
            "cpu",
            "Processor time of the user and of the system",
            Unit::Seconds,
            Counter::clone(&cpu),
        );
        let [resident, threads, open, most, started] = levels.clone();
        registry.register_with_unit("resident_memory", "Memory in use", Unit::Bytes, resident);
        registry.register("threads", "Threads", threads);
        registry.register("open_fds", "Open file descriptors", open);
        registry.register("max_fds", "Most file descriptors that may be open", most);
        registry.register_with_unit(
            "start_time",
            "When the process started, since 1970",
            Unit::Seconds,
            started,
        );
        Self {
            registry,
            cpu,
            levels,
        }
    }

    /// Takes over what the kernel says now.
    pub(super) fn set(&self, now: ProcessStat) {
        use std::sync::atomic::Ordering::Relaxed;
        self.cpu.inner().store(now.cpu.to_bits(), Relaxed);
        let values = [
            now.resident,
            now.threads,
            now.open_files,
            now.max_files,
            now.started,
        ];
        for (level, value) in self.levels.iter().zip(values) {
            level.set(value);
        }
    }

    pub(super) fn registry(&self) -> &Registry {
        &self.registry
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_of_the_kernels_lines_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 250 125 5 6 20 0 9 0 4200 1000 33 1";
        let found = parse(stat, "cpu 1 2\nbtime 1700000000\nprocesses 3\n", 100, 4096);
        assert_eq!(
            found,
            ProcessStat {
                cpu: 3.75,
                resident: 33 * 4096,
                threads: 9,
                started: 1_700_000_042,
                ..ProcessStat::default()
            }
        );
        assert_eq!(parse("", "", 100, 4096), ProcessStat::default());
    }

    #[test]
    fn this_process_has_threads_memory_and_files() {
        let found = ProcessStat::read();
        assert!(found.threads > 0 && found.resident > 0 && found.open_files > 2);
        assert!(found.max_files >= found.open_files && found.started > 1_600_000_000);
    }
}
