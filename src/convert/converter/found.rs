//! Layers that were converted before: which row names one, where its blob is, and whether it
//! fits the chain below.

use std::sync::Arc;

use super::super::layer::LayerBlob;
use super::super::plan::Step;
use super::super::tag::UserTag;
use super::types::Source;
use super::{ConvertError, Converter, Home, blocking, remote};
use crate::format::block::{FileDevice, SharedDevice};
use crate::oci::Digest;
use crate::registry::Authorization;
use crate::store::{BlobFile, LayerRow, Origin};

/// A converted layer that is there, and fits the one below.
#[derive(Clone)]
pub(super) struct Layer {
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// Open, for what is stacked upon it.
    pub(super) blob: Arc<LayerBlob>,
}

/// Opens a blob of the store, which stays pinned while it is open.
pub(super) fn open_local(file: &BlobFile) -> Result<Arc<LayerBlob>, String> {
    let clone = file.file().try_clone().map_err(|error| error.to_string())?;
    let device = FileDevice::new(clone).map_err(|error| error.to_string())?;
    let blob = LayerBlob::open(Arc::new(device)).map_err(|error| error.to_string())?;
    Ok(Arc::new(blob))
}

impl Converter {
    /// The converted blob of `step`'s chain, if there is one that fits on `parent`.
    pub(super) async fn find(
        &self,
        source: &Source,
        home: &Home,
        step: &Step,
        parent: Option<&Digest>,
    ) -> Result<Option<Layer>, ConvertError> {
        let index = self.inner.store.index();
        let variant = &self.inner.variant;
        let own = index
            .find_layer(&home.host, &home.repo, &step.chain_id)
            .await?;
        if let Some(row) = &own
            && let Some(layer) = self.find_local(row, parent).await?
        {
            self.settle(source, home, step, &layer, row.is_variant(variant))
                .await?;
            return Ok(Some(layer));
        }
        if let Some(row) = index.find_built(&step.chain_id, variant).await?
            && own.as_ref().is_none_or(|own| own.digest != row.digest)
            && let Some(layer) = self.find_local(&row, parent).await?
            && self.has_source(source, step).await?
        {
            self.settle(source, home, step, &layer, false).await?;
            return Ok(Some(layer));
        }
        if let Some(row) = own
            && (home.is_pushed || row.origin == Origin::Foreign)
        {
            if let Some(layer) = self.find_remote(source, home, &row, parent).await? {
                return Ok(Some(layer));
            }
            if self.is_gone(home, source, &row).await? {
                tracing::info!(host = home.host, repo = %home.repo, chain = %step.chain_id,
                    blob = %row.digest, "a row named a blob that is gone: row deleted");
                index
                    .delete_layer(&home.host, &home.repo, &step.chain_id, &row.digest)
                    .await?;
            }
        }
        if home.is_pushed {
            return self.find_elsewhere(source, home, step, parent).await;
        }
        Ok(None)
    }

    /// Whether any row that could be used names the chain. Cheap.
    pub(super) async fn is_named(&self, home: &Home, step: &Step) -> Result<bool, ConvertError> {
        let index = self.inner.store.index();
        let (chain, variant) = (&step.chain_id, &self.inner.variant);
        Ok(index.find_built(chain, variant).await?.is_some()
            || index
                .find_layer(&home.host, &home.repo, chain)
                .await?
                .is_some())
    }

    /// A row's blob in the store, if it is there and fits.
    async fn find_local(
        &self,
        row: &LayerRow,
        parent: Option<&Digest>,
    ) -> Result<Option<Layer>, ConvertError> {
        let (blobs, digest) = (self.inner.store.blobs().clone(), row.digest.clone());
        let opened = blocking(move || {
            Ok(blobs
                .open(&digest)?
                .map(|file| (file.size(), open_local(&file))))
        })
        .await?;
        let Some((size, opened)) = opened else {
            return Ok(None);
        };
        match opened {
            Ok(blob) if size == row.size && self.fits(&blob, row, parent) => Ok(Some(Layer {
                digest: row.digest.clone(),
                size,
                blob,
            })),
            Ok(_) => Ok(None),
            Err(cause) => {
                tracing::warn!(blob = %row.digest, cause, "a row names what is no sound layer; it is not used");
                Ok(None)
            }
        }
    }

