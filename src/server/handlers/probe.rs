//! The request by which overlaybd finds out where a blob is.
//!
//! It is a GET without a range whose body is not read: whatever is sent before the connection
//! closes goes out in vain, some MiB a layer. A redirect is not followed but remembered, and must
//! have a whole address. So the answer to a blob that could be read here with no more credentials
//! than an address is a redirect to one that is signed.

use http::header::{CACHE_CONTROL, CONTENT_LENGTH, HeaderValue, LOCATION, RANGE, USER_AGENT};
use http::{Extensions, HeaderMap, Method, Response, StatusCode, Uri};

use crate::oci::{Digest, RepoName};
use crate::registry::Authorization;
use crate::server::access::signed_address::{Origin, Subject};
use crate::server::context::RequestContext;
use crate::server::error::ApiError;
use crate::server::handlers::p2p;
use crate::server::http::body::ResponseBody;
use crate::server::http::header_names::OVERLAYBD_AGENT;
use crate::server::http::host;
use crate::server::observe::outcome::Outcome;
use crate::server::state::AppState;

/// Marks an answer that comes from a file here.
#[derive(Debug, Clone, Copy)]
pub(in crate::server) struct AtHand;

/// Marks a request that is such a one.
#[derive(Debug, Clone, Copy)]
struct Marked;

/// Whether a request is such a one that is being answered.
pub(in crate::server) fn is_marked(extensions: &Extensions) -> bool {
    extensions.get::<Marked>().is_some()
}

/// Whether a client says that it is overlaybd.
pub(in crate::server) fn is_overlaybd(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT);
    agent.is_some_and(|agent| agent.as_bytes().starts_with(OVERLAYBD_AGENT))
}

/// Whether a request for a blob is such a one.
pub(in crate::server) fn is_probe(method: &Method, uri: &Uri, headers: &HeaderMap) -> bool {
    *method == Method::GET
        && !headers.contains_key(RANGE)
        && is_overlaybd(headers)
        // Nodes probe the host in the image's name, and only read here.
        && !p2p::is_below(uri.path())
}

/// Such a request, while it is answered.
pub(in crate::server) struct Probe<'a> {
    subject: Subject<'a>,
    /// `https://HOST`, as the client knows the proxy, if it said how.
    root: Option<String>,
    /// Path and query of the blob below it.
    path: String,
    query: Option<String>,
    /// Whether blobs that are not at hand can be had without the client's credentials.
    is_for_anyone: bool,
}

impl<'a> Probe<'a> {
    /// The request for a blob, if it is one. What is asked of the upstream for it is said to be
    /// this proxy's: another one of this kind there would redirect to an address of its own.
    pub fn begin(
        context: &mut RequestContext<'a>,
        repo: &'a RepoName,
        digest: &'a Digest,
    ) -> Option<Self> {
        let parts = &context.parts;
        if !is_probe(&parts.method, &parts.uri, &parts.headers) {
            return None;
        }
        let root = host::external(parts, context.state.config.tls.is_some());
        let agent = parts.headers.get(USER_AGENT);
        let agent = agent.and_then(|agent| agent.to_str().ok()).unwrap_or("-");
        let agent = format!(
            "{} ({agent})",
            concat!("overlaybd-proxy/", env!("CARGO_PKG_VERSION"))
        );
        if let Ok(agent) = HeaderValue::from_str(&agent) {
            context.parts.headers.insert(USER_AGENT, agent);
        }
        context.parts.extensions.insert(Marked);
        let mount = &context.chosen.mount;
        let below = mount.root.unwrap_or_default();
        let prefix = mount.prefix.as_ref();
        let prefix = prefix.map_or_else(String::new, |prefix| format!("{prefix}/"));
        let query = mount.namespace.as_ref().map(|namespace| {
            let namespace = namespace.as_bytes();
            let namespace: String = url::form_urlencoded::byte_serialize(namespace).collect();
            format!("ns={namespace}")
        });
        Some(Self {
            subject: Subject {
                upstream: context.chosen.upstream.host(),
                repo,
                digest,
            },
            root,
            path: format!("{below}/v2/{prefix}{repo}/blobs/{digest}"),
            query,
            is_for_anyone: matches!(
                context.authorization,
                Authorization::Own | Authorization::Client(None)
            ),
        })
    }

