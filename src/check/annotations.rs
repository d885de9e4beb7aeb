//! What a layer's descriptor in the manifest says of its blob.
//! Source: containerd/accelerated-container-image `pkg/label/label.go`, `pkg/version/version.go`,
//! `pkg/snapshot/overlay.go`.

use super::decompress::Packing;
use crate::oci::{Descriptor, Digest};

const BLOB_DIGEST: &str = "containerd.io/snapshot/overlaybd/blob-digest";
const BLOB_SIZE: &str = "containerd.io/snapshot/overlaybd/blob-size";
const VERSION: &str = "containerd.io/snapshot/overlaybd/version";
const ACCELERATION_LAYER: &str = "containerd.io/snapshot/overlaybd/acceleration-layer";
const TARGET_DIGEST: &str = "containerd.io/snapshot/overlaybd/turbo-oci/target-digest";
const TARGET_MEDIA_TYPE: &str = "containerd.io/snapshot/overlaybd/turbo-oci/target-media-type";
/// What the last two were called before; nodes still read them.
const OLD_TARGET_DIGEST: &str = "containerd.io/snapshot/overlaybd/fastoci/target-digest";
const OLD_TARGET_MEDIA_TYPE: &str = "containerd.io/snapshot/overlaybd/fastoci/target-media-type";

/// What [`VERSION`] says of a TurboOCI layer; the second is of old ones.
const TURBO_VERSIONS: [&str; 2] = ["0.1.0-turbo.ociv1", "0.1.0-fastoci"];

const GZIP_LAYERS: [&str; 2] = [
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
];
const TAR_LAYERS: [&str; 2] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
];

fn says<'a>(layer: &'a Descriptor, keys: &[&str]) -> Option<&'a str> {
    let mut values = keys.iter().filter_map(|key| layer.annotations.get(*key));
    values.next().map(String::as_str)
}

/// Whether a layer's annotations say that it is an overlaybd blob.
pub(super) fn is_overlaybd_layer(layer: &Descriptor) -> bool {
    says(layer, &[BLOB_DIGEST]).is_some()
}

/// Whether a layer's annotations say that it is a TurboOCI layer.
pub(super) fn is_turbo_layer(layer: &Descriptor) -> bool {
    let version = says(layer, &[VERSION]);
    says(layer, &[TARGET_DIGEST, OLD_TARGET_DIGEST]).is_some()
        || version.is_some_and(|version| TURBO_VERSIONS.contains(&version))
}

/// Whether a layer's annotations say that it is an acceleration layer.
pub(super) fn is_acceleration_layer(layer: &Descriptor) -> bool {
    says(layer, &[ACCELERATION_LAYER]) == Some("yes")
}

/// Compares what the annotations say of the blob with the descriptor.
pub(super) fn check_blob(layer: &Descriptor, problems: &mut Vec<String>) {
    let digest = &layer.digest;
    if says(layer, &[BLOB_DIGEST]) != Some(digest.as_str()) {
        problems.push(format!(
            "layer {digest}: its annotation names another digest"
        ));
    }
    let size = layer.size.map(|size| size.to_string());
    if says(layer, &[BLOB_SIZE]) != size.as_deref() {
        problems.push(format!("layer {digest}: its annotation names another size"));
    }
}

/// Compares what the annotations of a TurboOCI layer say with the source's layer that it must
/// point into.
pub(super) fn check_target(
    layer: &Descriptor,
    target: &Digest,
    packing: Packing,
    problems: &mut Vec<String>,
) {
    let mut add = |text: String| problems.push(format!("layer {}: {text}", layer.digest));
    if !GZIP_LAYERS.contains(&layer.media_type.as_str()) {
        add(format!(
            "its media type is {:?}, and that of a TurboOCI layer is {}",
            layer.media_type, GZIP_LAYERS[0]
        ));
    }
    match says(layer, &[VERSION]) {
        Some(version) if TURBO_VERSIONS.contains(&version) => {}
        version => add(format!(
            "its annotation {VERSION} is {}, and that of a TurboOCI layer is {}",
            shown(version),
            TURBO_VERSIONS[0]
        )),
    }
    match says(layer, &[TARGET_DIGEST, OLD_TARGET_DIGEST]) {
        Some(digest) if digest == target.as_str() => {}
        None => add(format!(
            "its annotation {TARGET_DIGEST} is missing: nodes take it for a native layer"
        )),
        Some(digest) => add(format!(
            "its annotation {TARGET_DIGEST} names {digest}, and the source's layer is {target}: \
             nodes would read other bytes, or none"
        )),
    }
    let media_type = says(layer, &[TARGET_MEDIA_TYPE, OLD_TARGET_MEDIA_TYPE]);
    let said = media_type.unwrap_or_default();
    let (known, is): (&[&str], _) = match packing {
        Packing::Gzip => (&GZIP_LAYERS, "gzip"),
        Packing::Tar => (&TAR_LAYERS, "a plain tar"),
        Packing::Zstd => {
            return add(format!(
                "the source's layer {target} is zstd, of which nodes cannot read a part: convert \
                 the image to native form"
            ));
        }
    };
    if !known.contains(&said) {
        add(format!(
            "its annotation {TARGET_MEDIA_TYPE} is {}, and the source's layer is {is}: nodes \
             would read it as something else",
            shown(media_type)
        ));
    }
}

fn shown(value: Option<&str>) -> String {
    value.map_or_else(|| "missing".to_owned(), |value| format!("{value:?}"))
}
