//! A response, and what its status means.

use bytes::Bytes;
use http::{HeaderName, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use url::Url;

use super::retry::{Again, Failure, again, retry_after};
use crate::registry::body::{self, ReadError};
use crate::registry::error_body::detail_of;
use crate::registry::stall::{Stalled, Stalling};
use crate::registry::{BoxError, Error, Timeouts};

/// As much of an error's body is read.
const MAX_ERROR_BYTES: usize = 64 << 10;

/// The head of a response, its body still to come.
pub(super) struct Answer {
    pub(super) response: Response<Incoming>,
    /// Method and address, for errors.
    pub(super) place: String,
    /// Where it came from, redirects followed.
    pub(super) url: Url,
    /// Whether it comes from the origin of the request, not from a redirect.
    pub(super) at_home: bool,
    /// Whether the request had the proxy's own credentials, or none, and not a client's.
    pub(super) is_own: bool,
    pub(super) timeouts: Timeouts,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn header(&self, name: impl Into<HeaderName>) -> Option<&str> {
        self.response
            .headers()
            .get(name.into())
            .and_then(|value| value.to_str().ok())
            .map(str::trim)
    }

    /// `Content-Type`, or nothing.
    pub(super) fn media_type(&self) -> String {
        self.header(header::CONTENT_TYPE).unwrap_or("").to_owned()
    }

    /// `Content-Length`, where there is one.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(header::CONTENT_LENGTH)?.parse().ok()
    }

    pub(super) fn invalid(&self, detail: impl Into<String>) -> Error {
        Error::invalid(&self.place, detail)
    }

    /// This answer if its status is one of these, else what the status means.
    pub(super) async fn expect(self, statuses: &[StatusCode]) -> Result<Self, Failure> {
        if statuses.contains(&self.status()) {
            Ok(self)
        } else {
            Err(self.failure().await)
        }
    }

    /// The error, by the status and the body.
    pub(super) async fn failure(self) -> Failure {
        let status = self.status();
        let again = again(status, self.response.headers());
        let (place, is_own) = (self.place.clone(), self.is_own);
        if status.is_success() || status.is_informational() {
            let detail = format!("status {} is not expected here", status.as_u16());
            return Failure::from(Error::Invalid { place, detail });
        }
        let retry_after = retry_after(self.response.headers());
        let challenges = self
            .response
            .headers()
            .get_all(header::WWW_AUTHENTICATE)
            .iter()
            // A challenge of a redirect's target is not answered.
            .filter(|_| self.at_home)
            .cloned()
            .collect();
        let limit = self.timeouts.stall;
        let start = body::read_start(self.response.into_body(), MAX_ERROR_BYTES);
        // Whatever does not come soon is not needed.
        let body = tokio::time::timeout(limit, start).await.unwrap_or_default();
        let detail = detail_of(&body);
        let error = match status {
            StatusCode::UNAUTHORIZED => Error::Unauthorized {
                place,
                is_own,
                challenges,
                detail,
            },
            StatusCode::FORBIDDEN => Error::Forbidden {
                place,
                is_own,
                detail,
            },
            StatusCode::NOT_FOUND => Error::NotFound { place, detail },
            StatusCode::TOO_MANY_REQUESTS => Error::RateLimited {
                place,
                retry_after,
                detail,
            },
            status => Error::Upstream {
                place,
                status: status.as_u16(),
                detail,
            },
        };
        Failure { error, again }
    }

    /// The body, which fails when it stands still.
    pub(super) fn into_body(
        self,
    ) -> impl Body<Data = Bytes, Error = Error> + Send + Sync + Unpin + 'static {
        let Self {
            response,
            place,
            timeouts,
            ..
        } = self;
        Stalling::new(response.into_body(), timeouts.stall)
            .map_err(move |error| interrupted(&place, error))
    }

    /// The whole of a body of at most `limit` bytes.
    pub(super) async fn document(self, limit: usize) -> Result<Bytes, Failure> {
        let place = self.place.clone();
        let too_long = |length: u64| {
            Failure::from(Error::Mismatch {
                place: place.clone(),
                what: "document's length",
                expected: format!("at most {limit} bytes"),
                found: if length > limit as u64 {
                    format!("{length} bytes")
                } else {
                    "more".to_owned()
                },
            })
        };
        if let Some(length) = self.length()
            && length > limit as u64
        {
            return Err(too_long(length));
        }
        // A document is small: it must be there before a blob would have to move a few times.
        let after = self.timeouts.stall.saturating_mul(3);
        let reading = body::read(self.into_body(), limit);
        match tokio::time::timeout(after, reading).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(ReadError::TooLong(_))) => Err(too_long(0)),
            Ok(Err(ReadError::Transfer(error))) => Err(match error.downcast::<Error>() {
                Ok(error) => Failure::passing(*error),
                Err(error) => Failure::passing(Error::unreachable(&place, &*error)),
            }),
            Err(_) => Err(Failure::passing(Error::TimedOut {
                place,
                what: "whole document",
                after,
            })),
        }
    }

    /// Reads a short body away, so that the connection can be used again.
    pub(super) async fn drain(self) {
        let limit = self.timeouts.stall;
        let start = body::read_start(self.response.into_body(), MAX_ERROR_BYTES);
        let _ = tokio::time::timeout(limit, start).await;
    }

    /// A failure that is not retried, whatever the status is.
    pub(super) async fn final_failure(self) -> Failure {
        Failure {
            again: Again::Never,
            ..self.failure().await
        }
    }
}

/// A foreign text, as much of it as fits into an error.
pub(super) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Why the body of an answer did not come to its end.
fn interrupted(place: &str, error: BoxError) -> Error {
    match error.downcast::<Stalled>() {
        Ok(stalled) => Error::TimedOut {
            place: place.to_owned(),
            what: "more of the body",
            after: stalled.0,
        },
        Err(error) => Error::unreachable(place, &*error),
    }
}
