//! containerd's configuration: is the snapshotter known to it, and where are the `hosts.toml`?
//! Sources: containerd's `docs/cri/config.md`, `docs/hosts.md`, `cmd/containerd/server/config`.

use std::collections::{HashSet, VecDeque};

use toml::{Table, Value};
use wildmatch::WildMatch;

use super::report::Report;
use super::root::Root;

const AREA: &str = "containerd";
/// Most directories of `config_path` that are looked into.
const MAX_HOSTS_DIRS: usize = 16;
/// Most files that are read for one configuration.
const MAX_FILES: usize = 64;
/// What containerd 2 reads where `config_path` is not set (`plugins/cri/images/plugin.go`).
const DEFAULT_CONFIG_PATH: &str = "/etc/containerd/certs.d:/etc/docker/certs.d";

/// What the other checks need to know.
#[derive(Debug)]
pub struct Containerd {
    /// The socket that the snapshotter is reached at.
    pub snapshotter: Option<String>,
    /// The directories with a folder for each registry.
    pub hosts_dirs: Vec<String>,
    /// Whether only containerd 2 reads these.
    pub is_default_path: bool,
}

/// Where a version of the file has its settings.
struct Places {
    images: &'static str,
    /// The table of `images` with `snapshotter`.
    snapshots: Option<&'static str>,
    runtimes: &'static [&'static str],
}

fn places(version: i64) -> Places {
    match version {
        ..=1 => Places {
            images: "cri",
            snapshots: Some("containerd"),
            runtimes: &["cri", "containerd", "runtimes"],
        },
        2 => Places {
            images: "io.containerd.grpc.v1.cri",
            snapshots: Some("containerd"),
            runtimes: &["io.containerd.grpc.v1.cri", "containerd", "runtimes"],
        },
        _ => Places {
            images: "io.containerd.cri.v1.images",
            snapshots: None,
            runtimes: &["io.containerd.cri.v1.images", "runtime_platforms"],
        },
    }
}

impl Places {
    /// A table's name as it is written in the file.
    fn written(&self, below: &str) -> String {
        let dot = if below.is_empty() { "" } else { "." };
        match self.images {
            "cri" => format!("[plugins.cri{dot}{below}]"),
            images => format!("[plugins.\"{images}\"{dot}{below}]"),
        }
    }
}

pub fn check(root: &Root, path: &str, report: &mut Report) -> Containerd {
    let mut found = Containerd {
        snapshotter: None,
        hosts_dirs: DEFAULT_CONFIG_PATH.split(':').map(str::to_owned).collect(),
        is_default_path: true,
    };
    let Some(config) = load(root, path, report) else {
        return found;
    };
    let version = config
        .get("version")
        .and_then(Value::as_integer)
        .unwrap_or(1);
    let places = places(version);
    let name = proxy_plugin(&config, path, report, &mut found);
    let plugins = config.get("plugins").and_then(Value::as_table);
    let disabled = config.get("disabled_plugins").and_then(Value::as_array);
    let has_cri = !disabled.into_iter().flatten().any(|plugin| {
        let plugin = plugin.as_str().unwrap_or_default();
        plugin == "cri"
            || plugin.starts_with("io.containerd.grpc.v1.cri")
            || plugin == places.images
    });
    if !has_cri {
        report.warning(
            AREA,
            format!("{path}: the plugin cri is disabled: Kubernetes cannot use this containerd"),
            format!(
                "take it out of disabled_plugins in {path}, unless only ctr, nerdctl or \
                Docker are used"
            ),
        );
        return found;
    }
    let known = [
        "cri",
        "io.containerd.grpc.v1.cri",
        "io.containerd.cri.v1.images",
    ];
    for other in known.iter().filter(|other| **other != places.images) {
        if plugins.is_some_and(|plugins| plugins.contains_key(*other)) {
            report.warning(
                AREA,
                format!("{path}: plugins.\"{other}\" is not read in files of version {version}"),
                format!("write its settings below {}", places.written("")),
            );
        }
    }
    let images = plugins.and_then(|plugins| plugins.get(places.images)?.as_table());
    check_cri(&config, images, &places, &name, path, report);
    check_config_path(images, &places, version, path, report, &mut found);
    found
}

