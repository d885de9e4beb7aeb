//! Whether credentials may read a blob: a `HEAD` that downloads nothing and follows no redirect to
//! another host (OCI distribution-spec § Checking if content exists).

use std::time::Duration;

use http::{HeaderMap, Request, Response, StatusCode, header};

use super::Registry;
use crate::oci::{Digest, RepoName};
use crate::registry::{Authorization, Body, Error, ForwardOptions, Redirects, body};

impl Registry {
    /// Gives the size in bytes, where the registry states it: a redirect does not.
    pub(in crate::registry) async fn can_read_blob(
        &self,
        repo: &RepoName,
        digest: &Digest,
        authorization: &Authorization,
    ) -> Result<Option<u64>, Error> {
        let path = format!("/v2/{repo}/blobs/{digest}");
        let place = format!("HEAD {}{path}", self.host());
        let mut request = Request::new(body::empty());
        *request.method_mut() = http::Method::HEAD;
        *request.uri_mut() = path
            .parse()
            .map_err(|_| Error::invalid(&place, "the address cannot be requested"))?;
        let given = match authorization {
            Authorization::Own => None,
            Authorization::Client(given) => given.clone(),
            Authorization::Renewed(renewal) => renewal.current(),
        };
        if let Some(given) = given {
            request.headers_mut().insert(header::AUTHORIZATION, given);
        }
        let options = ForwardOptions {
            own_credentials: matches!(authorization, Authorization::Own),
            redirects: Redirects::FollowedAtHome,
        };
        let response = self.forward(request, options).await?;
        decide(&response, &path, place, options.own_credentials)
    }
}

/// Whether a redirect leads to where a blob's bytes are. A registry that moved, or that is reached by
/// TLS only, leads everyone to the same path elsewhere, which says nothing of whoever asked.
fn leads_to_content(headers: &HeaderMap, path: &str) -> bool {
    let location = headers.get(header::LOCATION);
    let location = location.and_then(|location| location.to_str().ok());
    location.is_some_and(|location| {
        let end = location.find(['?', '#']).unwrap_or(location.len());
        !location.get(..end).unwrap_or_default().ends_with(path)
    })
}

fn decide(
    response: &Response<Body>,
    path: &str,
    place: String,
    is_own: bool,
) -> Result<Option<u64>, Error> {
    let headers = response.headers();
    let detail = String::new();
    match response.status() {
        StatusCode::OK => Ok(number(headers, &header::CONTENT_LENGTH)),
        // The registry would not lead there whoever may not have it. Other redirects change the
        // method, and may lead to where one logs in.
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT
            if leads_to_content(headers, path) =>
        {
            Ok(None)
        }
        StatusCode::UNAUTHORIZED => Err(Error::Unauthorized {
            place,
            is_own,
            challenges: headers
                .get_all(header::WWW_AUTHENTICATE)
                .iter()
                .cloned()
                .collect(),
            detail,
        }),
        StatusCode::FORBIDDEN => Err(Error::Forbidden {
            place,
            is_own,
            detail,
        }),
        StatusCode::NOT_FOUND => Err(Error::NotFound { place, detail }),
        StatusCode::TOO_MANY_REQUESTS => Err(Error::RateLimited {
            place,
            retry_after: number(headers, &header::RETRY_AFTER).map(Duration::from_secs),
            detail,
        }),
        status => Err(Error::Upstream {
            place,
            status: status.as_u16(),
            detail,
        }),
    }
}

fn number(headers: &HeaderMap, name: &header::HeaderName) -> Option<u64> {
    headers.get(name)?.to_str().ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_success_or_a_redirect_is_permission_to_read() {
        let decided = |status: u16, location: Option<&str>| {
            let mut response = Response::builder().status(status);
            if let Some(location) = location {
                response = response.header(header::LOCATION, location);
            }
            let response = response.body(body::empty()).unwrap();
            decide(&response, "/v2/a/blobs/sha256:1", String::new(), false).is_ok()
        };
        assert!(decided(200, None));
        assert!(decided(307, Some("https://cdn.example.com/x?signature")));
        assert!(!decided(302, Some("https://login.example.com/")));
        // As whoever asks is led from http to https.
        for moved in [
            "https://r.io/v2/a/blobs/sha256:1",
            "https://r.io/registry/v2/a/blobs/sha256:1?x",
            "/v2/a/blobs/sha256:1",
        ] {
            assert!(!decided(308, Some(moved)), "{moved}");
        }
        for status in [204, 206, 304, 307, 400, 401, 403, 404, 429, 500, 503] {
            assert!(!decided(status, None), "{status}");
        }
    }
}
