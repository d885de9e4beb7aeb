//! Looks up the TurboOCI layer of a chain that points into one compressed layer of the source.

use std::sync::Arc;

use super::super::context::Context;
use super::super::threads::{blocking, on_thread};
use super::fit::{Misfit, check_turbo_fit};
use super::layer::{Base, Layer, StoredBlob, Wanted};
use super::proof::prove;
use super::publish::push_layer;
use crate::convert::download::download;
use crate::convert::error::ConvertError;
use crate::convert::layer::{LayerBlob, TurboLayer};
use crate::convert::scratch::Scratch;
use crate::convert::turbo::{self, UnusableTurbo};
use crate::store::{BlobPin, LayerRow};

/// The layer, if this program made it and its blob is in the store, or in the registry that layers
/// are pushed to.
pub(super) async fn find_turbo(
    context: &Context,
    wanted: &Wanted<'_>,
    scratch: &Arc<Scratch>,
) -> Result<Option<Layer>, ConvertError> {
    let (index, chain) = (context.store.index(), &wanted.step.chain_id);
    let variant = context.variant_of(wanted.step);
    let Some(row) = index.find_built(chain, &variant).await? else {
        return Ok(None);
    };
    let mut opened = open(context, &row, scratch).await?;
    if opened.is_none() && context.store.fetch(&row.digest).await {
        opened = open(context, &row, scratch).await?;
    }
    if opened.is_none() && wanted.destination.is_pushed && bring(context, wanted, &row).await? {
        opened = open(context, &row, scratch).await?;
    }
    let fitting = match opened {
        None => return Ok(None),
        Some(Err(cause)) => Err(Misfit::Unreadable(cause)),
        Some(Ok(opened)) => {
            let size = context.config.settings.virtual_size;
            check_turbo_fit(&opened.0.0, wanted, size).map(|()| opened)
        }
    };
    let ((blob, turbo), pin) = match fitting {
        Ok(opened) => opened,
        Err(misfit) => {
            tracing::warn!(%chain, blob = %row.digest, %misfit,
                "a row names a TurboOCI layer that is not this chain's; it is not used");
            return Ok(None);
        }
    };
    prove(context, wanted.source, wanted.step).await?;
    let layer = Layer {
        digest: row.digest,
        size: row.size,
        blob: Arc::new(blob),
        pin: Some(pin),
        base: Base::Own,
        turbo: Some(turbo),
    };
    if wanted.destination.is_pushed {
        push_layer(context, wanted.source, wanted.destination, &layer).await?;
    }
    Ok(Some(layer))
}

/// A layer that is open, and what keeps its blob in the store; or why it cannot be used.
type Opened = Result<((LayerBlob, TurboLayer), BlobPin), String>;

/// Opens a row's blob, if it is in the store.
async fn open(
    context: &Context,
    row: &LayerRow,
    scratch: &Arc<Scratch>,
) -> Result<Option<Opened>, ConvertError> {
    let (blobs, digest, size) = (context.store.blobs().clone(), row.digest.clone(), row.size);
    let scratch = Arc::clone(scratch);
    on_thread("open", move || {
        let Some(file) = blobs.open(&digest)?.filter(|file| file.size() == size) else {
            return Ok(None);
        };
        let mut unpacked = blobs.unnamed()?;
        let blob = StoredBlob(blobs.share(file)?);
        let opened = turbo::open(&blob, &mut unpacked, &scratch);
        if matches!(
            opened,
            Err(UnusableTurbo::Content(_) | UnusableTurbo::Meta(_))
        ) {
            // It may have been damaged since it was verified: opening it again moves it aside.
            blobs.doubt(&digest);
        }
        let pin = blob.0.pin();
        Ok(Some(
            opened
                .map(|opened| (opened, pin))
                .map_err(|error| error.to_string()),
        ))
    })
    .await
}

/// Fetches a row's blob from the registry that layers are pushed to into the store, if it is there:
/// another replica made it.
async fn bring(
    context: &Context,
    wanted: &Wanted<'_>,
    row: &LayerRow,
) -> Result<bool, ConvertError> {
    let from = wanted.destination.as_source(wanted.source);
    let there = from
        .upstream
        .blob_size(&from.repo, &row.digest, &from.authorization);
    match there.await {
        Ok(size) if size == row.size => {}
        Ok(_) => return Ok(false),
        Err(error) if error.is_not_found() => return Ok(false),
        Err(error) => return Err(error.into()),
    }
    let temp = download(&context.store, &from, &row.digest, row.size).await?;
    let (blobs, digest, size) = (context.store.blobs().clone(), row.digest.clone(), row.size);
    blocking(move || Ok(blobs.commit(temp, &digest, size)?)).await?;
    Ok(true)
}
