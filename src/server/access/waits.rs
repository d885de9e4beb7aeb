//! Clients that wait for an image over several requests, and may have it although their
//! credentials ended meanwhile: a registry's token holds for minutes, and so may a conversion take.

use std::time::{Duration, Instant};

use moka::future::Cache;

use crate::registry::ManifestHead;
use crate::server::access::decisions::Key;

/// Most waits remembered.
const MAX_WAITS: u64 = 100_000;
/// How soon a client comes back that still waits.
const NEXT_WITHIN: Duration = Duration::from_mins(1);
/// The longest wait, from its first request.
const MAX_WAIT: Duration = Duration::from_hours(1);

#[derive(Clone)]
struct Wait {
    head: ManifestHead,
    begun: Instant,
}

/// What clients wait for that the upstream allowed to their credentials.
pub(in crate::server) struct Waits {
    cache: Cache<Key, Wait>,
}

impl Default for Waits {
    fn default() -> Self {
        let cache = Cache::builder().max_capacity(MAX_WAITS);
        Self {
            cache: cache.time_to_live(NEXT_WITHIN).build(),
        }
    }
}

impl Waits {
    /// A client that may have `head` is told to ask again.
    pub async fn go_on(&self, key: Key, head: ManifestHead) {
        let begun = self.known(&key).await.map(|wait| wait.begun);
        let begun = begun.unwrap_or_else(Instant::now);
        self.cache.insert(key, Wait { head, begun }).await;
    }

    /// What a client waits for, if it does.
    pub async fn get(&self, key: &Key) -> Option<ManifestHead> {
        Some(self.known(key).await?.head)
    }

    async fn known(&self, key: &Key) -> Option<Wait> {
        let wait = self.cache.get(key).await?;
        (wait.begun.elapsed() < MAX_WAIT).then_some(wait)
    }
}
