//! Images on demand: each layer once, however many ask.
//!
//! ```text
//! convert ─ job per image ─ index? ─ each manifest ─ chain: per layer
//!                                                     found → prove
//!                                                     claim → lease → turn → make → record
//! ```

mod admission;
mod catalogue;
mod chain;
mod deadline;
mod entries;
mod fetch;
mod image;
mod ours;
mod pins;
mod push_tag;
mod recall;
mod remote;
mod renewals;
mod repeats;
mod seal;
mod status;
mod turns;
mod types;
mod variant;

use std::sync::Arc;

use moka::future::Cache;
use tokio::sync::Semaphore;

use super::error::ConvertError;
use super::jobs::{Claims, Jobs};
use super::layer::CompressPool;
use super::memory::Memory;
use crate::oci::{Digest, RepoName};
use crate::registry::{Error, Upstream};
use crate::store::Store;

pub use pins::Pins;
pub use push_tag::TagOutcome;
pub use status::Status;
pub use types::{
    ConvertedImage, ConvertedManifest, ConverterConfig, Event, Observer, Others, Outcome,
    PlannedLayer, Platforms, PushTarget, Source, StoredManifest,
};

use admission::{Admission, Class};
use deadline::Deadline;
use image::{Halt, Work};
use renewals::Renewals;
use status::{Counters, Gauge};
use turns::Turns;

/// Bytes of converted manifests kept in memory.
const KNOWN_BYTES: u64 = 64 << 20;
/// Most layers that are sealed at one time: each is a thread, an open file and a temporary one.
const MAX_SEALERS: usize = 16;
/// Most images that are worked on at one time: others wait and hold nothing.
const MAX_IMAGES: usize = 64;
/// How often a conversion is begun anew because the one that was joined failed for want of
/// its starter's rights.
const ATTEMPTS: usize = 3;

/// Converts images. Cheap to clone; the clones are one converter.
#[derive(Clone)]
pub struct Converter {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    config: ConverterConfig,
    pool: CompressPool,
    /// What decides the bytes of a layer, as the index names it.
    variant: String,
    /// What decides the bytes of a manifest besides.
    image_variant: String,
    jobs: Jobs<Key, Result<Held, ConvertError>>,
    /// With which clients' credentials they go on.
    renewals: Renewals,
    claims: Claims<String>,
    admission: Admission,
    memory: Memory,
    turns: Turns,
    /// Permits to seal a layer: a blob that is hashed, synced and pushed.
    sealers: Arc<Semaphore>,
    known: Cache<Key, Arc<ConvertedImage>>,
    counters: Counters,
}

/// A converted image whose blobs stay in the store for as long as this is there.
#[derive(Debug, Clone)]
pub struct Held {
    /// The image.
    pub image: Arc<ConvertedImage>,
    /// What holds its blobs.
    pub pins: Pins,
}

/// A source image in its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    host: String,
    repo: RepoName,
    source: Digest,
}

/// Where an image's converted parts are recorded, and pushed if they are.
#[derive(Debug, Clone)]
struct Home {
    upstream: Upstream,
    host: String,
    repo: RepoName,
    is_pushed: bool,
}

