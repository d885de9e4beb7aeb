//! Publishes layers: to the destination's registry, and in the table that is shared with the
//! reference converter.

use std::sync::Arc;
use std::time::Instant;

use super::super::context::Context;
use super::super::conversion_log::seconds;
use super::super::destination::Destination;
use super::super::status::add;
use super::super::threads::{blocking, on_thread};
use super::super::variant::{self, Disk};
use super::compare::is_same;
use super::layer::{Layer, StoredBlob};
use crate::convert::error::ConvertError;
use crate::convert::layer::LayerBlob;
use crate::convert::plan::Step;
use crate::convert::remote::RemoteBlob;
use crate::convert::types::Source;
use crate::format::block::SharedDevice;
use crate::oci::{Digest, RepoName};
use crate::registry::{BlobSource, Pushed};
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
    let begun = Instant::now();
    let pushed = target
        .upstream
        .push_blob(
            &target.repo,
            &layer.digest,
            layer.size,
            &bytes,
            &target.authorization,
        )
        .await;
    let counted = &context.counters.pushed_layers;
    match &pushed {
        Ok(Pushed::Uploaded) => {
            add(&counted.pushed, 1);
            add(&context.counters.pushed_bytes, layer.size);
        }
        Ok(Pushed::Present) => add(&counted.present, 1),
        Err(_) => add(&counted.failed, 1),
    }
    let pushed = pushed?;
    let index = context.store.index();
    index
        .put_pushed(&destination.host, &destination.repo, &layer.digest)
        .await?;
    if pushed == Pushed::Uploaded {
        tracing::info!(
            registry = destination.host, repo = %destination.repo, digest = %layer.digest,
            bytes = layer.size, seconds = seconds(begun.elapsed()),
            "a converted layer was pushed"
        );
    }
    Ok(())
}

/// Adds a whole chain, which the destination's registry has, to the table that is shared
/// with the reference converter.
///
/// That tool uses the blob that a row names for a chain, in any repository of the host, and
/// builds on it. To keep blobs of two tools out of one image, nothing is added where the host
/// has another blob for any layer of the chain.
///
/// A row that an earlier version of this program wrote is replaced if its blob holds the same disk,
/// which is compared where the versions do not decide it: what was built on the one is right on
/// the other. If not, what the other tool may have built on it would be wrong on the new one, and
/// the table does not show whether there is any: the row stays, and all that was built on it stays
/// right. Such chains are shared again once their rows are deleted, with those of all chains above
/// them.
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
        for (elsewhere, row) in &others {
            if is_superseded(context, destination, elsewhere, row, layer).await {
                continue;
            }
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
/// `layer`, so that what was built on it stays right.
async fn is_superseded(
    context: &Context,
    destination: &Destination,
    repo: &RepoName,
    row: &LayerRow,
    layer: &Layer,
) -> bool {
    let Origin::Ours { variant } = &row.origin else {
        return false;
    };
    match variant::disk(variant, &context.config.settings) {
        Disk::Same => true,
        Disk::Another => false,
        Disk::SameOrAnother => {
            let compared = has_same_disk(context, destination, repo, row, layer).await;
            compared.unwrap_or_else(|error| {
                tracing::info!(host = %destination.host, %repo, row = %row.digest, %error,
                    "an earlier version's blob cannot be compared with the one made now: its \
                     row in the shared table stays");
                false
            })
        }
    }
}

/// Whether the blob of an earlier version's row holds the same disk as `layer`.
async fn has_same_disk(
    context: &Context,
    destination: &Destination,
    repo: &RepoName,
    row: &LayerRow,
    layer: &Layer,
) -> Result<bool, ConvertError> {
    let source = Source {
        repo: repo.clone(),
        ..destination.as_own_source()
    };
    let remote: SharedDevice = Arc::new(RemoteBlob::new(source, row.digest.clone(), row.size));
    let (blobs, digest) = (context.store.blobs().clone(), row.digest.clone());
    let new = Arc::clone(&layer.blob);
    let compared = on_thread("compare", move || {
        let old: SharedDevice = match blobs.open(&digest)? {
            Some(file) => Arc::new(StoredBlob(blobs.share(file)?)),
            None => remote,
        };
        // Also one that overlaybd refuses: an earlier version made those.
        let old = LayerBlob::open_readable(old).map(Arc::new);
        Ok(old
            .map_err(|error| error.to_string())
            .and_then(|old| is_same(&old, &new).map_err(|error| error.to_string())))
    })
    .await?;
    match compared {
        Ok(true) => Ok(true),
        Ok(false) => {
            tracing::info!(host = %destination.host, %repo, row = %row.digest,
                blob = %layer.digest,
                "an earlier version's blob holds another disk than the one made now: its row \
                 in the shared table stays, for what may have been built on it; delete the \
                 rows of this chain and of those above it to share new ones");
            Ok(false)
        }
        Err(error) => {
            tracing::info!(host = %destination.host, %repo, row = %row.digest, error,
                "an earlier version's blob cannot be read: its row in the shared table stays");
            Ok(false)
        }
    }
}
