//! What holds when nobody says anything.

use std::sync::LazyLock;
use std::time::Duration;

use toml::{Table, Value};

use crate::registry::{RetryPolicy, Timeouts};
use crate::server::Limits;
use crate::sizes::as_option;

/// The same on every machine.
pub(super) fn defaults() -> &'static Table {
    static DEFAULTS: LazyLock<Table> = LazyLock::new(make);
    &DEFAULTS
}

fn make() -> Table {
    let limits = Limits::default();
    let timeouts = Timeouts::default();
    let time = |duration: Duration| humantime::format_duration(duration).to_string();
    let text = [
        ("listen", "127.0.0.1:8480".to_owned()),
        ("http2", "true".to_owned()),
        ("suffix", "_obd".to_owned()),
        ("hold", "25s".to_owned()),
        ("on-timeout", "wait".to_owned()),
        ("auth-cache-ttl", "15s".to_owned()),
        ("stale-if-error", "1day".to_owned()),
        ("failure-ttl", "5m".to_owned()),
        ("url-ttl", "10m".to_owned()),
        ("tag-ttl", "0".to_owned()),
        ("learn-window", "1m".to_owned()),
        ("max-connections", limits.connections.to_string()),
        ("max-requests", limits.requests.to_string()),
        ("max-waiting", limits.waiting.to_string()),
        ("address-share", format!("{}%", limits.address_share)),
        ("max-logins", limits.logins.to_string()),
        ("max-head-size", as_option(limits.head_bytes as u64)),
        ("head-timeout", time(limits.head_timeout)),
        ("idle-timeout", time(limits.idle)),
        ("stall-timeout", time(limits.stall)),
        ("drain-delay", time(limits.drain_delay)),
        ("drain", time(limits.drain)),
        ("cache-size", "80%".to_owned()),
        ("keep", "1h".to_owned()),
        ("scrub", "8MiB".to_owned()),
        ("algorithm", "zstd".to_owned()),
        ("bs", "16".to_owned()),
        ("vsize", "64".to_owned()),
        ("fstype", "ext4".to_owned()),
        ("max-layer-size", "64GiB".to_owned()),
        ("acceleration-layer", "true".to_owned()),
        ("turbo-suffix", "_turbo".to_owned()),
        ("merged-suffix", "_merged".to_owned()),
        ("list-referrers", "true".to_owned()),
        ("turbo-fallback", "native".to_owned()),
        ("turbo-inline", "0".to_owned()),
        ("turbo-max-gap", "4MiB".to_owned()),
        ("max-queue", "4096".to_owned()),
        ("conversion-timeout", "1h".to_owned()),
        ("lease-ttl", "30s".to_owned()),
        ("system-roots", "true".to_owned()),
        ("upstream-http2", "true".to_owned()),
        ("connect-timeout", time(timeouts.connect)),
        ("response-timeout", time(timeouts.response)),
        ("attempts", RetryPolicy::default().attempts.to_string()),
        ("max-manifest-size", "4MiB".to_owned()),
        ("log-level", "info".to_owned()),
        ("log-format", "text".to_owned()),
    ];
    let mut table: Table = text
        .into_iter()
        .map(|(key, value)| (key.to_owned(), Value::String(value)))
        .collect();
    for (key, values) in [
        ("upstream", &["docker.io"][..]),
        ("hosts-dir", &["/etc/docker/certs.d"]),
        // The same on every machine, so that replicas answer the same.
        ("platform", &["linux/amd64", "linux/arm64"]),
    ] {
        let values = values.iter().map(|value| Value::from(*value)).collect();
        table.insert(key.to_owned(), Value::Array(values));
    }
    table
}

/// What this machine and this user decide.
pub(super) fn machine_defaults() -> Table {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut table = Table::new();
    let mut set = |key: &str, value: String| table.insert(key.to_owned(), Value::String(value));
    set("threads", cores.to_string());
    set("conversions", cores.clamp(2, 16).to_string());
    set("memory", as_option(memory()));
    set("data-dir", data_dir());
    table
}

/// A quarter of the memory that this process may use, in bytes, within bounds: whole MiB.
fn memory() -> u64 {
    let machine = nix::sys::sysinfo::sysinfo().map_or(u64::MAX, |info| info.ram_total());
    // A container's bound; "max" where there is none.
    let bound = std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok();
    let bound = bound.and_then(|text| text.trim().parse().ok());
    let quarter = (machine.min(bound.unwrap_or(u64::MAX)) / 4).clamp(256 << 20, 4 << 30);
    quarter - quarter % (1 << 20)
}

fn data_dir() -> String {
    const NAME: &str = "overlaybd-proxy";
    if nix::unistd::geteuid().is_root() {
        return format!("/var/lib/{NAME}");
    }
    // A relative path here is to be ignored (XDG base directory specification).
    let absolute = |name| {
        std::env::var(name)
            .ok()
            .filter(|path| path.starts_with('/'))
    };
    match (absolute("XDG_DATA_HOME"), absolute("HOME")) {
        (Some(data), _) => format!("{data}/{NAME}"),
        (None, Some(home)) => format!("{home}/.local/share/{NAME}"),
        (None, None) => format!("/var/lib/{NAME}"),
    }
}
