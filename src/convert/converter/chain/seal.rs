//! The blob of a layer that was placed: made durable, pushed and recorded.

use std::sync::Arc;

use super::super::layer::{LayerError, Sealing};
use super::super::plan::Step;
use super::catalogue::{Base, Layer, StoredBlob};
use super::types::Source;
use super::{ConvertError, Converter, Home, blocking, on_thread};
use crate::registry::BlobSource;
use crate::store::{BlobError, TempBlob};

impl Converter {
    /// Makes the blob of a placed layer durable, pushes it where layers are pushed, and records
    /// it.
    pub(super) async fn sealed(
        &self,
        (source, home): (&Source, &Home),
        step: &Step,
        temp: TempBlob,
        sealing: Sealing,
        base: Base,
    ) -> Result<Layer, ConvertError> {
        let blobs = self.inner.store.blobs().clone();
        let committed = on_thread("commit", move || {
            Ok((|| {
                let written = sealing.written();
                let sealed = sealing.wait()?;
                let file = blobs.commit(temp, &sealed.digest, sealed.size)?;
                let shared = blobs.share(file)?;
                let pin = Some(shared.pin());
                // What is stacked upon it keeps no file open for it.
                written.move_to(Arc::new(StoredBlob(shared)));
                Ok::<_, Failed>(Layer {
                    digest: sealed.digest,
                    size: sealed.size,
                    blob: written.blob,
                    pin,
                    base,
                })
            })())
        })
        .await?;
        let layer = match committed {
            Ok(layer) => layer,
            Err(Failed::Blobs(error)) => return Err(error.into()),
            Err(Failed::Layer(cause)) => return Err(broken(step, cause)),
        };
        if home.is_pushed {
            self.push_layer(source, home, &layer).await?;
        }
        let index = self.inner.store.index();
        index.put_diff_id(&step.layer.digest, &step.diff_id).await?;
        self.record(step, &layer).await?;
        Ok(layer)
    }

    /// Makes sure that the registry has a layer of the store.
    pub(super) async fn push_layer(
        &self,
        source: &Source,
        home: &Home,
        layer: &Layer,
    ) -> Result<(), ConvertError> {
        let place = home.place(source);
        let (blobs, digest) = (self.inner.store.blobs().clone(), layer.digest.clone());
        let Some(file) = blocking(move || Ok(blobs.open(&digest)?)).await? else {
            return Err(ConvertError::Interrupted);
        };
        let bytes = BlobSource::File(file.path());
        place
            .upstream
            .push_blob(
                &place.repo,
                &layer.digest,
                layer.size,
                &bytes,
                &place.authorization,
            )
            .await?;
        let index = self.inner.store.index();
        index
            .put_pushed(&home.host, &home.repo, &layer.digest)
            .await?;
        Ok(())
    }
}

/// The error of a layer that cannot be placed.
pub(super) fn broken(step: &Step, cause: LayerError) -> ConvertError {
    ConvertError::Layer {
        layer: step.layer.digest.clone(),
        cause: Arc::new(cause),
    }
}

/// Why a thread that makes a blob failed.
pub(super) enum Failed {
    Blobs(BlobError),
    Layer(LayerError),
}

impl From<BlobError> for Failed {
    fn from(error: BlobError) -> Self {
        Self::Blobs(error)
    }
}

impl From<LayerError> for Failed {
    fn from(error: LayerError) -> Self {
        Self::Layer(error)
    }
}
