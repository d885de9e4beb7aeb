//! Applies the layers of a chain to its filesystem, one after the other.

use std::io;
use std::sync::Arc;

use tokio::sync::OwnedSemaphorePermit;

use super::super::conversion_span;
use super::super::errors::{BlobThreadError, layer_error};
use super::super::status::Gauge;
use super::super::threads::on_thread;
use super::state::{Chain, Fetched, KeptFor};
use crate::convert::error::{ConvertError, LayerError};
use crate::convert::layer::{
    ChainBuilder, Format, LayerOutput, MakeSpoolFile, NativeOutput, Sealing, SpoolFile, TurboOutput,
};
use crate::convert::plan::Step;
use crate::store::{BlobStore, TempBlob};

/// Layers that are fetched and inflated ahead of the one that is being applied. To `TurboOCI`
/// inflating takes longest, and two layers at one time take the two cores of a small machine.
fn layers_ahead(format: Format) -> usize {
    match format {
        Format::Native => 2,
        Format::Turbo(_) => 1,
    }
}

/// A layer that is applied, and whose blob is written but not sealed.
pub(super) struct Applied {
    pub(super) temp: TempBlob,
    pub(super) sealing: Sealing,
    pub(super) seal_permit: OwnedSemaphorePermit,
}

/// Makes a file for data that is kept while a layer is written. Room is reserved for what is written
/// next; what was written has taken its own.
fn spool(blobs: BlobStore) -> MakeSpoolFile {
    Box::new(move || {
        let file = blobs.unnamed().map_err(io::Error::other)?;
        let mut next = None;
        let reserve = move |bytes| {
            drop(next.take());
            next = Some(blobs.reserve(bytes).map_err(io::Error::other)?);
            Ok(())
        };
        Ok(SpoolFile {
            file,
            reserve: Box::new(reserve),
        })
    })
}

