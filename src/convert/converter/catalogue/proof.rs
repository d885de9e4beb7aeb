//! Proves that a source layer is what an image's config says, by the layer's bytes.

use std::sync::Arc;

use super::super::context::Context;
use super::super::errors::layer_error;
use super::super::fetch::{AbortOnDrop, fetch};
use super::super::status::add;
use super::super::threads::on_thread;
use crate::convert::error::{ConvertError, LayerError};
use crate::convert::input::LayerInput;
use crate::convert::plan::Step;
use crate::convert::stream::{prepare, working_set};
use crate::convert::types::Source;
use crate::convert::window::{self, Windows};

/// Checks that the request may read a source layer here, and that the layer's bytes are what the
/// config says: only then may blobs be used that are recorded under its chain-id.
///
/// A layer that was verified before is not fetched again.
///
/// # Errors
/// As a conversion of the layer would fail.
pub(super) async fn prove(
    context: &Context,
    source: &Source,
    step: &Step,
) -> Result<(), ConvertError> {
    let size = source
        .upstream
        .blob_size(&source.repo, &step.layer.digest, &source.authorization)
        .await;
    let index = context.store.index();
    if size.is_ok_and(|size| size == step.layer.size) {
        let known = index.find_diff_id(&step.layer.digest).await?;
        if known.as_ref() == Some(&step.diff_id) {
            return Ok(());
        }
        if let Some(known) = known {
            let cause = LayerError::DiffId {
                expected: step.diff_id.clone(),
                actual: known.0,
            };
            return Err(layer_error(step, cause));
        }
    }
    // One at a time for each layer.
    let name = format!("proof of {}", step.layer.digest);
    let _guard = context.locks.lock(name).await;
    let mut verified = verify(context, source, step, 0).await;
    if verified.as_ref().is_err_and(ConvertError::is_wrong_bytes) {
        verified = verify(context, source, step, 0).await;
    }
    if let Some(window) = verified.as_ref().err().and_then(ConvertError::window)
        && needed(step).saturating_add(window) <= context.memory.total()
    {
        verified = verify(context, source, step, window).await;
    }
    verified?;
    index.put_diff_id(&step.layer.digest, &step.diff_id).await?;
    Ok(())
}

/// Bytes of memory for verifying a layer.
fn needed(step: &Step) -> u64 {
    working_set(step.layer.size, &step.layer.media_type)
}

/// Fetches and inflates a layer, only to verify its digests, with memory for a zstd window of so
/// many bytes.
async fn verify(
    context: &Context,
    source: &Source,
    step: &Step,
    window: u64,
) -> Result<(), ConvertError> {
    let budget = &context.memory;
    let memory = budget.acquire(needed(step).saturating_add(window)).await;
    let permitted = window::likely(&step.layer.media_type).max(window);
    let _permit = context.layer_permits.acquire(step.layer.size).await;
    tracing::info!(layer = %step.layer.digest, chain = %step.chain_id,
            "the chain is known, but not this layer: it is fetched and verified");
    let sources = context.sources.as_ref();
    let (chunks, failure) = fetch(sources, source, &step.layer.digest, step.layer.size);
    // If the image is given up, the thread ends with the chunks.
    let _abort = AbortOnDrop(failure.clone());
    let input = LayerInput::of(step, chunks, Windows::within(permitted, budget.clone()));
    let limit = context.config.settings.max_layer_size;
    let verified = on_thread("verify", move || {
        let verify = || {
            let mut layer = prepare(input, limit, Arc::new(|_| {}))?;
            if let Some(tar) = layer.tar() {
                // The inflating thread has the cause if this ends early.
                let _ = tar.drain();
            }
            layer.finish()
        };
        let verified = verify();
        drop(memory);
        Ok(verified)
    })
    .await?;
    add(&context.counters.source_bytes, step.layer.size);
    match verified {
        Ok(()) => Ok(()),
        Err(LayerError::Source(cause)) => Err(match failure.take() {
            Some(error) => error.into(),
            None => layer_error(step, LayerError::Source(cause)),
        }),
        Err(cause) => Err(layer_error(step, cause)),
    }
}
