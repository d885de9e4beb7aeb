//! What a client says of itself, as the log has it: bounded, and with nothing in it that could
//! be taken for a line of the log.

use http::header::USER_AGENT;
use http::{HeaderMap, HeaderValue, Uri};
use percent_encoding::percent_decode_str;

use crate::server::access::users::basic;

/// Most characters of a User-Agent.
const MAX_AGENT: usize = 200;
/// Most characters of a user's name, and of `ns`.
const MAX_NAME: usize = 100;

/// A text of a client's: at most `most` characters, those that are not shown escaped.
fn shown(text: &str, most: usize) -> String {
    let mut shown = String::new();
    for (number, letter) in text.chars().enumerate() {
        if number >= most {
            shown.push('…');
            break;
        }
        if letter.is_control() || letter == char::REPLACEMENT_CHARACTER {
            shown.extend(letter.escape_default());
        } else {
            shown.push(letter);
        }
    }
    shown
}

/// The program that a client says it is.
pub(in crate::server) fn agent(value: &HeaderValue) -> String {
    // No more of it is looked at than can be shown.
    let start = value.as_bytes().get(..4 * MAX_AGENT);
    let start = start.unwrap_or(value.as_bytes());
    shown(&String::from_utf8_lossy(start), MAX_AGENT)
}

/// The same, of a request's headers.
pub(in crate::server) fn agent_of(headers: &HeaderMap) -> Option<HeaderValue> {
    headers.get(USER_AGENT).cloned()
}

/// The user's name in a `Basic` authorization; never the password.
pub(in crate::server) fn user(authorization: &HeaderValue) -> Option<String> {
    let (name, _) = basic(authorization)?;
    (!name.is_empty()).then(|| shown(&name, MAX_NAME))
}

/// The registry that a mirror is asked to stand for.
pub(in crate::server) fn namespace(uri: &Uri) -> Option<String> {
    let mut pairs = uri.query()?.split('&');
    let value = pairs.find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        percent_decode_str(key).eq(*b"ns").then_some(value)
    })?;
    let value = percent_decode_str(value).decode_utf8_lossy();
    Some(shown(&value, MAX_NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &[u8]) -> HeaderValue {
        HeaderValue::from_bytes(text).unwrap()
    }

    #[test]
    fn an_agent_is_bounded_and_escaped() {
        assert_eq!(agent(&header(b"containerd/2.1")), "containerd/2.1");
        assert_eq!(agent(&header(b"a\tb")), "a\\tb");
        // ESC in UTF-8's own controls, and bytes that are no text.
        assert_eq!(agent(&header("a\u{9b}b".as_bytes())), "a\\u{9b}b");
        assert_eq!(agent(&header(b"a\xffb")), "a\\u{fffd}b");
        let long = agent(&header(&[b'x'; 5000]));
        assert_eq!(long.chars().count(), MAX_AGENT + 1);
        assert!(long.ends_with('…'), "{long}");
    }

    #[test]
    fn a_user_is_the_name_without_the_password() {
        // me:hunter2
        let name = user(&header(b"Basic bWU6aHVudGVyMg=="));
        assert_eq!(name.as_deref(), Some("me"));
        for other in [&b"Bearer bWU6aHVudGVyMg=="[..], b"Basic !!", b"Basic OmE="] {
            assert_eq!(user(&header(other)), None);
        }
    }

    #[test]
    fn the_namespace_is_that_of_the_query() {
        let of = |text: &str| namespace(&text.parse().unwrap());
        assert_eq!(of("/v2/a?x=1&n%73=a%3A5000").as_deref(), Some("a:5000"));
        assert_eq!(of("/v2/a?ns=a%0Ab").as_deref(), Some("a\\nb"));
        assert_eq!(of("/v2/a?nsx=1"), None);
        assert_eq!(of("/v2/a"), None);
    }
}
