//! Which row names a chain's blob, and where that is.

use std::sync::Arc;

use super::super::super::layer::LayerBlob;
use super::super::super::plan::Step;
use super::super::{ConvertError, Converter, Home, blocking, on_thread, remote};
use super::fit::{MadeBy, Misfit, fit, has_filesystem};
use super::{Base, Layer, StoredBlob, Wanted};
use crate::format::blob::BlobError;
use crate::format::block::SharedDevice;
use crate::oci::RepoName;
use crate::registry::Error;
use crate::store::{self, LayerRow, Origin, Shortage};

/// Most blobs of other repositories that are tried for one layer.
const MAX_MOUNTS: usize = 8;

impl Converter {
    /// The converted blob of a chain, if there is one that fits on what is below, and whoever
    /// asks may have it. It is where its image's home is, and recorded.
    ///
    /// # Errors
    /// When something gives no answer, or the source's layer is not what the image's config
    /// claims it to be.
    pub(in super::super) async fn find(
        &self,
        wanted: &Wanted<'_>,
    ) -> Result<Option<Layer>, ConvertError> {
        let index = self.inner.store.index();
        let (home, chain) = (wanted.home, &wanted.step.chain_id);
        let variant = wanted.base().variant(&self.inner.variant);
        let built = index.find_built(chain, &variant).await?;
        if let Some(row) = &built
            && let Some(layer) = self.find_built(wanted, row).await?
        {
            return Ok(Some(layer));
        }
        let is_tried = |row: &LayerRow| {
            let tried = built
                .as_ref()
                .is_some_and(|built| built.digest == row.digest);
            tried || row.origin != Origin::Foreign
        };
        let shared = index.find_layer(&home.host, &home.repo, chain).await?;
        if let Some(row) = shared.filter(|row| !is_tried(row))
            && let Some(layer) = self.find_shared(wanted, &row).await?
        {
            return Ok(Some(layer));
        }
        if !home.is_pushed {
            return Ok(None);
        }
        let rows = index
            .find_layer_elsewhere(&home.host, chain, &variant)
            .await?;
        let rows = rows.into_iter().filter(|(_, row)| !is_tried(row));
        let rows = rows.filter(|(repo, _)| *repo != home.repo);
        for (repo, row) in rows.take(MAX_MOUNTS) {
            if let Some(layer) = self.mount(wanted, &repo, &row, MadeBy::Anyone).await? {
                return self.take(wanted, layer).await.map(Some);
            }
        }
        Ok(None)
    }

    /// Whether any row that could be used names the chain. Cheap.
    pub(in super::super) async fn is_named(
        &self,
        home: &Home,
        step: &Step,
        base: &Base,
    ) -> Result<bool, ConvertError> {
        let index = self.inner.store.index();
        let variant = base.variant(&self.inner.variant);
        Ok(index.find_built(&step.chain_id, &variant).await?.is_some()
            || index
                .find_layer(&home.host, &home.repo, &step.chain_id)
                .await?
                .is_some_and(|row| row.origin == Origin::Foreign))
    }

    /// A blob of this program: in the store, in the home's registry, or in another repository
    /// of that.
    async fn find_built(
        &self,
        wanted: &Wanted<'_>,
        row: &LayerRow,
    ) -> Result<Option<Layer>, ConvertError> {
        let home = wanted.home;
        if let Some(layer) = self.find_local(wanted, row, MadeBy::Us).await? {
            self.prove(wanted.source, wanted.step).await?;
            if home.is_pushed {
                self.push_layer(wanted.source, home, &layer).await?;
            }
            return Ok(Some(layer));
        }
        if !home.is_pushed {
            return Ok(None);
        }
        if let Some(layer) = self.find_remote(wanted, row, MadeBy::Us).await? {
            self.prove(wanted.source, wanted.step).await?;
            return Ok(Some(layer));
        }
        let index = self.inner.store.index();
        let repos = index.pushed_repos(&home.host, &row.digest).await?;
        let others = repos.into_iter().filter(|repo| *repo != home.repo);
        for repo in others.take(MAX_MOUNTS) {
            if let Some(layer) = self.mount(wanted, &repo, row, MadeBy::Us).await? {
                return Ok(Some(layer));
            }
        }
        Ok(None)
    }

    /// A blob that a row of the shared table names in the home's own repository.
    async fn find_shared(
        &self,
        wanted: &Wanted<'_>,
        row: &LayerRow,
    ) -> Result<Option<Layer>, ConvertError> {
        let layer = match self.find_local(wanted, row, MadeBy::Anyone).await? {
            Some(layer) => layer,
            None => match self.find_remote(wanted, row, MadeBy::Anyone).await? {
                Some(layer) => layer,
                None => return Ok(None),
            },
        };
        self.prove(wanted.source, wanted.step).await?;
        self.take(wanted, layer).await.map(Some)
    }

