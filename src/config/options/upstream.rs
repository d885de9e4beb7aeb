//! What stands behind the proxy.
// The comments of options are their help texts.
#![allow(clippy::doc_markdown)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::LazyLock;

use clap::{Args as _, Command};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{Registries, RegistryOptions};
use crate::config::ConfigErrors;
use crate::config::file::shaped_entry;
use crate::config::keys::{Shape, keys_of};
use crate::oci::RepoName;
use crate::oci::reference::{Scheme, index_host, is_host, shown_address};
use crate::registry::{Error, RegistryConfig, Upstream};
use crate::server::{UpstreamChoice, UpstreamEntry};

/// What stands behind the proxy.
#[derive(Debug, Clone, Default, clap::Args, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
#[command(next_help_heading = "Upstreams")]
pub struct UpstreamOptions {
    /// What stands behind: HOST, https://HOST, http://HOST, oci:DIR or oci-archive:FILE; may
    /// be repeated
    ///
    /// What stands behind: HOST, https://HOST, http://HOST, oci:DIR or oci-archive:FILE. May be
    /// repeated; the first is asked where nothing else is said. Settings of one upstream follow
    /// it with commas, under the names that they have in the file's [[upstream]] tables:
    /// ghcr.io,path-prefix=gh,plain-http. How a request chooses an upstream: ns=VALUE (the `ns`
    /// parameter of containerd's mirrors; the host itself if none is given), hosts=NAME (the
    /// request's Host), path-prefix=NAME (the first components of the repository). A written
    /// https:// or http:// holds whatever else is said. In the environment variable, upstreams
    /// are divided by semicolons.
    #[arg(long, value_name = "UPSTREAM", value_delimiter = ';')]
    pub upstream: Vec<Entry>,
}

/// An upstream as it was written: a text, or a table of the file.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Entry(Value);

impl From<String> for Entry {
    fn from(text: String) -> Self {
        Self(Value::String(text))
    }
}

/// It may hold a password.
impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Entry(***)")
    }
}

/// The keys of an upstream: how it is chosen, and all that can be said of a registry.
pub(in crate::config) fn upstream_keys() -> &'static BTreeMap<String, Shape> {
    static KEYS: LazyLock<BTreeMap<String, Shape>> = LazyLock::new(|| {
        let command = RegistryOptions::augment_args(Command::new("keys"));
        let mut keys = keys_of(&command);
        // `ca` reads better in a table that is called upstream.
        let short: Vec<(String, Shape)> = keys
            .iter()
            .filter_map(|(key, shape)| Some((key.strip_prefix("upstream-")?.to_owned(), *shape)))
            .collect();
        keys.extend(short);
        keys.insert("url".to_owned(), Shape::Scalar);
        keys.insert("ns".to_owned(), Shape::List);
        keys.insert("hosts".to_owned(), Shape::List);
        keys.insert("path-prefix".to_owned(), Shape::Scalar);
        keys
    });
    &KEYS
}

/// Where images are, before it is opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A registry.
    Registry {
        /// Its host.
        host: String,
        /// How it is connected to.
        config: Box<RegistryConfig>,
    },
    /// A layout directory.
    Layout(PathBuf),
    /// A layout in a tar file.
    Archive(PathBuf),
}

impl Target {
    /// Opens it for reading; nothing is dialled.
    ///
    /// # Errors
    /// When a setting cannot be used, or the layout is none.
    pub fn open(&self) -> Result<Upstream, Error> {
        match self {
            Self::Registry { host, config } => Upstream::registry(host, config),
            Self::Layout(directory) => Upstream::layout(directory),
            Self::Archive(file) => Upstream::archive(file),
        }
    }
}

/// An upstream, and how a request chooses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedUpstream {
    /// What is asked.
    pub target: Target,
    /// How a request chooses it.
    pub choice: UpstreamChoice,
}

impl NamedUpstream {
    /// Opens it; nothing is dialled.
    ///
    /// # Errors
    /// As [`Target::open`].
    pub fn open(&self) -> Result<UpstreamEntry, Error> {
        Ok(UpstreamEntry {
            upstream: self.target.open()?,
            choice: self.choice.clone(),
        })
    }
}

/// Where an upstream is.
pub(super) enum Place {
    Registry {
        host: String,
        scheme: Option<Scheme>,
    },
    Layout(PathBuf),
    Archive(PathBuf),
}

