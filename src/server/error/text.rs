//! The text of an upstream's error for clients: what it is, and what to do about it.
//!
//! Where it happened is for the log only: addresses of upstreams, paths of layouts, and causes
//! that name either. So is what an upstream says to the proxy's own credentials.

use crate::convert::ConvertError;
use crate::oci::Digest;
use crate::registry::Error;

const MORE: &str = "the proxy's log says more under this request's X-Request-Id";

/// An upstream's error, which was asked with the proxy's own credentials where `is_own`.
pub(in crate::server) fn upstream(error: &Error, is_own: bool) -> String {
    let with = |text: &str, detail: &str| {
        if is_own || detail.is_empty() {
            text.to_owned()
        } else {
            format!("{text}: {detail}")
        }
    };
    match error {
        Error::Unauthorized { detail, .. } => {
            with("credentials are needed, or these are wrong", detail)
        }
        Error::Forbidden { detail, .. } => with("access is denied", detail),
        Error::NotFound { detail, .. } => with("not found", detail),
        Error::RateLimited { detail, .. } => with(
            "the upstream's rate limit is reached; try again later or use credentials",
            detail,
        ),
        Error::Upstream { status, detail, .. } => {
            with(&format!("the upstream answers {status}"), detail)
        }
        Error::Unreachable { .. } => format!("the upstream cannot be reached: {MORE}"),
        Error::TimedOut { what, after, .. } => {
            format!("no {what} of the upstream within {after:?}: try again later")
        }
        Error::Mismatch {
            what,
            expected,
            found,
            ..
        } => format!("the {what} is {found} where {expected} is expected"),
        Error::Invalid { .. } => format!("the upstream's answer cannot be used: {MORE}"),
        Error::Refused { .. } => {
            format!("the upstream leads to a host that this proxy is not allowed to ask: {MORE}")
        }
        Error::Unsupported { detail, .. } => detail.clone(),
        Error::TooManyFiles { .. }
        | Error::Credentials { .. }
        | Error::Configuration(_)
        | Error::Io { .. } => internal(),
    }
}

/// Which content of an image an error is about, for those that may have the image.
pub(in crate::server) fn content(error: &Error) -> Option<Digest> {
    let is_within = |c: char| c.is_ascii_alphanumeric() || c == ':';
    let mut words = error.place()?.split(|c| !is_within(c));
    words.find_map(|word| word.parse().ok())
}

/// That a conversion failed for want of the upstream's bytes.
pub(in crate::server) fn unread(error: &ConvertError) -> String {
    match error {
        ConvertError::Layer { layer, .. } if error.is_wrong_bytes() => {
            format!(
                "layer {layer} came from the upstream with other bytes than its digest says, \
                 also when asked again: it is damaged there, or on the way"
            )
        }
        ConvertError::Layer { layer, .. } => {
            format!("layer {layer} could not be read from the upstream: {MORE}")
        }
        _ => format!("the image could not be read from the upstream: {MORE}"),
    }
}

/// Something that a client can do nothing about and need not know.
pub(in crate::server) fn internal() -> String {
    format!("internal error: {MORE}")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_subject_of_an_error_is_found_in_its_url() {
        let digest = Digest::of(b"x");
        for (place, content) in [
            (
                format!("GET http://up:5000/v2/a/blobs/{digest}"),
                Some(&digest),
            ),
            (format!("blob {digest} of a in oci:/srv"), Some(&digest)),
            ("GET http://up:5000/v2/a/manifests/v1".to_owned(), None),
        ] {
            let error = Error::invalid(&place, "x");
            assert_eq!(super::content(&error).as_ref(), content, "{place}");
        }
    }

    #[test]
    fn no_error_discloses_the_address_and_with_own_credentials_no_detail() {
        let place = || "GET http://10.0.0.7:5000/v2/a or oci:/srv/images".to_owned();
        let detail = || "user robot may not".to_owned();
        let errors = [
            Error::Unauthorized {
                place: place(),
                is_own: false,
                challenges: Vec::new(),
                detail: detail(),
            },
            Error::Forbidden {
                place: place(),
                is_own: false,
                detail: detail(),
            },
            Error::NotFound {
                place: place(),
                detail: detail(),
            },
            Error::RateLimited {
                place: place(),
                retry_after: None,
                detail: detail(),
            },
            Error::Upstream {
                place: place(),
                status: 500,
                detail: detail(),
            },
            Error::Unreachable {
                place: place(),
                cause: "connect to 10.0.0.7".to_owned(),
            },
            Error::TimedOut {
                place: place(),
                what: "answer",
                after: Duration::from_secs(1),
            },
            Error::Mismatch {
                place: place(),
                what: "length",
                expected: "1".to_owned(),
                found: "2".to_owned(),
            },
            Error::Invalid {
                place: place(),
                detail: "Location http://10.0.0.7".to_owned(),
            },
            Error::Refused {
                place: place(),
                target: "http://10.0.0.7".to_owned(),
                why: "private".to_owned(),
            },
            Error::Unsupported {
                place: place(),
                detail: "read only".to_owned(),
            },
            Error::Io {
                path: "/srv/images/index.json".to_owned(),
                cause: "no such file".to_owned(),
            },
        ];
        for error in errors {
            for is_own in [false, true] {
                let text = upstream(&error, is_own);
                assert!(!text.contains("10.0.0.7"), "{text}");
                assert!(!text.contains("/srv"), "{text}");
                assert!(!(is_own && text.contains("robot")), "{text}");
            }
        }
    }
}
