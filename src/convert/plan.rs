//! Plans a conversion: from a manifest and its config to the layers, with their chain-ids.

use crate::format::blob::MAX_LAYERS;
use crate::oci::{ChainId, DiffId, Digest};

/// A layer as the source manifest names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceLayer {
    /// Media type of the compressed layer.
    pub media_type: String,
    /// Digest of the compressed layer.
    pub digest: Digest,
    /// Size of the compressed layer in bytes.
    pub size: u64,
}

/// One layer to convert, above the chain below it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The compressed layer.
    pub layer: SourceLayer,
    /// Digest of its uncompressed tar, from the config.
    pub diff_id: DiffId,
    /// The chain that ends in this layer.
    pub chain_id: ChainId,
    /// The chain below; `None` at the bottom.
    pub parent: Option<ChainId>,
}

/// Why an image cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Manifest and config do not belong together.
    #[error(
        "the manifest has {layers} layers and the config {diff_ids} diff_ids: \
         the image is broken, push it again"
    )]
    Counts {
        /// Layers in the manifest.
        layers: usize,
        /// Diff ids in the config.
        diff_ids: usize,
    },
    /// More layers than readers stack.
    #[error("the image has {0} layers; overlaybd stacks at most {MAX_LAYERS}: squash some of them")]
    TooManyLayers(usize),
    /// A layer that is no tar of a root filesystem.
    #[error(
        "layer {digest} is of media type {media_type:?}, which is no layer that can be converted"
    )]
    MediaType {
        /// The layer.
        digest: Digest,
        /// Its media type.
        media_type: String,
    },
}

/// Whether the media type says that the layer is a tar, compressed or not, or says nothing.
/// The bytes decide how it is compressed: the types of real images often lie.
fn is_layer(media_type: &str) -> bool {
    if media_type.is_empty() {
        return true;
    }
    let known = [
        "application/vnd.oci.image.layer.",
        "application/vnd.docker.image.rootfs.",
    ];
    known.iter().any(|prefix| media_type.starts_with(prefix))
        && media_type.contains(".tar")
        && !media_type.contains("encrypted")
}

/// The steps, bottom first.
///
/// # Errors
/// When manifest and config disagree or a layer is none.
pub fn steps(layers: Vec<SourceLayer>, diff_ids: &[DiffId]) -> Result<Vec<Step>, PlanError> {
    if layers.len() != diff_ids.len() {
        return Err(PlanError::Counts {
            layers: layers.len(),
            diff_ids: diff_ids.len(),
        });
    }
    if layers.len() > MAX_LAYERS {
        return Err(PlanError::TooManyLayers(layers.len()));
    }
    let mut below = None;
    let chains = ChainId::chain(diff_ids);
    layers
        .into_iter()
        .zip(diff_ids.iter().zip(chains))
        .map(|(layer, (diff_id, chain_id))| {
            if !is_layer(&layer.media_type) {
                return Err(PlanError::MediaType {
                    digest: layer.digest,
                    media_type: layer.media_type,
                });
            }
            let parent = below.replace(chain_id.clone());
            Ok(Step {
                layer,
                diff_id: diff_id.clone(),
                chain_id,
                parent,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(n: u8) -> SourceLayer {
        SourceLayer {
            media_type: "application/vnd.oci.image.layer.v1.tar+gzip".into(),
            digest: Digest::of(&[n]),
            size: 1,
        }
    }

    fn diff_ids(count: usize) -> Vec<DiffId> {
        (0..count)
            .map(|n| DiffId(Digest::of(&n.to_le_bytes())))
            .collect()
    }

    #[test]
    fn each_step_has_the_chain_below_as_parent() {
        let diff_ids = diff_ids(3);
        let steps = steps(vec![layer(0), layer(1), layer(2)], &diff_ids).unwrap();
        assert_eq!(steps[0].parent, None);
        assert_eq!(steps[2].parent.as_ref(), Some(&steps[1].chain_id));
        assert_eq!(steps[2].chain_id, ChainId::chain(&diff_ids)[2]);
    }

    #[test]
    fn a_config_with_fewer_diff_ids_than_layers_is_refused() {
        let error = steps(vec![layer(0), layer(1)], &diff_ids(1)).unwrap_err();
        assert_eq!(
            error,
            PlanError::Counts {
                layers: 2,
                diff_ids: 1
            }
        );
    }

    #[test]
    fn more_than_255_layers_are_refused() {
        let layers = |count: usize| vec![layer(0); count];
        assert!(steps(layers(255), &diff_ids(255)).is_ok());
        assert_eq!(
            steps(layers(256), &diff_ids(256)),
            Err(PlanError::TooManyLayers(256))
        );
    }

    #[test]
    fn an_unsupported_media_type_is_refused_and_named() {
        for media_type in [
            "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
            "application/vnd.cncf.helm.chart.content.v1.tar+gzip",
            "text/plain",
        ] {
            let layer = SourceLayer {
                media_type: media_type.into(),
                ..layer(0)
            };
            let error = steps(vec![layer], &diff_ids(1)).unwrap_err();
            assert!(error.to_string().contains(media_type), "{error}");
        }
    }
}