    /// Records a blob of this program that only the shared table knew.
    async fn take(&self, wanted: &Wanted<'_>, layer: Layer) -> Result<Layer, ConvertError> {
        if layer.base != Base::Foreign(layer.digest.clone()) {
            self.record(wanted.step, &layer).await?;
        }
        Ok(layer)
    }

    /// A row's blob in the store, if it is there and fits.
    async fn find_local(
        &self,
        wanted: &Wanted<'_>,
        row: &LayerRow,
        made_by: MadeBy,
    ) -> Result<Option<Layer>, ConvertError> {
        let (blobs, digest) = (self.inner.store.blobs().clone(), row.digest.clone());
        let opened = blocking(move || {
            let Some(file) = blobs.open(&digest)? else {
                return Ok(None);
            };
            let shared = blobs.share(file)?;
            let opened = LayerBlob::open(Arc::new(StoredBlob(shared.clone())));
            match opened {
                Ok(blob) => Ok(Some((shared, Ok(Arc::new(blob))))),
                // Nothing is known of the blob then.
                Err(BlobError::Io(cause)) if Shortage::among(&cause).is_some() => {
                    Err(store::BlobError::Io {
                        what: "reading",
                        path: blobs.path(&digest),
                        source: cause,
                    }
                    .into())
                }
                Err(error) => {
                    // Damaged since it was verified, perhaps: then it is moved aside now.
                    blobs.doubt(&digest);
                    let is_there = blobs.open(&digest)?.is_some();
                    Ok(is_there.then(|| (shared, Err(error.to_string()))))
                }
            }
        })
        .await?;
        match opened {
            Some((shared, opened)) if shared.size() == row.size => {
                let layer = self.examine(wanted, row, made_by, opened).await?;
                Ok(layer.map(|layer| Layer {
                    pin: Some(shared.pin()),
                    ..layer
                }))
            }
            _ => Ok(None),
        }
    }

    /// A row's blob in the home's registry, if it is there and fits.
    async fn find_remote(
        &self,
        wanted: &Wanted<'_>,
        row: &LayerRow,
        made_by: MadeBy,
    ) -> Result<Option<Layer>, ConvertError> {
        let place = wanted.home.place(wanted.source);
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
        let opened = on_thread("open", move || {
            let opened = LayerBlob::open(device).map(Arc::new);
            Ok(opened.map_err(|error| error.to_string()))
        })
        .await?;
        self.examine(wanted, row, made_by, opened).await
    }

    /// A blob of another repository on the home's registry, mounted into the home.
    async fn mount(
        &self,
        wanted: &Wanted<'_>,
        from: &RepoName,
        row: &LayerRow,
        made_by: MadeBy,
    ) -> Result<Option<Layer>, ConvertError> {
        self.prove(wanted.source, wanted.step).await?;
        let home = wanted.home;
        let place = home.place(wanted.source);
        let mounted = place
            .upstream
            .mount_blob(&home.repo, &row.digest, from, &place.authorization)
            .await;
        match mounted {
            Ok(true) => {}
            Ok(false) | Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        let found = self.find_remote(wanted, row, made_by).await?;
        if found.is_some() {
            let index = self.inner.store.index();
            index
                .put_pushed(&home.host, &home.repo, &row.digest)
                .await?;
        }
        Ok(found)
    }

    /// Takes an opened blob if it is the one that is wanted, and says so if it is not.
    async fn examine(
        &self,
        wanted: &Wanted<'_>,
        row: &LayerRow,
        made_by: MadeBy,
        opened: Result<Arc<LayerBlob>, String>,
    ) -> Result<Option<Layer>, ConvertError> {
        let config = &self.inner.config;
        let trusts = config.trust_foreign_layers;
        let fitting = match opened {
            Ok(blob) => fit(
                &blob,
                &row.digest,
                wanted,
                made_by,
                &config.settings,
                trusts,
            )
            .map(|base| (blob, base)),
            Err(cause) => Err(Misfit::Unreadable(cause)),
        };
        let fitting = match fitting {
            // A bottom blob that others made is looked into before anything is built on it.
            Ok((blob, Base::Foreign(digest))) if wanted.below.is_none() => {
                on_thread("look", move || {
                    let whole = has_filesystem(Arc::clone(&blob));
                    Ok(whole.map(|()| (blob, Base::Foreign(digest))))
                })
                .await?
            }
            other => other,
        };
        match fitting {
            Ok((blob, base)) => Ok(Some(Layer {
                digest: row.digest.clone(),
                size: row.size,
                blob,
                pin: None,
                base,
            })),
            Err(misfit) => {
                let chain = &wanted.step.chain_id;
                if misfit.is_usual() {
                    tracing::debug!(%chain, blob = %row.digest, %misfit, "a row's blob is not used");
                } else {
                    tracing::warn!(%chain, blob = %row.digest, %misfit,
                        "a row names a blob that is not this chain's; it is not used");
                }
                Ok(None)
            }
        }
    }
}
