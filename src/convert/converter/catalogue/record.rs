//! What is written down of converted layers: for this program, and for the reference converter.

use super::super::super::plan::Step;
use super::super::{ConvertError, Converter, Home};
use super::Layer;
use crate::oci::Digest;
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
            if let Some((elsewhere, row)) = others.iter().find(|(_, row)| !self.is_superseded(row))
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

    /// Whether a row is of an earlier version of this program, and its blob's disk the same as
    /// that of a blob made now, so that what was built on it stays right.
    fn is_superseded(&self, row: &LayerRow) -> bool {
        match &row.origin {
            Origin::Ours { variant } => {
                super::super::variant::has_same_disk(variant, &self.inner.config.settings)
            }
            Origin::Foreign => false,
        }
    }
}
