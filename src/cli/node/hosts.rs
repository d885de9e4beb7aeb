//! The `hosts.toml` files: which registries are asked through the proxy, and how.

use std::path::{Path, PathBuf};

use url::Url;

use super::containerd::Containerd;
use super::report::Report;
use super::root::Root;
use crate::registry::{HostEntry, parse_hosts_toml};

const AREA: &str = "hosts.toml";
/// Most registries of a directory.
const MAX_REGISTRIES: usize = 256;
/// What a node says of itself.
const FORMAT: &str = "overlaybd-format";
const FORMATS: [&str; 4] = ["auto", "native", "turbo", "original"];
/// The path that says the same.
const PREFIX: &str = "/overlaybd/v2";

/// A way to the proxy.
#[derive(Debug, Clone)]
pub struct Way {
    /// The address of its API.
    pub base: Url,
    /// Files with authorities that are trusted besides the system's.
    pub roots: Vec<PathBuf>,
    /// Whether any certificate is taken.
    pub skips_verification: bool,
}

/// A registry with a `hosts.toml`.
#[derive(Debug, Clone)]
pub struct Registry {
    /// As images are named; `None` for all without a file of their own.
    pub host: Option<String>,
    /// Its `hosts.toml`.
    pub file: String,
    /// The ways to the proxy.
    pub ways: Vec<Way>,
}

/// All registries with a file that can be read.
pub fn check(
    root: &Root,
    containerd: &Containerd,
    proxy: Option<&Url>,
    report: &mut Report,
) -> Vec<Registry> {
    let mut registries: Vec<Registry> = Vec::new();
    for directory in &containerd.hosts_dirs {
        for name in root.names(directory).into_iter().take(MAX_REGISTRIES) {
            let host = host_of(&name);
            // The first directory that has a registry counts.
            if registries.iter().any(|known| known.host == host) {
                continue;
            }
            let file = format!("{}/{name}/hosts.toml", directory.trim_end_matches('/'));
            let text = match root.text(&file) {
                Ok(None) => continue,
                Ok(Some(text)) => text,
                Err(error) => {
                    report.wrong(AREA, format!("{file}: {error}"), "make it readable");
                    continue;
                }
            };
            match parse_hosts_toml(Path::new(&file), &text) {
                Ok(entries) => {
                    let ways = ways(root, &entries, &file, proxy, report);
                    check_name(host.as_deref(), &file, &ways, report);
                    registries.push(Registry { host, file, ways });
                }
                Err(error) => report.wrong(
                    AREA,
                    error.to_string(),
                    "containerd leaves such a file out, and asks the registry itself: correct it",
                ),
            }
        }
    }
    let leads = registries.iter().any(|registry| !registry.ways.is_empty());
    if leads && containerd.is_default_path {
        report.skipped(
            AREA,
            "containerd 2 reads these files; containerd 1 needs config_path",
        );
    }
    if !leads {
        let address = proxy.map_or("https://proxy.example.com:8480", Url::as_str);
        let address = address.trim_end_matches('/');
        report.warning(
            AREA,
            "no hosts.toml leads to the proxy: it is used for images that have its own name only",
            format!(
                "for Docker Hub's images, write to /etc/containerd/certs.d/docker.io/hosts.toml:\n\
                 server = \"https://registry-1.docker.io\"\n[host.\"{address}\"]\n  \
                 capabilities = [\"pull\", \"resolve\"]\n  [host.\"{address}\".header]\n    \
                 Overlaybd-Format = \"auto\""
            ),
        );
    }
    registries
}

/// The registry that a directory is for.
fn host_of(name: &str) -> Option<String> {
    if name == "_default" {
        return None;
    }
    // `HOST_PORT_` stands for `HOST:PORT`.
    let port = name
        .strip_suffix('_')
        .and_then(|rest| rest.rsplit_once('_'));
    Some(match port {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => format!("{host}:{port}"),
        _ => name.to_owned(),
    })
}

/// Docker Hub's images have one name only.
fn check_name(host: Option<&str>, file: &str, ways: &[Way], report: &mut Report) {
    let is_api = matches!(host, Some("registry-1.docker.io" | "index.docker.io"));
    if is_api && !ways.is_empty() {
        report.wrong(
            AREA,
            format!(
                "{file}: images of Docker Hub are named docker.io/…, so this file is not \
                read for them"
            ),
            "move it to the directory docker.io",
        );
    }
}

