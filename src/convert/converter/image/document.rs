//! The parts of a converted image, made from documents.

use crate::convert::image::Subject;
use crate::convert::types::{ConvertedImage, ConvertedManifest, StoredManifest};
use crate::oci::{Digest, ImageManifest, Platform};
use crate::registry::RawManifest;

/// A converted manifest of this program's own layers only.
pub(super) fn converted_manifest(
    source: &Digest,
    platform: Option<Platform>,
    manifest: StoredManifest,
    parsed: ImageManifest,
) -> ConvertedManifest {
    ConvertedManifest {
        source: source.clone(),
        platform,
        manifest,
        config: parsed.config,
        layers: parsed.layers,
        has_foreign_layers: false,
    }
}

/// The source manifest as the subject of the converted one.
pub(super) fn subject_of(raw: &RawManifest) -> Subject {
    Subject {
        media_type: raw.media_type.clone(),
        digest: raw.digest.clone(),
        size: raw.bytes.len() as u64,
    }
}

/// The digests of all documents and layers of a converted image.
pub(in super::super) fn part_digests(image: &ConvertedImage) -> Vec<Digest> {
    let mut parts = vec![image.root.digest.clone()];
    parts.extend(image.indexes.iter().map(|index| index.digest.clone()));
    parts.extend(image.manifests.iter().flat_map(manifest_digests));
    parts
}

/// The digests of a converted manifest, its config and its layers.
pub(super) fn manifest_digests(one: &ConvertedManifest) -> Vec<Digest> {
    let mut parts = vec![one.manifest.digest.clone(), one.config.digest.clone()];
    parts.extend(one.layers.iter().map(|layer| layer.digest.clone()));
    parts
}
