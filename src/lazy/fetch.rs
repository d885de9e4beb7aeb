//! Requests for ranges of blobs, made again where that may help.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::flight::PieceError;
use super::reading::{PIECE, Reading};
use super::traffic::Traffic;
use crate::oci::{Digest, RepoName};
use crate::registry::{Authorization, Upstream};

/// Bytes a second that a request for more than [`PIECE`] bytes is given time for.
const SLOWEST: u64 = 128 << 10;
/// The longest pause between two requests.
const MAX_PAUSE: Duration = Duration::from_secs(4);

/// Where the blobs of an image are.
#[derive(Debug, Clone)]
pub struct Origin {
    /// The registry or layout.
    pub upstream: Upstream,
    /// The repository.
    pub repo: RepoName,
    /// Whose right is used.
    pub authorization: Authorization,
}

impl Origin {
    /// Which one it is, for what is kept of it: the addresses and the repository.
    pub(super) fn name(&self) -> String {
        format!("{} {}", self.upstream.sources(), self.repo)
    }
}

/// Makes requests.
#[derive(Debug)]
pub(super) struct Fetcher {
    pub(super) origin: Origin,
    pub(super) reading: Reading,
    pub(super) traffic: Arc<Traffic>,
}

impl Fetcher {
    /// The bytes of a range of a blob, by whichever request succeeds.
    pub(super) async fn fetch(
        &self,
        digest: &Digest,
        range: &Range<u64>,
    ) -> Result<Bytes, PieceError> {
        let end = Instant::now() + self.reading.total;
        let mut attempt = 1;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let error = match self.request(digest, range, left).await {
                Ok(bytes) => return Ok(bytes),
                Err(error) => error,
            };
            let pause = Duration::from_millis(100 << attempt.min(6)).min(MAX_PAUSE);
            if !error.may_pass()
                || attempt >= self.reading.attempts
                || Instant::now() + pause >= end
            {
                return Err(error);
            }
            tracing::warn!(%digest, ?range, %error, "a range of a blob is asked for again");
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    async fn request(
        &self,
        digest: &Digest,
        range: &Range<u64>,
        left: Duration,
    ) -> Result<Bytes, PieceError> {
        self.traffic.asked(digest, range);
        let Origin {
            upstream,
            repo,
            authorization,
        } = &self.origin;
        if !self.reading.latency.is_zero() {
            tokio::time::sleep(self.reading.latency).await;
        }
        let wanted = range.end.saturating_sub(range.start);
        let limit = limit(self.reading.timeout, wanted, left);
        let answer = upstream.blob_range(repo, digest, range.clone(), authorization);
        let bytes = tokio::time::timeout(limit, answer)
            .await
            .map_err(|_| PieceError::Slow(limit))??;
        let found = bytes.len() as u64;
        self.traffic.came(found);
        if wanted == found {
            Ok(bytes)
        } else {
            Err(PieceError::Short { wanted, found })
        }
    }
}

/// How long a request for `wanted` bytes may take, of the time that is left: pieces may be large
/// themselves, so it does not count how many they are.
fn limit(timeout: Duration, wanted: u64, left: Duration) -> Duration {
    let more = wanted.saturating_sub(PIECE) / SLOWEST;
    left.min(timeout.saturating_add(Duration::from_secs(more)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_for_much_has_time_for_it_within_what_is_left() {
        let (timeout, left) = (Duration::from_secs(20), Duration::from_mins(2));
        for (wanted, seconds) in [(0, 20), (PIECE, 20), (4 << 20, 50), (u64::MAX, 120)] {
            let limit = limit(timeout, wanted, left);
            assert_eq!(limit.as_secs(), seconds, "{wanted} bytes");
        }
    }
}
