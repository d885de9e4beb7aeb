//! What operators are shown of the images that were converted.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use moka::sync::Cache;
use tokio::sync::Semaphore;

use super::super::layer::Format;
use super::super::types::{ConvertedImage, Source};
use super::Converter;
use super::context::Context;
use super::status::ConversionCounters;
use super::variant;
use crate::oci::{Digest, RepoName, Selector, Tag};
use crate::store::{ImageRecord, IndexError, RecordedImage};

/// Most names whose image is known to be recorded. Another one costs a question to the index.
const MAX_KNOWN: u64 = 10_000;
/// Most rows that are looked at at one time for images that were found; others wait for the next pull.
const MAX_AT_A_TIME: usize = 4;

/// Registry, repository, tag and settings.
type Name = (String, RepoName, Tag, Arc<str>);

/// The names whose image is recorded as it is now, as far as that is known here.
pub(super) struct ImageRecords {
    /// The source that the row of a name says.
    known: Cache<Name, Digest>,
    permits: Arc<Semaphore>,
}

impl Default for ImageRecords {
    fn default() -> Self {
        Self {
            known: Cache::new(MAX_KNOWN),
            permits: Arc::new(Semaphore::new(MAX_AT_A_TIME)),
        }
    }
}

/// What is recorded of an image; without a tally it was found converted. `None` of a source that
/// stays as it is.
pub(super) fn record_of(
    context: &Context,
    source: &Source,
    image: &ConvertedImage,
    tag: Option<&Tag>,
    tally: Option<&ConversionCounters>,
) -> Option<ImageRecord> {
    if image.root.digest == image.source {
        return None;
    }
    let settings = &context.config.settings;
    let reference = match tag {
        Some(tag) => Selector::Tag(tag.clone()),
        None => Selector::Digest(image.source.clone()),
    };
    let is_foreign = image.manifests.iter().any(|one| one.has_foreign_layers);
    let own = &context.image_variant;
    let layers = || image.manifests.iter().flat_map(|one| &one.layers);
    let named = image
        .manifests
        .iter()
        .filter_map(|one| one.platform.as_ref());
    let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    Some(ImageRecord {
        host: source.upstream.host().to_owned(),
        repo: source.repo.clone(),
        reference,
        variant: if is_foreign {
            variant::with_foreign_layers(own)
        } else {
            own.to_string()
        },
        format: settings.format.name().to_owned(),
        algorithm: (settings.format == Format::Native).then(|| settings.algorithm.to_string()),
        source: image.source.clone(),
        digest: image.root.digest.clone(),
        media_type: image.root.media_type.clone(),
        platforms: tally.map_or_else(
            || named.map(ToString::to_string).collect(),
            ConversionCounters::platform_names,
        ),
        source_bytes: tally.map(|tally| read(&tally.layer_bytes)),
        bytes: layers()
            .filter_map(|layer| layer.size)
            .fold(0, u64::saturating_add),
        layers: u64::try_from(layers().count()).unwrap_or(u64::MAX),
        layers_made: tally.map_or(0, |tally| read(&tally.layers_made)),
    })
}

impl Converter {
    /// Has operators shown that the tag that was asked for is this image, which was found: once, in the
    /// background. Where that is known already, it costs nothing.
    pub(super) fn note(&self, source: &Source, image: &ConvertedImage) {
        let Some(tag) = &self.asked_by.tag else {
            return;
        };
        let records = &self.inner.records;
        let host = source.upstream.host().to_owned();
        let variant = Arc::clone(&self.context.image_variant);
        let name = (host, source.repo.clone(), tag.clone(), variant);
        if records.known.get(&name).as_ref() == Some(&image.source) {
            return;
        }
        let Some(record) = record_of(&self.context, source, image, Some(tag), None) else {
            return;
        };
        let Ok(permit) = Arc::clone(&records.permits).try_acquire_owned() else {
            return;
        };
        records.known.insert(name.clone(), image.source.clone());
        let (index, known) = (self.context.store.index().clone(), records.known.clone());
        tokio::spawn(async move {
            if let Err(error) = index.note_image(&record).await {
                tracing::debug!(%error, "an image that was found is not listed yet");
                known.invalidate(&name);
            }
            drop(permit);
        });
    }

    /// Forgets that an image was converted, as
    /// [`Index::forget_image`](crate::store::Index::forget_image), and what is kept of it in
    /// memory. Returns whether it was recorded.
    ///
    /// # Errors
    /// When the index does not answer.
    pub async fn forget_image(&self, recorded: &RecordedImage) -> Result<bool, IndexError> {
        let image = &recorded.image;
        let was_there = self.context.store.index().forget_image(image).await?;
        let cache = &self.inner.cache;
        let keys: Vec<_> = cache
            .iter()
            .map(|(key, _)| key)
            .filter(|key| key.source == image.source)
            .collect();
        for key in keys {
            cache.invalidate(&*key).await;
        }
        self.inner.records.known.invalidate_all();
        Ok(was_there)
    }
}
