//! Which upstream a request is for.

use std::sync::Arc;

use http::header::HOST;
use http::request;
use percent_encoding::percent_decode_str;

use crate::oci::reference::{api_host, index_host};
use crate::registry::Upstream;
use crate::server::access::wrapped_token::Seal;
use crate::server::config::UpstreamEntry;
use crate::server::error::ApiError;
use crate::server::limits::redirects;

/// The upstreams by which requests choose them.
#[derive(Debug)]
pub(in crate::server) struct Upstreams {
    entries: Vec<UpstreamEntry>,
    /// By the places of `entries`.
    seals: Vec<Seal>,
    /// What each is called, by the places of `entries`.
    names: Vec<Vec<String>>,
    /// What the log calls each, by the places of `entries`.
    labels: Vec<Arc<str>>,
}

/// Where a client sees an upstream: what its addresses carry beyond the upstream's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::server) struct Mount {
    /// Where the API is, if not at the root of the proxy.
    pub root: Option<&'static str>,
    /// The first components of the path, which the upstream does not see.
    pub prefix: Option<String>,
    /// The value of `ns`, as it was given.
    pub namespace: Option<String>,
}

/// The upstream of one request.
#[derive(Debug, Clone)]
pub(in crate::server) struct Chosen<'a> {
    /// Its place among the upstreams: what caches know it by.
    pub place: usize,
    /// It.
    pub upstream: &'a Upstream,
    /// Where the client sees it.
    pub mount: Mount,
    /// Whether the path alone led to it, and not a name that the client gave the proxy.
    pub is_by_path: bool,
    /// The path as the upstream knows it.
    pub path: String,
    /// The query as the upstream knows it.
    pub query: Option<String>,
}

impl Chosen<'_> {
    /// Path and query for the upstream.
    pub fn target(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }
}

impl Upstreams {
    pub fn new(entries: Vec<UpstreamEntry>) -> Self {
        let seals = entries.iter().map(|entry| Seal::of(entry.upstream.host()));
        let labels = entries.iter().map(|entry| entry.upstream.host().into());
        Self {
            seals: seals.collect(),
            names: entries.iter().map(names_of).collect(),
            labels: labels.collect(),
            entries,
        }
    }

    /// What binds a token to the upstream of a place.
    pub fn seal(&self, place: usize) -> Option<&Seal> {
        self.seals.get(place)
    }

    /// The upstream of a place.
    pub fn get(&self, place: usize) -> Option<&Upstream> {
        Some(&self.entries.get(place)?.upstream)
    }

    /// What the log calls the upstream of a place.
    pub fn label(&self, place: usize) -> Option<Arc<str>> {
        self.labels.get(place).cloned()
    }

    /// What the upstream of a place is called: its registry's host, and what requests choose it by.
    pub fn names(&self, place: usize) -> &[String] {
        self.names.get(place).map_or(&[], Vec::as_slice)
    }

    /// The first name at which containerd's mirrors know the upstream of a place.
    pub fn namespace(&self, place: usize) -> Option<&str> {
        let entry = self.entries.get(place)?;
        let own = match &entry.upstream {
            Upstream::Registry(_) => Some(index_host(entry.upstream.host())),
            Upstream::Layout(_) => None,
        };
        let first = entry.choice.namespaces.first();
        first.map(|name| index_host(name)).or(own)
    }

    /// Whether paths choose among upstreams.
    pub fn are_by_path(&self) -> bool {
        self.entries.iter().any(|entry| prefix_of(entry).is_some())
    }

