//! Addresses on their way through: those of the upstream itself become the proxy's.

use http::header::{LINK, LOCATION};
use http::{HeaderMap, HeaderValue};

use crate::registry::{Upstream, link};
use crate::server::upstreams::{Mount, is_own};

/// The addresses in an answer's headers, for the client.
pub(in crate::server) fn response(headers: &mut HeaderMap, upstream: &Upstream, mount: &Mount) {
    let is_own = |authority: &str| is_own(upstream, authority);
    if let Some(location) = headers.get(LOCATION)
        && let Some(new) = location
            .to_str()
            .ok()
            .and_then(|text| address(text, mount, is_own))
            .and_then(|text| HeaderValue::from_str(&text).ok())
    {
        headers.insert(LOCATION, new);
    }
    let links: Vec<HeaderValue> = headers.get_all(LINK).iter().cloned().collect();
    headers.remove(LINK);
    for value in links {
        let new = value
            .to_str()
            .ok()
            .and_then(|text| link::rewritten(text, |target| address(target, mount, is_own)));
        let new = new.and_then(|text| HeaderValue::from_str(&text).ok());
        headers.append(LINK, new.unwrap_or(value));
    }
}

/// An address of the upstream's API as one of the proxy's, without host; `None` for any other.
fn address(text: &str, mount: &Mount, is_own: impl Fn(&str) -> bool) -> Option<String> {
    let scheme = ["http://", "https://"].iter().find(|scheme| {
        let start = text.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let rest = match scheme {
        Some(scheme) => {
            let rest = text.get(scheme.len()..)?;
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            if !is_own(authority) {
                return None;
            }
            rest
        }
        None if text.starts_with("//") => {
            let rest = text.get(2..)?;
            let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
            let (authority, rest) = rest.split_at(end);
            if !is_own(authority) {
                return None;
            }
            rest
        }
        None => text,
    };
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    let path = if let Some(below) = path.strip_prefix("/v2/") {
        let root = mount.root.unwrap_or_default();
        match &mount.prefix {
            Some(prefix) => format!("{root}/v2/{prefix}/{below}"),
            None => format!("{root}{path}"),
        }
    } else if path.starts_with('/') || scheme.is_some() {
        // The upstream's, but none of its API's: nothing that is answered here.
        return None;
    } else {
        path.to_owned()
    };
    Some(match (query, &mount.namespace) {
        (None, None) => path,
        (Some(query), None) => format!("{path}?{query}"),
        (None, Some(namespace)) => format!("{path}?ns={}", encode(namespace)),
        (Some(query), Some(namespace)) => format!("{path}?{query}&ns={}", encode(namespace)),
    })
}

fn encode(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(authority: &str) -> bool {
        authority == "up.example:5000"
    }

    fn mount(prefix: Option<&str>, namespace: Option<&str>) -> Mount {
        Mount {
            root: None,
            prefix: prefix.map(ToOwned::to_owned),
            namespace: namespace.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn addresses_of_the_upstream_become_the_proxys() {
        let plain = mount(None, None);
        let prefixed = mount(Some("hub"), None);
        let named = mount(None, Some("docker.io:1"));
        let below = Mount {
            root: Some("/overlaybd"),
            ..mount(Some("hub"), None)
        };
        for (text, mount, wanted) in [
            (
                "http://up.example:5000/v2/a/blobs/uploads/1?_state=x",
                &plain,
                Some("/v2/a/blobs/uploads/1?_state=x"),
            ),
            (
                "HTTPS://up.example:5000/v2/a/blobs/uploads/1",
                &prefixed,
                Some("/v2/hub/a/blobs/uploads/1"),
            ),
            ("//up.example:5000/v2/a/x", &plain, Some("/v2/a/x")),
            ("/v2/a/x?q", &prefixed, Some("/v2/hub/a/x?q")),
            ("/v2/a/x", &named, Some("/v2/a/x?ns=docker%2Eio%3A1")),
            (
                "/v2/a/x?n=1",
                &named,
                Some("/v2/a/x?n=1&ns=docker%2Eio%3A1"),
            ),
            ("uploads/1", &prefixed, Some("uploads/1")),
            ("/v2/a/x?q", &below, Some("/overlaybd/v2/hub/a/x?q")),
            ("https://storage.example/v2/x", &below, None),
            ("https://storage.example/blob?sig=1", &prefixed, None),
            ("//storage.example/v2/x", &plain, None),
            ("http://up.example:5000/token", &plain, None),
            ("http://up.example:5000@evil/v2/", &plain, None),
            ("http://up.example:5000.evil/v2/", &plain, None),
            ("/token", &prefixed, None),
        ] {
            assert_eq!(address(text, mount, own).as_deref(), wanted, "{text}");
        }
    }
}
