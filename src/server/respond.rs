//! From what went wrong to what a client is told: the only such map.
//!
//! Codes: OCI distribution-spec § Error Codes; `UNAVAILABLE` and `UNKNOWN` are Docker's.
//! Two things decide a status besides its meaning: containerd repeats 429 and 5xx at once and
//! gives up on other 4xx, and a mirror's 404 sends it to the next host. So an image that cannot
//! be converted is a 400: asking again changes nothing.

use std::time::Duration;

use http::header::{
    ALLOW, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION,
    RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderMap, Response, StatusCode};
use serde_json::json;

use super::body::Served;
use super::manifest::OUTCOME;
use super::path::Ambiguous;
use super::told;
use crate::convert::{ConvertError, Fault};
use crate::oci::Digest;
use crate::registry;
use crate::store::{BlobError, IndexError, Shortage};

/// `Docker-Distribution-Api-Version`.
pub(super) const API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
/// Its value.
pub(super) const REGISTRY_2: HeaderValue = HeaderValue::from_static("registry/2.0");

const SOON: Duration = Duration::from_secs(5);

/// What a client is told instead of what it asked for.
#[derive(Debug, Clone)]
pub(super) struct Failure(Box<Told>);

#[derive(Debug, Clone)]
struct Told {
    status: StatusCode,
    code: &'static str,
    message: String,
    headers: HeaderMap,
}