/// The file with all that it imports: a later file's keys win.
fn load(root: &Root, path: &str, report: &mut Report) -> Option<Table> {
    let mut whole = Table::new();
    let mut todo = VecDeque::from([path.to_owned()]);
    let mut seen = HashSet::new();
    while let Some(next) = todo.pop_front() {
        if !seen.insert(next.clone()) {
            continue;
        }
        if seen.len() > MAX_FILES {
            report.warning(
                AREA,
                format!("{path} imports more than {MAX_FILES} files"),
                "import fewer",
            );
            break;
        }
        let text = match root.text(&next) {
            Ok(Some(text)) => text,
            Ok(None) => {
                report.wrong(
                    AREA,
                    format!("{next}: there is no such file"),
                    format!(
                        "containerd config default > {next}, then add what \
                        examples/node/containerd has"
                    ),
                );
                return None;
            }
            Err(error) => {
                report.wrong(AREA, format!("{next}: {error}"), "make it readable");
                return None;
            }
        };
        let table: Table = match text.parse() {
            Ok(table) => table,
            Err(error) => {
                report.wrong(
                    AREA,
                    // Not the line itself: there may be a password in it.
                    format!(
                        "{next}, line {}: {}",
                        line_of(&text, &error),
                        error.message()
                    ),
                    "containerd does not start with it: correct the line",
                );
                return None;
            }
        };
        let imports = table.get("imports").and_then(Value::as_array);
        for import in imports.into_iter().flatten().filter_map(Value::as_str) {
            // More are told above.
            if todo.len() > MAX_FILES {
                break;
            }
            todo.extend(
                matching(root, &next, import)
                    .into_iter()
                    .take(MAX_FILES + 1),
            );
        }
        merge(&mut whole, table);
    }
    Some(whole)
}

/// The number of the line that an error is in.
fn line_of(text: &str, error: &toml::de::Error) -> usize {
    let start = error.span().map_or(0, |span| span.start);
    text.get(..start).unwrap_or_default().matches('\n').count() + 1
}

/// The files that an import means; relative ones are beside the file that imports.
fn matching(root: &Root, from: &str, import: &str) -> Vec<String> {
    let directory = |path: &str| {
        path.rsplit_once('/')
            .map_or("", |(before, _)| before)
            .to_owned()
    };
    let import = if import.starts_with('/') {
        import.to_owned()
    } else {
        format!("{}/{import}", directory(from))
    };
    if !import.contains(['*', '?', '[']) {
        return vec![import];
    }
    let (place, pattern) = import.rsplit_once('/').unwrap_or(("", &import));
    let pattern = WildMatch::new(pattern);
    let names = root.names(place).into_iter();
    names
        .filter(|name| pattern.matches(name))
        .map(|name| format!("{place}/{name}"))
        .collect()
}

fn merge(into: &mut Table, from: Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            // What is imported replaces whole proxy plugins, and adds to others.
            (Some(Value::Table(old)), Value::Table(new)) => {
                if key == "proxy_plugins" {
                    old.extend(new);
                } else {
                    merge(old, new);
                }
            }
            (_, value) => {
                into.insert(key, value);
            }
        }
    }
}

/// The proxy plugin of the snapshotter: its name, and where it is reached.
fn proxy_plugin(config: &Table, path: &str, report: &mut Report, found: &mut Containerd) -> String {
    let plugins = config.get("proxy_plugins").and_then(Value::as_table);
    let text = |plugin: &Value, key: &str| {
        let value = plugin.get(key)?;
        Some(value.as_str()?.to_owned())
    };
    let of_overlaybd = plugins.into_iter().flatten().find(|(name, plugin)| {
        let address = text(plugin, "address").unwrap_or_default();
        name.as_str() == "overlaybd" || address.contains("overlaybd")
    });
    let lines = "[proxy_plugins.overlaybd]\n  type = \"snapshot\"\n  \
                 address = \"/run/overlaybd-snapshotter/overlaybd.sock\"";
    let Some((name, plugin)) = of_overlaybd else {
        report.wrong(
            AREA,
            format!("{path}: no proxy plugin is the overlaybd snapshotter"),
            format!("add to {path}, and restart containerd:\n{lines}"),
        );
        return "overlaybd".to_owned();
    };
    match (text(plugin, "type").as_deref(), text(plugin, "address")) {
        (Some("snapshot"), Some(address)) => {
            report.ok(AREA, format!("{path}: proxy plugin {name:?} at {address}"));
            found.snapshotter = Some(address);
        }
        (kind, address) => {
            report.wrong(
                AREA,
                format!("{path}: proxy plugin {name:?} has type {kind:?} and address {address:?}"),
                format!("it must be:\n{lines}"),
            );
        }
    }
    name.clone()
}