/// Where an upstream's table leads, without anything secret; `None` where it leads nowhere.
pub(in crate::config) fn upstream_address(table: &Table) -> Option<String> {
    let url = table.get("url").and_then(Value::as_str)?;
    Some(match place(url).ok()? {
        Place::Registry { host, .. } => host,
        Place::Layout(path) => format!("oci:{}", path.display()),
        Place::Archive(path) => format!("oci-archive:{}", path.display()),
    })
}

/// Where a `url` leads.
fn place(url: &str) -> Result<Place, String> {
    if url.contains('@') && !url.starts_with("oci:") && !url.starts_with("oci-archive:") {
        return Err("credentials do not belong into an address: use `user`".to_owned());
    }
    let path = |text: &str| match text {
        "" => Err(format!("{url:?} names no path")),
        text => Ok(PathBuf::from(text)),
    };
    if let Some(file) = url.strip_prefix("oci-archive:") {
        return path(file).map(Place::Archive);
    }
    if let Some(directory) = url.strip_prefix("oci:") {
        return path(directory).map(Place::Layout);
    }
    let (scheme, host) = match Scheme::split(url) {
        (None, text) => match text.split_once("://") {
            Some(("docker", host)) => (None, host),
            Some(_) => {
                let shown = shown_address(url);
                return Err(format!(
                    "{shown:?} has no scheme of a registry: use https or http"
                ));
            }
            None => (None, text),
        },
        written => written,
    };
    let host = host.strip_suffix('/').unwrap_or(host);
    if !is_host(host) {
        let shown = shown_address(url);
        return Err(format!(
            "{shown:?} is no upstream: HOST, HOST:PORT, https://HOST, http://HOST, oci:DIR or \
             oci-archive:FILE is expected"
        ));
    }
    Ok(Place::Registry {
        host: host.to_owned(),
        scheme,
    })
}

/// Whether a key can stand without a value.
fn is_switch(key: &str) -> bool {
    matches!(
        key,
        "plain-http" | "skip-verify" | "system-roots" | "allow-downgrade"
    )
}

/// `URL,key=value,switch` as a table.
fn table_of(text: &str) -> Result<Table, String> {
    let mut parts = text.split(',');
    let mut table = Table::new();
    table.insert("url".to_owned(), parts.next().unwrap_or_default().into());
    for (place, part) in (1..).zip(parts) {
        let written = part.split_once('=');
        let (key, value) = written.unwrap_or((part, "true"));
        let Some(shape) = upstream_keys().get(key) else {
            // It is not repeated: behind a comma in a password it is that one's rest.
            let known: Vec<&str> = upstream_keys().keys().map(String::as_str).collect();
            return Err(format!(
                "setting {place} behind the address is none of {}",
                known.join(", ")
            ));
        };
        if written.is_none_or(|(_, value)| value.is_empty()) && !is_switch(key) {
            return Err(format!("{key} needs a value: {key}=VALUE"));
        }
        match shape {
            Shape::List => {
                let list = table.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                if let Some(list) = list.as_array_mut() {
                    list.push(value.into());
                }
            }
            _ => {
                table.insert(key.to_owned(), value.into());
            }
        }
    }
    Ok(table)
}

/// The settings that an upstream has of its own: the option's name, and the key that was written.
pub(super) type Keys = Vec<(String, String)>;

/// What an upstream is: where, the settings of its registry, how a request chooses it.
pub(super) fn read_entry(
    entry: &Entry,
    base: &RegistryOptions,
    errors: &mut ConfigErrors,
) -> Option<(Place, RegistryOptions, UpstreamChoice, Keys)> {
    let table = match &entry.0 {
        Value::Table(table) => shaped_entry(table.clone()),
        Value::String(text) => errors.take("upstream", table_of(text))?,
        _ => {
            errors.add("upstream", "a text or a table is expected");
            return None;
        }
    };
    let url = table.get("url").and_then(Value::as_str).unwrap_or_default();
    if url.is_empty() {
        errors.add("upstream", "an upstream needs a `url`");
        return None;
    }
    let place = errors.take("upstream", place(url))?;
    let mut merged = Table::try_from(base.without_credentials())
        .map_err(|error| errors.add("upstream", error))
        .ok()?;
    let mut keys = Keys::new();
    for (key, value) in &table {
        let long = format!("upstream-{key}");
        let name = if upstream_keys().contains_key(&long) {
            long
        } else {
            key.clone()
        };
        merged.insert(name.clone(), value.clone());
        keys.push((name, key.clone()));
    }
    let options = Value::Table(merged)
        .try_into()
        .map_err(|error: toml::de::Error| errors.add("upstream", error.message()))
        .ok()?;
    let choice = choice(&table, &place, errors);
    Some((place, options, choice, keys))
}

