//! Converted images that are pushed get their tag there, whether or not the request that asked
//! for them stays.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tracing::Instrument;

use super::front::Front;
use crate::convert::{ConvertError, Source, TagOutcome};
use crate::oci::{Digest, RepoName, Tag};

/// How long a tag that was pushed is not pushed again, unless it moves.
const LEFT_ALONE: Duration = Duration::from_hours(1);

/// Which tags were pushed lately.
pub(super) struct Tags {
    lately: Cache<(usize, RepoName, Tag), Digest>,
}

impl Tags {
    pub fn new() -> Self {
        Self {
            lately: Cache::builder()
                .max_capacity(100_000)
                .time_to_live(LEFT_ALONE)
                .build(),
        }
    }

    /// Pushes the tag of what `digest` becomes, once that is there.
    pub async fn follow(
        &self,
        front: &Arc<Front>,
        place: usize,
        source: &Source,
        tag: &Tag,
        digest: &Digest,
    ) {
        if !front.converted.converter.is_pushing() {
            return;
        }
        let key = (place, source.repo.clone(), tag.clone());
        if self.lately.get(&key).await.as_ref() == Some(digest) {
            return;
        }
        self.lately.insert(key.clone(), digest.clone()).await;
        let (front, source) = (Arc::clone(front), source.clone());
        let (tag, digest) = (tag.clone(), digest.clone());
        let work = async move {
            match push(&front, &source, &tag, &digest).await {
                Ok(TagOutcome::Done | TagOutcome::Foreign | TagOutcome::Without) => return,
                Ok(TagOutcome::Moved) => {}
                Err(error) => {
                    tracing::warn!(repo = %source.repo, %tag, %error, "the converted image has no tag in the registry yet");
                }
            }
            // The next request tries again.
            front.tags.lately.invalidate(&key).await;
        };
        tokio::spawn(work.in_current_span());
    }
}

async fn push(
    front: &Front,
    source: &Source,
    tag: &Tag,
    digest: &Digest,
) -> Result<TagOutcome, ConvertError> {
    let converter = &front.converted.converter;
    let image = match converter.lookup(source, digest).await? {
        Some(image) => image,
        None => converter.convert(source, digest, None).await?,
    };
    converter.push_tag(source, &image, tag).await
}