    /// Whether it matters for the address where the blob was pushed to: other replicas, which have
    /// no credentials of the reader's for what is not in their stores, read it there.
    pub fn asks_whether_pushed(&self, state: &AppState) -> bool {
        !self.is_for_anyone && state.addresses.are_made() && state.addresses.are_shared()
    }

    /// The answer, in the place of one with the blob. `is_pushed`: as far as that was asked.
    pub fn answer(
        self,
        state: &AppState,
        mut response: Response<ResponseBody>,
        origin: Origin,
        is_pushed: bool,
    ) -> Response<ResponseBody> {
        let Some(root) = self.root else {
            return response;
        };
        if response.status().is_redirection() {
            make_whole(&root, response.headers_mut());
            return response;
        }
        let is_at_hand = response.extensions().get::<AtHand>().is_some();
        let is_everywhere =
            !state.addresses.are_shared() || (is_pushed && origin == Origin::Converted);
        let can_read = self.is_for_anyone || (is_at_hand && is_everywhere);
        if response.status() != StatusCode::OK || !can_read {
            return response;
        }
        let Some(pair) = state.addresses.sign(self.subject, origin) else {
            return response;
        };
        let query = match self.query {
            Some(query) => format!("{query}&{pair}"),
            None => pair,
        };
        let address = format!("{root}{}?{query}", self.path);
        let Ok(mut address) = HeaderValue::from_str(&address) else {
            return response;
        };
        address.set_sensitive(true);
        state.metrics.signed_address("issued");
        let mut redirect = Response::new(ResponseBody::empty().noted(Outcome::Redirected));
        *redirect.status_mut() = StatusCode::TEMPORARY_REDIRECT;
        let headers = redirect.headers_mut();
        headers.insert(LOCATION, address);
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        redirect
    }
}

/// The error, in the place of one that sends the client to wait on: overlaybd would remember that
/// as where the blob is.
pub(in crate::server) fn failure(failure: ApiError) -> ApiError {
    if failure.status().is_redirection() {
        ApiError::converting()
    } else {
        failure
    }
}

/// An address without a host with the one that the client used: overlaybd takes no other.
fn make_whole(root: &str, headers: &mut HeaderMap) {
    let location = headers.get(LOCATION).and_then(|it| it.to_str().ok());
    let path = location.filter(|it| it.starts_with('/') && !it.starts_with("//"));
    let whole = path.and_then(|path| HeaderValue::from_str(&format!("{root}{path}")).ok());
    if let Some(whole) = whole {
        headers.insert(LOCATION, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_overlaybds_get_without_a_range_is_a_probe() {
        let blob = "/v2/a/blobs/x";
        let agent = ("user-agent", "overlaybd/1.0.16");
        for (method, path, headers, wanted) in [
            (Method::GET, blob, &[agent][..], true),
            (Method::HEAD, blob, &[agent], false),
            (Method::GET, blob, &[agent, ("range", "bytes=0-0")], false),
            (Method::GET, blob, &[], false),
            (
                Method::GET,
                blob,
                &[("user-agent", "containerd/2.1")],
                false,
            ),
            (
                Method::GET,
                blob,
                &[("user-agent", "overlaybd-proxy/1")],
                false,
            ),
            (
                Method::GET,
                "/p2p/http://r.io/v2/a/blobs/x",
                &[agent],
                false,
            ),
        ] {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.insert(*name, HeaderValue::from_static(value));
            }
            let uri = path.parse().unwrap();
            assert_eq!(
                is_probe(&method, &uri, &map),
                wanted,
                "{method} {headers:?}"
            );
        }
    }

    #[test]
    fn an_address_of_the_proxy_becomes_a_whole_one() {
        for (location, wanted) in [
            ("/v2/a?x", "https://r.io/v2/a?x"),
            ("//b/v2/a", "//b/v2/a"),
            ("http://b/v2/a", "http://b/v2/a"),
            ("a", "a"),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(LOCATION, HeaderValue::from_static(location));
            make_whole("https://r.io", &mut headers);
            assert_eq!(headers[LOCATION], wanted);
        }
    }
}
