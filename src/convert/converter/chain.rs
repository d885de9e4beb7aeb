//! The layers of one image, bottom first: found, waited for, or converted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::super::layer::{
    ChainBuilder, ConvertedLayer, Inflating, LayerError, LayerInput, Progress, prepare,
};
use super::super::plan::Step;
use super::fetch::{Failure, fetch};
use super::found::Layer;
use super::status::{Gauge, add};
use super::types::{Event, Observer, Outcome, Source};
use super::{ConvertError, Converter, Home, blocking};
use crate::registry::BlobSource;
use crate::store::{Acquired, LeaseKeeper};

/// Layers that are fetched and inflated ahead of the one being placed.
const AHEAD: usize = 2;
/// The longest wait between two looks at what another process is making.
const LOOK: Duration = Duration::from_millis(500);

/// A layer that is being fetched.
struct Fetched {
    inflating: Inflating,
    failure: Failure,
}

impl Converter {
    /// The converted layers of `steps`, each in the store or the registry and recorded.
    pub(super) async fn chain(
        &self,
        source: &Source,
        home: &Home,
        steps: &[Step],
        observer: Option<&Observer>,
    ) -> Result<Vec<Layer>, ConvertError> {
        let mut done: Vec<Layer> = Vec::with_capacity(steps.len());
        let mut builder = None;
        let mut ahead = VecDeque::new();
        let result = loop {
            let Some(step) = steps.get(done.len()) else {
                break Ok(());
            };
            let rest = steps.get(done.len() + 1..).unwrap_or_default();
            let made = self
                .step(
                    source,
                    home,
                    step,
                    rest,
                    &done,
                    &mut builder,
                    &mut ahead,
                    observer,
                )
                .await;
            match made {
                Ok(layer) => done.push(layer),
                Err(error) => break Err(error),
            }
        };
        // Tearing down waits for threads.
        blocking(move || {
            drop((builder, ahead));
            Ok(())
        })
        .await?;
        result.map(|()| done)
    }

    #[allow(clippy::too_many_arguments)]
    async fn step(
        &self,
        source: &Source,
        home: &Home,
        step: &Step,
        rest: &[Step],
        done: &[Layer],
        builder: &mut Option<ChainBuilder>,
        ahead: &mut VecDeque<Fetched>,
        observer: Option<&Observer>,
    ) -> Result<Layer, ConvertError> {
        let parent = done.last().map(|layer| &layer.digest);
        let counters = &self.inner.counters;
        let tell = |size, outcome| {
            if let Some(observer) = observer {
                let chain = step.chain_id.clone();
                observer(Event::Done {
                    chain,
                    size,
                    outcome,
                });
            }
        };
        let found = |layer: Layer| {
            add(&counters.layers_found, 1);
            tell(layer.size, Outcome::Found);
            layer
        };
        if builder.is_none()
            && let Some(layer) = self.find(source, home, step, parent).await?
        {
            return Ok(found(layer));
        }
        let queued = Gauge::up(&counters.layers_queued);
        let name = format!("{} {}", step.chain_id, self.inner.variant);
        let _claim = self.inner.claims.claim(name.clone()).await;
        let lease = loop {
            // Whoever had the claim or the lease may have made it by now.
            if let Some(layer) = self.find(source, home, step, parent).await? {
                let (builder, ahead) = (builder.take(), std::mem::take(ahead));
                blocking(move || {
                    drop((builder, ahead));
                    Ok(())
                })
                .await?;
                return Ok(found(layer));
            }
            let ttl = self.inner.config.lease_ttl;
            match self.inner.store.acquire(&name, ttl).await? {
                Acquired::Mine(lease) => {
                    break lease.keep(self.inner.store.index().clone(), ttl);
                }
                Acquired::Held { holder, remaining } => {
                    tracing::debug!(chain = %step.chain_id, holder, "another replica makes this layer");
                    let wait = remaining.clamp(Duration::from_millis(20), LOOK);
                    tokio::time::sleep(wait).await;
                }
            }
        };
        let turn = self.inner.turns.take(step.layer.size).await;
        drop(queued);
        let running = Gauge::up(&counters.layers_running);
        let made = self
            .make(source, home, step, rest, done, builder, ahead, observer)
            .await;
        drop((running, turn));
        release(lease).await;
        match &made {
            Ok(layer) => {
                add(&counters.layers_converted, 1);
                add(&counters.blob_bytes, layer.size);
                tell(layer.size, Outcome::Converted);
            }
            Err(_) => add(&counters.layers_failed, 1),
        }
        made
    }

