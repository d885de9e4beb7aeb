//! How content is named in an answer's head.

use http::HeaderMap;
use http::header::{ETAG, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH};

use super::header_names::{API_VERSION, CONTENT_DIGEST, REGISTRY_2};
use crate::oci::Digest;

/// A digest as headers have it.
#[derive(Debug, Clone)]
pub(crate) struct ContentHeaders {
    digest: HeaderValue,
    etag: HeaderValue,
}

impl ContentHeaders {
    pub fn new(digest: &Digest) -> Self {
        Self {
            digest: value(digest.as_str()),
            etag: value(&format!("\"{digest}\"")),
        }
    }

    /// Puts it into an answer's head.
    pub fn put(&self, headers: &mut HeaderMap) {
        headers.insert(CONTENT_DIGEST, self.digest.clone());
        headers.insert(ETAG, self.etag.clone());
        headers.insert(API_VERSION, REGISTRY_2);
    }

    /// Whether the client has it already (`If-None-Match`).
    pub fn is_known(&self, asked: &HeaderMap) -> bool {
        self.is_listed(asked, &IF_NONE_MATCH)
    }

    /// Whether the client wants another content than this (`If-Match`).
    pub fn is_unwanted(&self, asked: &HeaderMap) -> bool {
        asked.contains_key(IF_MATCH) && !self.is_listed(asked, &IF_MATCH)
    }

    /// Whether a range is of this content: `If-Range` is compared strongly, and a date never
    /// matches, because content by digest has none (RFC 9110 § 13.1.5).
    pub fn is_current(&self, condition: Option<&HeaderValue>) -> bool {
        condition.is_none_or(|condition| *condition == self.etag)
    }

    /// Whether a list of entity tags has this one, compared weakly (RFC 9110 § 8.8.3.2).
    fn is_listed(&self, asked: &HeaderMap, name: &HeaderName) -> bool {
        let etag = self.etag.to_str().unwrap_or_default();
        asked
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok())
            // A digest holds no comma, so neither does a tag that could match.
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
    }
}

/// A header's value of characters that every value may have.
pub(crate) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entity_tags_are_compared_in_lists() {
        let digest = Digest::of(b"x");
        let content_headers = ContentHeaders::new(&digest);
        let is_known = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.append(IF_NONE_MATCH, super::value(value));
            content_headers.is_known(&headers)
        };
        assert!(is_known(&format!("\"{digest}\"")));
        assert!(is_known(&format!("\"a\" , W/\"{digest}\"")));
        assert!(is_known("*"));
        assert!(!is_known(digest.as_str()));
        assert!(!is_known(&format!("\"{digest}1\"")));
    }

    #[test]
    fn an_absent_condition_is_true() {
        let content_headers = ContentHeaders::new(&Digest::of(b"x"));
        assert!(!content_headers.is_known(&HeaderMap::new()));
        assert!(!content_headers.is_unwanted(&HeaderMap::new()));
        assert!(content_headers.is_current(None));
        assert!(!content_headers.is_current(Some(&HeaderValue::from_static("W/\"x\""))));
    }
}
