//! Images whose converted form is prepared when their plain tag is pulled.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::convert::{Converter, Source};
use crate::oci::{Digest, RepoName, Tag};
use crate::server::background::push_tags::PushedTags;
use crate::server::config::Pattern;

/// Preparations that wait or are under way.
const MAX_PREPARATIONS: usize = 64;
/// How long an image that was looked at is left alone, however that ended.
const REPEAT_AFTER: Duration = Duration::from_mins(1);

/// Which images are prepared, and which were lately.
pub(in crate::server) struct Preparations {
    converter: Converter,
    tags: PushedTags,
    patterns: Vec<Pattern>,
    lately: Cache<(usize, RepoName, Digest), ()>,
    permits: Arc<Semaphore>,
}

impl Preparations {
    pub fn new(patterns: &[Pattern], converter: Converter, tags: PushedTags) -> Self {
        Self {
            converter,
            tags,
            patterns: patterns.to_vec(),
            lately: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(REPEAT_AFTER)
                .build(),
            permits: Arc::new(Semaphore::new(MAX_PREPARATIONS)),
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
    pub async fn begin(&self, place: usize, source: Source, tag: &Tag, digest: Digest) {
        let key = (place, source.repo.clone(), digest.clone());
        if self.lately.contains_key(&key) {
            return;
        }
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            tracing::warn!(repo = %source.repo, %digest, "too many images are being prepared: this one is not");
            return;
        };
        self.lately.insert(key, ()).await;
        let followed = self
            .tags
            .follow(&self.converter, place, &source, tag, &digest);
        followed.await;
        let converter = self.converter.clone();
        let work = async move {
            let _permit = permit;
            match converter.lookup(&source, &digest).await {
                Ok(Some(_)) => return,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, "the image cannot be looked up in the index"),
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
