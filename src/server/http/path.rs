//! Request paths that every server reads the same way.
//!
//! A path is checked here and read again by the upstream, and perhaps by proxies on the way to it.
//! Servers differ in what they make of backslashes, encoded separators, dot segments, path
//! parameters and double encodings. Names, tags and digests (OCI distribution-spec § Pulling
//! manifests) need none of these, so a path that has one is refused, whatever it is about.
//! The address of an upload is the upstream's own choice: everything else may be in it.

use std::borrow::Cow;

/// What is refused, for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) struct Ambiguous(pub &'static str);

const BACKSLASH: Ambiguous = Ambiguous("a backslash");
const SEMICOLON: Ambiguous = Ambiguous("a semicolon");
const DOTS: Ambiguous = Ambiguous("a segment that is nothing but dots");
const UNPRINTABLE: Ambiguous =
    Ambiguous("a space, a control character or a character beyond ASCII");
const ENCODED: Ambiguous = Ambiguous("an encoded slash, percent sign, question mark or hash");
const NOT_HEX: Ambiguous =
    Ambiguous("a percent sign that is not followed by two hexadecimal digits");

/// Where the API is for nodes that read overlaybd: containerd's `override_path` leads there.
pub(in crate::server) const OVERLAYBD: &str = "/overlaybd";

/// The path behind [`OVERLAYBD`], if it is there.
pub(in crate::server) fn below_overlaybd(path: &str) -> Option<&str> {
    path.strip_prefix(OVERLAYBD)
        .filter(|below| below.starts_with('/'))
}

/// The path of a request with the encoding taken off the characters that need none
/// (RFC 3986 § 6.2.2.2): other encoded characters stay as they were written.
///
/// # Errors
/// What in it servers read differently.
pub(in crate::server) fn normal(path: &str) -> Result<Cow<'_, str>, Ambiguous> {
    let normal = if path.contains('%') {
        Cow::Owned(without_needless_encoding(path)?)
    } else {
        for byte in path.bytes() {
            check(byte)?;
        }
        Cow::Borrowed(path)
    };
    let is_dots = |segment: &str| !segment.is_empty() && segment.bytes().all(|b| b == b'.');
    if normal.split('/').any(is_dots) {
        return Err(DOTS);
    }
    Ok(normal)
}

fn without_needless_encoding(path: &str) -> Result<String, Ambiguous> {
    let mut normal = String::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            check(byte)?;
            normal.push(char::from(byte));
            continue;
        }
        let (Some(high), Some(low)) = (rest.next(), rest.next()) else {
            return Err(NOT_HEX);
        };
        let encoded = digit(high)? << 4 | digit(low)?;
        check(encoded)?;
        match encoded {
            b'/' | b'%' | b'?' | b'#' => return Err(ENCODED),
            b'-' | b'.' | b'_' | b'~' => normal.push(char::from(encoded)),
            encoded if encoded.is_ascii_alphanumeric() => normal.push(char::from(encoded)),
            _ => normal.extend(['%', char::from(high), char::from(low)]),
        }
    }
    Ok(normal)
}

fn check(byte: u8) -> Result<(), Ambiguous> {
    match byte {
        b'\\' => Err(BACKSLASH),
        b';' => Err(SEMICOLON),
        byte if byte.is_ascii_graphic() => Ok(()),
        _ => Err(UNPRINTABLE),
    }
}

fn digit(byte: u8) -> Result<u8, Ambiguous> {
    match byte {
        b'0'..=b'9' => Ok(byte - b'0'),
        b'a'..=b'f' => Ok(byte - b'a' + 10),
        b'A'..=b'F' => Ok(byte - b'A' + 10),
        _ => Err(NOT_HEX),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ambiguous_paths_are_refused() {
        for (path, why) in [
            ("/v2/a\\b", BACKSLASH),
            ("/v2/a%5cb", BACKSLASH),
            ("/v2/a%5Cb", BACKSLASH),
            ("/v2/a%255cb", ENCODED),
            ("/v2/a%25255Cb", ENCODED),
            ("/v2/a%u005cb", NOT_HEX),
            ("/v2/a%c1%9cb", UNPRINTABLE),
            ("/v2/a%EF%BC%BCb", UNPRINTABLE),
            ("/v2/a%2fb", ENCODED),
            ("/v2/a%2Fb", ENCODED),
            ("/v2/a%3fb", ENCODED),
            ("/v2/a%23b", ENCODED),
            ("/v2/../admin", DOTS),
            ("/v2/./a", DOTS),
            ("/v2/a/...", DOTS),
            ("/v2/%2e%2E/admin", DOTS),
            ("/v2/.%2e/admin", DOTS),
            ("/v2/..;/admin", SEMICOLON),
            ("/v2/..%3b/admin", SEMICOLON),
            ("/v2/a%00", UNPRINTABLE),
            ("/v2/a%0d%0ab", UNPRINTABLE),
            ("/v2/a%7f", UNPRINTABLE),
            ("/v2/a%20", UNPRINTABLE),
            ("/v2/%ff", UNPRINTABLE),
            ("/v2/ä", UNPRINTABLE),
            ("/v2/a%", NOT_HEX),
            ("/v2/a%5", NOT_HEX),
            ("/v2/a%+5", NOT_HEX),
        ] {
            assert_eq!(normal(path), Err(why), "{path}");
        }
    }

    #[test]
    fn needless_percent_encoding_is_removed() {
        for (path, wanted) in [
            ("/v2/library/redis/tags/list", "/v2/library/redis/tags/list"),
            ("/v2/%68ub/a", "/v2/hub/a"),
            ("/v2/a/manifests/v1%2E0%5frc", "/v2/a/manifests/v1.0_rc"),
            ("/v2/a/manifests/sha256%3a00", "/v2/a/manifests/sha256%3a00"),
            (
                "/v2/a/blobs/uploads/x=:@+,!$&'()*|~%3D%7C",
                "/v2/a/blobs/uploads/x=:@+,!$&'()*|~%3D%7C",
            ),
        ] {
            assert_eq!(normal(path).as_deref(), Ok(wanted), "{path}");
        }
    }

    proptest! {
        #[test]
        fn a_normal_path_is_unchanged(path in "(/|[a-z.~:=]|%[0-9a-fA-F]{2}|%|;|\\\\){0,20}") {
            if let Ok(once) = normal(&path) {
                let twice = normal(&once);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
                let decoded = percent_encoding::percent_decode_str(&path).collect::<Vec<_>>();
                let again = percent_encoding::percent_decode_str(&once).collect::<Vec<_>>();
                prop_assert!(!decoded.contains(&b'\\'));
                prop_assert_eq!(decoded, again);
            }
        }
    }
}
