//! A chain of which all layers are made, while the uppermost are still being committed.

use std::collections::VecDeque;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::catalogue::Layer;
use crate::convert::error::{ConvertError, Fault};
use crate::convert::layer::ConvertedLayer;
use crate::store::BlobStore;

/// A layer whose blob is written and being made durable.
pub(super) struct Committing {
    /// The layer as manifests name it, before it is durable.
    pub(super) hashed: oneshot::Receiver<ConvertedLayer>,
    /// That it is recorded, for the layer above; closed if it never will be.
    pub(super) recorded: Option<oneshot::Receiver<()>>,
    pub(super) task: JoinHandle<Result<Layer, ConvertError>>,
}

impl Committing {
    /// Waits until the layer is in the store and recorded.
    pub(super) async fn finish(self) -> Result<Layer, ConvertError> {
        self.task.await.map_err(|_| ConvertError::Interrupted)?
    }
}

/// The layers of a chain, the uppermost of which may still be being made durable.
pub(in super::super) struct Ending {
    layers: Vec<Layer>,
    /// Those above `layers`, lowest first.
    sealing: VecDeque<Committing>,
    blobs: BlobStore,
}

impl Ending {
    pub(super) fn new(layers: Vec<Layer>, sealing: VecDeque<Committing>, blobs: BlobStore) -> Self {
        Self {
            layers,
            sealing,
            blobs,
        }
    }

    /// The layers as manifests name them, before all are durable. `None` if one will never
    /// be, of which [`finish`](Self::finish) has the cause.
    pub(in super::super) async fn parts(&mut self) -> Option<Vec<ConvertedLayer>> {
        let mut parts: Vec<_> = self.layers.iter().map(Layer::part).collect();
        for one in &mut self.sealing {
            parts.push((&mut one.hashed).await.ok()?);
        }
        Some(parts)
    }

    /// Waits until all layers are in the store or the registry, and recorded.
    pub(in super::super) async fn finish(mut self) -> Result<Vec<Layer>, ConvertError> {
        let mut failed = None;
        while let Some(one) = self.sealing.pop_front() {
            match one.finish().await {
                Ok(layer) => self.layers.push(layer),
                // Those above it fail for that alone.
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        match failed {
            None => Ok(self.layers),
            Some(error) => {
                doubt_after(&error, &self.layers, &self.blobs);
                Err(error)
            }
        }
    }
}

/// Has the layers verified again after an error of this machine: they may have been damaged since
/// they were verified.
pub(super) fn doubt_after(error: &ConvertError, layers: &[Layer], blobs: &BlobStore) {
    if error.fault() == Fault::Local && error.shortage().is_none() {
        for layer in layers {
            blobs.doubt(&layer.digest);
        }
    }
}
