//! Seals the blob of a layer that was applied: makes it durable, pushes and records it.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::Instrument as _;

use super::super::catalogue::{Base, Layer, StoredBlob, push_layer, record};
use super::super::context::Context;
use super::super::conversion_span;
use super::super::deadline::Deadline;
use super::super::destination::Destination;
use super::super::errors::{BlobThreadError, layer_error};
use super::super::layer_progress::LayerState;
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
use crate::telemetry;

impl Chain<'_> {
    /// Seals an applied layer in the background, while the next ones are applied. Several are made
    /// durable at one time; each is recorded only after the one below it.
    pub(super) fn seal(&mut self, step: &Step, applied: Applied, lock: LayerLock) -> Committing {
        let context = Arc::clone(self.job.context);
        let (source, destination) = (self.job.source.clone(), self.job.destination.clone());
        let (step, observer) = (step.clone(), self.job.observer.cloned());
        let tally = Arc::clone(self.job.tally);
        let base = self.base();
        let below = self.sealing.back_mut();
        let below = below.and_then(|below| below.recorded.take());
        let deadline = self.job.deadline.clone();
        let (tell, hashed) = oneshot::channel();
        let (is_recorded, recorded) = oneshot::channel();
        let work = async move {
            let Applied {
                temp,
                sealing,
                seal_permit,
            } = applied;
            let target = (&source, &destination);
            let order = Order {
                below,
                deadline,
                seal_permit,
            };
            let blob = (temp, sealing, tell);
            let span = conversion_span::of_layer("seal layer", &step);
            let sealed = seal(&context, target, &step, blob, base, order);
            let sealed = span.around(sealed).await;
            match &sealed {
                Ok(layer) => {
                    let size = i64::try_from(layer.size).unwrap_or(i64::MAX);
                    span.set("overlaybd.blob.digest", layer.digest.to_string());
                    span.set("overlaybd.blob.size", size);
                    // There may be no layer above.
                    let _ = is_recorded.send(());
                }
                Err(error) => conversion_span::fail(&span, error),
            }
            drop(span);
            lock.release().await;
            match &sealed {
                Ok(layer) => {
                    add(&context.counters.layers_converted, 1);
                    add(&context.counters.blob_bytes, layer.size);
                    add(&tally.layers_made, 1);
                    add(&tally.blob_bytes, layer.size);
                    tally.each.set(&step, LayerState::Converted);
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
        let task = telemetry::spawn(work.in_current_span());
        Committing {
            hashed,
            recorded: Some(recorded),
            task,
        }
    }
}

/// What the record of a layer waits for.
struct Order {
    /// That the layer below is recorded, if it was not when this one was applied.
    below: Option<oneshot::Receiver<()>>,
    deadline: Deadline,
    seal_permit: OwnedSemaphorePermit,
}

/// Makes the blob of an applied layer durable, pushes it where layers are pushed, and records
/// it. Sends its digest as soon as that is known.
async fn seal(
    context: &Context,
    (source, destination): (&Source, &Destination),
    step: &Step,
    (temp, sealing, tell): (TempBlob, Sealing, oneshot::Sender<ConvertedLayer>),
    base: Base,
    order: Order,
) -> Result<Layer, ConvertError> {
    let blobs = context.store.blobs().clone();
    let committed = on_thread("commit", move || {
        Ok((|| {
            let written = sealing.written();
            let sealed = sealing.wait()?;
            // It is received only for the uppermost layers.
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
    if let Some(below) = order.below {
        // That layer's own result has the cause.
        below.await.map_err(|_| ConvertError::Interrupted)?;
    }
    if destination.is_pushed {
        let pushing = Box::pin(push_layer(context, source, destination, &layer));
        let span = conversion_span::of_layer("push layer", step);
        let pushed = span.around(order.deadline.unless_cancelled(pushing)).await;
        pushed
            .and_then(|pushed| pushed)
            .inspect_err(|error| conversion_span::fail(&span, error))?;
    }
    // Other layers are sealed while this one is uploaded.
    drop(order.seal_permit);
    // Other replicas look for it as soon as a row names it.
    let publishing = context.store.publish(std::slice::from_ref(&layer.digest));
    let published = order.deadline.unless_cancelled(Box::pin(publishing));
    published.await?;
    let index = context.store.index();
    index.put_diff_id(&step.layer.digest, &step.diff_id).await?;
    record(context, step, &layer).await?;
    Ok(layer)
}
