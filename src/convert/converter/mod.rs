//! Converts images on demand: every layer once, for any number of concurrent requests.
//!
//! ```text
//! convert ─ a job per image ─ index? ─ each manifest ─ chain: for each layer
//!                                          look up → prove
//!                                          lock → lease → permit → apply → seal → record
//! ```
//!
//! [`catalogue`] finds, proves, records and publishes layers; [`chain`] is the job that converts
//! the layers of one manifest, [`image`] the one that converts an image around them. They share
//! a [`Context`].

mod admission;
mod catalogue;
mod chain;
mod context;
mod conversion_list;
mod conversion_log;
mod conversion_span;
mod deadline;
mod destination;
mod errors;
mod failures;
mod fetch;
mod image;
mod image_parts;
mod image_records;
mod key;
mod layer_progress;
mod lease;
mod permits;
mod pins;
mod provenance;
mod push_tag;
mod ready;
mod refused_pushes;
mod renewals;
mod run;
mod status;
mod threads;
mod variant;

use std::sync::Arc;
use std::time::Duration;

use moka::future::Cache;

use super::error::ConvertError;
use super::jobs::Jobs;
use super::layer::Format;
use super::source_cache::SourceCache;
use super::types::{
    ConvertedImage, ConverterConfig, Observer, Overrides, Platforms, PushTarget, Requester, Source,
};
use crate::oci::{Digest, RepoName, Tag};
use crate::registry::{Error, Upstream};
use crate::store::Store;
use crate::telemetry::CapturedContext;

pub use conversion_list::{Conversion, ConversionState, OnEnd};
pub use conversion_log::FAILURE_TARGET;
pub use failures::FailedImage;
pub use image::source_size;
pub use image_parts::{ImagePart, PartKind};
pub use layer_progress::{LayerProgress, LayerState};
pub use pins::{PinnedBlobs, PinnedImage};
pub use push_tag::TagOutcome;
pub use status::{PushCount, Status};

use admission::Admission;
use context::{Context, max_sealers};
use conversion_list::ConversionList;
use conversion_span::ConversionSpans;
use failures::Failures;
use image_records::ImageRecords;
use key::ImageKey;
use push_tag::push_tag;
use renewals::Renewals;

/// Bytes of converted manifests that are cached in memory.
const MAX_CACHED_BYTES: u64 = 64 << 20;
/// Most images that are converted at one time: others wait and hold nothing.
const MAX_IMAGES: usize = 64;
/// How often a conversion is started again because a job that was joined failed for want of the
/// rights of the request that started it.
const MAX_ATTEMPTS: usize = 3;

/// Converts images. Cheap to clone; the clones are one converter.
#[derive(Clone)]
pub struct Converter {
    inner: Arc<Inner>,
    /// That of the format in which this clone converts.
    context: Arc<Context>,
    asked_by: Arc<Requester>,
}

struct Inner {
    jobs: Jobs<ImageKey, Result<PinnedImage, ConvertError>>,
    /// The clients' credentials that running jobs may continue with.
    renewals: Renewals,
    admission: Admission,
    list: ConversionList,
    spans: ConversionSpans,
    /// Images that are converted, as far as they were requested since the start.
    cache: Cache<ImageKey, Arc<ConvertedImage>>,
    records: ImageRecords,
}

impl Converter {
    /// A converter that keeps its results in `store`.
    ///
    /// # Errors
    /// [`ConvertError::Threads`] when the system refuses the threads that compress.
    pub fn new(store: Store, config: ConverterConfig) -> Result<Self, ConvertError> {
        let images = config.conversions.saturating_add(max_sealers(&config));
        let cache = Cache::builder()
            .max_capacity(MAX_CACHED_BYTES)
            .weigher(|_, image: &Arc<ConvertedImage>| {
                let manifests = image.manifests.iter();
                let bytes: usize = manifests.map(|one| one.manifest.bytes.len() * 3).sum();
                u32::try_from(bytes + image.root.bytes.len() + 1024).unwrap_or(u32::MAX)
            })
            .build();
        Ok(Self {
            context: Arc::new(Context::new(store, config)?),
            inner: Arc::new(Inner {
                jobs: Jobs::default(),
                renewals: Renewals::default(),
                admission: Admission::new(images.min(MAX_IMAGES)),
                list: ConversionList::default(),
                spans: ConversionSpans::default(),
                cache,
                records: ImageRecords::default(),
            }),
            asked_by: Arc::default(),
        })
    }

