//! Which upstream a request is for.

use http::header::HOST;
use http::request;
use percent_encoding::percent_decode_str;

use super::config::UpstreamEntry;
use super::respond::Failure;
use super::rounds;
use crate::oci::reference::{api_host, index_host};
use crate::registry::Upstream;

/// The upstreams by which requests choose them.
#[derive(Debug)]
pub(super) struct Upstreams {
    entries: Vec<UpstreamEntry>,
}

/// Where a client sees an upstream: what its addresses carry beyond the upstream's own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mount {
    /// The first components of the path, which the upstream does not see.
    pub prefix: Option<String>,
    /// The value of `ns`, as it was given.
    pub namespace: Option<String>,
}

/// The upstream of one request.
#[derive(Debug, Clone)]
pub(super) struct Chosen<'a> {
    /// Its place among the upstreams: what caches know it by.
    pub place: usize,
    /// It.
    pub upstream: &'a Upstream,
    /// Where the client sees it.
    pub mount: Mount,
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
        Self { entries }
    }

    /// Chooses by `ns`, then by host, then by the path's beginning; else the first one.
    /// `path` is the request's, as everyone reads it.
    ///
    /// # Errors
    /// When `ns` names none: a client that stands for another registry must not be answered
    /// from this one, and what a client names is never dialled.
    pub fn choose(&self, request: &request::Parts, path: &str) -> Result<Chosen<'_>, Failure> {
        let (namespace, query) = take_namespace(request.uri.query())?;
        let chosen = |place: usize, prefix: Option<&str>, path: &str| {
            let entry = self.entries.get(place).ok_or_else(|| {
                Failure::internal("no upstream is configured at the chosen place")
            })?;
            Ok(Chosen {
                place,
                upstream: &entry.upstream,
                mount: Mount {
                    prefix: prefix.map(ToOwned::to_owned),
                    namespace: namespace.clone(),
                },
                path: path.to_owned(),
                query: query.clone(),
            })
        };
        if let Some(namespace) = &namespace {
            let place = self
                .entries
                .iter()
                .position(|entry| answers_for(entry, namespace))
                .ok_or_else(|| Failure::unknown_namespace(namespace))?;
            return chosen(place, None, path);
        }
        if let Some(host) = host(request) {
            let by_host = self.entries.iter().position(|entry| {
                let hosts = &entry.choice.hosts;
                hosts.iter().any(|known| known.eq_ignore_ascii_case(host))
            });
            if let Some(place) = by_host {
                return chosen(place, None, path);
            }
        }
        let by_prefix = self
            .entries
            .iter()
            .enumerate()
            .filter_map(|(place, entry)| {
                let prefix = entry.choice.path_prefix.as_deref()?;
                let prefix = prefix.trim_matches('/');
                without_prefix(path, prefix).map(|rest| (place, prefix, rest))
            })
            .max_by_key(|(_, prefix, _)| prefix.len());
        match by_prefix {
            Some((place, prefix, rest)) => chosen(place, Some(prefix), &rest),
            None => chosen(0, None, path),
        }
    }
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
fn take_namespace(query: Option<&str>) -> Result<(Option<String>, Option<String>), Failure> {
    let Some(query) = query else {
        return Ok((None, None));
    };
    let mut namespace: Option<String> = None;
    let mut rest: Vec<&str> = Vec::new();
    for pair in query.split('&') {
        if rounds::is_number(pair) {
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
            return Err(Failure::unknown_namespace("two different ones"));
        }
        namespace = Some(value);
    }
    let rest = (!rest.is_empty()).then(|| rest.join("&"));
    Ok((namespace, rest))
}

/// The host that the client named, without port.
fn host(request: &request::Parts) -> Option<&str> {
    let named = match request.uri.authority() {
        Some(authority) => authority.as_str(),
        None => request.headers.get(HOST)?.to_str().ok()?,
    };
    let named = named.rsplit_once('@').map_or(named, |(_, host)| host);
    if named.starts_with('[') {
        return named.find(']').and_then(|end| named.get(..=end));
    }
    Some(named.split_once(':').map_or(named, |(host, _)| host))
}

/// `/v2/PREFIX/rest` as `/v2/rest`.
fn without_prefix(path: &str, prefix: &str) -> Option<String> {
    if prefix.is_empty() {
        return None;
    }
    let rest = path.strip_prefix("/v2/")?.strip_prefix(prefix)?;
    match rest.strip_prefix('/') {
        Some(rest) => Some(format!("/v2/{rest}")),
        None if rest.is_empty() => Some("/v2/".to_owned()),
        None => None,
    }
}

/// Whether `authority` is the address of this upstream's own API.
pub(super) fn is_own(upstream: &Upstream, authority: &str) -> bool {
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
fn same_authority(a: &str, b: &str) -> bool {
    fn bare(authority: &str) -> &str {
        authority
            .strip_suffix(":443")
            .or_else(|| authority.strip_suffix(":80"))
            .unwrap_or(authority)
    }
    bare(a).eq_ignore_ascii_case(bare(b))
}

#[cfg(test)]
mod tests {
    use super::*;

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
        let without = |path| without_prefix(path, "hub");
        assert_eq!(
            without("/v2/hub/library/redis/tags/list").as_deref(),
            Some("/v2/library/redis/tags/list")
        );
        assert_eq!(without("/v2/hub").as_deref(), Some("/v2/"));
        assert_eq!(without("/v2/hub/").as_deref(), Some("/v2/"));
        assert_eq!(without("/v2/hubble/x"), None);
        assert_eq!(without("/v2/a/hub/x"), None);
        assert_eq!(without_prefix("/v2/a", ""), None);
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
    fn implied_ports_do_not_make_another_host() {
        assert!(same_authority("a.example", "A.example:443"));
        assert!(same_authority("a:80", "a"));
        assert!(!same_authority("a:5000", "a"));
        assert!(!same_authority("a", "b"));
    }
}