fn choice(table: &Table, place: &Place, errors: &mut ConfigErrors) -> UpstreamChoice {
    let list = |key: &str| -> Vec<String> {
        let values = table.get(key).and_then(Value::as_array);
        values
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .map(str::to_ascii_lowercase)
            .collect()
    };
    let mut namespaces = list("ns");
    if let (true, Place::Registry { host, .. }) = (namespaces.is_empty(), place) {
        namespaces.push(index_host(host).to_ascii_lowercase());
    }
    let path_prefix = table
        .get("path-prefix")
        .and_then(Value::as_str)
        .filter(|prefix| !prefix.is_empty())
        .and_then(|prefix| {
            let prefix = prefix.trim_matches('/');
            let read = prefix.parse::<RepoName>();
            errors.take("upstream", read.map_err(|e| format!("path-prefix: {e}")))
        });
    UpstreamChoice {
        namespaces,
        hosts: list("hosts"),
        path_prefix: path_prefix.map(|prefix| prefix.to_string()),
    }
}

impl UpstreamOptions {
    /// An upstream, by its number if there are several.
    pub(super) fn shown(&self, number: usize, host: &str) -> String {
        if self.upstream.len() == 1 {
            format!("upstream {host}")
        } else {
            format!("upstream {number}, {host}")
        }
    }

    /// The upstreams in their order, and the settings of every registry.
    pub fn config(
        &self,
        base: &RegistryOptions,
        errors: &mut ConfigErrors,
    ) -> (Vec<NamedUpstream>, Registries) {
        let mut read = Vec::new();
        let is_one = self.upstream.len() == 1;
        // What is wrong with the settings of all is not one upstream's.
        let mut shared = errors.anew();
        let _ = if is_one {
            base.config(&mut shared)
        } else {
            base.without_credentials().config(&mut shared)
        };
        for (number, entry) in (1..).zip(&self.upstream) {
            let before = errors.lines().len();
            read.extend(read_entry(entry, base, errors).map(|read| (number, read)));
            if !is_one {
                errors.place_since(before, &format!("upstream {number}"), &shared);
            }
        }
        if base.has_credentials() && read.len() > 1 {
            errors.add(
                if base.user.is_some() {
                    "user"
                } else {
                    "refresh"
                },
                "there are several upstreams: say in each [[upstream]] which credentials it gets",
            );
        }
        let hosts = match read.as_slice() {
            [(_, (Place::Registry { host, .. }, ..))] => Some(host.as_str()),
            _ => None,
        };
        let registries =
            Registries::new(base.clone(), hosts).with_upstreams(self, &mut errors.anew());
        let mut upstreams = Vec::new();
        for (number, (place, _, choice, _)) in read {
            let target = match place {
                Place::Registry { host, scheme } => {
                    let before = errors.lines().len();
                    let config = registries.config((scheme, &host), None, errors);
                    errors.place_since(before, &self.shown(number, &host), &shared);
                    let Some(config) = config else {
                        continue;
                    };
                    Target::Registry {
                        host,
                        config: Box::new(config),
                    }
                }
                Place::Layout(path) => Target::Layout(path),
                Place::Archive(path) => Target::Archive(path),
            };
            upstreams.push(NamedUpstream { target, choice });
        }
        tell_ambiguities(&upstreams, errors);
        (upstreams, registries)
    }
}

/// A request must not be for two upstreams.
fn tell_ambiguities(upstreams: &[NamedUpstream], errors: &mut ConfigErrors) {
    let mut seen = BTreeSet::new();
    for NamedUpstream { choice, .. } in upstreams {
        let namespaces = choice.namespaces.iter().map(|name| ("ns", name));
        let hosts = choice.hosts.iter().map(|name| ("hosts", name));
        let prefix = choice.path_prefix.iter().map(|name| ("path-prefix", name));
        for (key, name) in namespaces.chain(hosts).chain(prefix) {
            if !seen.insert((key, name)) {
                errors.add("upstream", format!("two upstreams have {key} {name:?}"));
            }
        }
    }
}
