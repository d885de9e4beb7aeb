//! `/p2p/URL`: what overlaybd's accelerator address is asked.
//!
//! With `p2pConfig` a node reads file data at `ADDRESS/URL` instead of `URL`, with the headers that
//! it would have sent there. So `URL` names a blob of an upstream, or where that one redirects to;
//! which host that is decides alone whether and whom to ask, and nothing else is ever dialled.
//! What the request carries was meant for that host, a token that this proxy never saw included.
//!
//! Proxies on the way make one slash of two.

use http::request::Parts;
use http::{Extensions, Method, Response, StatusCode, Version};

use crate::oci::reference::is_host;
use crate::server::error::ApiError;
use crate::server::http::body::ResponseBody;
use crate::server::http::{headers, path};
use crate::server::limits::redirects;
use crate::server::limits::request_slot::RequestSlot;
use crate::server::route::Route;
use crate::server::state::AppState;
use crate::server::upstreams::{Chosen, same_authority};

const PREFIX: &str = "/p2p/";

/// Whether a path is one of these.
pub(in crate::server) fn is_below(path: &str) -> bool {
    path.starts_with(PREFIX)
}

/// The address that a request names.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::server) struct Asked<'a> {
    scheme: &'static str,
    authority: String,
    /// From its first slash, as it was written.
    path: &'a str,
    query: Option<String>,
}

/// What becomes of the credentials in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) enum Credentials {
    Sent,
    Dropped,
}

/// Who is asked for it.
#[derive(Debug)]
pub(in crate::server) enum Target<'a> {
    /// An upstream, for a blob. Credentials go with it only if they were meant for it, and not for a
    /// registry that it stands for.
    Upstream(Chosen<'a>, Credentials),
    /// Another host that is allowed, at this address.
    Host(String),
}

/// What a request asks for, if it is one of these.
///
/// # Errors
/// When it is another method than `GET` or `HEAD`, or names no address.
pub(in crate::server) fn asked(parts: &Parts) -> Option<Result<Asked<'_>, ApiError>> {
    let text = parts.uri.path().strip_prefix(PREFIX)?;
    if !matches!(parts.method, Method::GET | Method::HEAD) {
        return Some(Err(ApiError::method(&["GET", "HEAD"])));
    }
    let asked = parse(text, parts.uri.query());
    Some(asked.ok_or_else(|| {
        let text = "an address is expected behind /p2p/, as in \
                    /p2p/https://HOST/v2/REPOSITORY/blobs/DIGEST";
        ApiError::new(StatusCode::BAD_REQUEST, "NAME_INVALID", text)
    }))
}

fn parse<'a>(text: &'a str, query: Option<&str>) -> Option<Asked<'a>> {
    let (scheme, rest) = ["https", "http"].into_iter().find_map(|scheme| {
        let start = text.get(..scheme.len())?;
        let rest = start
            .eq_ignore_ascii_case(scheme)
            .then(|| text.get(scheme.len()..))??;
        let rest = [":", "%3a", "%3A"]
            .iter()
            .find_map(|colon| rest.strip_prefix(colon))?;
        Some((
            scheme,
            rest.strip_prefix("//").or_else(|| rest.strip_prefix('/'))?,
        ))
    })?;
    let (authority, path) = rest.split_at(rest.find('/')?);
    let authority = authority.replace("%3a", ":").replace("%3A", ":");
    let query = query.map(|query| {
        let pairs = query.split('&').filter(|pair| !redirects::is_number(pair));
        pairs.collect::<Vec<_>>().join("&")
    });
    is_host(&authority).then_some(Asked {
        scheme,
        authority,
        path,
        query: query.filter(|query| !query.is_empty()),
    })
}

