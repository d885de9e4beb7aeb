//! The chain of one image while it is converted.

use std::collections::VecDeque;
use std::sync::Arc;

use super::super::catalogue::{Base, Layer};
use super::super::context::Context;
use super::super::deadline::Deadline;
use super::super::destination::Destination;
use super::super::fetch::Failure;
use super::super::status::ConversionCounters;
use super::super::threads::{blocking, on_thread};
use super::MAX_SEALING;
use super::ending::Committing;
use super::repeats::Repeats;
use super::tars::PendingTar;
use crate::convert::error::ConvertError;
use crate::convert::layer::{ChainBuilder, Format};
use crate::convert::memory::MemoryPermit;
use crate::convert::plan::Step;
use crate::convert::scratch::Scratch;
use crate::convert::stream::Inflating;
use crate::convert::types::{Event, Observer, Source};
use crate::oci::Digest;

/// The layers to convert, and for what.
pub(in super::super) struct ChainJob<'a> {
    pub(in super::super) context: &'a Arc<Context>,
    pub(in super::super) source: &'a Source,
    pub(in super::super) destination: &'a Destination,
    /// The layers, bottom first.
    pub(in super::super) steps: &'a [Step],
    pub(in super::super) observer: Option<&'a Observer>,
    /// What the whole conversion did so far.
    pub(in super::super) tally: &'a Arc<ConversionCounters>,
    /// When the conversion is given up.
    pub(in super::super) deadline: Deadline,
}

impl ChainJob<'_> {
    pub(super) fn notify(&self, event: impl FnOnce() -> Event) {
        if let Some(observer) = self.observer {
            observer(event());
        }
    }
}

/// The state of a chain.
pub(super) struct Chain<'a> {
    pub(super) job: ChainJob<'a>,
    /// The lowest layers, which are done.
    pub(super) layers: Vec<Layer>,
    /// The layers above them that are applied, and whose blobs are being sealed, lowest first.
    pub(super) sealing: VecDeque<Committing>,
    /// The filesystem, if it is in memory.
    pub(super) builder: Option<ChainBuilder>,
    /// The memory of the filesystem, and of the layer that is being applied.
    pub(super) memory: Option<MemoryPermit>,
    /// Bytes of the largest zstd window for which a layer turned out to lack memory.
    pub(super) window: u64,
    /// The layers above, as far as they are being fetched.
    pub(super) ahead: VecDeque<Fetched>,
    /// The layers that the image has more than once.
    pub(super) repeats: Repeats,
    /// Where the metadata of TurboOCI layers is, if there are any.
    scratch: Option<Arc<Scratch>>,
}

/// A layer that is being fetched.
pub(super) struct Fetched {
    pub(super) inflating: Inflating,
    pub(super) failure: Failure,
    /// The memory that it takes, unless the chain's memory covers it.
    pub(super) memory: Option<MemoryPermit>,
    /// Its tar, if that is kept.
    pub(super) tar: Option<KeptFor>,
}

/// The tar of a layer, and for whom it is kept once the layer is applied.
pub(super) enum KeptFor {
    /// For the same layer further up.
    Repeats(PendingTar),
    /// For the image's conversion to the other format.
    OtherFormat(PendingTar),
}

impl<'a> Chain<'a> {
    pub(super) fn new(job: ChainJob<'a>) -> Self {
        Self {
            layers: Vec::with_capacity(job.steps.len()),
            sealing: VecDeque::new(),
            builder: None,
            memory: None,
            window: 0,
            ahead: VecDeque::new(),
            // The index of a gzip layer is made while it is inflated.
            repeats: match job.context.config.settings.format {
                Format::Native => Repeats::of(job.steps),
                Format::Turbo(_) => Repeats::default(),
            },
            scratch: None,
            job,
        }
    }

    /// The digest of the topmost layer that is done.
    pub(super) fn parent(&self) -> Option<&Digest> {
        self.layers.last().map(|layer| &layer.digest)
    }

    /// The base of the layers that are done. A layer that is being sealed has the same.
    pub(super) fn base(&self) -> Base {
        self.layers
            .last()
            .map_or(Base::Own, |layer| layer.base.clone())
    }

    /// The file for the metadata of TurboOCI layers, if these are made.
    pub(super) fn scratch(&mut self) -> Result<Option<Arc<Scratch>>, ConvertError> {
        if self.job.context.config.settings.format == Format::Native {
            return Ok(None);
        }
        if self.scratch.is_none() {
            let file = self.job.context.store.blobs().unnamed()?;
            self.scratch = Some(Arc::new(Scratch::new(file)));
        }
        Ok(self.scratch.clone())
    }

    /// Waits for all layers whose blobs are being sealed.
    pub(super) async fn wait_for_seals(&mut self) -> Result<(), ConvertError> {
        let mut all = Ok(());
        while let Some(sealing) = self.sealing.pop_front() {
            // None of those above one that failed is recorded.
            match (sealing.finish().await, &all) {
                (Ok(layer), Ok(())) => self.layers.push(layer),
                (Err(error), Ok(())) => all = Err(error),
                (_, Err(_)) => {}
            }
        }
        all
    }

    /// Waits until one more layer may be sealed.
    pub(super) async fn wait_to_seal(&mut self) -> Result<(), ConvertError> {
        // Those of a push take as long as the network, and places that other images wait for.
        let most = if self.job.destination.is_pushed {
            1
        } else {
            MAX_SEALING
        };
        while self.sealing.len() >= most
            && let Some(lowest) = self.sealing.pop_front()
        {
            self.layers.push(lowest.finish().await?);
        }
        Ok(())
    }

    /// Drops the filesystem and the layers that were fetched ahead. That waits for threads.
    ///
    /// To be called before waiting for others that convert the same layer: they may be waiting
    /// for that memory.
    pub(super) async fn release_memory(&mut self) -> Result<(), ConvertError> {
        let (builder, ahead) = (self.builder.take(), std::mem::take(&mut self.ahead));
        let memory = self.memory.take();
        if builder.is_none() && ahead.is_empty() {
            return Ok(());
        }
        on_thread("release", move || {
            drop((builder, ahead, memory));
            Ok(())
        })
        .await
    }

    /// Drops the tars of repeated layers, which are files.
    pub(super) async fn release_repeats(&mut self) -> Result<(), ConvertError> {
        let repeats = std::mem::take(&mut self.repeats);
        blocking(move || {
            drop(repeats);
            Ok(())
        })
        .await
    }
}
