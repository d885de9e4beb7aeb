//! What errors of the upstream, of conversions, of the store and of the index mean for a client.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderValue, WWW_AUTHENTICATE};

use super::{ApiError, DEFAULT_RETRY_AFTER, text as error_text};
use crate::convert::{ConvertError, Fault};
use crate::registry;
use crate::server::http::header_names::OUTCOME;
use crate::store::{BlobError, IndexError, Shortage};

impl ApiError {
    /// Our own credentials were refused: nothing that the client could mend with its own.
    fn own_credentials(error: &registry::Error) -> Self {
        tracing::error!(%error, "the proxy's own credentials are refused: --user, --docker-config");
        Self::new(
            StatusCode::BAD_GATEWAY,
            "DENIED",
            "the registry refuses the proxy's own credentials, or has no such image for them",
        )
    }

    /// That it is not known now whether a client may have something: what the upstream said,
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
        let text = error_text::upstream(error, is_own);
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
                    .retry_after(retry_after.unwrap_or(DEFAULT_RETRY_AFTER))
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
                        Self::new(unavailable, "UNAVAILABLE", text).retry_after(DEFAULT_RETRY_AFTER)
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
                if let Some(content) = error_text::content(error) {
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
            (ConvertError::Cancelled, _) => Self::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                error.to_string(),
            )
            .retry_after(Duration::from_mins(1)),
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
                let text = error_text::unread(error);
                Self::new(StatusCode::BAD_GATEWAY, "UNAVAILABLE", text)
            }
            (_, Fault::Local) => Self::internal(error),
        }
    }
}

impl ApiError {
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
                .retry_after(DEFAULT_RETRY_AFTER)
            }
        }
    }
}

impl From<&BlobError> for ApiError {
    fn from(error: &BlobError) -> Self {
        match Shortage::among(error) {
            Some(shortage) => Self::shortage(shortage, error),
            None => Self::internal(error),
        }
    }
}

impl From<&IndexError> for ApiError {
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
            .retry_after(DEFAULT_RETRY_AFTER)
        } else {
            Self::internal(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use http::header::RETRY_AFTER;

    use super::*;
    use crate::oci::Digest;

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
                    after: DEFAULT_RETRY_AFTER,
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
            let failure = ApiError::upstream(&error, false);
            assert_eq!(
                (failure.0.status.as_u16(), failure.0.code),
                (status, code),
                "{error}"
            );
        }
    }

    #[test]
    fn a_challenge_is_passed_on_unless_it_is_for_the_proxys_credentials() {
        let challenge = HeaderValue::from_static(r#"Bearer realm="r",service="s""#);
        let error = |is_own| registry::Error::Unauthorized {
            place: place(),
            is_own,
            challenges: vec![challenge.clone()],
            detail: String::new(),
        };
        let failure = ApiError::upstream(&error(false), false);
        assert_eq!(failure.0.headers.get(WWW_AUTHENTICATE), Some(&challenge));
        // Also where the proxy pushes with its own credentials what a client pulls with others.
        for (refused, asked) in [(false, true), (true, false), (true, true)] {
            let failure = ApiError::upstream(&error(refused), asked);
            assert_eq!(failure.0.status, StatusCode::BAD_GATEWAY);
            assert_eq!(failure.0.headers.get(WWW_AUTHENTICATE), None);
        }
    }

    #[test]
    fn the_upstreams_retry_after_is_passed_on() {
        let error = registry::Error::RateLimited {
            place: place(),
            retry_after: Some(Duration::from_secs(77)),
            detail: String::new(),
        };
        let failure = ApiError::upstream(&error, false);
        assert_eq!(failure.0.status, StatusCode::TOO_MANY_REQUESTS);
        assert_eq!(failure.0.headers[RETRY_AFTER], "77");
    }

    #[test]
    fn a_full_disk_has_retry_after_and_a_broken_image_has_none() {
        let broken = ConvertError::Document {
            what: "manifest",
            digest: Digest::of(b""),
            cause: "no JSON".to_owned(),
        };
        let failure = ApiError::conversion(&broken, false);
        assert_eq!(
            (failure.0.status.as_u16(), failure.0.code),
            (400, "MANIFEST_INVALID")
        );
        assert!(failure.0.message.contains("no JSON"));
        let full = ConvertError::Blobs(Arc::new(BlobError::NoSpace {
            what: "writing",
            path: PathBuf::from("/secret/path"),
        }));
        let failure = ApiError::conversion(&full, false);
        assert_eq!(failure.0.status, StatusCode::INSUFFICIENT_STORAGE);
        assert!(!failure.0.message.contains("/secret"));
    }

    #[test]
    fn paths_in_blob_store_errors_are_not_disclosed() {
        let error = BlobError::Layout {
            path: PathBuf::from("/secret/path"),
            found: "x".to_owned(),
            known: "y",
        };
        let failure = ApiError::from(&error);
        assert_eq!(failure.0.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!failure.0.message.contains("/secret"));
    }
}
