//! Tokens as clients get them where the path of a request chooses the upstream.
//!
//! A client knows one registry, the proxy, and sends what it was given with any request to it. So
//! each token is bound to the upstream that it came from, and is sent to no other one. It holds
//! nothing that its owner did not bring or could not have got from the upstream, so it is neither
//! signed nor encrypted, and replicas understand each other's.
//!
//! ```text
//! obd1.            and for each upstream:
//! SEAL             32 hexadecimal digits of the hash of the upstream's host
//! b | p | o        bearer token, password, or nothing: the upstream lets everyone in
//! LENGTH.TEXT      what stands behind the scheme in `Authorization`
//! ```

use std::fmt::Write as _;

use http::HeaderValue;

use crate::oci::Digest;

const MARK: &str = "obd1.";
/// Characters of a seal.
const SEAL: usize = 32;
/// Longest token, in bytes: half of what may stand in a request's head.
const MAX_TOKEN_BYTES: usize = 32 << 10;

/// What binds a token to an upstream, whichever place it has among the others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::server) struct Seal(String);

impl Seal {
    /// Of an upstream by its host, which it does not show.
    pub fn of(host: &str) -> Self {
        let digest = Digest::of(host.as_bytes());
        let (_, hash) = digest.as_str().split_once(':').unwrap_or_default();
        Self(hash.chars().take(SEAL).collect())
    }
}

/// What a request carries.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::server) enum Carried {
    /// No token of this proxy.
    Other,
    /// A token that is for other upstreams, or for none.
    NotFor,
    /// A token with this for the upstream.
    For(Option<HeaderValue>),
}

/// A token of what upstreams take; `None` where that is too long, or no credentials.
pub(in crate::server) fn wrap(entries: &[(Seal, Option<HeaderValue>)]) -> Option<String> {
    let mut token = MARK.to_owned();
    for (Seal(seal), authorization) in entries {
        let (kind, text) = match authorization {
            None => ('o', ""),
            Some(value) => {
                let value = value.to_str().ok()?;
                match (behind(value, "bearer"), behind(value, "basic")) {
                    (Some(text), _) => ('b', text),
                    (None, Some(text)) => ('p', text),
                    (None, None) => return None,
                }
            }
        };
        write!(token, "{seal}{kind}{}.{text}", text.len()).ok()?;
    }
    (token.len() <= MAX_TOKEN_BYTES).then_some(token)
}

/// What `authorization` has for the upstream of `seal`.
pub(in crate::server) fn unwrap(authorization: &HeaderValue, seal: &Seal) -> Carried {
    let token = authorization
        .to_str()
        .ok()
        .and_then(|value| behind(value, "bearer")?.strip_prefix(MARK));
    let Some(mut rest) = token else {
        return Carried::Other;
    };
    while let Some((found, kind, text, next)) = entry(rest) {
        if found == seal.0 {
            return match kind {
                "b" => carried("Bearer", text),
                "p" => carried("Basic", text),
                _ => Carried::For(None),
            };
        }
        rest = next;
    }
    Carried::NotFor
}

/// Whether this is a bearer token, whoever made it.
pub(in crate::server) fn is_bearer(authorization: &HeaderValue) -> bool {
    let start = authorization.as_bytes().get(.."bearer".len());
    start.is_some_and(|start| start.eq_ignore_ascii_case(b"bearer"))
}

/// Seal, kind and text of the first entry, and what is behind it.
fn entry(text: &str) -> Option<(&str, &str, &str, &str)> {
    let (seal, rest) = text.split_at_checked(SEAL)?;
    let (kind, rest) = rest.split_at_checked(1)?;
    let (length, rest) = rest.split_once('.')?;
    let (text, rest) = rest.split_at_checked(length.parse().ok()?)?;
    Some((seal, kind, text, rest))
}

fn carried(scheme: &str, text: &str) -> Carried {
    match HeaderValue::from_str(&format!("{scheme} {text}")) {
        Ok(mut value) => {
            value.set_sensitive(true);
            Carried::For(Some(value))
        }
        Err(_) => Carried::NotFor,
    }
}

/// What is behind an authentication scheme, given in lower case.
fn behind<'a>(value: &'a str, scheme: &str) -> Option<&'a str> {
    let (found, rest) = value.trim().split_once(' ')?;
    found.eq_ignore_ascii_case(scheme).then(|| rest.trim())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    fn token(entries: &[(&str, Option<&str>)]) -> HeaderValue {
        let entry = |(host, value): &(&str, Option<&str>)| (Seal::of(host), value.map(header));
        let entries: Vec<_> = entries.iter().map(entry).collect();
        header(&format!("bearer {}", wrap(&entries).unwrap()))
    }

    #[test]
    fn credentials_for_an_upstream_are_unwrapped_for_it_only() {
        let token = token(&[
            ("a", Some("Bearer x.y.z~1")),
            ("b", Some("basic YTpi")),
            ("c", None),
        ]);
        let of = |host| unwrap(&token, &Seal::of(host));
        assert_eq!(of("a"), Carried::For(Some(header("Bearer x.y.z~1"))));
        assert_eq!(of("b"), Carried::For(Some(header("Basic YTpi"))));
        assert_eq!(of("c"), Carried::For(None));
        assert_eq!(of("d"), Carried::NotFor);
    }

    #[test]
    fn tokens_of_others_are_recognized() {
        for other in ["Bearer x.y.z", "Bearer", "Basic b2JkMS46", "obd1.", ""] {
            assert_eq!(unwrap(&header(other), &Seal::of("a")), Carried::Other);
        }
        let empty = wrap(&[]).unwrap();
        let empty = header(&format!("Bearer {empty}"));
        assert_eq!(unwrap(&empty, &Seal::of("a")), Carried::NotFor);
    }

    #[test]
    fn a_token_has_a_bound_and_takes_nothing_but_credentials() {
        let long = header(&format!("Bearer {}", "x".repeat(MAX_TOKEN_BYTES)));
        assert_eq!(wrap(&[(Seal::of("a"), Some(long))]), None);
        let other = header("Negotiate x");
        assert_eq!(wrap(&[(Seal::of("a"), Some(other))]), None);
    }

    proptest! {
        #[test]
        fn any_token_is_read_without_panic(text in "[0-9a-fbpo.é]{0,80}") {
            if let Ok(value) = HeaderValue::from_str(&format!("Bearer obd1.{text}")) {
                let _ = unwrap(&value, &Seal::of("a"));
            }
        }

        #[test]
        fn a_truncated_token_is_passed_to_no_upstream(at in 0usize..120) {
            let whole = token(&[("a", Some("Bearer secret")), ("b", Some("Basic secret"))]);
            let whole = whole.to_str().unwrap();
            let part = header(whole.get(..at.min(whole.len())).unwrap());
            let other = unwrap(&part, &Seal::of("c"));
            prop_assert!(matches!(other, Carried::Other | Carried::NotFor));
        }
    }
}
