//! What can go wrong between us and a registry.

use std::time::Duration;

use http::HeaderValue;

/// A failed call to an upstream: what, where, and what to do.
///
/// `place` is the method and the address without its query, which may hold a signature.
/// The error is `Clone`, because many requests may wait for one conversion.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The upstream wants credentials, or other ones.
    #[error("{place}: credentials are needed, or these are wrong{}", behind(.detail))]
    Unauthorized {
        /// Method and address.
        place: String,
        /// Whether they were the proxy's own, and not a client's.
        is_own: bool,
        /// The values of `WWW-Authenticate`, to be passed on to a client.
        challenges: Vec<HeaderValue>,
        /// The upstream's message.
        detail: String,
    },
    /// These credentials do not suffice.
    #[error("{place}: access is denied{}", behind(.detail))]
    Forbidden {
        /// Method and address.
        place: String,
        /// Whether they are the proxy's own, and not a client's.
        is_own: bool,
        /// The upstream's message.
        detail: String,
    },
    /// There is no such content.
    #[error("{place}: not found{}", behind(.detail))]
    NotFound {
        /// Method and address.
        place: String,
        /// The upstream's message.
        detail: String,
    },
    /// Too many requests, also after waiting.
    #[error("{place}: the upstream's rate limit is reached{}; try again later or use credentials", behind(.detail))]
    RateLimited {
        /// Method and address.
        place: String,
        /// When to retry, if the upstream says so.
        retry_after: Option<Duration>,
        /// The upstream's message.
        detail: String,
    },
    /// Any other status that is no success.
    #[error("{place}: the upstream answers {status}{}", behind(.detail))]
    Upstream {
        /// Method and address.
        place: String,
        /// The HTTP status.
        status: u16,
        /// The upstream's message.
        detail: String,
    },
    /// No connection, or it broke.
    #[error("{place}: the upstream cannot be reached: {cause}")]
    Unreachable {
        /// Method and address.
        place: String,
        /// The cause, with its causes.
        cause: String,
    },
    /// This process, or its machine, has as many files and connections open as it may.
    #[error(
        "{place}: no more files or connections can be opened: {cause}; raise the limit of open files (ulimit -n, LimitNOFILE)"
    )]
    TooManyFiles {
        /// Method and address, or the file.
        place: String,
        /// What the system said.
        cause: String,
    },
    /// Nothing came for too long.
    #[error("{place}: no {what} within {after:?}")]
    TimedOut {
        /// Method and address.
        place: String,
        /// What was waited for.
        what: &'static str,
        /// The limit.
        after: Duration,
    },
    /// The content is not what was promised.
    #[error("{place}: the {what} is {found} where {expected} is expected")]
    Mismatch {
        /// Method and address.
        place: String,
        /// Digest or length.
        what: &'static str,
        /// What it should be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// The upstream's answer makes no sense.
    #[error("{place}: the answer cannot be used: {detail}")]
    Invalid {
        /// Method and address.
        place: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The upstream redirects to an address that is not allowed.
    #[error("{place}: will not go to {target}: {why}; --allow-host allows a host")]
    Refused {
        /// Method and address.
        place: String,
        /// Where it leads to, without a query.
        target: String,
        /// Why not.
        why: String,
    },
    /// The upstream cannot do this.
    #[error("{place}: {detail}")]
    Unsupported {
        /// Method and address.
        place: String,
        /// What it cannot do.
        detail: String,
    },
    /// Our own credentials cannot be had.
    #[error("credentials for {host}: {detail}")]
    Credentials {
        /// The registry.
        host: String,
        /// What is wrong.
        detail: String,
    },
    /// A setting that cannot be used.
    #[error("{0}")]
    Configuration(String),
    /// A local file.
    #[error("{path}: {cause}")]
    Io {
        /// The file.
        path: String,
        /// The cause.
        cause: String,
    },
}

fn behind(detail: &str) -> String {
    if detail.is_empty() {
        String::new()
    } else {
        format!(": {detail}")
    }
}

impl Error {
    /// What kind of error it is, in a word for traces: the text has the whole address.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::TooManyFiles { .. } => "too_many_files",
            Self::TimedOut { .. } => "timeout",
            Self::Refused { .. } => "refused",
            Self::Unauthorized { .. } => "unauthorized",
            _ => "_OTHER",
        }
    }

    /// Whether the content is not there, as opposed to not to be had.
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether this process has as many files and connections open as it may.
    #[must_use]
    pub fn is_too_many_files(&self) -> bool {
        matches!(self, Self::TooManyFiles { .. })
    }

    /// Method and address of what failed, or what it was of a layout; not for everyone's eyes.
    #[must_use]
    pub fn place(&self) -> Option<&str> {
        match self {
            Self::Unauthorized { place, .. }
            | Self::Forbidden { place, .. }
            | Self::NotFound { place, .. }
            | Self::RateLimited { place, .. }
            | Self::Upstream { place, .. }
            | Self::Unreachable { place, .. }
            | Self::TooManyFiles { place, .. }
            | Self::TimedOut { place, .. }
            | Self::Mismatch { place, .. }
            | Self::Invalid { place, .. }
            | Self::Refused { place, .. }
            | Self::Unsupported { place, .. } => Some(place),
            Self::Credentials { .. } | Self::Configuration(_) | Self::Io { .. } => None,
        }
    }

    /// Whether another attempt may succeed.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::RateLimited { .. } | Self::Unreachable { .. } | Self::TimedOut { .. } => true,
            Self::Upstream { status, .. } => matches!(status, 408 | 500 | 502..=504),
            _ => false,
        }
    }

    /// Whether the upstream failed, so that what it said before may still hold: it cannot be reached,
    /// answers 5xx or 429, or does not answer.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.is_transient() || matches!(self, Self::Upstream { status, .. } if *status >= 500)
    }

    pub(crate) fn io(path: &std::path::Path, cause: &std::io::Error) -> Self {
        let path = path.display().to_string();
        if is_too_many_files(cause) {
            return Self::TooManyFiles {
                place: path,
                cause: cause.to_string(),
            };
        }
        Self::Io {
            path,
            cause: cause.to_string(),
        }
    }

    pub(crate) fn unreachable(place: &str, cause: &(dyn std::error::Error + 'static)) -> Self {
        let (place, text) = (place.to_owned(), chain(cause));
        if is_too_many_files(cause) {
            return Self::TooManyFiles { place, cause: text };
        }
        Self::Unreachable { place, cause: text }
    }

    pub(crate) fn invalid(place: &str, detail: impl Into<String>) -> Self {
        Self::Invalid {
            place: place.to_owned(),
            detail: detail.into(),
        }
    }
}

/// Whether the system refused to open another file, here or anywhere among the causes.
fn is_too_many_files(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let io = error.downcast_ref::<std::io::Error>();
        let errno = io.and_then(std::io::Error::raw_os_error);
        if matches!(errno, Some(libc::EMFILE | libc::ENFILE)) {
            return true;
        }
        next = match io.and_then(std::io::Error::get_ref) {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    false
}

/// An error with its causes on one line.
pub(crate) fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_temporary_failures_are_transient() {
        let status = |status| Error::Upstream {
            place: String::new(),
            status,
            detail: String::new(),
        };
        assert!(status(503).is_transient());
        assert!(!status(501).is_transient());
        assert!(!status(418).is_transient());
    }
}