    #[allow(clippy::too_many_arguments)]
    async fn make(
        &self,
        source: &Source,
        home: &Home,
        step: &Step,
        rest: &[Step],
        done: &[Layer],
        builder: &mut Option<ChainBuilder>,
        ahead: &mut VecDeque<Fetched>,
        observer: Option<&Observer>,
    ) -> Result<Layer, ConvertError> {
        let fetched = match ahead.pop_front() {
            Some(fetched) => fetched,
            None => self.prepare(source, step, observer)?,
        };
        for next in rest.iter().take(AHEAD).skip(ahead.len()) {
            ahead.push_back(self.prepare(source, next, observer)?);
        }
        let Fetched { inflating, failure } = fetched;
        let store = self.inner.store.blobs().clone();
        let settings = self.inner.config.settings.clone();
        let lower: Vec<_> = done.iter().map(|layer| Arc::clone(&layer.blob)).collect();
        let parent = done.last().map(|layer| layer.digest.clone());
        let taken = builder.take();
        // LZ4 takes less than twice what gzip does; a sparse layer far less.
        let room = step.layer.size.saturating_mul(2);
        let converted = blocking(move || {
            let made = (|| {
                let _room = store.reserve(room)?;
                let temp = store.begin()?;
                let out = temp.file().try_clone().map_err(LayerError::Output)?;
                let mut builder = match (taken, parent) {
                    (Some(builder), _) => builder,
                    (None, Some(parent)) => ChainBuilder::on(lower, parent, settings)?,
                    (None, None) => ChainBuilder::empty(settings)?,
                };
                let ConvertedLayer { digest, size } = builder.add_layer(inflating, out)?;
                let file = store.commit(temp, &digest, size)?;
                Ok::<_, Failed>((builder, file))
            })();
            Ok(made)
        })
        .await?;
        let (made, file) = match converted {
            Ok(made) => made,
            Err(Failed::Blobs(error)) => return Err(error.into()),
            Err(Failed::Layer(cause)) => {
                if matches!(cause, LayerError::Source(_))
                    && let Some(error) = failure.take()
                {
                    return Err(error.into());
                }
                return Err(ConvertError::Layer {
                    layer: step.layer.digest.clone(),
                    cause: Arc::new(cause),
                });
            }
        };
        *builder = Some(made);
        let blob = super::found::open_local(&file).map_err(|cause| ConvertError::Document {
            what: "the converted layer",
            digest: file.digest().clone(),
            cause,
        })?;
        let layer = Layer {
            digest: file.digest().clone(),
            size: file.size(),
            blob,
        };
        if home.is_pushed {
            self.push_layer(source, home, &layer).await?;
        }
        self.record(home, step, &layer).await?;
        let index = self.inner.store.index();
        index.put_diff_id(&step.layer.digest, &step.diff_id).await?;
        Ok(layer)
    }

    /// Starts to fetch and inflate a layer.
    fn prepare(
        &self,
        source: &Source,
        step: &Step,
        observer: Option<&Observer>,
    ) -> Result<Fetched, ConvertError> {
        let (chunks, failure) = fetch(source, &step.layer.digest, step.layer.size);
        let input = LayerInput {
            chunks,
            digest: step.layer.digest.clone(),
            size: step.layer.size,
            diff_id: step.diff_id.clone(),
            chain_id: step.chain_id.clone(),
            parent_chain_id: step.parent.clone(),
        };
        let (observer, chain) = (observer.cloned(), step.chain_id.clone());
        let counted = std::sync::atomic::AtomicU64::new(0);
        let inner = Arc::clone(&self.inner);
        let on_progress = Arc::new(move |progress: Progress| {
            let before = counted.swap(progress.compressed, Ordering::Relaxed);
            let more = progress.compressed.saturating_sub(before);
            add(&inner.counters.source_bytes, more);
            if let Some(observer) = &observer {
                let chain = chain.clone();
                observer(Event::Progress { chain, progress });
            }
        });
        let limit = self.inner.config.settings.max_layer_size;
        let inflating =
            prepare(input, limit, on_progress).map_err(|cause| ConvertError::Layer {
                layer: step.layer.digest.clone(),
                cause: Arc::new(cause),
            })?;
        Ok(Fetched { inflating, failure })
    }

    /// Makes sure that the registry has a layer.
    pub(super) async fn push_layer(
        &self,
        source: &Source,
        home: &Home,
        layer: &Layer,
    ) -> Result<(), ConvertError> {
        let place = home.place(source);
        let (blobs, digest) = (self.inner.store.blobs().clone(), layer.digest.clone());
        let Some(file) = blocking(move || Ok(blobs.open(&digest)?)).await? else {
            return Err(ConvertError::Interrupted);
        };
        let bytes = BlobSource::File(file.path());
        place
            .upstream
            .push_blob(
                &place.repo,
                &layer.digest,
                layer.size,
                &bytes,
                &place.authorization,
            )
            .await?;
        Ok(())
    }
}

async fn release(lease: LeaseKeeper) {
    if lease.is_lost() {
        tracing::warn!("a layer took longer than its lease; another may have made it too");
    }
    lease.release().await;
}

enum Failed {
    Blobs(crate::store::BlobError),
    Layer(LayerError),
}

impl From<crate::store::BlobError> for Failed {
    fn from(error: crate::store::BlobError) -> Self {
        Self::Blobs(error)
    }
}

impl From<LayerError> for Failed {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}
