//! Images whose converted form is prepared when their plain tag is pulled.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::Semaphore;
use tracing::Instrument;

use super::config::Pattern;
use super::front::Front;
use crate::convert::Source;
use crate::oci::{Digest, RepoName, Tag};

/// Preparations that wait or are under way.
const MOST: usize = 64;
/// How long an image that was looked at is left alone, however that ended.
const LEFT_ALONE: Duration = Duration::from_mins(1);

/// Which images are prepared, and which were lately.
pub(super) struct Prepare {
    patterns: Vec<Pattern>,
    lately: Cache<(usize, RepoName, Digest), ()>,
    permits: Arc<Semaphore>,
}

impl Prepare {
    pub fn new(patterns: &[Pattern]) -> Self {
        Self {
            patterns: patterns.to_vec(),
            lately: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(LEFT_ALONE)
                .build(),
            permits: Arc::new(Semaphore::new(MOST)),
        }
    }

    /// Whether this image is to be prepared.
    pub fn is_wanted(&self, repo: &RepoName, tag: &Tag) -> bool {
        !self.patterns.is_empty() && {
            let name = format!("{repo}:{tag}");
            self.patterns.iter().any(|pattern| pattern.matches(&name))
        }
    }

    /// Prepares an image in the background, unless that is under way or was done lately.
    /// The source's upstream has just let these credentials have it.
    pub async fn begin(
        &self,
        front: &Arc<Front>,
        place: usize,
        source: Source,
        tag: &Tag,
        digest: Digest,
    ) {
        let key = (place, source.repo.clone(), digest.clone());
        if self.lately.contains_key(&key) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tracing::warn!(repo = %source.repo, %digest, "too many images are being prepared: this one is not");
            return;
        };
        self.lately.insert(key, ()).await;
        let followed = front.tags.follow(front, place, &source, tag, &digest);
        followed.await;
        let front = Arc::clone(front);
        let work = async move {
            let _permit = permit;
            let converter = &front.converted.converter;
            match converter.lookup(&source, &digest).await {
                Ok(Some(_)) => return,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "what is known of the image cannot be told"),
            }
            match converter.convert(&source, &digest, None).await {
                Ok(_) => tracing::info!(repo = %source.repo, %digest, "prepared"),
                Err(error) => {
                    tracing::warn!(repo = %source.repo, %digest, %error, "not prepared");
                }
            }
        };
        tokio::spawn(work.in_current_span());
    }
}
