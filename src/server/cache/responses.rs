//! What was answered a moment ago, by the request that asked for it.
//!
//! A node reads a blob in thousands of small ranges, each the same question but for its range:
//! which upstream, whose blob, who may read it. Its answer holds for as long as the upstream's yes to
//! these credentials does, and never for other ones.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;
use http::header::HOST;
use http::{HeaderMap, Uri};
use parking_lot::{Mutex, MutexGuard};
use sha2::{Digest as _, Sha256};

use crate::oci::Digest;
use crate::server::document::Document;
use crate::server::http::header_names::FORMAT;
use crate::server::learn::Repository;
use crate::server::route::Kind;

const SHARDS: usize = 16;
/// Most answers in each shard.
const MAX_RESPONSES_PER_SHARD: usize = 4096;

/// The question, hashed with a secret of this process.
pub(in crate::server) type Key = [u8; 32];

/// What the answer is made from.
pub(in crate::server) enum CachedContent {
    /// The blob of this digest, if it is still open, and whose it is, where lists are learned.
    Blob(Digest, Option<Arc<Repository>>),
    /// The same, of a blob of a source.
    SourceBlob(Digest),
    /// This document.
    Document(Arc<Document>),
    /// This document, which stands under a plain tag for those that ask for its form.
    PlainTag(Arc<Document>),
}

/// What decides an answer besides the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::server) struct Terms {
    /// Whether the request came to the listener for nodes that read overlaybd.
    pub is_overlaybd: bool,
    /// Which policy is in force.
    pub policy: u64,
}

/// An answer that holds for a while.
pub(in crate::server) struct CachedResponse {
    pub content: CachedContent,
    /// What the request was about.
    pub kind: Kind,
    /// The place of the upstream that it is of.
    pub place: usize,
    /// For which registry the answer stands.
    pub namespace: Option<HeaderValue>,
    /// When the permission ends.
    pub until: Instant,
}

/// Answers by question.
pub(in crate::server) struct ResponseCache {
    shards: [Mutex<HashMap<Key, Arc<CachedResponse>>>; SHARDS],
    secret: [u8; 32],
}

impl ResponseCache {
    pub fn new() -> Self {
        Self {
            shards: std::array::from_fn(|_| Mutex::default()),
            secret: rand::random(),
        }
    }

