//! The snapshotter's configuration (accelerated-container-image `pkg/snapshot/overlay.go`).

use serde_json::{Map, Value};
use url::Url;

use super::containerd::Containerd;
use super::report::Report;
use super::root::Root;

const AREA: &str = "overlaybd-snapshotter";
const FILE: &str = "/etc/overlaybd-snapshotter/config.json";
const KEYS: [&str; 16] = [
    "asyncRemove",
    "address",
    "root",
    "verbose",
    "logReportCaller",
    "rwMode",
    "autoRemoveDev",
    "exporterConfig",
    "writableLayerType",
    "mirrorRegistry",
    "defaultFsType",
    "rootfsQuota",
    "tenant",
    "turboFsType",
    "runtimeType",
    "remapIDs",
];

/// What the other checks need to know.
#[derive(Debug, Default)]
pub struct Snapshotter {
    /// Its socket.
    pub address: Option<String>,
    /// The hosts that overlaybd is told to read from in the clear.
    plain: Vec<String>,
}

impl Snapshotter {
    /// Where overlaybd reads a blob: `constructImageBlobURL` in `pkg/snapshot/storage.go`. What is
    /// set decides the scheme, and nothing else.
    ///
    /// # Errors
    /// Where `host` is none.
    pub fn blob(&self, host: &str, repo: &str, digest: &str) -> Result<Url, String> {
        let host = match host {
            "docker.io" => "registry-1.docker.io",
            host => host,
        };
        let scheme = if self.plain.iter().any(|plain| plain == host) {
            "http"
        } else {
            "https"
        };
        let address = format!("{scheme}://{host}/v2/{repo}/blobs/{digest}");
        address
            .parse()
            .map_err(|error| format!("{address}: {error}"))
    }
}

pub fn check(
    root: &Root,
    containerd: &Containerd,
    proxy: Option<&Url>,
    report: &mut Report,
) -> Snapshotter {
    let mut found = Snapshotter::default();
    let text = match root.text(FILE) {
        Ok(Some(text)) => text,
        Ok(None) => {
            report.wrong(
                AREA,
                format!("{FILE}: there is no such file: the snapshotter does not start"),
                "install overlaybd-snapshotter, and copy \
                    examples/node/overlaybd-snapshotter/config.json",
            );
            return found;
        }
        Err(error) => {
            report.wrong(AREA, format!("{FILE}: {error}"), "make it readable");
            return found;
        }
    };
    let config: Map<String, Value> = match serde_json::from_str(&text) {
        Ok(config) => config,
        Err(error) => {
            report.wrong(
                AREA,
                format!("{FILE}: {error}"),
                "the snapshotter does not start with it: correct the line",
            );
            return found;
        }
    };
    // Go takes keys in any case.
    let get = |wanted: &str| {
        let mut pairs = config.iter();
        pairs
            .find(|(key, _)| key.eq_ignore_ascii_case(wanted))
            .map(|(_, value)| value)
    };
    for key in config.keys() {
        if !KEYS.iter().any(|known| key.eq_ignore_ascii_case(known)) {
            report.warning(
                AREA,
                format!("{FILE}: {key:?} is no setting, and is not read"),
                "take it out, or correct its name",
            );
        }
    }
    found.address = get("address")
        .and_then(Value::as_str)
        .map(|text| text.trim().to_owned());
    match (&found.address, &containerd.snapshotter) {
        (None, _) => report.wrong(
            AREA,
            format!("{FILE}: \"address\" is missing: the snapshotter does not start"),
            "\"address\": \"/run/overlaybd-snapshotter/overlaybd.sock\"",
        ),
        (Some(own), Some(known)) if own != known => report.wrong(
            AREA,
            format!("{FILE}: the snapshotter listens on {own}, and containerd asks {known}"),
            format!("\"address\": {known:?}"),
        ),
        (Some(own), _) => report.ok(AREA, format!("{FILE}: listens on {own}")),
    }
    if get("root")
        .and_then(Value::as_str)
        .is_none_or(str::is_empty)
    {
        report.wrong(
            AREA,
            format!("{FILE}: \"root\" is missing"),
            "\"root\": \"/var/lib/containerd/io.containerd.snapshotter.v1.overlaybd\"",
        );
    }
    let mode = get("rwMode").and_then(Value::as_str).unwrap_or("overlayfs");
    if !["overlayfs", "dir", "dev"].contains(&mode) {
        report.wrong(
            AREA,
            format!("{FILE}: \"rwMode\": {mode:?} is none of overlayfs, dir and dev"),
            "\"rwMode\": \"overlayfs\"",
        );
    }
    let mirrors = get("mirrorRegistry").and_then(Value::as_array);
    for mirror in mirrors.into_iter().flatten() {
        let host = mirror
            .get("host")
            .and_then(Value::as_str)
            .unwrap_or_default();
        let is_plain = mirror.get("insecure").and_then(Value::as_bool) == Some(true);
        if host.contains("://") {
            report.wrong(
                AREA,
                format!(
                    "{FILE}: \"mirrorRegistry\": {host:?} has a scheme, and stands for no host"
                ),
                "write HOST or HOST:PORT, as images are named",
            );
        } else if host == "docker.io" {
            report.wrong(
                AREA,
                format!(
                    "{FILE}: \"mirrorRegistry\": Docker Hub's blobs are read from \
                    registry-1.docker.io"
                ),
                "write \"host\": \"registry-1.docker.io\", or leave it out",
            );
        } else if is_plain {
            found.plain.push(host.to_owned());
        }
    }
    check_scheme(&found, proxy, report);
    found
}

/// Whether blobs of images with the proxy's own name are read as the proxy speaks.
fn check_scheme(found: &Snapshotter, proxy: Option<&Url>, report: &mut Report) {
    let Some(proxy) = proxy else {
        return;
    };
    let name = proxy.host_str().unwrap_or_default();
    let host = match proxy.port() {
        Some(port) => format!("{name}:{port}"),
        None => name.to_owned(),
    };
    let is_plain = found.plain.contains(&host);
    match (proxy.scheme(), is_plain) {
        ("http", false) => report.wrong(
            AREA,
            format!("{FILE}: overlaybd is sent to https://{host}, where the proxy speaks no TLS"),
            format!("\"mirrorRegistry\": [{{\"host\": {host:?}, \"insecure\": true}}]"),
        ),
        ("https", true) => report.wrong(
            AREA,
            format!("{FILE}: overlaybd is sent to http://{host}, where the proxy speaks TLS"),
            format!("take {host:?} out of \"mirrorRegistry\""),
        ),
        (scheme, _) => report.ok(
            AREA,
            format!("{FILE}: images of {host} are read by {scheme}"),
        ),
    }
}