    /// The places that paths lead to: the first one, and those with a prefix.
    pub fn by_path(&self) -> impl Iterator<Item = usize> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter(|(place, entry)| *place == 0 || prefix_of(entry).is_some())
            .map(|(place, _)| place)
    }

    /// The place and prefix that `below`, which is what is behind `/v2/` or a repository, begins
    /// with, and the rest of it.
    fn prefixed<'a>(&self, below: &'a str) -> Option<(usize, &str, &'a str)> {
        let entries = self.entries.iter().enumerate();
        entries
            .filter_map(|(place, entry)| {
                let prefix = prefix_of(entry)?;
                without_prefix(below, prefix).map(|rest| (place, prefix, rest))
            })
            .max_by_key(|(_, prefix, _)| prefix.len())
    }

    /// The place of the upstream that a repository of the proxy is at, and its name there.
    pub fn of_repository<'a>(&self, name: &'a str) -> (usize, &'a str) {
        match self.prefixed(name) {
            Some((place, _, rest)) if !rest.is_empty() => (place, rest),
            _ => (0, name),
        }
    }

    /// The repository that a blob is to be mounted from (`from`), as the upstream knows it. From
    /// another upstream nothing can be mounted: what is left asks for an upload, as the
    /// specification has it where a mount is not possible.
    pub fn localize_mount(&self, chosen: &mut Chosen<'_>) {
        let Some(query) = &chosen.query else {
            return;
        };
        if !chosen.is_by_path || !self.are_by_path() {
            return;
        }
        let is = |pair: &str, name: &str| {
            let key = pair.split_once('=').map_or(pair, |(key, _)| key);
            percent_decode_str(key).eq(name.bytes())
        };
        let from = query.split('&').find(|pair| is(pair, "from"));
        let Some((_, from)) = from.and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let from = percent_decode_str(from).decode_utf8_lossy().into_owned();
        let (place, name) = self.of_repository(&from);
        let is_here = self.seal(place) == self.seal(chosen.place);
        let rest = query
            .split('&')
            .filter(|pair| !is(pair, "from") && (is_here || !is(pair, "mount")));
        let mut pairs: Vec<String> = rest.map(ToOwned::to_owned).collect();
        if is_here {
            let name: String = url::form_urlencoded::byte_serialize(name.as_bytes()).collect();
            pairs.push(format!("from={name}"));
        }
        chosen.query = (!pairs.is_empty()).then(|| pairs.join("&"));
    }

    /// Chooses by `ns`, then by host, then by the path's beginning; else the first one.
    /// `path` is the request's, as everyone reads it.
    ///
    /// # Errors
    /// When `ns` names none: a client that stands for another registry must not be answered
    /// from this one, and what a client names is never dialled.
    pub fn choose(&self, request: &request::Parts, path: &str) -> Result<Chosen<'_>, ApiError> {
        let (namespace, query) = take_namespace(request.uri.query())?;
        let chosen = |place: usize, prefix: Option<&str>, path: &str, is_by_path: bool| {
            let entry = self.entries.get(place).ok_or_else(|| {
                ApiError::internal("no upstream is configured at the chosen place")
            })?;
            Ok(Chosen {
                place,
                upstream: &entry.upstream,
                mount: Mount {
                    root: None,
                    prefix: prefix.map(ToOwned::to_owned),
                    namespace: namespace.clone(),
                },
                is_by_path,
                path: path.to_owned(),
                query: query.clone(),
            })
        };
        if let Some(namespace) = &namespace {
            let place = self
                .entries
                .iter()
                .position(|entry| answers_for(entry, namespace))
                .ok_or_else(|| ApiError::unknown_namespace(namespace))?;
            return chosen(place, None, path, false);
        }
        if let Some(host) = host(request) {
            let by_host = self.entries.iter().position(|entry| {
                let hosts = &entry.choice.hosts;
                hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
            });
            if let Some(place) = by_host {
                return chosen(place, None, path, false);
            }
        }
        let below = path.strip_prefix("/v2/");
        match below.and_then(|below| self.prefixed(below)) {
            Some((place, prefix, rest)) => {
                chosen(place, Some(prefix), &format!("/v2/{rest}"), true)
            }
            None => chosen(0, None, path, true),
        }
    }

    /// Whether what is meant for an address is this upstream's: the address is its own, by whatever
    /// name, and not that of a registry that it stands for (`ns`).
    pub fn is_address_of(&self, chosen: &Chosen<'_>, authority: &str) -> bool {
        let stands_for = |entry: &UpstreamEntry| {
            let bare = without_default_port(authority);
            let own = index_host(entry.upstream.host());
            answers_for(entry, bare) && !index_host(bare).eq_ignore_ascii_case(own)
        };
        is_own(chosen.upstream, authority)
            || !self.entries.get(chosen.place).is_some_and(stands_for)
    }

    /// The upstream that an address leads to, by the names that `--upstream` gives it; or by those
    /// of this proxy, the one that the request names included. `path` is as everyone reads it.
    pub fn at_address(
        &self,
        request: &request::Parts,
        authority: &str,
        path: &str,
        query: Option<&str>,
    ) -> Option<Chosen<'_>> {
        let known = |place: usize, prefix: Option<&str>, path: &str, namespace: Option<&str>| {
            Some(Chosen {
                place,
                upstream: self.get(place)?,
                mount: Mount {
                    prefix: prefix.map(ToOwned::to_owned),
                    namespace: namespace.map(ToOwned::to_owned),
                    root: None,
                },
                is_by_path: prefix.is_some() || namespace.is_none(),
                path: path.to_owned(),
                query: query.map(ToOwned::to_owned),
            })
        };
        let bare = without_default_port(authority);
        let is_upstreams =
            |entry: &UpstreamEntry| answers_for(entry, bare) || is_own(&entry.upstream, authority);
        if let Some(place) = self.entries.iter().position(is_upstreams) {
            let host = self.entries.get(place)?.upstream.host();
            let is_known = self
                .entries
                .get(place)
                .is_some_and(|entry| answers_for(entry, bare));
            return known(place, None, path, Some(if is_known { bare } else { host }));
        }
        let name = host_of(authority)?;
        let by_host = self.entries.iter().position(|entry| {
            let hosts = &entry.choice.hosts;
            hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
        });
        if let Some(place) = by_host {
            let mut chosen = known(place, None, path, None)?;
            chosen.is_by_path = false;
            return Some(chosen);
        }
        if !named_authority(request).is_some_and(|named| same_authority(named, authority)) {
            return None;
        }
        let below = path.strip_prefix("/v2/");
        match below.and_then(|below| self.prefixed(below)) {
            Some((place, prefix, rest)) => known(place, Some(prefix), &format!("/v2/{rest}"), None),
            None => known(0, None, path, None),
        }
    }
}

