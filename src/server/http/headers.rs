//! Which headers pass. (What belongs to one connection only is the registry client's to drop.)
//!
//! Browsers keep cookies by host name, whatever the port, and the proxy's name stands for several
//! upstreams: a cookie of one would be sent to the others, and those of other services on the
//! proxy's host to all of them. No client of registries keeps cookies, so no registry can need
//! them, and none pass in either direction.

use http::HeaderMap;
use http::header::{self, HeaderName};

use crate::registry::header_names::{API_VERSION, CONTENT_DIGEST};
use crate::server::http::header_names::FORMAT;

const fn name(name: &'static str) -> HeaderName {
    HeaderName::from_static(name)
}

/// Never passed on to an upstream: by these it would make other addresses of its own, or take
/// the request for another than the one that was checked here. Nor what is for this proxy: one behind
/// it would convert what is passed through. Nor where a client is: it could invent that, the upstream
/// may believe it of the proxy, and it is not the upstream's to know.
const NOT_ASKED: [HeaderName; 16] = [
    header::COOKIE,
    name("cf-connecting-ip"),
    name("cookie2"),
    name("fastly-client-ip"),
    header::FORWARDED,
    name("true-client-ip"),
    name("x-client-ip"),
    name("x-cluster-client-ip"),
    name("x-envoy-external-address"),
    name("x-http-method"),
    name("x-http-method-override"),
    name("x-method-override"),
    name("x-original-url"),
    name("x-real-ip"),
    name("x-rewrite-url"),
    FORMAT,
];

/// Never passed back: cookies, and what a host says of itself, which a client would take for the
/// proxy's. Neither is whether pages of other hosts may read the answer (`Access-Control-…`): an
/// upstream that is open to everyone's browser says nothing of the network that the proxy is in.
const NOT_ANSWERED: [HeaderName; 8] = [
    header::SET_COOKIE,
    name("set-cookie2"),
    header::STRICT_TRANSPORT_SECURITY,
    header::ALT_SVC,
    name("clear-site-data"),
    name("nel"),
    name("report-to"),
    name("reporting-endpoints"),
];

/// All that is passed on with the proxy's own credentials. An upstream may trust the proxy with
/// more than a registry's API (who is asking, for whom), and no client is to say that in its name.
const ASKED_IN_OUR_NAME: [HeaderName; 21] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::DATE,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::IF_UNMODIFIED_SINCE,
    header::PRAGMA,
    header::RANGE,
    header::USER_AGENT,
    name("content-digest"),
    name("traceparent"),
    name("tracestate"),
    name("x-request-id"),
];

/// All that is passed back of what was asked with the proxy's own credentials: no challenge and
/// nothing of the account, its limits, or the servers behind.
const ANSWERED_IN_OUR_NAME: [HeaderName; 26] = [
    header::ACCEPT_RANGES,
    header::AGE,
    header::ALLOW,
    header::CACHE_CONTROL,
    header::CONTENT_DISPOSITION,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_LENGTH,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::DATE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::LINK,
    header::LOCATION,
    header::RANGE,
    header::RETRY_AFTER,
    header::VARY,
    header::WARNING,
    header::X_CONTENT_TYPE_OPTIONS,
    name("content-digest"),
    CONTENT_DIGEST,
    API_VERSION,
    name("docker-upload-uuid"),
    name("repr-digest"),
];

/// Drops what an upstream must not be sent.
pub(in crate::server) fn of_request(headers: &mut HeaderMap, is_own: bool) {
    retain(headers, |name| {
        let is_forwarded = name.as_str().starts_with("x-forwarded-");
        !is_forwarded
            && !NOT_ASKED.contains(name)
            && (!is_own || ASKED_IN_OUR_NAME.contains(name) || is_of_oci(name))
    });
}

/// Removes headers that are not for clients.
pub(in crate::server) fn of_answer(headers: &mut HeaderMap, is_own: bool) {
    retain(headers, |name| {
        let is_for_browsers = name.as_str().starts_with("access-control-");
        !is_for_browsers
            && !NOT_ANSWERED.contains(name)
            && (!is_own || ANSWERED_IN_OUR_NAME.contains(name) || is_of_oci(name))
    });
}

/// The specification's own: `OCI-Subject`, `OCI-Filters-Applied`, `OCI-Chunk-Min-Length`, …
fn is_of_oci(name: &HeaderName) -> bool {
    name.as_str().starts_with("oci-")
}

fn retain(headers: &mut HeaderMap, is_kept: impl Fn(&HeaderName) -> bool) {
    let dropped: Vec<HeaderName> = headers
        .keys()
        .filter(|name| !is_kept(name))
        .cloned()
        .collect();
    for name in dropped {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn left(names: &[&'static str], drop: impl Fn(&mut HeaderMap)) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for name in names {
            let name = HeaderName::from_static(name);
            headers.append(name.clone(), HeaderValue::from_static("a"));
            headers.append(name, HeaderValue::from_static("b"));
        }
        drop(&mut headers);
        let mut left: Vec<String> = headers.keys().map(ToString::to_string).collect();
        left.sort();
        left
    }

    #[test]
    fn request_headers_that_name_another_host_or_method_are_removed() {
        let names = [
            "authorization",
            "cookie",
            "forwarded",
            "overlaybd-format",
            "range",
            "x-forwarded-host",
            "x-forwarded-proto",
            "x-http-method-override",
            "x-own",
            "x-real-ip",
        ];
        let asked = |is_own| left(&names, |headers| of_request(headers, is_own));
        assert_eq!(asked(false), ["authorization", "range", "x-own"]);
        assert_eq!(asked(true), ["range"]);
    }

    #[test]
    fn challenges_are_passed_to_clients_that_can_answer_them() {
        let names = [
            "access-control-allow-origin",
            "authentication-info",
            "docker-content-digest",
            "oci-subject",
            "server",
            "set-cookie",
            "www-authenticate",
        ];
        let answered = |is_own| left(&names, |headers| of_answer(headers, is_own));
        let passes = |name: &&&str| **name != "set-cookie" && !name.starts_with("access");
        let all_but_cookies: Vec<_> = names.iter().filter(passes).collect();
        assert_eq!(answered(false).iter().collect::<Vec<_>>(), all_but_cookies);
        assert_eq!(answered(true), ["docker-content-digest", "oci-subject"]);
    }
}
