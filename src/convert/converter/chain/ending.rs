//! A chain of which all layers are made, while the topmost is still being committed.

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
    pub(super) task: JoinHandle<Result<Layer, ConvertError>>,
}

impl Committing {
    /// Waits until the layer is in the store and recorded.
    pub(super) async fn finish(self) -> Result<Layer, ConvertError> {
        self.task.await.map_err(|_| ConvertError::Interrupted)?
    }
}

/// The layers of a chain, the topmost of which may still be being made durable.
pub(in super::super) struct Ending {
    layers: Vec<Layer>,
    topmost: Option<Committing>,
    blobs: BlobStore,
}

impl Ending {
    pub(super) fn new(layers: Vec<Layer>, topmost: Option<Committing>, blobs: BlobStore) -> Self {
        Self {
            layers,
            topmost,
            blobs,
        }
    }

    /// The layers as manifests name them, before the topmost is durable. `None` if it will never
    /// be, of which [`finish`](Self::finish) has the cause.
    pub(in super::super) async fn parts(&mut self) -> Option<Vec<ConvertedLayer>> {
        let mut parts: Vec<_> = self.layers.iter().map(Layer::part).collect();
        if let Some(topmost) = &mut self.topmost {
            parts.push((&mut topmost.hashed).await.ok()?);
        }
        Some(parts)
    }

    /// Waits until all layers are in the store or the registry, and recorded.
    pub(in super::super) async fn finish(mut self) -> Result<Vec<Layer>, ConvertError> {
        if let Some(topmost) = self.topmost {
            match topmost.finish().await {
                Ok(layer) => self.layers.push(layer),
                Err(error) => {
                    doubt_after(&error, &self.layers, &self.blobs);
                    return Err(error);
                }
            }
        }
        Ok(self.layers)
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