/// Whether Kubernetes' images are unpacked by the snapshotter.
fn check_cri(
    config: &Table,
    images: Option<&Table>,
    places: &Places,
    name: &str,
    path: &str,
    report: &mut Report,
) {
    let snapshots = match places.snapshots {
        Some(below) => images.and_then(|images| images.get(below)?.as_table()),
        None => images,
    };
    let get = |key: &str| snapshots.and_then(|snapshots| snapshots.get(key));
    let table = places.written(places.snapshots.unwrap_or_default());
    let is_default = get("snapshotter").and_then(Value::as_str) == Some(name);
    let mut runtimes = config.get("plugins");
    for key in places.runtimes {
        runtimes = runtimes.and_then(|at| at.get(*key));
    }
    let of_runtime = runtimes
        .and_then(Value::as_table)
        .into_iter()
        .flatten()
        .find(|(_, runtime)| runtime.get("snapshotter").and_then(Value::as_str) == Some(name));
    match (is_default, of_runtime) {
        (true, _) => report.ok(AREA, format!("{path}: CRI's snapshotter is {name:?}")),
        (false, Some((runtime, _))) => report.ok(
            AREA,
            format!("{path}: the runtime {runtime:?} has the snapshotter {name:?}"),
        ),
        (false, None) => report.warning(
            AREA,
            format!("{path}: CRI (Kubernetes) does not use the snapshotter {name:?}"),
            format!(
                "for Kubernetes, add to {path}:\n{table}\n  snapshotter = \"{name}\"\n\
                \x20 disable_snapshot_annotations = false"
            ),
        ),
    }
    let is_old = places.snapshots.is_some();
    let has_runtimes = runtimes.and_then(Value::as_table).is_some();
    if is_old && ((is_default && !has_runtimes) || (!is_default && of_runtime.is_some())) {
        report.warning(
            AREA,
            format!("{path}: containerd 2 does not carry this snapshotter over from such a file"),
            "with containerd 2, write version = 3 and what examples/node/containerd/config-2.x.toml \
             has; containerd 1 takes it",
        );
    }
    if (is_default || of_runtime.is_some())
        && get("disable_snapshot_annotations").and_then(Value::as_bool) != Some(false)
    {
        report.wrong(
            AREA,
            format!(
                "{path}: the snapshotter is not told which image a layer is of, so that \
                layers are downloaded whole"
            ),
            format!("add to {path}:\n{table}\n  disable_snapshot_annotations = false"),
        );
    }
}

fn check_config_path(
    images: Option<&Table>,
    places: &Places,
    version: i64,
    path: &str,
    report: &mut Report,
    found: &mut Containerd,
) {
    let registry = images.and_then(|images| images.get("registry")?.as_table());
    let config_path = registry.and_then(|registry| registry.get("config_path")?.as_str());
    let has_mirrors = registry
        .and_then(|registry| registry.get("mirrors")?.as_table())
        .is_some_and(|mirrors| !mirrors.is_empty());
    let line = format!(
        "{}\n  config_path = \"/etc/containerd/certs.d\"",
        places.written("registry")
    );
    match config_path.filter(|path| !path.is_empty()) {
        Some(_) if has_mirrors => report.wrong(
            AREA,
            format!(
                "{path}: registry.mirrors and registry.config_path exclude each other: \
                containerd refuses both"
            ),
            "take out registry.mirrors, and write hosts.toml files",
        ),
        Some(dirs) => {
            report.ok(AREA, format!("{path}: hosts.toml files are in {dirs}"));
            found.hosts_dirs = dirs
                .split(':')
                .take(MAX_HOSTS_DIRS)
                .map(str::to_owned)
                .collect();
            found.is_default_path = false;
        }
        None if has_mirrors => report.wrong(
            AREA,
            format!("{path}: registry.mirrors is set, so hosts.toml files are not read"),
            format!("replace registry.mirrors by:\n{line}"),
        ),
        None if version >= 3 => report.ok(
            AREA,
            format!("{path}: hosts.toml files are in {DEFAULT_CONFIG_PATH} (the default)"),
        ),
        None => report.warning(
            AREA,
            format!(
                "{path}: config_path is not set: containerd 1 reads no hosts.toml for \
                Kubernetes"
            ),
            format!("add to {path}:\n{line}"),
        ),
    }
}
