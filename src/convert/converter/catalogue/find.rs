//! Looks up the blob of a chain: by the rows of the index, in the store and the registry.

use std::sync::Arc;

use super::super::context::Context;
use super::super::destination::Destination;
use super::super::threads::{blocking, on_thread};
use super::fit::{MadeBy, Misfit, check_filesystem, check_fit};
use super::layer::{Base, Layer, StoredBlob, Wanted};
use super::proof::prove;
use super::publish::push_layer;
use super::record::record;
use super::turbo::find_turbo;
use crate::convert::error::ConvertError;
use crate::convert::layer::{Format, LayerBlob};
use crate::convert::plan::Step;
use crate::convert::remote::RemoteBlob;
use crate::format::blob::BlobError;
use crate::format::block::SharedDevice;
use crate::oci::RepoName;
use crate::registry::Error;
use crate::store::{self, LayerRow, Origin, SharedBlob, Shortage};

/// Most blobs of other repositories that are tried for one layer.
const MAX_MOUNTS: usize = 8;

/// Looks up the converted blob of a chain: one that continues the layers below, and that the
/// request may have. It is in the store or the destination's registry, and recorded.
///
/// # Errors
/// When the index, the store or a registry does not answer, or the source's layer is not what
/// the image's config says.
pub(in super::super) async fn find(
    context: &Context,
    wanted: &Wanted<'_>,
) -> Result<Option<Layer>, ConvertError> {
    if let Some(scratch) = wanted.scratch {
        return find_turbo(context, wanted, scratch).await;
    }
    let index = context.store.index();
    let (destination, chain) = (wanted.destination, &wanted.step.chain_id);
    let variant = wanted.base().variant(&context.layer_variant);
    let built = index.find_built(chain, &variant).await?;
    if let Some(row) = &built
        && let Some(layer) = find_built(context, wanted, row).await?
    {
        return Ok(Some(layer));
    }
    let is_excluded = |row: &LayerRow| {
        let is_built = built
            .as_ref()
            .is_some_and(|built| built.digest == row.digest);
        is_built || row.origin != Origin::Foreign
    };
    let shared = index
        .find_layer(&destination.host, &destination.repo, chain)
        .await?;
    if let Some(row) = shared.filter(|row| !is_excluded(row))
        && let Some(layer) = find_shared(context, wanted, &row).await?
    {
        return Ok(Some(layer));
    }
    if !destination.is_pushed {
        return Ok(None);
    }
    let rows = index
        .find_layer_elsewhere(&destination.host, chain, &variant)
        .await?;
    let rows = rows.into_iter().filter(|(_, row)| !is_excluded(row));
    let rows = rows.filter(|(repo, _)| *repo != destination.repo);
    for (repo, row) in rows.take(MAX_MOUNTS) {
        if let Some(layer) = mount(context, wanted, &repo, &row, MadeBy::Anyone).await? {
            return record_shared(context, wanted, layer).await.map(Some);
        }
    }
    Ok(None)
}

/// Whether any row that could be used names the chain. Cheap.
pub(in super::super) async fn is_named(
    context: &Context,
    destination: &Destination,
    step: &Step,
    base: &Base,
) -> Result<bool, ConvertError> {
    let index = context.store.index();
    let variant = base.variant(&context.variant_of(step));
    let is_built = index.find_built(&step.chain_id, &variant).await?.is_some();
    if context.config.settings.format != Format::Native {
        return Ok(is_built);
    }
    Ok(is_built
        || index
            .find_layer(&destination.host, &destination.repo, &step.chain_id)
            .await?
            .is_some_and(|row| row.origin == Origin::Foreign))
}

/// A blob that this program made: in the store, in the destination's repository, or in another
/// repository of that registry.
async fn find_built(
    context: &Context,
    wanted: &Wanted<'_>,
    row: &LayerRow,
) -> Result<Option<Layer>, ConvertError> {
    let destination = wanted.destination;
    if let Some(layer) = find_local(context, wanted, row, MadeBy::Us).await? {
        prove(context, wanted.source, wanted.step).await?;
        if destination.is_pushed {
            push_layer(context, wanted.source, destination, &layer).await?;
        }
        return Ok(Some(layer));
    }
    if !destination.is_pushed {
        return Ok(None);
    }
    if let Some(layer) = find_remote(context, wanted, row, MadeBy::Us).await? {
        prove(context, wanted.source, wanted.step).await?;
        return Ok(Some(layer));
    }
    let index = context.store.index();
    let repos = index.pushed_repos(&destination.host, &row.digest).await?;
    let others = repos.into_iter().filter(|repo| *repo != destination.repo);
    for repo in others.take(MAX_MOUNTS) {
        if let Some(layer) = mount(context, wanted, &repo, row, MadeBy::Us).await? {
            return Ok(Some(layer));
        }
    }
    Ok(None)
}

/// A blob that a row of the shared table names for the destination's repository.
async fn find_shared(
    context: &Context,
    wanted: &Wanted<'_>,
    row: &LayerRow,
) -> Result<Option<Layer>, ConvertError> {
    let layer = match find_local(context, wanted, row, MadeBy::Anyone).await? {
        Some(layer) => layer,
        None => match find_remote(context, wanted, row, MadeBy::Anyone).await? {
            Some(layer) => layer,
            None => return Ok(None),
        },
    };
    prove(context, wanted.source, wanted.step).await?;
    record_shared(context, wanted, layer).await.map(Some)
}

