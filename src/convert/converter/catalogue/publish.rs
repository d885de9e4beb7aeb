//! Publishes layers: to the destination's registry, and in the table that is shared with the
//! reference converter.

use super::super::context::Context;
use super::super::destination::Destination;
use super::super::threads::blocking;
use super::super::variant;
use super::layer::Layer;
use crate::convert::error::ConvertError;
use crate::convert::plan::Step;
use crate::convert::types::Source;
use crate::oci::Digest;
use crate::registry::BlobSource;
use crate::store::{LayerRow, Origin, SharedLayer};

/// Pushes a layer of the store to the destination's registry, unless it is there.
pub(in super::super) async fn push_layer(
    context: &Context,
    source: &Source,
    destination: &Destination,
    layer: &Layer,
) -> Result<(), ConvertError> {
    let target = destination.as_source(source);
    let (blobs, digest) = (context.store.blobs().clone(), layer.digest.clone());
    let Some(file) = blocking(move || Ok(blobs.open(&digest)?)).await? else {
        return Err(ConvertError::Interrupted);
    };
    let bytes = BlobSource::File(file.path());
    target
        .upstream
        .push_blob(
            &target.repo,
            &layer.digest,
            layer.size,
            &bytes,
            &target.authorization,
        )
        .await?;
    let index = context.store.index();
    index
        .put_pushed(&destination.host, &destination.repo, &layer.digest)
        .await?;
    Ok(())
}

/// Adds a whole chain, which the destination's registry has, to the table that is shared
/// with the reference converter.
///
/// That tool uses the blob that a row names for a chain, in any repository of the host, and
/// builds on it. To keep blobs of two tools out of one image, nothing is added where the host
/// has another blob for any layer of the chain.
pub(in super::super) async fn share(
    context: &Context,
    destination: &Destination,
    steps: &[Step],
    layers: &[Layer],
) -> Result<(), ConvertError> {
    let index = context.store.index();
    let (host, repo) = (&destination.host, &destination.repo);
    let mut superseded: Vec<Option<Digest>> = Vec::with_capacity(steps.len());
    for (step, layer) in steps.iter().zip(layers) {
        let others = index
            .find_other_layers(host, &step.chain_id, &layer.digest)
            .await?;
        if let Some((elsewhere, row)) = others.iter().find(|(_, row)| !is_superseded(context, row))
        {
            tracing::debug!(%host, %repo, chain = %step.chain_id, row = %row.digest,
                    %elsewhere, "the shared table has another blob for a layer: nothing is added");
            return Ok(());
        }
        let own = others.into_iter().find(|(of, _)| of == repo);
        superseded.push(own.map(|(_, row)| row.digest));
    }
    let mut below = None;
    for ((step, layer), old) in steps.iter().zip(layers).zip(superseded) {
        let row = SharedLayer {
            chain: &step.chain_id,
            digest: &layer.digest,
            size: layer.size,
            below,
        };
        if let Some(old) = old {
            index.replace_shared_layer(host, repo, &row, &old).await?;
        }
        if !index.share_layer(host, repo, &row).await? {
            return Ok(());
        }
        below = Some((&step.chain_id, &layer.digest));
    }
    Ok(())
}

/// Whether an earlier version of this program wrote a row, whose blob holds the same disk as
/// one made now, so that what was built on it stays right.
fn is_superseded(context: &Context, row: &LayerRow) -> bool {
    match &row.origin {
        Origin::Ours { variant } => variant::has_same_disk(variant, &context.config.settings),
        Origin::Foreign => false,
    }
}