impl Converter {
    /// A converter that keeps its results in `store`.
    ///
    /// # Errors
    /// [`ConvertError::Threads`] when the system refuses the threads that compress.
    pub fn new(store: Store, config: ConverterConfig) -> Result<Self, ConvertError> {
        let variant = variant::of_layers(&config.settings);
        let sealers = config.conversions.saturating_mul(2).clamp(4, MAX_SEALERS);
        let images = config.conversions.saturating_add(sealers).min(MAX_IMAGES);
        let pool = CompressPool::new(config.settings.threads)
            .map_err(|error| ConvertError::Threads(error.to_string()))?;
        let known = Cache::builder()
            .max_capacity(KNOWN_BYTES)
            .weigher(|_, image: &Arc<ConvertedImage>| {
                let manifests = image.manifests.iter();
                let bytes: usize = manifests.map(|one| one.manifest.bytes.len() * 3).sum();
                u32::try_from(bytes + image.root.bytes.len() + 1024).unwrap_or(u32::MAX)
            })
            .build();
        Ok(Self {
            inner: Arc::new(Inner {
                pool,
                image_variant: variant::of_images(&variant, &config),
                variant,
                jobs: Jobs::default(),
                renewals: Renewals::default(),
                claims: Claims::default(),
                admission: Admission::new(images),
                memory: Memory::new(config.memory),
                turns: Turns::new(config.conversions),
                sealers: Arc::new(Semaphore::new(sealers)),
                known,
                counters: Counters::default(),
                store,
                config,
            }),
        })
    }

    /// Where results are kept.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// The registry and the repository that the parts of an image from `source` are pushed to,
    /// if they are: what is not in the store is there. It is asked with the proxy's own
    /// credentials.
    pub fn pushed_to(&self, source: &Source) -> Option<(Upstream, RepoName)> {
        let home = self.home(source);
        home.is_pushed.then_some((home.upstream, home.repo))
    }

    /// The registry that all images are pushed to, where it is not each one's own.
    pub fn push_registry(&self) -> Option<&Upstream> {
        self.inner.config.push.as_ref()?.upstream.as_ref()
    }

    /// Whether layers that another tool made are used, which are not in the store but where
    /// their source is.
    pub fn trusts_foreign_layers(&self) -> bool {
        self.inner.config.trust_foreign_layers
    }

    /// Whether finished images are pushed to a registry, so that a blob may be there that is
    /// not in the store.
    pub fn is_pushing(&self) -> bool {
        self.inner.config.push.is_some()
    }

    /// The image that a source manifest was converted to, if all of it is known and its
    /// manifests are in the store. Converts nothing and asks no upstream.
    ///
    /// # Errors
    /// When the store gives no answer.
    pub async fn known(
        &self,
        source: &Source,
        manifest: &Digest,
    ) -> Result<Option<Arc<ConvertedImage>>, ConvertError> {
        let key = Key::of(source, manifest);
        if let Some(image) = self.inner.known.get(&key).await {
            return Ok(Some(image));
        }
        let Some(image) = self.recall(source, manifest).await? else {
            return Ok(None);
        };
        let image = Arc::new(image);
        self.inner.known.insert(key, Arc::clone(&image)).await;
        Ok(Some(image))
    }

    /// The image that a source manifest becomes. Whoever asks for one that is being
    /// converted waits for that; dropping the future leaves the conversion running.
    /// Every blob of the image is in the store or the registry afterwards.
    ///
    /// # Errors
    /// See [`ConvertError`]: it can be cloned, because many may wait.
    pub async fn convert(
        &self,
        source: &Source,
        manifest: &Digest,
        observer: Option<Observer>,
    ) -> Result<Arc<ConvertedImage>, ConvertError> {
        let held = self.convert_held(source, manifest, observer).await?;
        Ok(held.image)
    }

    /// As [`convert`](Self::convert), with the image's blobs held in the store, so that a
    /// cache that is too small for all that is asked of it does not take them away again
    /// before they are opened.
    ///
    /// # Errors
    /// As [`convert`](Self::convert).
    pub async fn convert_held(
        &self,
        source: &Source,
        manifest: &Digest,
        observer: Option<Observer>,
    ) -> Result<Held, ConvertError> {
        let key = Key::of(source, manifest);
        let mut attempt = 0;
        loop {
            attempt += 1;
            let converter = self.clone();
            let mut source = source.clone();
            // Held while this waits, so that a job that another began may go on with it.
            let authorization = self.inner.renewals.join(&key, &source.authorization);
            source.authorization = authorization.clone();
            let (observer, job_key) = (observer.clone(), key.clone());
            let max_queue = self.inner.config.max_queue;
            let joined = self
                .inner
                .jobs
                .join(key.clone(), max_queue, move || async move {
                    converter.job(source, observer, job_key).await
                })
                .await
                .ok_or(ConvertError::QueueFull(max_queue))?;
            drop(authorization);
            match joined.result {
                None => return Err(ConvertError::Interrupted),
                // Another's rights did not suffice; ours may.
                Some(Err(ConvertError::Upstream(
                    Error::Unauthorized { .. } | Error::Forbidden { .. } | Error::NotFound { .. },
                ))) if !joined.started && attempt < ATTEMPTS => {}
                Some(result) => return result,
            }
        }
    }

