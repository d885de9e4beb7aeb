//! Converted images that are pushed get their tag there, whether or not the request that asked
//! for them stays.

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;
use tracing::Instrument;

use crate::convert::{ConvertError, Converter, Source, TagOutcome};
use crate::oci::{Digest, RepoName, Tag};
use crate::telemetry;

/// How long a tag that was pushed is not pushed again, unless it moves.
const REPEAT_AFTER: Duration = Duration::from_hours(1);

/// Which tags were pushed lately.
#[derive(Clone)]
pub(in crate::server) struct PushedTags {
    /// By what decides the bytes of the converted image, the upstream, and the tag: the source.
    lately: Cache<(Arc<str>, usize, RepoName, Tag), Digest>,
}

impl PushedTags {
    pub fn new() -> Self {
        Self {
            lately: Cache::builder()
                .max_capacity(100_000)
                .time_to_live(REPEAT_AFTER)
                .build(),
        }
    }

    /// Pushes the tag of what `converter` makes of `digest`, once that is there.
    pub async fn follow(
        &self,
        converter: &Converter,
        place: usize,
        source: &Source,
        tag: &Tag,
        digest: &Digest,
    ) {
        if !converter.is_pushing() {
            return;
        }
        let key = (
            Arc::clone(converter.variant()),
            place,
            source.repo.clone(),
            tag.clone(),
        );
        if self.lately.get(&key).await.as_ref() == Some(digest) {
            return;
        }
        self.lately.insert(key.clone(), digest.clone()).await;
        let (tags, converter, source) = (self.clone(), converter.clone(), source.clone());
        let (tag, digest) = (tag.clone(), digest.clone());
        let work = async move {
            match push(&converter, &source, &tag, &digest).await {
                Ok(TagOutcome::Done | TagOutcome::Foreign | TagOutcome::Without) => return,
                Ok(TagOutcome::Moved) => {}
                Err(error) if error.no_turbo().is_some() => return,
                Err(error) => {
                    tracing::warn!(repo = %source.repo, %tag, %error, "the converted image has no tag in the registry yet");
                }
            }
            // The next request tries again.
            tags.lately.invalidate(&key).await;
        };
        telemetry::spawn(work.in_current_span());
    }
}

async fn push(
    converter: &Converter,
    source: &Source,
    tag: &Tag,
    digest: &Digest,
) -> Result<TagOutcome, ConvertError> {
    let image = match converter.lookup(source, digest).await? {
        Some(image) => image,
        None => converter.convert(source, digest, None).await?,
    };
    converter.push_tag(source, &image, tag).await
}