impl Asked<'_> {
    /// Who is asked.
    ///
    /// # Errors
    /// When the host is none that is asked here, or it is an upstream and this is no blob.
    pub fn target<'a>(&self, state: &'a AppState, parts: &Parts) -> Result<Target<'a>, ApiError> {
        let query = self.query.as_deref();
        let path = path::normal(self.path);
        let known = path.as_deref().unwrap_or("/");
        if let Some(chosen) = state
            .upstreams
            .at_address(parts, &self.authority, known, query)
        {
            path.map_err(ApiError::ambiguous)?;
            return match Route::parse(&chosen.path) {
                Route::Blob { .. } => {
                    let are_its_own = state.upstreams.is_address_of(&chosen, &self.authority);
                    let credentials = if are_its_own {
                        Credentials::Sent
                    } else {
                        Credentials::Dropped
                    };
                    Ok(Target::Upstream(chosen, credentials))
                }
                _ => Err(not_a_blob()),
            };
        }
        let is_allowed = |host: &String| same_authority(host, &self.authority);
        if !state.config.p2p_hosts.iter().any(is_allowed) {
            return Err(forbidden(&self.authority));
        }
        let query = query.map_or_else(String::new, |query| format!("?{query}"));
        let (scheme, authority, path) = (self.scheme, &self.authority, self.path);
        Ok(Target::Host(format!("{scheme}://{authority}{path}{query}")))
    }
}

fn not_a_blob() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "DENIED",
        "below /p2p/ an upstream is asked for blobs only: \
         /p2p/https://HOST/v2/REPOSITORY/blobs/DIGEST",
    )
}

fn forbidden(authority: &str) -> ApiError {
    let authority: String = authority.chars().take(300).collect();
    ApiError::new(
        StatusCode::FORBIDDEN,
        "DENIED",
        format!(
            "{authority} is no upstream of this proxy and no host that it reads from for nodes: it \
             would have to be started with --upstream, or with --p2p-host {authority} if upstreams \
             redirect there"
        ),
    )
}

/// Reads at an address of an allowed host. The signature in it is the permission: no credentials
/// go with it.
///
/// # Errors
/// When there is no answer.
pub(in crate::server) async fn read(
    state: &AppState,
    slot: &RequestSlot,
    parts: Parts,
    address: &str,
) -> Result<Response<ResponseBody>, ApiError> {
    let mut asked = parts.headers;
    headers::of_request(&mut asked, true);
    let Some(direct) = &state.p2p else {
        return Err(ApiError::outside());
    };
    let reading = Box::pin(direct.read(parts.method, address, asked));
    // Where the first upstream's requests wait.
    let answer = match state.limits.upstreams.first() {
        Some(slots) => slot
            .wait(slots, reading)
            .await
            .map_err(|full| ApiError::full(full, "requests that wait for the upstream"))?,
        None => reading.await,
    };
    let answer = answer.map_err(|error| ApiError::upstream(&error, true))?;
    let (mut parts, body) = answer.into_parts();
    headers::of_answer(&mut parts.headers, true);
    parts.version = Version::HTTP_11;
    parts.extensions = Extensions::new();
    let body = ResponseBody::stream(body, state.config.limits.stall);
    Ok(Response::from_parts(parts, body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_one_slash_or_two() {
        let path = "/v2/a/blobs/x";
        for (text, scheme, authority) in [
            ("https://r.io/v2/a/blobs/x", "https", "r.io"),
            ("https:/r.io/v2/a/blobs/x", "https", "r.io"),
            ("HTTP://r.io:5000/v2/a/blobs/x", "http", "r.io:5000"),
            ("https%3A//r.io%3a5000/v2/a/blobs/x", "https", "r.io:5000"),
            ("http://[::1]:5000/v2/a/blobs/x", "http", "[::1]:5000"),
        ] {
            let asked = parse(text, None).unwrap();
            assert_eq!((asked.scheme, &*asked.authority), (scheme, authority));
            assert_eq!((asked.path, asked.query), (path, None), "{text}");
        }
        for bad in [
            "",
            "r.io/v2/",
            "ftp://r.io/",
            "https://",
            "https://r.io",
            "https:r.io/",
            "https:///r.io/",
            "https://u:p@r.io/",
            "https://u@r.io/",
            "https%2F%2Fr.io/",
            "https://r.io%2fx/",
            "httpsx://r.io/",
        ] {
            assert_eq!(parse(bad, None), None, "{bad}");
        }
    }

    #[test]
    fn a_signature_stays_as_it_was_written() {
        let query = Some("X-Sig=a%2Bb&overlaybd-waits=3&y=~%7E");
        let asked = parse("https://c.io/x/%2F../y;z", query).unwrap();
        assert_eq!(asked.path, "/x/%2F../y;z");
        assert_eq!(asked.query.as_deref(), Some("X-Sig=a%2Bb&y=~%7E"));
        let only_ours = parse("https://c.io/x", Some("overlaybd-waits=3")).unwrap();
        assert_eq!(only_ours.query, None);
    }
}