    /// Waits until there is room for an image, and converts it. What waits is small.
    async fn job(
        &self,
        source: Source,
        observer: Option<Observer>,
        key: Key,
    ) -> Result<Held, ConvertError> {
        let mut class = Class::Unknown;
        loop {
            let slot = self.inner.admission.enter(class).await;
            let _running = Gauge::up(&self.inner.counters.images_running);
            let work = Work {
                source: &source,
                home: self.home(&source),
                observer: observer.as_ref(),
                pins: Pins::default(),
                deadline: Deadline::after(self.inner.config.timeout),
                slot,
            };
            // On the heap: it is large, and most jobs are not that far.
            match Box::pin(self.image(&work, &key.source)).await {
                Ok(image) => {
                    let image = Arc::new(image);
                    let known = &self.inner.known;
                    known.insert(key, Arc::clone(&image)).await;
                    let pins = work.pins;
                    return Ok(Held { image, pins });
                }
                Err(Halt::Big) => class = Class::Big,
                Err(Halt::Failed(error)) => {
                    // Whoever asked for it may have left, and those that wait are not all.
                    tracing::info!(host = key.host, repo = %key.repo, source = %key.source,
                        %error, "an image was not converted");
                    return Err(error);
                }
            }
        }
    }

    /// What was counted so far.
    pub fn status(&self) -> Status {
        self.inner.counters.status()
    }

    /// Where the parts of an image from `source` belong.
    fn home(&self, source: &Source) -> Home {
        match &self.inner.config.push {
            None => Home {
                upstream: source.upstream.clone(),
                host: source.upstream.host().to_owned(),
                repo: source.repo.clone(),
                is_pushed: false,
            },
            Some(target) => {
                let upstream = target.upstream.as_ref().unwrap_or(&source.upstream);
                Home {
                    upstream: upstream.clone(),
                    host: upstream.host().to_owned(),
                    repo: target.repo.as_ref().unwrap_or(&source.repo).clone(),
                    is_pushed: true,
                }
            }
        }
    }
}

impl Key {
    fn of(source: &Source, manifest: &Digest) -> Self {
        Self {
            host: source.upstream.host().to_owned(),
            repo: source.repo.clone(),
            source: manifest.clone(),
        }
    }
}

/// Runs what may wait long, for the network or for other threads, on a thread of its own: the
/// threads for the disk are few, and what it waits for may need one of them.
async fn on_thread<T, F>(name: &str, work: F) -> Result<T, ConvertError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ConvertError> + Send + 'static,
{
    let (sender, receiver) = tokio::sync::oneshot::channel();
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            // Nobody waits any more where the program ends.
            let _ = sender.send(work());
        })
        .map_err(|error| ConvertError::Threads(error.to_string()))?;
    receiver.await.unwrap_or_else(|_| {
        tracing::error!("a conversion's thread ended unexpectedly: this is a bug");
        Err(ConvertError::Interrupted)
    })
}

/// Runs what waits for the disk, away from the tasks.
async fn blocking<T, F>(work: F) -> Result<T, ConvertError>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, ConvertError> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => {
            tracing::error!(%error, "a conversion's thread ended unexpectedly: this is a bug");
            Err(ConvertError::Interrupted)
        }
    }
}