    /// A row's blob in the registry, if it is there and fits.
    async fn find_remote(
        &self,
        source: &Source,
        home: &Home,
        row: &LayerRow,
        parent: Option<&Digest>,
    ) -> Result<Option<Layer>, ConvertError> {
        let place = home.place(source);
        let size = place
            .upstream
            .blob_size(&place.repo, &row.digest, &place.authorization)
            .await;
        match size {
            Ok(size) if size == row.size => {}
            Ok(_) => return Ok(None),
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let device: SharedDevice = remote::device(place, row.digest.clone(), row.size);
        let opened = blocking(move || Ok(LayerBlob::open(device))).await?;
        match opened {
            Ok(blob) if self.fits(&blob, row, parent) => Ok(Some(Layer {
                digest: row.digest.clone(),
                size: row.size,
                blob: Arc::new(blob),
            })),
            Ok(_) => Ok(None),
            Err(cause) => {
                tracing::warn!(blob = %row.digest, %cause, "a row names what is no sound layer; it is not used");
                Ok(None)
            }
        }
    }

    /// A layer of another repository on the same host, mounted into this one.
    async fn find_elsewhere(
        &self,
        source: &Source,
        home: &Home,
        step: &Step,
        parent: Option<&Digest>,
    ) -> Result<Option<Layer>, ConvertError> {
        let index = self.inner.store.index();
        let rows = index
            .find_layer_elsewhere(&home.host, &step.chain_id, &self.inner.variant)
            .await?;
        let place = home.place(source);
        for (repo, row) in rows {
            if repo == home.repo || !self.has_source(source, step).await? {
                continue;
            }
            let mounted = place
                .upstream
                .mount_blob(&home.repo, &row.digest, &repo, &place.authorization)
                .await?;
            let there = Source {
                repo: repo.clone(),
                ..place.clone()
            };
            if !mounted {
                let size = place
                    .upstream
                    .blob_size(&repo, &row.digest, &there.authorization)
                    .await;
                if size.is_err_and(|error| error.is_not_found()) {
                    tracing::info!(host = home.host, %repo, chain = %step.chain_id,
                        blob = %row.digest, "a row named a blob that is gone: row deleted");
                    index
                        .delete_layer(&home.host, &repo, &step.chain_id, &row.digest)
                        .await?;
                }
                continue;
            }
            if let Some(layer) = self.find_remote(source, home, &row, parent).await? {
                self.record(home, step, &layer).await?;
                return Ok(Some(layer));
            }
        }
        Ok(None)
    }

    /// Whether the blob is the next link of the chain, by its own word or the operator's.
    fn fits(&self, blob: &LayerBlob, row: &LayerRow, parent: Option<&Digest>) -> bool {
        if blob.virtual_size() != self.inner.config.settings.virtual_size {
            return false;
        }
        match blob.user_tag().parse::<UserTag>() {
            Ok(tag) => {
                tag.fits(parent) && row.origin == Origin::Foreign
                    || tag.fits(parent) && row.is_variant(&self.inner.variant)
            }
            Err(_) => row.origin == Origin::Foreign && self.inner.config.trust_foreign_layers,
        }
    }

    /// Whether nothing can come of a row any more.
    async fn is_gone(
        &self,
        home: &Home,
        source: &Source,
        row: &LayerRow,
    ) -> Result<bool, ConvertError> {
        let place = home.place(source);
        let size = place
            .upstream
            .blob_size(&place.repo, &row.digest, &place.authorization)
            .await;
        match size {
            Ok(_) => Ok(false),
            Err(error) => Ok(error.is_not_found()),
        }
    }

    /// Whether whoever asks can pull the source layer here, and it is known to be the one
    /// that the chain means. A config can claim any diff id; converted content must not
    /// come out of a claim.
    async fn has_source(&self, source: &Source, step: &Step) -> Result<bool, ConvertError> {
        let seen = self
            .inner
            .store
            .index()
            .find_diff_id(&step.layer.digest)
            .await?;
        if seen.as_ref() != Some(&step.diff_id) {
            return Ok(false);
        }
        let there = source
            .upstream
            .blob_size(&source.repo, &step.layer.digest, &source.authorization)
            .await;
        match there {
            Ok(size) => Ok(size == step.layer.size),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Makes sure that a layer of the store is where its image's home is, and recorded.
    async fn settle(
        &self,
        source: &Source,
        home: &Home,
        step: &Step,
        layer: &Layer,
        is_recorded: bool,
    ) -> Result<(), ConvertError> {
        if home.is_pushed {
            self.push_layer(source, home, layer).await?;
        }
        if is_recorded {
            return Ok(());
        }
        self.record(home, step, layer).await
    }

    /// Writes the row of a layer, whose blob is durable by now.
    pub(super) async fn record(
        &self,
        home: &Home,
        step: &Step,
        layer: &Layer,
    ) -> Result<(), ConvertError> {
        let index = self.inner.store.index();
        index
            .put_layer(
                &home.host,
                &home.repo,
                &step.chain_id,
                &layer.digest,
                layer.size,
                &self.inner.variant,
            )
            .await?;
        Ok(())
    }
}

impl Home {
    /// The home as something to read from and write to.
    pub(super) fn place(&self, source: &Source) -> Source {
        if self.is_pushed {
            Source {
                upstream: self.upstream.clone(),
                repo: self.repo.clone(),
                authorization: Authorization::Own,
            }
        } else {
            source.clone()
        }
    }
}
