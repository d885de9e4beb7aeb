//! The layers of one image, bottom first: found, waited for, or converted.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::task::JoinHandle;

use super::super::error::Fault;
use super::super::jobs::Claim;
use super::super::layer::{
    ChainBuilder, Expected, Inflating, LayerError, LayerInput, OnProgress, Progress, Replay,
    prepare, replay, working_set,
};
use super::super::memory::Share;
use super::super::plan::Step;
use super::catalogue::{Base, Layer, Wanted};
use super::deadline::Deadline;
use super::fetch::{Failure, fetch};
use super::repeats::Repeats;
use super::seal::{Failed, broken};
use super::status::{Gauge, add};
use super::types::{Event, Observer, Outcome, Source};
use super::{ConvertError, Converter, Home, blocking, on_thread};
use crate::oci::Digest;
use crate::store::{Acquired, LeaseKeeper, TempBlob};

/// Layers that are fetched and inflated ahead of the one being placed.
const AHEAD: usize = 2;
/// The most memory that the filesystem of a chain takes while layers are placed on it: its
/// cache of blocks, and what is being compressed.
const FILESYSTEM: u64 = 96 << 20;
/// What it takes at least.
const SMALL_FILESYSTEM: u64 = 8 << 20;
/// The longest wait between two looks at what another process is making.
const LOOK: Duration = Duration::from_millis(500);

/// The chain of one image while it is worked on.
struct Chain<'a> {
    converter: &'a Converter,
    source: &'a Source,
    home: &'a Home,
    steps: &'a [Step],
    observer: Option<&'a Observer>,
    /// When the image is given up.
    deadline: Deadline,
    /// The lowest layers, which are done.
    layers: Vec<Layer>,
    /// The one above them, if it is placed and its blob is being sealed.
    sealing: Option<JoinHandle<Result<Layer, ConvertError>>>,
    /// The filesystem, if it is in memory.
    builder: Option<ChainBuilder>,
    /// The memory for that, and for the layer that is placed on it.
    memory: Option<Share>,
    /// The layers above, as far as they are being fetched.
    ahead: VecDeque<Fetched>,
    /// The layers that come more than once.
    repeats: Repeats,
}

/// A layer that is being fetched.
struct Fetched {
    inflating: Inflating,
    failure: Failure,
    /// The memory that it takes, unless that is the chain's.
    _memory: Option<Share>,
}

/// What keeps others from making the same layer.
struct Hold {
    claim: Claim<String>,
    lease: LeaseKeeper,
}

impl Converter {
    /// The converted layers of `steps`, each in the store or the registry and recorded.
    pub(super) async fn chain(
        &self,
        source: &Source,
        home: &Home,
        steps: &[Step],
        (observer, deadline): (Option<&Observer>, Deadline),
    ) -> Result<Vec<Layer>, ConvertError> {
        let mut chain = Chain {
            converter: self,
            deadline,
            source,
            home,
            steps,
            observer,
            layers: Vec::with_capacity(steps.len()),
            sealing: None,
            builder: None,
            memory: None,
            ahead: VecDeque::new(),
            repeats: Repeats::of(steps),
        };
        let result = chain.run().await;
        if result
            .as_ref()
            .is_err_and(|error| error.fault() == Fault::Local && error.shortage().is_none())
        {
            // What was read of the layers below may have been damaged since they were verified.
            let blobs = self.inner.store.blobs();
            chain
                .layers
                .iter()
                .for_each(|layer| blobs.doubt(&layer.digest));
        }
        chain.let_go().await?;
        let repeats = std::mem::replace(&mut chain.repeats, Repeats::of(&[]));
        blocking(move || {
            drop(repeats);
            Ok(())
        })
        .await?;
        // A layer that is whole is kept even if one above it failed.
        let sealed = chain.settle().await;
        result.and(sealed).map(|()| chain.layers)
    }
}