    /// The question of a read: all of a request that decides what is answered, and to whom.
    pub fn key(
        &self,
        uri: &Uri,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
        terms: Terms,
    ) -> Key {
        let mut hash = Sha256::new();
        hash.update(self.secret);
        hash.update([u8::from(terms.is_overlaybd)]);
        hash.update(terms.policy.to_le_bytes());
        let authority = uri.authority().map(http::uri::Authority::as_str);
        let asked = uri.path_and_query().map(http::uri::PathAndQuery::as_str);
        let parts = [
            authority.map(str::as_bytes),
            asked.map(str::as_bytes),
            headers.get(HOST).map(HeaderValue::as_bytes),
            authorization.map(HeaderValue::as_bytes),
        ];
        let formats = headers.get_all(FORMAT).iter();
        for part in parts
            .into_iter()
            .chain(formats.map(|value| Some(value.as_bytes())))
        {
            // With its length, so that no two lists of parts are one text; none is not empty.
            let length = part.map_or(usize::MAX, <[u8]>::len);
            hash.update(length.to_le_bytes());
            hash.update(part.unwrap_or_default());
        }
        hash.finalize().into()
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, HashMap<Key, Arc<CachedResponse>>> {
        let place = usize::from(key[0]) % SHARDS;
        self.shards[place].lock()
    }

    /// The answer to a question, if it holds.
    pub fn get(&self, key: &Key) -> Option<Arc<CachedResponse>> {
        let cached = self.shard(key).get(key).cloned()?;
        (cached.until > Instant::now()).then_some(cached)
    }

    /// Keeps an answer.
    pub fn keep(&self, key: Key, cached: CachedResponse) {
        let now = Instant::now();
        if cached.until <= now {
            return;
        }
        let mut shard = self.shard(&key);
        if shard.len() >= MAX_RESPONSES_PER_SHARD {
            shard.retain(|_, cached| cached.until > now);
            if shard.len() >= MAX_RESPONSES_PER_SHARD {
                // They all come again for the price of a lookup.
                shard.clear();
            }
        }
        shard.insert(key, Arc::new(cached));
    }

    /// Forgets all of it.
    pub fn clear(&self) {
        for shard in &self.shards {
            shard.lock().clear();
        }
    }

    /// Forgets what does not hold any more.
    pub fn forget_stale(&self) {
        let now = Instant::now();
        for shard in &self.shards {
            shard.lock().retain(|_, cached| cached.until > now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PLAIN: Terms = Terms {
        is_overlaybd: false,
        policy: 0,
    };

    fn warm(life: Duration) -> CachedResponse {
        CachedResponse {
            content: CachedContent::Blob(Digest::of(b"x"), None),
            kind: Kind::Blob,
            place: 0,
            namespace: None,
            until: Instant::now() + life,
        }
    }

    #[test]
    fn the_cache_key_has_everything_that_decides_the_answer() {
        let answers = ResponseCache::new();
        let key = |uri: &str, host: Option<&'static str>, authorization: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            if let Some(host) = host {
                headers.insert(HOST, HeaderValue::from_static(host));
            }
            let authorization = authorization.map(HeaderValue::from_static);
            let uri = uri.parse().unwrap();
            answers.key(&uri, &headers, authorization.as_ref(), PLAIN)
        };
        let of_format = |formats: &[&'static str], terms| {
            let mut headers = HeaderMap::new();
            for format in formats {
                headers.append(FORMAT, HeaderValue::from_static(format));
            }
            answers.key(&"/v2/a".parse().unwrap(), &headers, None, terms)
        };
        let listener = Terms {
            is_overlaybd: true,
            ..PLAIN
        };
        let keys = [
            key("/v2/a", None, None),
            key("/v2/b", None, None),
            key("/v2/a?ns=x", None, None),
            key("http://h/v2/a", None, None),
            key("/v2/a", Some("h"), None),
            key("/v2/a", Some(""), None),
            key("/v2/a", None, Some("h")),
            key("/v2/a", Some("h"), Some("Basic a")),
            key("/v2/a", Some("h"), Some("Basic b")),
            of_format(&["auto"], PLAIN),
            of_format(&["turbo"], PLAIN),
            of_format(&["auto", "turbo"], PLAIN),
            of_format(&[], listener),
            of_format(&["auto"], listener),
            of_format(&[], Terms { policy: 1, ..PLAIN }),
        ];
        for (place, one) in keys.iter().enumerate() {
            assert!(!keys[..place].contains(one), "{place}");
        }
        assert_eq!(keys[0], key("/v2/a", None, None));
    }

    #[test]
    fn an_answer_ends_with_its_permission() {
        let answers = ResponseCache::new();
        answers.keep([1; 32], warm(Duration::from_millis(20)));
        answers.keep([2; 32], warm(Duration::ZERO));
        assert!(answers.get(&[1; 32]).is_some());
        assert!(answers.get(&[2; 32]).is_none());
        std::thread::sleep(Duration::from_millis(30));
        assert!(answers.get(&[1; 32]).is_none());
        answers.forget_stale();
        assert!(answers.shards.iter().all(|shard| shard.lock().is_empty()));
    }

    #[test]
    fn the_number_of_kept_items_is_limited() {
        let answers = ResponseCache::new();
        for n in 0..MAX_RESPONSES_PER_SHARD * 3 {
            let mut key = [0; 32];
            key[8..16].copy_from_slice(&n.to_le_bytes());
            answers.keep(key, warm(Duration::from_mins(1)));
        }
        assert!(answers.shards[0].lock().len() <= MAX_RESPONSES_PER_SHARD);
    }
}