    fn with(&self, context: Context) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            context: Arc::new(context),
            asked_by: Arc::clone(&self.asked_by),
        }
    }

    /// The same converter, whose conversions the log says to be for these.
    #[must_use]
    pub fn asked_by(&self, asked_by: Requester) -> Self {
        Self {
            asked_by: Arc::new(asked_by),
            ..self.clone()
        }
    }

    /// The same converter, and conversions that failed are not begun again for a while, at most
    /// `cap`: whoever asks meanwhile gets the same error, as [`ConvertError::Remembered`].
    /// `is_own_everyones`: whoever is let in reads with the proxy's own credentials, so that what
    /// these are refused is refused to all.
    #[must_use]
    pub fn remembering_failures(&self, cap: Duration, is_own_everyones: bool) -> Self {
        self.with(self.context.remembering_failures(cap, is_own_everyones))
    }

    /// The same converter, for which it is no failure of a conversion that the proxy's own
    /// credentials are refused where its result is to be pushed: that is logged, the image is in
    /// the store, and pushing is tried again later.
    #[must_use]
    pub fn serving_unpushed(&self) -> Self {
        self.with(self.context.serving_unpushed())
    }

    /// The conversions of images that wait, run, or ended lately, in all formats: those that have not ended first,
    /// then those that ended, each the latest first.
    pub fn conversions(&self) -> Vec<Conversion> {
        self.inner.list.all()
    }

    /// Sets what is called with each conversion that ends, in all formats. It must not wait. Only
    /// the first call has an effect.
    pub fn on_conversion_end(&self, on_end: OnEnd) {
        self.inner.list.on_end(on_end);
    }

    /// Whether a conversion of this source is being cancelled, and has not ended yet.
    pub fn is_being_cancelled(&self, source: &Source, manifest: &Digest) -> bool {
        self.inner.list.is_being_cancelled(source, manifest)
    }

    /// Ends a conversion that waits or runs: whoever waits for it gets [`ConvertError::Cancelled`].
    /// Layers that were finished stay. Whether there is such a conversion.
    pub fn cancel(&self, id: u64) -> bool {
        self.inner.list.cancel(id)
    }

    /// The conversions that failed and are not begun again yet, the latest first.
    pub fn failures(&self) -> Vec<FailedImage> {
        let failures = self.context.failures.as_ref();
        failures.map_or_else(Vec::new, Failures::list)
    }

    /// Has the failed conversions that `is_meant` begun again when they are asked for; how many
    /// these are.
    pub fn forget_failures(&self, is_meant: impl Fn(&FailedImage) -> bool) -> usize {
        let failures = self.context.failures.as_ref();
        failures.map_or(0, |failures| failures.forget(is_meant))
    }

    /// The same converter, for layers of another format.
    #[must_use]
    pub fn in_format(&self, format: Format) -> Self {
        self.with(self.context.in_format(format))
    }

    /// The same converter, for one image that is converted to both formats: to TurboOCI first, then
    /// the native conversion need not fetch and inflate the layers again. It takes disk for their
    /// tars, up to 2 GiB, until this and the converters made of it are dropped.
    #[must_use]
    pub fn sharing_tars(&self) -> Self {
        self.with(self.context.sharing_tars())
    }

    /// The same converter, with other settings for some images.
    #[must_use]
    pub fn with_overrides(&self, overrides: &Overrides) -> Self {
        self.with(self.context.with_overrides(overrides))
    }

    /// The settings that decide what an image becomes, as the index names them.
    pub fn variant(&self) -> &Arc<str> {
        &self.context.image_variant
    }

    /// The platforms that are converted where an image has several.
    pub fn platforms(&self) -> &Platforms {
        &self.context.config.platforms
    }

    /// Whether there is a list of what containers read when they start.
    pub fn has_prefetch_list(&self) -> bool {
        self.context.config.settings.prefetch.is_some()
    }

    /// Where finished images are pushed to, if anywhere.
    pub fn push_target(&self) -> Option<&PushTarget> {
        self.context.config.push.as_ref()
    }

    /// Has pushes tried again where they were refused.
    pub fn forget_refused_pushes(&self) {
        if let Some(refused) = &self.context.refused_pushes {
            refused.forget_all();
        }
    }

    /// Where images of `source` are pushed to, if they are, and unless the last push was refused.
    pub fn push_target_of(&self, source: &Source) -> Option<&PushTarget> {
        let target = self.push_target();
        target.filter(|_| !self.is_push_refused(source))
    }

    /// Whether the last push of what was made of images in `source`'s repository was refused to the
    /// proxy's own credentials.
    pub fn is_push_refused(&self, source: &Source) -> bool {
        self.context.is_push_refused(source)
    }

    /// The same converter, with a cache of what upstreams have: it reads layers from there, and
    /// puts those there that it downloads.
    #[must_use]
    pub fn caching_sources(&self) -> Self {
        self.with(self.context.caching_sources())
    }

    /// The cache of what upstreams have, if there is one.
    pub fn sources(&self) -> Option<&SourceCache> {
        self.context.sources.as_ref()
    }

    /// What layers are converted to.
    pub fn format(&self) -> Format {
        self.context.config.settings.format
    }

    /// Where results are kept.
    pub fn store(&self) -> &Store {
        &self.context.store
    }

    /// The registry and the repository that the parts of an image from `source` are pushed to,
    /// if they are pushed: blobs that are not in the store are there. To be read with the
    /// proxy's own credentials.
    pub fn pushed_to(&self, source: &Source) -> Option<(Upstream, RepoName)> {
        let destination = self.context.destination(source);
        destination
            .is_pushed
            .then_some((destination.upstream, destination.repo))
    }

    /// The registry that all images are pushed to, where it is not each one's own.
    pub fn push_registry(&self) -> Option<&Upstream> {
        let push = self.context.config.push.as_ref()?;
        push.upstream.as_ref()
    }

    /// Whether layers that another tool converted are used, which are not in the store but in
    /// the registry of their source.
    pub fn trusts_foreign_layers(&self) -> bool {
        self.context.config.trust_foreign_layers
    }

    /// Whether converted images are pushed to a registry, so that a blob may be there that is
    /// not in the store.
    pub fn is_pushing(&self) -> bool {
        self.context.config.push.is_some()
    }

    /// The image that a source manifest was converted to, if it is recorded and its manifests
    /// are in the store. Converts nothing and sends no request to an upstream.
    ///
    /// # Errors
    /// When the store does not answer.
    pub async fn lookup(
        &self,
        source: &Source,
        manifest: &Digest,
    ) -> Result<Option<Arc<ConvertedImage>>, ConvertError> {
        let key = ImageKey::of(source, manifest, &self.context.image_variant);
        if let Some(image) = self.inner.cache.get(&key).await {
            self.note(source, &image);
            return Ok(Some(image));
        }
        let context = &self.context;
        let was_refused = self.is_push_refused(source);
        let Some(image) = image::load(context, source, manifest).await? else {
            return Ok(None);
        };
        let image = Arc::new(image);
        self.note(source, &image);
        // What is not pushed yet is to be looked at again.
        if !was_refused && !self.is_push_refused(source) {
            self.inner.cache.insert(key, Arc::clone(&image)).await;
        }
        Ok(Some(image))
    }

    /// Whether an image was made of a source in this format, for any repository.
    ///
    /// # Errors
    /// When the index does not answer.
    pub async fn has_made(&self, manifest: &Digest) -> Result<bool, ConvertError> {
        let index = self.context.store.index();
        let variant = &self.context.image_variant;
        Ok(index
            .find_built_manifest(manifest, variant)
            .await?
            .is_some())
    }

    /// Converts a source manifest or index, or waits for the running job that does. Dropping the
    /// future leaves the job running. Every blob of the image is in the store or the registry
    /// afterwards.
    ///
    /// # Errors
    /// See [`ConvertError`]: it can be cloned, because many may wait.
    pub async fn convert(
        &self,
        source: &Source,
        manifest: &Digest,
        observer: Option<Observer>,
    ) -> Result<Arc<ConvertedImage>, ConvertError> {
        let pinned = self.convert_pinned(source, manifest, observer).await?;
        Ok(pinned.image)
    }

    /// As [`convert`](Self::convert), with the image's blobs pinned in the store, so that a
    /// cache smaller than its working set does not evict them before they are opened.
    ///
    /// # Errors
    /// As [`convert`](Self::convert).
    pub async fn convert_pinned(
        &self,
        source: &Source,
        manifest: &Digest,
        observer: Option<Observer>,
    ) -> Result<PinnedImage, ConvertError> {
        let key = ImageKey::of(source, manifest, &self.context.image_variant);
        let max_queue = self.context.config.max_queue;
        let mut attempt = 0;
        loop {
            attempt += 1;
            if let Some(error) = self.remembered(&key) {
                return Err(error);
            }
            let converter = self.clone();
            let mut from = source.clone();
            // Kept while this waits, so that a job that another request started may continue
            // with it.
            let authorization = self.inner.renewals.join(&key, &from.authorization);
            from.authorization = authorization.clone();
            let (observer, job_key) = (observer.clone(), key.clone());
            let waiting = self.inner.spans.wait(&key);
            let linked = CapturedContext::of(&waiting);
            let job = move || {
                let (asked_by, format) = (&converter.asked_by, converter.format());
                let spans = &converter.inner.spans;
                let span = spans.begin(&job_key, asked_by, format, &linked);
                async move {
                    let job = converter.run_job(from, observer, job_key.clone(), &span);
                    let result = span.around(job).await;
                    converter.inner.spans.forget(&job_key, &span);
                    result
                }
            };
            let joined = self.inner.jobs.join(key.clone(), max_queue, job).await;
            let joined = joined.ok_or(ConvertError::QueueFull(max_queue))?;
            drop(waiting);
            drop(authorization);
            match joined.result {
                None => return Err(ConvertError::Interrupted),
                // The rights of the request that started the job did not suffice; this one's may.
                Some(Err(ConvertError::Upstream(
                    Error::Unauthorized { .. } | Error::Forbidden { .. } | Error::NotFound { .. },
                ))) if !joined.started && attempt < MAX_ATTEMPTS => {}
                Some(result) => {
                    // Another tag may have begun the job, or all of the image been there.
                    if let Ok(pinned) = &result {
                        self.note(source, &pinned.image);
                    }
                    return result;
                }
            }
        }
    }

    /// Gives the converted image its tag in the registry that it is pushed to: the source's with
    /// the suffix. Does nothing where nothing is pushed.
    ///
    /// # Errors
    /// When a registry or the index does not answer, or the registry refuses the tag.
    pub async fn push_tag(
        &self,
        source: &Source,
        image: &ConvertedImage,
        tag: &Tag,
    ) -> Result<TagOutcome, ConvertError> {
        push_tag(&self.context, source, image, tag).await
    }

    /// What was counted so far.
    pub fn status(&self) -> Status {
        self.context.counters.status()
    }
}