impl Chain<'_> {
    async fn run(&mut self) -> Result<(), ConvertError> {
        let mut place = 0;
        while let Some(step) = self.steps.get(place) {
            self.step(step, place).await?;
            place += 1;
        }
        // The last layer is placed: sealing it needs nothing of this.
        self.let_go().await?;
        self.settle().await
    }

    /// Waits for the layer whose blob is being sealed.
    async fn settle(&mut self) -> Result<(), ConvertError> {
        if let Some(sealing) = self.sealing.take() {
            let layer = sealing.await.map_err(|_| ConvertError::Interrupted)?;
            self.layers.push(layer?);
        }
        Ok(())
    }

    /// Gives up what is in memory of the chain. Tearing down waits for threads.
    ///
    /// Whoever waits for others to make a layer holds nothing that they may be waiting for.
    async fn let_go(&mut self) -> Result<(), ConvertError> {
        let (builder, ahead) = (self.builder.take(), std::mem::take(&mut self.ahead));
        let memory = self.memory.take();
        if builder.is_none() && ahead.is_empty() {
            return Ok(());
        }
        on_thread("let-go", move || {
            drop((builder, ahead, memory));
            Ok(())
        })
        .await
    }

    fn tell(&self, event: impl FnOnce() -> Event) {
        if let Some(observer) = self.observer {
            observer(event());
        }
    }

    fn parent(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.digest)
    }

    /// What the layers that are done stand on. Those in the making stand on the same.
    fn base(&self) -> Base {
        self.layers
            .last()
            .map_or(Base::Own, |layer| layer.base.clone())
    }

    /// Looks whether the layer has been made, and takes it.
    async fn find(&mut self, step: &Step) -> Result<bool, ConvertError> {
        let base = self.base();
        if self.builder.is_some() && !self.converter.is_named(self.home, step, &base).await? {
            // Most likely, and no reason to wait for the layer below.
            return Ok(false);
        }
        self.settle().await?;
        // Looking may verify the source's layer, which takes memory: whoever waits for that
        // must hold none.
        self.let_go().await?;
        let wanted = Wanted {
            source: self.source,
            home: self.home,
            step,
            below: self.layers.last(),
        };
        // On the heap: it is large, and not needed while layers are placed.
        let found = Box::pin(self.converter.find(&wanted));
        let Some(layer) = self.deadline.within(found).await?? else {
            return Ok(false);
        };
        add(&self.converter.inner.counters.layers_found, 1);
        self.tell(|| Event::Done {
            chain: step.chain_id.clone(),
            size: layer.size,
            outcome: Outcome::Found,
        });
        self.layers.push(layer);
        Ok(true)
    }

    async fn step(&mut self, step: &Step, place: usize) -> Result<(), ConvertError> {
        if self.builder.is_none() && self.find(step).await? {
            return Ok(());
        }
        let inner = Arc::clone(&self.converter.inner);
        let mut queued = Some(Gauge::up(&inner.counters.layers_queued));
        let name = format!("{} {}", step.chain_id, inner.variant);
        let claim = if let Some(claim) = inner.claims.try_claim(name.clone()) {
            claim
        } else {
            self.let_go().await?;
            let claim = inner.claims.claim(name.clone());
            self.deadline.within(claim).await?
        };
        let ttl = inner.config.lease_ttl;
        let lease = loop {
            match inner.store.acquire(&name, ttl).await? {
                Acquired::Mine(lease) => break lease.keep(inner.store.index().clone(), ttl),
                Acquired::Held { holder, remaining } => {
                    tracing::debug!(chain = %step.chain_id, holder, "another makes this layer");
                    self.let_go().await?;
                    let wait = remaining.clamp(Duration::from_millis(20), LOOK);
                    self.deadline.within(tokio::time::sleep(wait)).await?;
                }
            }
        };
        let hold = Hold { claim, lease };
        // Whoever had the claim or the lease before may have made it: looking before the lease
        // is held would miss what is recorded between the two.
        let found = self.find(step).await;
        if !matches!(found, Ok(false)) {
            hold.release().await;
            return found.map(|_| ());
        }
        let mut made = self.place_in_turn(step, place, &mut queued).await;
        if made.as_ref().is_err_and(ConvertError::is_wrong_bytes) {
            tracing::warn!(layer = %step.layer.digest,
                "the layer came with other bytes than its digest says: it is asked for again");
            made = self.place_again(step, place, &mut queued).await;
        }
        match made {
            Ok((temp, sealing, sealer)) => {
                let before = self.settle().await;
                self.sealing = Some(self.seal(step, temp, sealing, (hold, sealer)));
                before
            }
            Err(error) => {
                add(&inner.counters.layers_failed, 1);
                hold.release().await;
                Err(error)
            }
        }
    }

    /// Places a layer on a filesystem that is read anew: what is in memory is of no use after a
    /// failure.
    async fn place_again(
        &mut self,
        step: &Step,
        place: usize,
        queued: &mut Option<Gauge<'_>>,
    ) -> Result<(TempBlob, super::super::layer::Sealing, OwnedSemaphorePermit), ConvertError> {
        self.let_go().await?;
        self.settle().await?;
        self.place_in_turn(step, place, queued).await
    }

    /// Waits for memory, a turn and a place among those that are sealed, and places a layer.
    async fn place_in_turn(
        &mut self,
        step: &Step,
        place: usize,
        queued: &mut Option<Gauge<'_>>,
    ) -> Result<(TempBlob, super::super::layer::Sealing, OwnedSemaphorePermit), ConvertError> {
        let inner = Arc::clone(&self.converter.inner);
        if self.memory.is_none() {
            let memory = inner.memory.take(self.working_set(place));
            self.memory = Some(self.deadline.within(memory).await?);
        }
        let _turn = self
            .deadline
            .within(inner.turns.take(step.layer.size))
            .await?;
        let sealer = Arc::clone(&inner.sealers).acquire_owned();
        let sealer = self.deadline.within(sealer).await?;
        // The semaphore is never closed.
        let sealer = sealer.map_err(|_| ConvertError::Interrupted)?;
        *queued = None;
        let _running = Gauge::up(&inner.counters.layers_running);
        let (temp, sealing) = self.place(step, place).await?;
        Ok((temp, sealing, sealer))
    }

    /// Puts a layer on the filesystem, and its blob into a file.
    async fn place(
        &mut self,
        step: &Step,
        place: usize,
    ) -> Result<(TempBlob, super::super::layer::Sealing), ConvertError> {
        let inner = Arc::clone(&self.converter.inner);
        let fetched = match self.ahead.pop_front() {
            Some(fetched) => fetched,
            None => self.prepare(step, place, None)?,
        };
        let above = self.steps.iter().enumerate().skip(place + 1).take(AHEAD);
        for (above, next) in above.skip(self.ahead.len()) {
            // One that comes more than once may be there when its turn comes.
            if self.repeats.has(next) {
                break;
            }
            // Only with memory that nobody waits for.
            let Some(share) = inner.memory.try_take(working_set(next.layer.size)) else {
                break;
            };
            let next = self.prepare(next, above, Some(share))?;
            self.ahead.push_back(next);
        }
        let Fetched {
            inflating,
            failure,
            _memory: layer_memory,
        } = fetched;
        let taken = self.builder.take();
        let lower: Vec<_> = self
            .layers
            .iter()
            .map(|layer| Arc::clone(&layer.blob))
            .collect();
        let parent = self.parent().cloned();
        // LZ4 takes less than twice what gzip does; a sparse layer far less.
        let room = step.layer.size.saturating_mul(2);
        let cancel = inflating.canceller();
        let placing = on_thread("place", move || {
            Ok((|| {
                let blobs = inner.store.blobs();
                let _room = blobs.reserve(room)?;
                let temp = blobs.begin()?;
                let out = temp.file().try_clone().map_err(LayerError::Output)?;
                let (settings, pool) = (inner.config.settings.clone(), inner.pool.clone());
                let mut builder = match (taken, parent) {
                    (Some(builder), _) => builder,
                    (None, Some(parent)) => ChainBuilder::on(lower, parent, settings, pool)?,
                    (None, None) => ChainBuilder::empty(settings, pool),
                };
                let sealing = builder.add_layer(inflating, out)?;
                drop(layer_memory);
                Ok::<_, Failed>((builder, temp, sealing))
            })())
        });
        let mut placing = std::pin::pin!(placing);
        let placed = match self.deadline.within(&mut placing).await {
            Ok(placed) => placed?,
            Err(timed_out) => {
                cancel.cancel();
                failure.abort();
                // The thread sees it at its next read.
                let _ = placing.await;
                return Err(timed_out);
            }
        };
        match &placed {
            Ok(_) => self.repeats.placed(step, place),
            Err(_) => self.repeats.failed(step),
        }
        match placed {
            Ok((builder, temp, sealing)) => {
                self.builder = Some(builder);
                Ok((temp, sealing))
            }
            Err(Failed::Blobs(error)) => Err(error.into()),
            Err(Failed::Layer(LayerError::Source(cause))) => Err(match failure.take() {
                Some(error) => error.into(),
                None => broken(step, LayerError::Source(cause)),
            }),
            Err(Failed::Layer(cause)) => Err(broken(step, cause)),
        }
    }

    /// Makes a placed layer durable, pushed and recorded, while the next one is placed.
    fn seal(
        &self,
        step: &Step,
        temp: TempBlob,
        sealing: super::super::layer::Sealing,
        (hold, sealer): (Hold, OwnedSemaphorePermit),
    ) -> JoinHandle<Result<Layer, ConvertError>> {
        let converter = self.converter.clone();
        let (source, home) = (self.source.clone(), self.home.clone());
        let (step, observer) = (step.clone(), self.observer.cloned());
        let base = self.base();
        tokio::spawn(async move {
            let place = (&source, &home);
            let sealed = converter.sealed(place, &step, temp, sealing, base).await;
            hold.release().await;
            drop(sealer);
            let counters = &converter.inner.counters;
            match &sealed {
                Ok(layer) => {
                    add(&counters.layers_converted, 1);
                    add(&counters.blob_bytes, layer.size);
                    if let Some(observer) = observer {
                        observer(Event::Done {
                            chain: step.chain_id.clone(),
                            size: layer.size,
                            outcome: Outcome::Converted,
                        });
                    }
                }
                Err(_) => add(&counters.layers_failed, 1),
            }
            sealed
        })
    }

    /// Bytes of memory that placing the layers from `place` on takes.
    fn working_set(&self, place: usize) -> u64 {
        let layers = self.steps.iter().skip(place).map(|step| step.layer.size);
        let compressed = layers.clone().fold(0, u64::saturating_add);
        let filesystem = SMALL_FILESYSTEM.saturating_add(compressed.saturating_mul(4));
        let largest = layers.map(working_set).max().unwrap_or(0);
        filesystem.min(FILESYSTEM).saturating_add(largest)
    }

    /// Starts to fetch and inflate a layer, or to read it again.
    fn prepare(
        &mut self,
        step: &Step,
        place: usize,
        memory: Option<Share>,
    ) -> Result<Fetched, ConvertError> {
        let inner = Arc::clone(&self.converter.inner);
        if let Some(tar) = self.repeats.tar(step) {
            let replayed = replay(Replay {
                tar,
                size: step.layer.size,
                expected: Expected {
                    diff_id: step.diff_id.clone(),
                    chain: step.chain_id.clone(),
                    parent: step.parent.clone(),
                },
                on_progress: self.on_progress(step, |_| {}),
            });
            return Ok(Fetched {
                inflating: replayed.map_err(|cause| broken(step, cause))?,
                failure: Failure::none(),
                _memory: memory,
            });
        }
        let (chunks, failure) = fetch(self.source, &step.layer.digest, step.layer.size);
        let input = LayerInput {
            chunks,
            digest: step.layer.digest.clone(),
            size: step.layer.size,
            diff_id: step.diff_id.clone(),
            chain_id: step.chain_id.clone(),
            parent_chain_id: step.parent.clone(),
            copy: self.repeats.copy(step, place, inner.store.blobs()),
        };
        let limit = inner.config.settings.max_layer_size;
        let counted = AtomicU64::new(0);
        let on_progress = self.on_progress(step, move |progress| {
            let before = counted.swap(progress.compressed, Ordering::Relaxed);
            let more = progress.compressed.saturating_sub(before);
            add(&inner.counters.source_bytes, more);
        });
        let inflating = prepare(input, limit, on_progress).map_err(|cause| broken(step, cause))?;
        Ok(Fetched {
            inflating,
            failure,
            _memory: memory,
        })
    }

    /// Tells the observer how far a layer has come, after `count`.
    fn on_progress(
        &self,
        step: &Step,
        count: impl Fn(Progress) + Send + Sync + 'static,
    ) -> OnProgress {
        let (observer, chain) = (self.observer.cloned(), step.chain_id.clone());
        Arc::new(move |progress: Progress| {
            count(progress);
            if let Some(observer) = &observer {
                let chain = chain.clone();
                observer(Event::Progress { chain, progress });
            }
        })
    }
}

impl Hold {
    async fn release(self) {
        if self.lease.is_lost() {
            tracing::warn!("a layer took longer than its lease; another may have made it too");
        }
        self.lease.release().await;
        drop(self.claim);
    }
}