impl Failure {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self(Box::new(Told {
            status,
            code,
            message: message.into(),
            headers: HeaderMap::new(),
        }))
    }

    pub fn status(&self) -> StatusCode {
        self.0.status
    }

    pub(super) fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.0.headers.append(name, value);
        self
    }

    /// The headers that the answer has besides those of every answer.
    pub(super) fn headers_mut(&mut self) -> &mut HeaderMap {
        &mut self.0.headers
    }

    /// With the time after which it is worth asking again.
    pub(super) fn retry_after(self, wait: Duration) -> Self {
        // A wait of zero seconds would be no wait.
        let seconds = wait.as_secs().max(1);
        self.with(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// Something that a client can do nothing about and need not know; the log has it.
    pub fn internal(cause: impl std::fmt::Display) -> Self {
        tracing::error!(%cause, "a request failed for a reason of our own");
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "UNKNOWN",
            told::internal(),
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
            "this proxy has no users, so nobody pushes or deletes through it: push to the registry              itself, or have the proxy started with --htpasswd, --tls-client-ca or              --allow-anonymous-push",
        )
    }

    pub fn unknown_namespace(namespace: &str) -> Self {
        let namespace: String = namespace.chars().take(100).collect();
        Self::new(
            StatusCode::NOT_FOUND,
            "NAME_UNKNOWN",
            format!("the namespace {namespace:?} is none that this proxy stands for"),
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

    /// Users of our own have to say who they are.
    pub fn who_are_you() -> Self {
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

    pub fn converting() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TOOMANYREQUESTS",
            "the image is being converted: try again later",
        )
        .retry_after(SOON)
    }

    /// The client's own body does not come.
    pub fn stalled(limit: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "BLOB_UPLOAD_INVALID",
            format!("nothing of the request's body came for {limit:?}"),
        )
    }

    /// Another hold: the client asks again, at the same address.
    pub fn wait(address: &str) -> Self {
        let failure = Self::new(
            StatusCode::TEMPORARY_REDIRECT,
            "UNAVAILABLE",
            "the image is being converted: ask again",
        );
        match HeaderValue::from_str(address) {
            Ok(address) => failure.with(LOCATION, address),
            Err(_) => Self::converting(),
        }
    }

    pub fn not_satisfiable(size: u64) -> Self {
        let range = HeaderValue::from_str(&format!("bytes */{size}"));
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

    /// Our own credentials were refused: nothing that the client could mend with its own.
    fn own_credentials(error: &registry::Error) -> Self {
        tracing::error!(%error, "the proxy's own credentials are refused: --user, --docker-config");
        Self::new(
            StatusCode::BAD_GATEWAY,
            "DENIED",
            "the registry refuses the proxy's own credentials, or has no such image for them",
        )
    }

    /// That it cannot be told now whether a client may have something: what the upstream said,
    /// without a word of what it was asked.
    pub fn undecided(error: &registry::Error, is_own: bool) -> Self {
        let mut failure = Self::upstream(error, is_own);
        "the upstream cannot be asked now: try again later".clone_into(&mut failure.0.message);
        failure
    }

    /// What an upstream's error means for a client, which was asked with our own credentials
    /// where `is_own`.
    pub fn upstream(error: &registry::Error, is_own: bool) -> Self {
        use registry::Error;
        let text = told::upstream(error, is_own);
        match error {
            Error::Unauthorized {
                is_own: refused, ..
            }
            | Error::Forbidden {
                is_own: refused, ..
            } if is_own || *refused => Self::own_credentials(error),
            Error::Unauthorized { challenges, .. } => {
                tracing::debug!(%error, "the upstream wants other credentials");
                let mut failure = Self::new(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", text);
                for challenge in challenges {
                    failure = failure.with(WWW_AUTHENTICATE, challenge.clone());
                }
                failure
            }
            Error::Forbidden { .. } => {
                tracing::debug!(%error, "the upstream denies access");
                Self::new(StatusCode::FORBIDDEN, "DENIED", text)
            }
            Error::NotFound { .. } => {
                tracing::debug!(%error, "the upstream has no such thing");
                Self::new(StatusCode::NOT_FOUND, "MANIFEST_UNKNOWN", text)
            }
            Error::RateLimited { retry_after, .. } => {
                tracing::info!(%error, "the upstream limits the rate");
                Self::new(StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS", text)
                    .retry_after(retry_after.unwrap_or(SOON))
            }
            Error::TooManyFiles { .. } => Self::shortage(Shortage::Files, error),
            Error::Unsupported { .. } => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", text)
            }
            Error::Credentials { .. } | Error::Configuration(_) | Error::Io { .. } => {
                Self::internal(error)
            }
            Error::Upstream { .. }
            | Error::TimedOut { .. }
            | Error::Unreachable { .. }
            | Error::Mismatch { .. }
            | Error::Invalid { .. }
            | Error::Refused { .. } => {
                tracing::warn!(%error, "the upstream gave no usable answer");
                match error {
                    Error::Upstream { status: 503, .. } => {
                        let unavailable = StatusCode::SERVICE_UNAVAILABLE;
                        Self::new(unavailable, "UNAVAILABLE", text).retry_after(SOON)
                    }
                    Error::Upstream { status: 504, .. } | Error::TimedOut { .. } => {
                        Self::new(StatusCode::GATEWAY_TIMEOUT, "UNAVAILABLE", text)
                    }
                    _ => Self::new(StatusCode::BAD_GATEWAY, "UNAVAILABLE", text),
                }
            }
        }
    }

    /// What a failed conversion means for a client.
    pub fn conversion(error: &ConvertError, is_own: bool) -> Self {
        if let Some(shortage) = error.shortage() {
            return Self::shortage(shortage, error);
        }
        match (error, error.fault()) {
            (ConvertError::Upstream(error), _) => {
                let mut failure = Self::upstream(error, is_own);
                if let Some(content) = told::content(error) {
                    failure.0.message = format!("{content}: {}", failure.0.message);
                }
                failure
            }
            (ConvertError::Blobs(error), _) => Self::from(&**error),
            (ConvertError::Index(error), _) => Self::from(&**error),
            (ConvertError::TimedOut(_), _) => {
                tracing::error!(%error, "an image is not converted");
                Self::new(
                    StatusCode::GATEWAY_TIMEOUT,
                    "UNAVAILABLE",
                    "converting the image takes longer than the proxy allows",
                )
                .retry_after(Duration::from_mins(1))
            }
            (ConvertError::QueueFull(_), _) => {
                tracing::warn!(%error, "an image is not converted");
                Self::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "TOOMANYREQUESTS",
                    "too many images are waiting to be converted: try again later",
                )
                .retry_after(Duration::from_secs(30))
            }
            (ConvertError::Interrupted, _) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                error.to_string(),
            )
            .retry_after(Duration::from_secs(1)),
            (_, Fault::Image) => {
                tracing::info!(%error, "the image cannot be converted");
                let text = format!("the image cannot be converted: {error}");
                let failure = Self::new(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", text);
                if error.is_no_image() {
                    failure.with(OUTCOME, HeaderValue::from_static("no-image"))
                } else {
                    failure
                }
            }
            (_, Fault::Upstream) => {
                tracing::warn!(%error, "the upstream gave no usable answer");
                let text = told::unread(error);
                Self::new(StatusCode::BAD_GATEWAY, "UNAVAILABLE", text)
            }
            (_, Fault::Local) => Self::internal(error),
        }
    }

    /// The answer. `HEAD` has none of the text, but its length.
    pub fn into_response(self, is_head: bool) -> Response<Served> {
        let document = json!({
            "errors": [{ "code": self.0.code, "message": self.0.message, "detail": null }]
        });
        let text = document.to_string();
        let mut response = Response::new(Served::empty());
        *response.status_mut() = self.0.status;
        let headers = response.headers_mut();
        *headers = self.0.headers;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        headers.insert(API_VERSION, REGISTRY_2);
        if !is_head {
            *response.body_mut() = Served::bytes(text);
        }
        response
    }
}

impl Failure {
    /// What is asked for needs more of something than there is now.
    fn shortage(shortage: Shortage, error: &dyn std::fmt::Display) -> Self {
        match shortage {
            Shortage::Space => {
                tracing::error!(%error, "the disk is full, or cannot be written");
                Self::new(
                    StatusCode::INSUFFICIENT_STORAGE,
                    "UNAVAILABLE",
                    "the proxy has no space left for this image",
                )
                .retry_after(Duration::from_secs(30))
            }
            Shortage::Files => {
                tracing::error!(%error, "no file descriptors are left: raise the limit of open files");
                Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "UNAVAILABLE",
                    "the proxy has as many files and connections open as it may: try again later",
                )
                .retry_after(SOON)
            }
        }
    }
}

