//! Fetches and inflates the layers of a chain, ahead of those that are being applied.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::super::errors::layer_error;
use super::super::fetch::{Failure, fetch};
use super::super::status::add;
use super::state::{Chain, Fetched, KeptFor};
use crate::convert::error::ConvertError;
use crate::convert::input::{LayerInput, OnProgress, Progress, RandomAccess};
use crate::convert::layer::Format;
use crate::convert::memory::MemoryPermit;
use crate::convert::plan::Step;
use crate::convert::stream::{Expected, Replay, prepare, replay, working_set};
use crate::convert::types::Event;
use crate::convert::window::{self, Windows};
use crate::format::blob::SPOOL_MEMORY_BYTES;

/// The most memory that the filesystem of a chain takes while layers are applied to it: its
/// cache of blocks, and what is being compressed.
const MAX_FILESYSTEM_BYTES: u64 = 96 << 20;
/// The least that it takes.
const MIN_FILESYSTEM_BYTES: u64 = 8 << 20;
/// What the index of a gzip layer takes while it is made: 7 MiB and six spans of 1 MiB.
const INDEXER_BYTES: u64 = 13 << 20;

impl Chain<'_> {
    /// Bytes of memory that applying the layers from `position` on takes.
    pub(super) fn working_set(&self, position: usize) -> u64 {
        let layers = self.job.steps.iter().skip(position);
        let sizes = layers.clone().map(|step| step.layer.size);
        let compressed = sizes.fold(0, u64::saturating_add);
        let filesystem = MIN_FILESYSTEM_BYTES.saturating_add(compressed.saturating_mul(4));
        let largest = layers.map(|step| self.needed(step)).max().unwrap_or(0);
        let filesystem = filesystem.min(MAX_FILESYSTEM_BYTES);
        filesystem
            .saturating_add(SPOOL_MEMORY_BYTES as u64)
            .saturating_add(largest)
            .saturating_add(self.window)
    }

    /// Starts to fetch and inflate a layer, or to read the tar of an equal one again.
    pub(super) async fn prepare(
        &mut self,
        step: &Step,
        position: usize,
        memory: Option<MemoryPermit>,
    ) -> Result<Fetched, ConvertError> {
        let context = Arc::clone(self.job.context);
        let format = context.config.settings.format;
        let shared = context.tars.as_ref();
        let kept = self.repeats.tar(step);
        if let Some(tar) = kept.or_else(|| shared?.tar(format, step)) {
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
                inflating: replayed.map_err(|cause| layer_error(step, cause))?,
                failure: Failure::none(),
                memory,
                tar: None,
            });
        }
        let sources = context.sources.as_ref();
        let layer = &step.layer;
        let known = context.store.index().find_diff_id(&layer.digest).await?;
        let (chunks, failure) = fetch(sources, self.job.source, &layer.digest, layer.size);
        let mut permitted = window::likely(&step.layer.media_type);
        if memory.is_none() {
            // The chain's memory, which the window is a part of.
            permitted = permitted.max(self.window);
        }
        let windows = Windows::within(permitted, context.memory.clone());
        let blobs = context.store.blobs();
        let (copy, tar) = if let Some((copy, tar)) = self.repeats.copy(step, position, blobs) {
            (Some(copy), Some(KeptFor::Repeats(tar)))
        } else {
            let copied = shared.and_then(|shared| shared.copy(format, blobs));
            copied
                .map(|(copy, tar)| (copy, KeptFor::OtherFormat(tar)))
                .unzip()
        };
        let input = LayerInput {
            copy,
            is_diff_id_known: known.as_ref() == Some(&step.diff_id),
            random_access: match format {
                Format::Native => None,
                Format::Turbo(turbo) => Some(RandomAccess {
                    index: blobs.unnamed()?,
                    max_gap: turbo.max_gap,
                }),
            },
            ..LayerInput::of(step, chunks, windows)
        };
        let limit = context.config.settings.max_layer_size;
        let (counted, tally) = (self.job.tally.each.read(step), Arc::clone(self.job.tally));
        let on_progress = self.on_progress(step, move |progress| {
            let before = counted.swap(progress.compressed, Ordering::Relaxed);
            let more = progress.compressed.saturating_sub(before);
            add(&context.counters.source_bytes, more);
            add(&tally.source_bytes, more);
        });
        let inflating =
            prepare(input, limit, on_progress).map_err(|cause| layer_error(step, cause))?;
        Ok(Fetched {
            inflating,
            failure,
            memory,
            tar,
        })
    }

    /// Bytes of memory that a layer takes until it is applied.
    pub(super) fn needed(&self, step: &Step) -> u64 {
        let index = match self.job.context.config.settings.format {
            Format::Native => 0,
            Format::Turbo(_) => INDEXER_BYTES,
        };
        working_set(step.layer.size, &step.layer.media_type).saturating_add(index)
    }

    /// Calls `count`, then the observer, with how far a layer has come.
    fn on_progress(
        &self,
        step: &Step,
        count: impl Fn(Progress) + Send + Sync + 'static,
    ) -> OnProgress {
        let (observer, chain) = (self.job.observer.cloned(), step.chain_id.clone());
        Arc::new(move |progress: Progress| {
            count(progress);
            if let Some(observer) = &observer {
                let chain = chain.clone();
                observer(Event::Progress { chain, progress });
            }
        })
    }
}