impl Chain<'_> {
    /// Applies a layer to a filesystem that is opened again: after a failure the one in memory is
    /// not usable.
    pub(super) async fn apply_again(
        &mut self,
        step: &Step,
        position: usize,
        queued: &mut Option<Gauge<'_>>,
    ) -> Result<Applied, ConvertError> {
        self.release_memory().await?;
        self.wait_for_seals().await?;
        self.apply_with_permits(step, position, queued).await
    }

    /// Whether a layer can be applied with memory for a zstd window of so many bytes. If so, the
    /// chain waits for that much memory from now on.
    pub(super) fn has_room_for(&mut self, window: u64, position: usize) -> bool {
        let before = std::mem::replace(&mut self.window, window);
        let has_room =
            window > before && self.working_set(position) <= self.job.context.memory.total();
        if !has_room {
            self.window = before;
        }
        has_room
    }

    /// Waits for memory, a permit to convert and a permit to seal, and applies a layer.
    pub(super) async fn apply_with_permits(
        &mut self,
        step: &Step,
        position: usize,
        queued: &mut Option<Gauge<'_>>,
    ) -> Result<Applied, ConvertError> {
        let context = Arc::clone(self.job.context);
        let deadline = self.job.deadline.clone();
        if self.memory.is_none() {
            let memory = context.memory.acquire(self.working_set(position));
            self.memory = Some(deadline.within(memory).await?);
        }
        let _permit = deadline
            .within(context.layer_permits.acquire(step.layer.size))
            .await?;
        let seal_permit = Arc::clone(&context.seal_permits).acquire_owned();
        let seal_permit = deadline.within(seal_permit).await?;
        // The semaphore is never closed.
        let seal_permit = seal_permit.map_err(|_| ConvertError::Interrupted)?;
        *queued = None;
        let _running = Gauge::up(&context.counters.layers_running);
        let span = conversion_span::of_layer("apply layer", step);
        let applied = self.apply(step, position).await;
        let (temp, sealing) = applied.inspect_err(|error| conversion_span::fail(&span, error))?;
        Ok(Applied {
            temp,
            sealing,
            seal_permit,
        })
    }

    /// Applies a layer to the filesystem, and writes its blob into a file.
    async fn apply(
        &mut self,
        step: &Step,
        position: usize,
    ) -> Result<(TempBlob, Sealing), ConvertError> {
        let context = Arc::clone(self.job.context);
        if self.ahead.is_empty() {
            let fetched = self.prepare(step, position, None).await?;
            self.ahead.push_back(fetched);
        }
        // It stays there meanwhile: what is dropped here waits for threads.
        let fetched_above = self.ahead.len().saturating_sub(1);
        let above = self
            .job
            .steps
            .iter()
            .enumerate()
            .skip(position + 1)
            .take(layers_ahead(context.config.settings.format));
        for (above, next) in above.skip(fetched_above) {
            // A repeated layer may have been read by then.
            if self.repeats.has(next) {
                break;
            }
            // Only with memory that no other job waits for.
            let Some(memory) = context.memory.try_acquire(self.needed(next)) else {
                break;
            };
            let next = self.prepare(next, above, Some(memory)).await?;
            self.ahead.push_back(next);
        }
        let Some(Fetched {
            inflating,
            failure,
            memory: layer_memory,
            tar,
        }) = self.ahead.pop_front()
        else {
            return Err(ConvertError::Interrupted);
        };
        let taken = self.builder.take();
        let lower: Vec<_> = self
            .layers
            .iter()
            .map(|layer| Arc::clone(&layer.blob))
            .collect();
        let parent = self.parent().cloned();
        // LZ4 takes less than twice what gzip does; a sparse layer far less.
        let bytes = step.layer.size.saturating_mul(2);
        let scratch = self.scratch()?;
        let cancel = inflating.canceller();
        let applying = on_thread("apply", move || {
            Ok((|| {
                let blobs = context.store.blobs();
                let _reservation = blobs.reserve(bytes)?;
                let temp = blobs.begin()?;
                let file = temp.file().try_clone().map_err(LayerError::Output)?;
                let (settings, pool) = (context.config.settings.clone(), context.pool.clone());
                let out = match (settings.format, scratch) {
                    (Format::Turbo(turbo), Some(scratch)) => LayerOutput::Turbo(TurboOutput {
                        blob: file,
                        meta: blobs.unnamed()?,
                        scratch,
                        max_stored_file: turbo.max_stored_file,
                    }),
                    _ => LayerOutput::Native(NativeOutput {
                        blob: file,
                        spool: spool(blobs.clone()),
                    }),
                };
                let mut builder = match (taken, parent) {
                    (Some(builder), _) => builder,
                    (None, Some(parent)) => ChainBuilder::on(lower, parent, settings, pool)?,
                    (None, None) => ChainBuilder::empty(settings, pool),
                };
                let sealing = builder.add_layer(inflating, out)?;
                drop(layer_memory);
                Ok::<_, BlobThreadError>((builder, temp, sealing))
            })())
        });
        let mut applying = std::pin::pin!(applying);
        let applied = match self.job.deadline.within(&mut applying).await {
            Ok(applied) => applied?,
            Err(given_up) => {
                cancel.cancel();
                failure.abort();
                // The thread sees it at its next read.
                let _ = applying.await;
                return Err(given_up);
            }
        };
        match applied {
            Ok((builder, temp, sealing)) => {
                match (&tar, &self.job.context.tars) {
                    (Some(KeptFor::Repeats(tar)), _) => self.repeats.keep(step, tar),
                    (Some(KeptFor::OtherFormat(tar)), Some(shared)) => shared.keep(step, tar),
                    (Some(KeptFor::OtherFormat(_)) | None, _) => {}
                }
                self.repeats.applied(step, position);
                self.builder = Some(builder);
                Ok((temp, sealing))
            }
            Err(BlobThreadError::Blobs(error)) => Err(error.into()),
            Err(BlobThreadError::Layer(LayerError::Source(cause))) => Err(match failure.take() {
                Some(error) => error.into(),
                None => layer_error(step, LayerError::Source(cause)),
            }),
            Err(BlobThreadError::Layer(cause)) => Err(layer_error(step, cause)),
        }
    }
}
