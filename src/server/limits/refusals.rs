//! The answers to clients that exceed a limit of number or time.

use std::time::Duration;

use http::StatusCode;

use crate::server::error::ApiError;
use crate::server::http::host::BadHost;
use crate::server::limits::slots::Full;
use crate::server::observe::refusals::RefusedBy;

impl ApiError {
    /// There is no place for a request: `what` is taken.
    pub fn full(full: Full, what: &str) -> Self {
        let (status, code, by, text) = match full {
            Full::Everywhere => (
                StatusCode::SERVICE_UNAVAILABLE,
                "UNAVAILABLE",
                RefusedBy::Total,
                format!("the proxy has reached its limit of {what}: try again later"),
            ),
            Full::ForClient => (
                StatusCode::TOO_MANY_REQUESTS,
                "TOOMANYREQUESTS",
                RefusedBy::Share,
                format!("your address has its share of {what}: try again later"),
            ),
        };
        Self::new(status, code, text)
            .retry_after(Duration::from_secs(1))
            .refused(by)
    }

    /// The client made more requests than it may.
    pub fn too_many_requests(wait: Duration) -> Self {
        // Whoever comes back earlier is refused again.
        let seconds = wait + Duration::from_nanos(999_999_999);
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TOOMANYREQUESTS",
            "you made more requests than this proxy allows in that time: try again later",
        )
        .retry_after(seconds)
        .refused(RefusedBy::Rate)
    }

    /// As many passwords are being checked, or wait for it, as may be.
    pub fn too_many_logins() -> Self {
        Self::new(
            StatusCode::TOO_MANY_REQUESTS,
            "TOOMANYREQUESTS",
            "too many passwords are being checked: try again later",
        )
        .retry_after(Duration::from_secs(1))
        .refused(RefusedBy::Logins)
    }

    /// The upstream was silent for as long as requests are held.
    pub fn silent_upstream(hold: Duration) -> Self {
        tracing::warn!(?hold, "the upstream gave no answer within the hold");
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "UNAVAILABLE",
            format!("no answer of the upstream within {hold:?}: try again later"),
        )
    }

    /// A request that names no host, or several.
    pub fn host(bad: BadHost) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "UNSUPPORTED", bad.text())
    }
}
