//! Seals the blob of a layer that was applied: makes it durable, pushes and records it.

use std::sync::Arc;

use tokio::sync::oneshot;
use tracing::Instrument as _;

use super::super::catalogue::{Base, Layer, StoredBlob, push_layer, record};
use super::super::context::Context;
use super::super::destination::Destination;
use super::super::errors::{BlobThreadError, layer_error};
use super::super::status::add;
use super::super::threads::on_thread;
use super::apply::Applied;
use super::ending::Committing;
use super::lock::LayerLock;
use super::state::Chain;
use crate::convert::error::ConvertError;
use crate::convert::layer::{ConvertedLayer, Sealing};
use crate::convert::plan::Step;
use crate::convert::types::{Event, Outcome, Source};
use crate::store::TempBlob;

impl Chain<'_> {
    /// Seals an applied layer in the background, while the next one is applied.
    pub(super) fn seal(&self, step: &Step, applied: Applied, lock: LayerLock) -> Committing {
        let context = Arc::clone(self.job.context);
        let (source, destination) = (self.job.source.clone(), self.job.destination.clone());
        let (step, observer) = (step.clone(), self.job.observer.cloned());
        let tally = Arc::clone(self.job.tally);
        let base = self.base();
        let (tell, hashed) = oneshot::channel();
        let work = async move {
            let Applied {
                temp,
                sealing,
                seal_permit,
            } = applied;
            let target = (&source, &destination);
            let sealed = seal(&context, target, &step, (temp, sealing, tell), base).await;
            lock.release().await;
            drop(seal_permit);
            match &sealed {
                Ok(layer) => {
                    add(&context.counters.layers_converted, 1);
                    add(&context.counters.blob_bytes, layer.size);
                    add(&tally.layers_made, 1);
                    add(&tally.blob_bytes, layer.size);
                    if let Some(observer) = observer {
                        observer(Event::Done {
                            chain: step.chain_id.clone(),
                            size: layer.size,
                            outcome: Outcome::Converted,
                        });
                    }
                }
                Err(_) => add(&context.counters.layers_failed, 1),
            }
            sealed
        };
        let task = tokio::spawn(work.in_current_span());
        Committing { hashed, task }
    }
}

/// Makes the blob of an applied layer durable, pushes it where layers are pushed, and records
/// it. Sends its digest as soon as that is known.
async fn seal(
    context: &Context,
    (source, destination): (&Source, &Destination),
    step: &Step,
    (temp, sealing, tell): (TempBlob, Sealing, oneshot::Sender<ConvertedLayer>),
    base: Base,
) -> Result<Layer, ConvertError> {
    let blobs = context.store.blobs().clone();
    let committed = on_thread("commit", move || {
        Ok((|| {
            let written = sealing.written();
            let sealed = sealing.wait()?;
            // It is received only for the topmost layer.
            let _ = tell.send(sealed.clone());
            let file = blobs.commit_synced(temp, &sealed.digest, sealed.size)?;
            let shared = blobs.share(file)?;
            let pin = Some(shared.pin());
            // The layers above need no file kept open for this one.
            written.move_to(Arc::new(StoredBlob(shared)));
            Ok::<_, BlobThreadError>(Layer {
                digest: sealed.digest,
                size: sealed.size,
                blob: written.blob,
                pin,
                base,
                turbo: sealed.turbo,
            })
        })())
    })
    .await?;
    let layer = match committed {
        Ok(layer) => layer,
        Err(BlobThreadError::Blobs(error)) => return Err(error.into()),
        Err(BlobThreadError::Layer(cause)) => return Err(layer_error(step, cause)),
    };
    if destination.is_pushed {
        push_layer(context, source, destination, &layer).await?;
    }
    let index = context.store.index();
    index.put_diff_id(&step.layer.digest, &step.diff_id).await?;
    record(context, step, &layer).await?;
    Ok(layer)
}
