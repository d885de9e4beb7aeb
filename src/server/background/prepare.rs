//! Images whose converted form is prepared when their plain tag is pulled.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tokio::sync::Semaphore;
use tracing::Instrument;

use crate::convert::{Converter, Source};
use crate::oci::{Digest, RepoName, Tag};
use crate::server::background::push_tags::PushedTags;
use crate::telemetry;

/// Preparations that wait or are under way.
const MAX_PREPARATIONS: usize = 64;
/// How long an image that was looked at is left alone, however that ended.
const REPEAT_AFTER: Duration = Duration::from_mins(1);

/// Which images are prepared, and which were lately.
pub(in crate::server) struct Preparations {
    tags: PushedTags,
    lately: Cache<(usize, RepoName, Digest), ()>,
    permits: Arc<Semaphore>,
}

impl Preparations {
    pub fn new(tags: PushedTags) -> Self {
        Self {
            tags,
            lately: Cache::builder()
                .max_capacity(10_000)
                .time_to_live(REPEAT_AFTER)
                .build(),
            permits: Arc::new(Semaphore::new(MAX_PREPARATIONS)),
        }
    }

    /// Prepares an image in the background, unless that is under way or was done lately.
    /// The source's upstream has just let these credentials have it.
    /// `converter` is what prepares it, if anything does.
    pub async fn begin(
        &self,
        place: usize,
        source: Source,
        tag: &Tag,
        digest: Digest,
        converter: impl Future<Output = Option<Converter>> + Send + 'static,
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
        let (tags, tag) = (self.tags.clone(), tag.clone());
        let work = async move {
            let _permit = permit;
            let Some(converter) = converter.await else {
                return;
            };
            let followed = tags.follow(&converter, place, &source, &tag, &digest);
            followed.await;
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
        telemetry::spawn(work.in_current_span());
    }
}