impl From<&BlobError> for Failure {
    fn from(error: &BlobError) -> Self {
        match Shortage::among(error) {
            Some(shortage) => Self::shortage(shortage, error),
            None => Self::internal(error),
        }
    }
}

impl From<&IndexError> for Failure {
    fn from(error: &IndexError) -> Self {
        if error.is_no_space() {
            Self::shortage(Shortage::Space, error)
        } else if error.is_unavailable() {
            tracing::warn!(%error, "the index gives no answer");
            Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                "the proxy's index is unavailable: try again later",
            )
            .retry_after(SOON)
        } else {
            Self::internal(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;

    fn place() -> String {
        "HEAD https://a.example/v2/x/manifests/y".to_owned()
    }

    fn of_status(status: u16) -> registry::Error {
        registry::Error::Upstream {
            place: place(),
            status,
            detail: String::new(),
        }
    }

    #[test]
    fn each_error_of_the_upstream_has_its_status() {
        use registry::Error;
        let detail = String::new;
        let cases = [
            (
                Error::Unauthorized {
                    place: place(),
                    is_own: false,
                    challenges: vec![],
                    detail: detail(),
                },
                401,
                "UNAUTHORIZED",
            ),
            (
                Error::Forbidden {
                    place: place(),
                    is_own: false,
                    detail: detail(),
                },
                403,
                "DENIED",
            ),
            (
                Error::NotFound {
                    place: place(),
                    detail: detail(),
                },
                404,
                "MANIFEST_UNKNOWN",
            ),
            (of_status(500), 502, "UNAVAILABLE"),
            (of_status(503), 503, "UNAVAILABLE"),
            (of_status(504), 504, "UNAVAILABLE"),
            (of_status(418), 502, "UNAVAILABLE"),
            (
                Error::TimedOut {
                    place: place(),
                    what: "answer",
                    after: SOON,
                },
                504,
                "UNAVAILABLE",
            ),
            (
                Error::Unreachable {
                    place: place(),
                    cause: detail(),
                },
                502,
                "UNAVAILABLE",
            ),
            (Error::Configuration("x".to_owned()), 500, "UNKNOWN"),
        ];
        for (error, status, code) in cases {
            let failure = Failure::upstream(&error, false);
            assert_eq!(
                (failure.0.status.as_u16(), failure.0.code),
                (status, code),
                "{error}"
            );
        }
    }

    #[test]
    fn a_challenge_is_passed_on_unless_it_was_ours_to_answer() {
        let challenge = HeaderValue::from_static(r#"Bearer realm="r",service="s""#);
        let error = |is_own| registry::Error::Unauthorized {
            place: place(),
            is_own,
            challenges: vec![challenge.clone()],
            detail: String::new(),
        };
        let failure = Failure::upstream(&error(false), false);
        assert_eq!(failure.0.headers.get(WWW_AUTHENTICATE), Some(&challenge));
        // Also where the proxy pushes with its own credentials what a client pulls with others.
        for (refused, asked) in [(false, true), (true, false), (true, true)] {
            let failure = Failure::upstream(&error(refused), asked);
            assert_eq!(failure.0.status, StatusCode::BAD_GATEWAY);
            assert_eq!(failure.0.headers.get(WWW_AUTHENTICATE), None);
        }
    }

    #[test]
    fn the_upstreams_wait_is_passed_on() {
        let error = registry::Error::RateLimited {
            place: place(),
            retry_after: Some(Duration::from_secs(77)),
            detail: String::new(),
        };
        let failure = Failure::upstream(&error, false);
        assert_eq!(failure.0.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(failure.0.headers[RETRY_AFTER], "77");
    }

    #[test]
    fn a_broken_image_is_not_worth_asking_again_and_a_full_disk_is() {
        let broken = ConvertError::Document {
            what: "manifest",
            digest: Digest::of(b""),
            cause: "no JSON".to_owned(),
        };
        let failure = Failure::conversion(&broken, false);
        assert_eq!(
            (failure.0.status.as_u16(), failure.0.code),
            (400, "MANIFEST_INVALID")
        );
        assert!(failure.0.message.contains("no JSON"));
        let full = ConvertError::Blobs(Arc::new(BlobError::NoSpace {
            what: "writing",
            path: PathBuf::from("/secret/path"),
        }));
        let failure = Failure::conversion(&full, false);
        assert_eq!(failure.0.status, StatusCode::INSUFFICIENT_STORAGE);
        assert!(!failure.0.message.contains("/secret"));
    }

    #[test]
    fn what_is_ours_to_mend_is_not_told() {
        let error = BlobError::Layout {
            path: PathBuf::from("/secret/path"),
            found: "x".to_owned(),
            known: "y",
        };
        let failure = Failure::from(&error);
        assert_eq!(failure.0.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!failure.0.message.contains("/secret"));
    }

    #[tokio::test]
    async fn a_failure_is_the_specifications_document() {
        let response = Failure::outside().into_response(false);
        let length = response.headers()[CONTENT_LENGTH].clone();
        let body = registry::body::read(response.into_body(), 1024)
            .await
            .unwrap();
        assert_eq!(length.to_str().unwrap(), body.len().to_string());
        let value: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(value["errors"][0]["code"], "NAME_UNKNOWN");
    }
}