/// Records a blob that this program made and that only the shared table has.
async fn record_shared(
    context: &Context,
    wanted: &Wanted<'_>,
    layer: Layer,
) -> Result<Layer, ConvertError> {
    if layer.base != Base::Foreign(layer.digest.clone()) {
        record(context, wanted.step, &layer).await?;
    }
    Ok(layer)
}

/// A row's blob in the store, if it is there, or in the object storage, and fits.
async fn find_local(
    context: &Context,
    wanted: &Wanted<'_>,
    row: &LayerRow,
    made_by: MadeBy,
) -> Result<Option<Layer>, ConvertError> {
    let mut opened = open_local(context, row).await?;
    // Layers above are built on all of it, with many small reads.
    if opened.is_none() && context.store.fetch(&row.digest).await {
        opened = open_local(context, row).await?;
    }
    match opened {
        Some((shared, opened)) if shared.size() == row.size => {
            let layer = examine(context, wanted, row, made_by, opened).await?;
            Ok(layer.map(|layer| Layer {
                pin: Some(shared.pin()),
                ..layer
            }))
        }
        _ => Ok(None),
    }
}

/// A blob of the store that is open, or why it cannot be read.
type Opened = (SharedBlob, Result<Arc<LayerBlob>, String>);

/// Opens a row's blob, if it is in the store.
async fn open_local(context: &Context, row: &LayerRow) -> Result<Option<Opened>, ConvertError> {
    let (blobs, digest) = (context.store.blobs().clone(), row.digest.clone());
    blocking(move || {
        let Some(file) = blobs.open(&digest)? else {
            return Ok(None);
        };
        let shared = blobs.share(file)?;
        let opened = LayerBlob::open(Arc::new(StoredBlob(shared.clone())));
        match opened {
            Ok(blob) => Ok(Some((shared, Ok(Arc::new(blob))))),
            // That says nothing about the blob.
            Err(BlobError::Io(cause)) if Shortage::among(&cause).is_some() => {
                Err(store::BlobError::Io {
                    what: "reading",
                    path: blobs.path(&digest),
                    source: cause,
                }
                .into())
            }
            Err(error) => {
                // It may have been damaged since it was verified: opening it again moves it aside.
                blobs.doubt(&digest);
                let is_there = blobs.open(&digest)?.is_some();
                Ok(is_there.then(|| (shared, Err(error.to_string()))))
            }
        }
    })
    .await
}

/// A row's blob in the destination's registry, if it is there and fits.
async fn find_remote(
    context: &Context,
    wanted: &Wanted<'_>,
    row: &LayerRow,
    made_by: MadeBy,
) -> Result<Option<Layer>, ConvertError> {
    let target = wanted.destination.as_source(wanted.source);
    let size = target
        .upstream
        .blob_size(&target.repo, &row.digest, &target.authorization)
        .await;
    match size {
        Ok(size) if size == row.size => {}
        Ok(_) => return Ok(None),
        Err(error) if error.is_not_found() => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let device: SharedDevice = Arc::new(RemoteBlob::new(target, row.digest.clone(), row.size));
    let opened = on_thread("open", move || {
        let opened = LayerBlob::open(device).map(Arc::new);
        Ok(opened.map_err(|error| error.to_string()))
    })
    .await?;
    examine(context, wanted, row, made_by, opened).await
}

/// A blob of another repository of the destination's registry, mounted into the destination.
async fn mount(
    context: &Context,
    wanted: &Wanted<'_>,
    from: &RepoName,
    row: &LayerRow,
    made_by: MadeBy,
) -> Result<Option<Layer>, ConvertError> {
    prove(context, wanted.source, wanted.step).await?;
    let destination = wanted.destination;
    let target = destination.as_source(wanted.source);
    let mounted = target
        .upstream
        .mount_blob(&destination.repo, &row.digest, from, &target.authorization)
        .await;
    match mounted {
        Ok(true) => {}
        Ok(false) | Err(Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let found = find_remote(context, wanted, row, made_by).await?;
    if found.is_some() {
        let index = context.store.index();
        index
            .put_pushed(&destination.host, &destination.repo, &row.digest)
            .await?;
    }
    Ok(found)
}

/// The layer of an opened blob, if it is the one that is wanted; logged if it is not.
async fn examine(
    context: &Context,
    wanted: &Wanted<'_>,
    row: &LayerRow,
    made_by: MadeBy,
    opened: Result<Arc<LayerBlob>, String>,
) -> Result<Option<Layer>, ConvertError> {
    let config = &context.config;
    let trusts = config.trust_foreign_layers;
    let fitting = match opened {
        Ok(blob) => check_fit(
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
        // The filesystem of another tool's bottom blob is checked before anything is built on it.
        Ok((blob, Base::Foreign(digest))) if wanted.below.is_none() => {
            on_thread("check", move || {
                let whole = check_filesystem(Arc::clone(&blob));
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
            turbo: None,
        })),
        Err(misfit) => {
            let chain = &wanted.step.chain_id;
            if misfit.is_expected() {
                tracing::debug!(%chain, blob = %row.digest, %misfit, "a row's blob is not used");
            } else {
                tracing::warn!(%chain, blob = %row.digest, %misfit,
                        "a row names a blob that is not this chain's; it is not used");
            }
            Ok(None)
        }
    }
}
