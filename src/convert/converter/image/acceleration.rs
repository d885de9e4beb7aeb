//! Makes the acceleration layer of one image manifest.

use std::sync::Arc;

use super::super::catalogue::Layer;
use super::super::errors::layer_error;
use super::super::threads::{blocking, on_thread};
use super::job::ImageJob;
use crate::convert::acceleration::acceleration;
use crate::convert::error::{ConvertError, LayerError};
use crate::convert::image::LayerBlob;
use crate::convert::plan::Step;
use crate::format::blob::Stack;
use crate::format::prefetch::PrefetchList;

impl ImageJob<'_> {
    /// Whether an acceleration layer is wanted: making it reads the other layers.
    pub(super) fn is_accelerated(&self) -> bool {
        self.accelerated_by().is_some()
    }

    fn accelerated_by(&self) -> Option<&Arc<PrefetchList>> {
        let config = &self.context.config;
        let list = config.settings.prefetch.as_ref();
        list.filter(|_| config.style.acceleration)
    }

    /// Puts the acceleration layer for an image of these layers into the store, and pins it for
    /// this image. `None` where none is wanted, or nothing of the list is there.
    ///
    /// It is made of what the layers hold and of nothing else, so it needs no row: whoever has the
    /// same layers and the same list makes the same.
    pub(super) async fn acceleration(
        &self,
        layers: &[Layer],
        steps: &[Step],
    ) -> Result<Option<LayerBlob>, ConvertError> {
        let Some(list) = self.accelerated_by() else {
            return Ok(None);
        };
        // An image without layers has no disk.
        let Some(top) = steps.last() else {
            return Ok(None);
        };
        let (list, format) = (Arc::clone(list), self.context.config.settings.format);
        let blobs: Vec<_> = layers.iter().map(|layer| Arc::clone(&layer.blob)).collect();
        let making = on_thread("accelerate", move || {
            Ok(Stack::new(blobs)
                .map_err(LayerError::from)
                .and_then(|stack| Ok(acceleration(stack, &list, format)?)))
        });
        let made = self.deadline.within(making).await??;
        let Some(made) = made.map_err(|cause| layer_error(top, cause))? else {
            return Ok(None);
        };
        let layer = LayerBlob {
            digest: made.digest.clone(),
            size: made.bytes.len() as u64,
            turbo: None,
            is_acceleration: true,
        };
        let blobs = self.context.store.blobs().clone();
        let pinned = move || Ok(blobs.put_bytes(&made.digest, &made.bytes)?.pin()?);
        self.pins.extend([blocking(pinned).await?]);
        Ok(Some(layer))
    }
}
