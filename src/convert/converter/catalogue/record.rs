//! What is written down of converted layers: for this program, and for the reference converter.

use std::sync::Arc;

use super::super::super::layer::LayerBlob;
use super::super::super::plan::Step;
use super::super::types::Source;
use super::super::variant::{Disk, disk};
use super::super::{ConvertError, Converter, Home, on_thread, remote};
use super::compare::is_same;
use super::{Layer, StoredBlob};
use crate::format::block::SharedDevice;
use crate::oci::{Digest, RepoName};
use crate::registry::Authorization;
use crate::store::{LayerRow, Origin, SharedLayer};

impl Converter {
    /// Records a layer of this program's own, whose blob is durable by now.
    pub(in super::super) async fn record(
        &self,
        step: &Step,
        layer: &Layer,
    ) -> Result<(), ConvertError> {
        let variant = layer.base.variant(&self.inner.variant);
        let index = self.inner.store.index();
        index
            .put_built(&step.chain_id, &variant, &layer.digest, layer.size)
            .await?;
        Ok(())
    }

    /// Adds a whole chain, which the home's registry has by now, to the table that is shared
    /// with the reference converter.
    ///
    /// That tool takes whatever blob a row names for a chain, in any repository of the host,
    /// and builds on it. Blobs of two tools for one chain would come to be mixed in one image,
    /// so nothing is added where the host has another blob for any layer of the chain.
    ///
    /// A row that an earlier version of this program wrote gives way if its blob holds the same,
    /// which is looked at where the versions leave it open: what was built on the one is right
    /// on the other. If it does not, what the other tool may have built on it would be wrong on
    /// the new one, and the table does not tell whether there is any: the row stays, and all
    /// that stands on it stays right. Such chains are shared again once their rows are deleted,
    /// with those of all chains above them.
    pub(in super::super) async fn share(
        &self,
        home: &Home,
        steps: &[Step],
        layers: &[Layer],
    ) -> Result<(), ConvertError> {
        let index = self.inner.store.index();
        let (host, repo) = (&home.host, &home.repo);
        let mut superseded: Vec<Option<Digest>> = Vec::with_capacity(steps.len());
        for (step, layer) in steps.iter().zip(layers) {
            let others = index
                .find_other_layers(host, &step.chain_id, &layer.digest)
                .await?;
            for (elsewhere, row) in &others {
                if self.is_superseded(home, elsewhere, row, layer).await {
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

    /// Whether a row is of an earlier version of this program, and its blob's disk the same as
    /// that of `layer`, so that what was built on it stays right.
    async fn is_superseded(
        &self,
        home: &Home,
        repo: &RepoName,
        row: &LayerRow,
        layer: &Layer,
    ) -> bool {
        let Origin::Ours { variant } = &row.origin else {
            return false;
        };
        match disk(variant, &self.inner.config.settings) {
            Disk::Same => true,
            Disk::Another => false,
            Disk::SameOrAnother => {
                let looked = self.has_same_disk(home, repo, row, layer).await;
                looked.unwrap_or_else(|error| {
                    tracing::info!(host = %home.host, %repo, row = %row.digest, %error,
                        "an earlier version's blob cannot be compared with the one made now: its \
                         row in the shared table stays");
                    false
                })
            }
        }
    }

    /// Whether the blob of an earlier version's row holds the same as `layer`.
    async fn has_same_disk(
        &self,
        home: &Home,
        repo: &RepoName,
        row: &LayerRow,
        layer: &Layer,
    ) -> Result<bool, ConvertError> {
        let place = Source {
            upstream: home.upstream.clone(),
            repo: repo.clone(),
            authorization: Authorization::Own,
        };
        let remote: SharedDevice = remote::device(place, row.digest.clone(), row.size);
        let (blobs, digest) = (self.inner.store.blobs().clone(), row.digest.clone());
        let new = Arc::clone(&layer.blob);
        let seen = on_thread("compare", move || {
            let old: SharedDevice = match blobs.open(&digest)? {
                Some(file) => Arc::new(StoredBlob(blobs.share(file)?)),
                None => remote,
            };
            // Also one that nodes refuse: an earlier version made those.
            let old = LayerBlob::open_readable(old).map(Arc::new);
            Ok(old
                .map_err(|error| error.to_string())
                .and_then(|old| is_same(&old, &new).map_err(|error| error.to_string())))
        })
        .await?;
        match seen {
            Ok(true) => Ok(true),
            Ok(false) => {
                tracing::info!(host = %home.host, %repo, row = %row.digest, blob = %layer.digest,
                    "an earlier version's blob holds another disk than the one made now: its row \
                     in the shared table stays, for what may have been built on it; delete the \
                     rows of this chain and of those above it to share new ones");
                Ok(false)
            }
            Err(error) => {
                tracing::info!(host = %home.host, %repo, row = %row.digest, error,
                    "an earlier version's blob cannot be read: its row in the shared table stays");
                Ok(false)
            }
        }
    }
}