fn ways(
    root: &Root,
    entries: &[HostEntry],
    file: &str,
    proxy: Option<&Url>,
    report: &mut Report,
) -> Vec<Way> {
    let mut ways = Vec::new();
    for entry in entries {
        let Some(base) = &entry.base else {
            continue;
        };
        let is_it = match proxy {
            Some(proxy) => same_origin(base, proxy),
            // The proxy stands for any registry in `_default` as a server too.
            None => !entry.is_registry,
        };
        if !is_it {
            continue;
        }
        let before = report.wrongs();
        check_entry(root, entry, base, file, report);
        if report.wrongs() == before {
            report.ok(AREA, format!("{file}: leads to {base}"));
        }
        ways.push(Way {
            base: base.clone(),
            roots: entry.roots.clone(),
            skips_verification: entry.skip_verify == Some(true),
        });
    }
    ways
}

fn check_entry(root: &Root, entry: &HostEntry, base: &Url, file: &str, report: &mut Report) {
    let at = format!("[host.\"{}\"]", base.as_str().trim_end_matches("/v2"));
    if !entry.can.pull || !entry.can.resolve {
        report.wrong(
            AREA,
            format!("{file}: {base} is not asked what tags stand for, so tags are the origin's"),
            format!("in {at} of {file}: capabilities = [\"pull\", \"resolve\"]"),
        );
    }
    let path = base.path().trim_end_matches('/');
    let said = entry
        .headers
        .get(FORMAT)
        .and_then(|value| value.to_str().ok());
    match said {
        _ if path != "/v2" && path != PREFIX => report.wrong(
            AREA,
            format!("{file}: the API of the proxy is at /v2 and {PREFIX}, not at {path:?}"),
            "without override_path, name the host only; with it, end the address with \
                /overlaybd/v2",
        ),
        Some(format) if FORMATS.contains(&format) => {}
        Some(format) => report.wrong(
            AREA,
            format!(
                "{file}: Overlaybd-Format = {format:?} is none of {}",
                FORMATS.join(", ")
            ),
            "write Overlaybd-Format = \"auto\"",
        ),
        None if path == PREFIX => {}
        None => report.warning(
            AREA,
            format!(
                "{file}: plain tags come from {base} as they are: only tags with a suffix \
                are converted"
            ),
            format!(
                "for converted images under plain tags, add to {file}:\n  {}.header]\n\
                \x20 Overlaybd-Format = \"auto\"",
                at.trim_end_matches(']')
            ),
        ),
    }
    for path in &entry.roots {
        let path = path.display().to_string();
        let problem = match root.read(&path) {
            Ok(Some(bytes)) => match super::tls::certificates(&bytes) {
                Ok(found) if !found.is_empty() => continue,
                Ok(_) => "there is no certificate in it (PEM is expected)".to_owned(),
                Err(error) => error,
            },
            Ok(None) => "there is no such file".to_owned(),
            Err(error) => error.to_string(),
        };
        report.wrong(
            AREA,
            format!("{file}: ca = {path:?}: {problem}"),
            format!("copy the authority's certificate to {path}"),
        );
    }
    if entry.skip_verify == Some(true) {
        report.warning(
            AREA,
            format!("{file}: the certificate of {base} is not verified (skip_verify)"),
            format!("in {at} of {file}: ca = \"/etc/containerd/certs.d/proxy-ca.crt\" instead"),
        );
    }
    if base.scheme() == "http" {
        let has_tls = !entry.roots.is_empty() || entry.skip_verify.is_some();
        let more = if has_tls {
            " and containerd tries TLS first, because ca or skip_verify is set"
        } else {
            ""
        };
        report.warning(
            AREA,
            format!(
                "{file}: {base} is asked in the clear: whoever is in between can change \
                images{more}"
            ),
            "use TLS: serve --tls-cert FILE --tls-key FILE",
        );
    }
}

/// Whether scheme, host and port are the same.
pub fn same_origin(a: &Url, b: &Url) -> bool {
    a.scheme() == b.scheme()
        && a.host_str() == b.host_str()
        && a.port_or_known_default() == b.port_or_known_default()
}
