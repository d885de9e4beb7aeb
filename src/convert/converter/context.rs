//! What all jobs of a converter share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use super::super::error::ConvertError;
use super::super::layer::{CompressPool, Format};
use super::super::lock::KeyedLock;
use super::super::memory::MemoryBudget;
use super::super::plan::Step;
use super::super::types::{ConverterConfig, Overrides, Source};
use super::chain::SharedTars;
use super::destination::Destination;
use super::failures::Failures;
use super::permits::LayerPermits;
use super::refused_pushes::RefusedPushes;
use super::status::Counters;
use super::variant;
use crate::convert::source_cache::SourceCache;
use crate::store::Store;

/// Most layers that are sealed at one time: each is a thread, an open file and a temporary one.
const MAX_SEALERS: usize = 16;

/// The store, the settings, and what bounds the work.
pub(super) struct Context {
    pub(super) store: Store,
    pub(super) config: ConverterConfig,
    pub(super) pool: CompressPool,
    /// The settings that decide the bytes of a layer, as the index names them.
    pub(super) layer_variant: String,
    /// The settings that decide the bytes of a manifest, as the index names them.
    pub(super) image_variant: Arc<str>,
    /// Locked by name: a chain while it is converted, a source layer while it is verified.
    pub(super) locks: Arc<KeyedLock<String>>,
    pub(super) memory: MemoryBudget,
    pub(super) layer_permits: Arc<LayerPermits>,
    /// Permits to seal a layer: to hash, sync and push its blob.
    pub(super) seal_permits: Arc<Semaphore>,
    pub(super) counters: Arc<Counters>,
    /// The tars of the image, if it is converted to both formats.
    pub(super) tars: Option<Arc<SharedTars>>,
    /// Where layers are read from that are there, and go to that are not; `None`: nowhere.
    pub(super) sources: Option<SourceCache>,
    /// The conversions that failed lately, if these are remembered.
    pub(super) failures: Option<Failures>,
    /// Where pushes are refused, if images are served all the same.
    pub(super) refused_pushes: Option<RefusedPushes>,
}

impl Context {
    /// # Errors
    /// [`ConvertError::Threads`] when the system refuses the threads that compress.
    pub(super) fn new(store: Store, config: ConverterConfig) -> Result<Self, ConvertError> {
        let layer_variant = variant::of_layers(&config.settings);
        let pool = CompressPool::new(config.settings.threads)
            .map_err(|error| ConvertError::Threads(error.to_string()))?;
        Ok(Self {
            pool,
            image_variant: variant::of_images(&layer_variant, &config).into(),
            layer_variant,
            locks: Arc::default(),
            memory: MemoryBudget::new(config.memory),
            layer_permits: Arc::new(LayerPermits::new(config.conversions)),
            seal_permits: Arc::new(Semaphore::new(max_sealers(&config))),
            counters: Arc::default(),
            tars: None,
            sources: None,
            failures: None,
            refused_pushes: None,
            store,
            config,
        })
    }

    /// What decides the bytes of a step's layer on top of what this program made, as the index
    /// names it.
    pub(super) fn variant_of(&self, step: &Step) -> String {
        match self.config.settings.format {
            Format::Native => self.layer_variant.clone(),
            Format::Turbo(_) => variant::of_turbo_layer(&self.layer_variant, &step.layer.digest),
        }
    }

    /// The same for layers of another format: the two share what bounds the work.
    pub(super) fn in_format(&self, format: Format) -> Self {
        let mut config = self.config.clone();
        config.settings.format = format;
        config.style.is_turbo = format != Format::Native;
        self.with(config)
    }

    /// The same with other settings for some images.
    pub(super) fn with_overrides(&self, overrides: &Overrides) -> Self {
        self.with(overrides.apply(self.config.clone()))
    }

    fn with(&self, config: ConverterConfig) -> Self {
        let layer_variant = variant::of_layers(&config.settings);
        Self {
            image_variant: variant::of_images(&layer_variant, &config).into(),
            layer_variant,
            store: self.store.clone(),
            pool: self.pool.clone(),
            locks: Arc::clone(&self.locks),
            memory: self.memory.clone(),
            layer_permits: Arc::clone(&self.layer_permits),
            seal_permits: Arc::clone(&self.seal_permits),
            counters: Arc::clone(&self.counters),
            tars: self.tars.clone(),
            sources: self.sources.clone(),
            failures: self.failures.clone(),
            refused_pushes: self.refused_pushes.clone(),
            config,
        }
    }

    /// The same with files for the tars of one image.
    pub(super) fn sharing_tars(&self) -> Self {
        Self {
            tars: Some(Arc::default()),
            ..self.in_format(self.config.settings.format)
        }
    }

    /// The same with a cache of what upstreams have.
    pub(super) fn caching_sources(&self) -> Self {
        Self {
            sources: Some(SourceCache::new(self.store.blobs().clone())),
            ..self.in_format(self.config.settings.format)
        }
    }

    /// The same, that remembers failed conversions for at most so long.
    pub(super) fn remembering_failures(&self, cap: Duration, is_own_everyones: bool) -> Self {
        Self {
            failures: Some(Failures::new(cap, is_own_everyones)),
            ..self.in_format(self.config.settings.format)
        }
    }

    /// Where the parts of an image from `source` belong.
    pub(super) fn destination(&self, source: &Source) -> Destination {
        let to = Destination::new(source, self.config.push.as_ref());
        match &self.refused_pushes {
            Some(refused) if to.is_pushed && refused.is_paused(&to) => {
                Destination::new(source, None)
            }
            _ => to,
        }
    }

    /// Whether what is made of `source` cannot be pushed to where it should be, as far as is known.
    pub(super) fn is_push_refused(&self, source: &Source) -> bool {
        let to = Destination::new(source, self.config.push.as_ref());
        let refused = self.refused_pushes.as_ref();
        to.is_pushed && refused.is_some_and(|refused| refused.is_refused(&to))
    }

    /// The same, that serves images from the store where the proxy's own credentials are refused
    /// when they are pushed.
    pub(super) fn serving_unpushed(&self) -> Self {
        Self {
            refused_pushes: Some(RefusedPushes::default()),
            ..self.in_format(self.config.settings.format)
        }
    }
}

/// Most layers that are sealed at one time.
pub(super) fn max_sealers(config: &ConverterConfig) -> usize {
    config.conversions.saturating_mul(2).clamp(4, MAX_SEALERS)
}