fn names_of(entry: &UpstreamEntry) -> Vec<String> {
    // A layout's host is a local path.
    let host = match &entry.upstream {
        Upstream::Registry(_) => Some(entry.upstream.host()),
        Upstream::Layout(_) => None,
    };
    let namespaces = entry.choice.namespaces.iter().map(|name| index_host(name));
    let hosts = entry.choice.hosts.iter().map(String::as_str);
    let mut names: Vec<String> = Vec::new();
    for name in host
        .into_iter()
        .chain(namespaces)
        .chain(hosts)
        .chain(prefix_of(entry))
    {
        let name = name.to_ascii_lowercase();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

fn prefix_of(entry: &UpstreamEntry) -> Option<&str> {
    let prefix = entry.choice.path_prefix.as_deref()?.trim_matches('/');
    (!prefix.is_empty()).then_some(prefix)
}

fn answers_for(entry: &UpstreamEntry, namespace: &str) -> bool {
    let asked = index_host(namespace);
    // A client that names the upstream's own host can mean nothing else. A layout's is a local
    // path, which is not for clients to find out.
    let host = match &entry.upstream {
        Upstream::Registry(_) => Some(entry.upstream.host()),
        Upstream::Layout(_) => None,
    };
    host.is_some_and(|host| host.eq_ignore_ascii_case(asked))
        || entry
            .choice
            .namespaces
            .iter()
            .any(|known| index_host(known).eq_ignore_ascii_case(asked))
}

/// Takes `ns` out of a query, and what is the proxy's own.
fn take_namespace(query: Option<&str>) -> Result<(Option<String>, Option<String>), ApiError> {
    let Some(query) = query else {
        return Ok((None, None));
    };
    let mut namespace: Option<String> = None;
    let mut rest: Vec<&str> = Vec::new();
    for pair in query.split('&') {
        if redirects::is_number(pair) {
            continue;
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        // However it is written: what is left is read by the upstream.
        if !percent_decode_str(key).eq(*b"ns") {
            rest.push(pair);
            continue;
        }
        let value = percent_decode_str(value).decode_utf8_lossy().into_owned();
        if namespace.as_ref().is_some_and(|before| *before != value) {
            return Err(ApiError::two_namespaces());
        }
        namespace = Some(value);
    }
    let rest = (!rest.is_empty()).then(|| rest.join("&"));
    Ok((namespace, rest))
}

/// The host that the client named, with its port if it named one.
fn named_authority(request: &request::Parts) -> Option<&str> {
    let named = match request.uri.authority() {
        Some(authority) => authority.as_str(),
        None => request.headers.get(HOST)?.to_str().ok()?,
    };
    Some(named.rsplit_once('@').map_or(named, |(_, host)| host))
}

/// The host that the client named, without port.
fn host(request: &request::Parts) -> Option<&str> {
    host_of(named_authority(request)?)
}

fn host_of(named: &str) -> Option<&str> {
    if named.starts_with('[') {
        return named.find(']').and_then(|end| named.get(..=end));
    }
    Some(named.split_once(':').map_or(named, |(host, _)| host))
}

/// `PREFIX/rest` as `rest`.
fn without_prefix<'a>(below: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = below.strip_prefix(prefix)?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(rest),
        None => rest.is_empty().then_some(rest),
    }
}

/// Whether `authority` is the address of this upstream's own API.
pub(in crate::server) fn is_own(upstream: &Upstream, authority: &str) -> bool {
    let Upstream::Registry(_) = upstream else {
        return false;
    };
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let own = upstream.host();
    [own, api_host(own)]
        .iter()
        .any(|own| same_authority(own, authority))
}

/// Equal but for case and a port that the scheme implies.
pub(in crate::server) fn same_authority(a: &str, b: &str) -> bool {
    without_default_port(a).eq_ignore_ascii_case(without_default_port(b))
}

fn without_default_port(authority: &str) -> &str {
    authority
        .strip_suffix(":443")
        .or_else(|| authority.strip_suffix(":80"))
        .unwrap_or(authority)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::RegistryConfig;
    use crate::server::config::UpstreamChoice;

    #[test]
    fn the_namespace_is_taken_out_of_the_query() {
        let take = |query| take_namespace(Some(query)).unwrap();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(take("ns=docker.io"), (some("docker.io"), None));
        assert_eq!(
            take("n=5&ns=a%3A5000&last=x%20y"),
            (some("a:5000"), some("n=5&last=x%20y"))
        );
        assert_eq!(take("n=5&overlaybd-waits=3"), (None, some("n=5")));
        assert_eq!(take("nsx=1"), (None, some("nsx=1")));
        assert_eq!(take("%6eS=1&n%73=a"), (some("a"), some("%6eS=1")));
        assert_eq!(take("ns=a&ns=a"), (some("a"), None));
        assert!(take_namespace(Some("ns=a&ns=b")).is_err());
    }

    #[test]
    fn a_prefix_is_whole_components() {
        let without = |below| without_prefix(below, "hub");
        assert_eq!(
            without("hub/library/redis/tags/list"),
            Some("library/redis/tags/list")
        );
        assert_eq!(without("hub"), Some(""));
        assert_eq!(without("hub/"), Some(""));
        assert_eq!(without("hubble/x"), None);
        assert_eq!(without("a/hub/x"), None);
    }

    fn upstreams(entries: &[(&str, Option<&str>)]) -> Upstreams {
        let entry = |(host, prefix): &(&str, Option<&str>)| UpstreamEntry {
            upstream: Upstream::registry(host, &RegistryConfig::default()).unwrap(),
            choice: UpstreamChoice {
                path_prefix: prefix.map(ToOwned::to_owned),
                ..UpstreamChoice::default()
            },
        };
        Upstreams::new(entries.iter().map(entry).collect())
    }

    #[test]
    fn a_repository_is_at_the_upstream_of_its_longest_prefix() {
        let upstreams = upstreams(&[("a", None), ("b", Some("hub")), ("c", Some("hub/deep"))]);
        for (name, place, rest) in [
            ("x/y", 0, "x/y"),
            ("hub", 0, "hub"),
            ("hubble/x", 0, "hubble/x"),
            ("hub/x", 1, "x"),
            ("hub/deeper/x", 1, "deeper/x"),
            ("hub/deep/x", 2, "x"),
        ] {
            assert_eq!(upstreams.of_repository(name), (place, rest), "{name}");
        }
    }

    #[test]
    fn a_mount_request_has_the_upstreams_repository_names() {
        let two = [("a", None), ("b", Some("hub")), ("b", Some("again"))];
        let (by_path, alone) = (upstreams(&two), upstreams(&two[..1]));
        let localized = |upstreams: &Upstreams, path: &str| {
            let request = http::Request::post(path).body(()).unwrap();
            let (parts, ()) = request.into_parts();
            let mut chosen = upstreams.choose(&parts, parts.uri.path()).unwrap();
            upstreams.localize_mount(&mut chosen);
            chosen.target()
        };
        let start = "/v2/hub/x/blobs/uploads/?mount=sha256:1&from=";
        for (path, wanted) in [
            (format!("{start}hub%2Fy"), "?mount=sha256:1&from=y"),
            // The same registry by another prefix.
            (format!("{start}again/y/z"), "?mount=sha256:1&from=y%2Fz"),
            (format!("{start}y&digest=1"), "?digest=1"),
            (format!("{start}y"), ""),
            (
                "/v2/hub/x/blobs/uploads/?fro%6d=hub/y".to_owned(),
                "?from=y",
            ),
            ("/v2/hub/x/blobs/uploads/?mount=1".to_owned(), "?mount=1"),
        ] {
            let found = localized(&by_path, &path);
            assert_eq!(found, format!("/v2/x/blobs/uploads/{wanted}"), "{path}");
        }
        let untouched = "/v2/x/blobs/uploads/?from=hub/y&mount=1";
        assert_eq!(localized(&alone, untouched), untouched);
        assert_eq!(localized(&by_path, &format!("{untouched}&ns=a")), untouched);
    }

    #[test]
    fn a_host_is_compared_without_its_port() {
        let host_of = |value: &str| {
            let request = http::Request::get("/v2/").header(HOST, value).body(());
            let (parts, ()) = request.unwrap().into_parts();
            host(&parts).map(ToOwned::to_owned)
        };
        assert_eq!(
            host_of("mirror.example:8443").as_deref(),
            Some("mirror.example")
        );
        assert_eq!(host_of("[::1]:5000").as_deref(), Some("[::1]"));
        assert_eq!(host_of("plain").as_deref(), Some("plain"));
    }

    #[test]
    fn a_default_port_does_not_change_the_host() {
        assert!(same_authority("a.example", "A.example:443"));
        assert!(same_authority("a:80", "a"));
        assert!(!same_authority("a:5000", "a"));
        assert!(!same_authority("a", "b"));
    }
}
