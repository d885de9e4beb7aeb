//! Errors as the responses that clients get: the only such map.
//!
//! Codes: OCI distribution-spec § Error Codes; `UNAVAILABLE` and `UNKNOWN` are Docker's.
//! Two things decide a status besides its meaning: containerd repeats 429 and 5xx at once and
//! gives up on other 4xx, and a mirror's 404 sends it to the next host. So an image that cannot
//! be converted is a 400: asking again changes nothing.

mod causes;
pub(in crate::server) mod text;

use std::time::Duration;

use http::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Response, StatusCode};

use crate::oci::{Digest, Tag};
use crate::registry::header_names::{API_VERSION, REGISTRY_2};
use crate::registry::{error_body, ranges};
use crate::server::error::text as error_text;
use crate::server::http::body::ResponseBody;
use crate::server::http::path::Ambiguous;
use crate::server::observe::outcome::Outcome;
use crate::server::observe::refusals::RefusedBy;

const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(5);

/// The error response to a client.
#[derive(Debug, Clone)]
pub(in crate::server) struct ApiError(Box<ErrorBody>);

#[derive(Debug, Clone)]
struct ErrorBody {
    status: StatusCode,
    code: &'static str,
    message: String,
    headers: HeaderMap,
    /// For the log, where the status does not say it.
    outcome: Option<Outcome>,
    /// The limit that it is about, for the metrics.
    refused_by: Option<RefusedBy>,
}

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(ErrorBody {
            status,
            code,
            message: message.into(),
            headers: HeaderMap::new(),
            outcome: None,
            refused_by: None,
        }))
    }

    /// What it says.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(in crate::server) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.append(name, value);
        self
    }

    /// The headers that the answer has besides those of every answer.
    pub(in crate::server) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.0.headers
    }

    /// With the time after which it is worth asking again.
    pub(in crate::server) fn retry_after(self, wait: Duration) -> Self {
        // A wait of zero seconds would be no wait.
        let seconds = wait.as_secs().max(1);
        self.with(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// That this is because of a limit.
    pub(in crate::server) fn refused(mut self, by: RefusedBy) -> Self {
        self.0.refused_by = Some(by);
        self
    }

    /// The limit that it is about, if it is.
    pub(in crate::server) fn refused_by(&self) -> Option<RefusedBy> {
        self.0.refused_by
    }

    /// That this happened so long ago, and is not tried again for so long.
    pub(in crate::server) fn remembered(mut self, age: Duration, again: Duration) -> Self {
        let (age, again) = (age.as_secs().max(1), again.as_secs().max(1));
        let text =
            format!(" (remembered from {age} s ago: the conversion is tried again in {again} s)");
        self.0.message.push_str(&text);
        self.0.headers.insert(RETRY_AFTER, HeaderValue::from(again));
        self
    }

    /// That the client is to wait and to ask again.
    fn waiting(mut self) -> Self {
        self.0.outcome = Some(Outcome::Waiting);
        self
    }

    /// Something that a client can do nothing about and need not know; the log has it.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed: internal error");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "UNKNOWN",
            error_text::internal(),
        )
    }

    pub fn outside() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NAME_UNKNOWN",
            "this is a registry: there is nothing outside of /v2/",
        )
    }

    /// What with the proxy's own credentials is not passed on.
    pub fn outside_of_the_api() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NAME_UNKNOWN",
            "the distribution API has nothing at this address",
        )
    }

    /// A path that servers read differently.
    pub fn ambiguous(Ambiguous(what): Ambiguous) -> Self {
        Self::new(
            StatusCode::BAD_REQUEST,
            "NAME_INVALID",
            format!("the path has {what}: write names, tags and digests as they are"),
        )
    }

    /// Another method than those that there are.
    pub fn method(known: &[&str]) -> Self {
        let known = known.join(", ");
        let failure = Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            format!("this address takes {known} only"),
        );
        match HeaderValue::from_str(&known) {
            Ok(known) => failure.with(ALLOW, known),
            Err(_) => failure,
        }
    }

    /// A write in the proxy's name, of a client that nobody knows.
    pub fn anonymous_push() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "DENIED",
            "this proxy has no users, so nobody pushes or deletes through it: push to the registry \
             itself, or have the proxy started with --htpasswd, --tls-client-ca or \
             --allow-anonymous-push",
        )
    }

    pub fn unknown_namespace(namespace: &str) -> Self {
        let namespace: String = namespace.chars().take(100).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            "NAME_UNKNOWN",
            format!(
                "no upstream of this proxy has the namespace {namespace:?}: the proxy is to be started \
                 with --upstream {namespace}, or with --upstream HOST,ns={namespace} where the \
                 registry is reached as HOST"
            ),
        )
    }

    pub fn two_namespaces() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "NAME_UNKNOWN",
            "ns names two registries: leave one out",
        )
    }

    pub fn read_only() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "UNSUPPORTED",
            "this proxy is read-only: push to the registry itself",
        )
        .with(ALLOW, HeaderValue::from_static("GET, HEAD"))
    }

    pub fn unknown_blob(digest: &Digest) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "BLOB_UNKNOWN",
            format!("there is no blob {digest} here any more: pull the image by its tag again"),
        )
    }

    pub fn no_such_blob(digest: &Digest) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "BLOB_UNKNOWN",
            format!("the upstream has no blob {digest} in this repository"),
        )
    }

    pub fn unknown_manifest(digest: &Digest) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "MANIFEST_UNKNOWN",
            format!("there is no manifest {digest} here any more: pull the image by its tag again"),
        )
    }

    /// What was pushed is not where it was pushed to.
    pub fn gone() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "BLOB_UNKNOWN",
            "this is not here any more: pull the image again",
        )
    }

    /// The proxy has users of its own, and this request has no valid credentials of one.
    pub fn unauthorized() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "UNAUTHORIZED",
            "user and password are needed, or these are wrong",
        )
        .with(
            WWW_AUTHENTICATE,
            HeaderValue::from_static(r#"Basic realm="overlaybd-proxy""#),
        )
    }

    /// An address that allowed to read a blob does not any more, or never did.
    pub fn signed_address(why: &str) -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "DENIED",
            format!("this address {why}: ask for the blob again, without overlaybd-signed"),
        )
    }

    /// An image that TurboOCI cannot carry.
    pub fn not_turbo(source: &Digest, reason: &str) -> Self {
        Self::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "UNSUPPORTED",
            format!("{source} cannot be a TurboOCI image ({reason}): pull the native one"),
        )
    }

    /// A tag of a converted image that a rule forbids. It is a 404 because there is no such image;
    /// so a mirror's client asks the next host, and no client asks again and again.
    pub fn never(tag: &Tag, rule: usize) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "MANIFEST_UNKNOWN",
            format!(
                "there is no {tag}: this proxy does not convert the image, because [[policy]] \
                 {rule} of its configuration says when = \"never\""
            ),
        )
    }

    pub fn converting() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TOOMANYREQUESTS",
            "the image is being converted: try again later",
        )
        .retry_after(DEFAULT_RETRY_AFTER)
        .waiting()
    }

    /// The client's own body does not come.
    pub fn stalled(limit: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "BLOB_UPLOAD_INVALID",
            format!("nothing of the request's body came for {limit:?}"),
        )
    }

    /// The client's own body breaks off, or is not as long as it was said to be.
    pub fn incomplete_body(error: &crate::registry::body::ReadError) -> Self {
        tracing::debug!(%error, "a request's body cannot be read");
        Self::new(
            StatusCode::BAD_REQUEST,
            "MANIFEST_INVALID",
            "the request's body did not come to its end",
        )
    }

    /// Another hold: the client asks again, at the same address.
    pub fn wait(address: &str) -> Self {
        let failure = Self::new(
            StatusCode::TEMPORARY_REDIRECT,
            "UNAVAILABLE",
            "the image is being converted: ask again",
        )
        .waiting();
        match HeaderValue::from_str(address) {
            Ok(address) => failure.with(LOCATION, address),
            Err(_) => Self::converting(),
        }
    }

    pub fn not_satisfiable(size: u64) -> Self {
        let range = HeaderValue::from_str(&ranges::unsatisfied(size));
        let failure = Self::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "SIZE_INVALID",
            format!("no such range of {size} bytes, or too many ranges at once"),
        );
        match range {
            Ok(range) => failure.with(CONTENT_RANGE, range),
            Err(_) => failure,
        }
    }

    pub fn precondition() -> Self {
        Self::new(
            StatusCode::PRECONDITION_FAILED,
            "UNKNOWN",
            "the content is not the one that If-Match names",
        )
    }

    /// The answer. `HEAD` has none of the text, but its length.
    pub fn into_response(self, is_head: bool) -> Response<ResponseBody> {
        let text = error_body::document(self.0.code, &self.0.message);
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        *headers = self.0.headers;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        headers.insert(API_VERSION, REGISTRY_2);
        if !is_head {
            *response.body_mut() = ResponseBody::bytes(text);
        }
        response.body_mut().outcome = self.0.outcome;
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry;

    #[tokio::test]
    async fn an_error_response_has_the_specifications_body() {
        let response = ApiError::outside().into_response(false);
        let length = response.headers()[CONTENT_LENGTH].clone();
        let body = registry::body::read(response.into_body(), 1024)
            .await
            .unwrap();
        assert_eq!(length.to_str().unwrap(), body.len().to_string());
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["errors"][0]["code"], "NAME_UNKNOWN");
    }
}
