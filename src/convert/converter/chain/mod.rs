//! The job that converts the layers of one image, bottom first: each is found, waited for, or
//! converted.

mod apply;
mod ending;
mod lock;
mod prepare;
mod repeats;
mod seal;
mod shared_tars;
mod state;
mod tars;

pub(super) use ending::Ending;
pub(super) use shared_tars::SharedTars;
pub(super) use state::ChainJob;

use std::sync::Arc;

use super::catalogue::{Wanted, find, is_named};
use super::layer_progress::LayerState;
use super::lease::poll_interval;
use super::status::{Gauge, add};
use crate::convert::error::ConvertError;
use crate::convert::plan::Step;
use crate::convert::types::{Event, Outcome};
use crate::store::Acquired;
use ending::doubt_after;
use lock::LayerLock;
use state::Chain;

/// How often a layer is converted again because a zstd window is larger than those before.
const MAX_WINDOW_ATTEMPTS: usize = 4;
/// Most layers of one image that are made durable at one time, while the next is applied.
const MAX_SEALING: usize = 4;

/// Converts the layers of a chain. Each is in the store or the registry, and recorded, once its
/// [`Ending`] is finished.
pub(super) async fn convert_chain(job: ChainJob<'_>) -> Result<Ending, ConvertError> {
    let blobs = job.context.store.blobs().clone();
    let mut chain = Chain::new(job);
    let result = chain.run().await;
    if let Err(error) = &result {
        doubt_after(error, &chain.layers, &blobs);
    }
    chain.release_memory().await?;
    chain.release_repeats().await?;
    if let Err(error) = result {
        // A layer that is whole is kept even if one above it failed.
        let sealed = chain.wait_for_seals().await;
        return Err(match sealed {
            Err(cause) if error.is_of_layer_below() => cause,
            _ => error,
        });
    }
    Ok(Ending::new(chain.layers, chain.sealing, blobs))
}

impl Chain<'_> {
    async fn run(&mut self) -> Result<(), ConvertError> {
        let mut position = 0;
        while let Some(step) = self.job.steps.get(position) {
            self.step(step, position).await?;
            position += 1;
        }
        Ok(())
    }

    /// Looks the layer up, and adds it to the chain if it was converted before.
    async fn find(&mut self, step: &Step) -> Result<bool, ConvertError> {
        let base = self.base();
        if self.builder.is_some()
            && !is_named(self.job.context, self.job.destination, step, &base).await?
        {
            // Most likely. The layer below need not be waited for.
            return Ok(false);
        }
        self.wait_for_seals().await?;
        // A lookup may verify the source's layer, which takes memory: a job that waits for memory
        // must hold none.
        self.release_memory().await?;
        let scratch = self.scratch()?;
        let wanted = Wanted {
            source: self.job.source,
            destination: self.job.destination,
            step,
            below: self.layers.last(),
            scratch: scratch.as_ref(),
        };
        // On the heap: it is large, and not needed while layers are applied.
        let found = Box::pin(find(self.job.context, &wanted));
        let Some(layer) = self.job.deadline.within(found).await?? else {
            return Ok(false);
        };
        let counters = &self.job.context.counters;
        add(&counters.layers_found, 1);
        add(&counters.found_bytes, step.layer.size);
        add(&self.job.tally.layers_found, 1);
        self.job.tally.each.set(step, LayerState::Found);
        self.job.notify(|| Event::Done {
            chain: step.chain_id.clone(),
            size: layer.size,
            outcome: Outcome::Found,
        });
        self.layers.push(layer);
        Ok(true)
    }

    /// Finds or converts one layer.
    async fn step(&mut self, step: &Step, position: usize) -> Result<(), ConvertError> {
        if self.builder.is_none() && self.find(step).await? {
            return Ok(());
        }
        let context = Arc::clone(self.job.context);
        let mut queued = Some(Gauge::up(&context.counters.layers_queued));
        let name = format!("{} {}", step.chain_id, context.variant_of(step));
        let guard = if let Some(guard) = context.locks.try_lock(name.clone()) {
            guard
        } else {
            self.release_memory().await?;
            let guard = context.locks.lock(name.clone());
            self.job.deadline.within(guard).await?
        };
        let ttl = context.config.lease_ttl;
        let lease = loop {
            match context.store.acquire(&name, ttl).await? {
                Acquired::Mine(lease) => break lease.keep(context.store.index().clone(), ttl),
                Acquired::Held { holder, remaining } => {
                    tracing::debug!(chain = %step.chain_id, holder, "another makes this layer");
                    self.release_memory().await?;
                    let wait = poll_interval(remaining);
                    self.job.deadline.within(tokio::time::sleep(wait)).await?;
                }
            }
        };
        let lock = LayerLock { guard, lease };
        // The last holder of the lock or the lease may have made the layer. A lookup before the
        // lease is held would miss what is recorded between the two.
        let found = self.find(step).await;
        if !matches!(found, Ok(false)) {
            lock.release().await;
            return found.map(|_| ());
        }
        let mut made = self.apply_with_permits(step, position, &mut queued).await;
        if made.as_ref().is_err_and(ConvertError::is_wrong_bytes) {
            tracing::warn!(layer = %step.layer.digest,
                "the layer came with other bytes than its digest says: it is fetched again");
            made = self.apply_again(step, position, &mut queued).await;
        }
        let mut attempts = 0..MAX_WINDOW_ATTEMPTS;
        while let Some(window) = made.as_ref().err().and_then(ConvertError::window)
            && attempts.next().is_some()
            && self.has_room_for(window, position)
        {
            tracing::debug!(layer = %step.layer.digest, window,
                "the layer waits for the memory that its zstd window takes");
            made = self.apply_again(step, position, &mut queued).await;
        }
        match made {
            Ok(applied) => {
                if let Err(error) = self.wait_to_seal().await {
                    lock.release().await;
                    return Err(error);
                }
                let sealing = self.seal(step, applied, lock);
                self.sealing.push_back(sealing);
                Ok(())
            }
            Err(error) => {
                add(&context.counters.layers_failed, 1);
                lock.release().await;
                Err(error)
            }
        }
    }
}
