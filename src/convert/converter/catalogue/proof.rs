//! What a config claims of its layers is no proof: the layers' bytes are.

use std::sync::Arc;

use super::super::super::layer::{LayerError, LayerInput, Windows, prepare, working_set};
use super::super::super::plan::Step;
use super::super::super::window;
use super::super::fetch::{AbortOnDrop, fetch};
use super::super::seal::broken;
use super::super::status::add;
use super::super::types::Source;
use super::super::{ConvertError, Converter, on_thread};

fn needed(step: &Step) -> u64 {
    working_set(step.layer.size, &step.layer.media_type)
}

impl Converter {
    /// Sees that whoever asks may read a source layer here, and that its bytes are what the
    /// config says: only then may anything that is known by the chain-id be had for it.
    ///
    /// A layer that was seen before is not fetched again. What is wrong with one is told as if
    /// nothing were known of its chain.
    ///
    /// # Errors
    /// As a conversion of the layer would fail.
    pub(super) async fn prove(&self, source: &Source, step: &Step) -> Result<(), ConvertError> {
        let there = source
            .upstream
            .blob_size(&source.repo, &step.layer.digest, &source.authorization)
            .await;
        let index = self.inner.store.index();
        if there.is_ok_and(|size| size == step.layer.size) {
            let seen = index.find_diff_id(&step.layer.digest).await?;
            if seen.as_ref() == Some(&step.diff_id) {
                return Ok(());
            }
            if let Some(seen) = seen {
                let cause = LayerError::DiffId {
                    expected: step.diff_id.clone(),
                    actual: seen.0,
                };
                return Err(broken(step, cause));
            }
        }
        // One at a time: whoever had to wait finds what the first one saw.
        let name = format!("proof of {}", step.layer.digest);
        let _claim = self.inner.claims.claim(name).await;
        let mut seen = self.see(source, step, 0).await;
        if seen.as_ref().is_err_and(ConvertError::is_wrong_bytes) {
            seen = self.see(source, step, 0).await;
        }
        if let Some(window) = seen.as_ref().err().and_then(ConvertError::window)
            && needed(step).saturating_add(window) <= self.inner.memory.total()
        {
            seen = self.see(source, step, window).await;
        }
        seen?;
        index.put_diff_id(&step.layer.digest, &step.diff_id).await?;
        Ok(())
    }

    /// Fetches and inflates a layer, for its digests alone, with memory for a zstd window of so
    /// many bytes.
    async fn see(&self, source: &Source, step: &Step, window: u64) -> Result<(), ConvertError> {
        let budget = &self.inner.memory;
        let memory = budget.take(needed(step).saturating_add(window)).await;
        let paid = window::likely(&step.layer.media_type).max(window);
        let _turn = self.inner.turns.take(step.layer.size).await;
        tracing::info!(layer = %step.layer.digest, chain = %step.chain_id,
            "the chain is known, but not this layer: it is fetched and verified");
        let (chunks, failure) = fetch(source, &step.layer.digest, step.layer.size);
        // Where the image is given up, the thread ends with the chunks.
        let _abort = AbortOnDrop(failure.clone());
        let input = LayerInput {
            chunks,
            digest: step.layer.digest.clone(),
            size: step.layer.size,
            diff_id: step.diff_id.clone(),
            chain_id: step.chain_id.clone(),
            parent_chain_id: step.parent.clone(),
            copy: None,
            windows: Windows::within(paid, budget.clone()),
        };
        let limit = self.inner.config.settings.max_layer_size;
        let seen = on_thread("verify", move || {
            let see = || {
                let mut layer = prepare(input, limit, Arc::new(|_| {}))?;
                if let Some(tar) = layer.tar() {
                    // The inflating thread knows why it ended early.
                    let _ = tar.drain();
                }
                layer.finish()
            };
            let seen = see();
            drop(memory);
            Ok(seen)
        })
        .await?;
        add(&self.inner.counters.source_bytes, step.layer.size);
        match seen {
            Ok(()) => Ok(()),
            Err(LayerError::Source(cause)) => Err(match failure.take() {
                Some(error) => error.into(),
                None => broken(step, LayerError::Source(cause)),
            }),
            Err(cause) => Err(broken(step, cause)),
        }
    }
}
