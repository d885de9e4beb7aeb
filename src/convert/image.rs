//! The documents of a converted image: config, manifest, index.
//!
//! The source documents are edited as JSON values, so that fields which no
//! specification names survive. Sources of what is changed: OCI image-spec
//! `manifest.md`, `config.md`, `image-index.md`; the annotations are those of
//! accelerated-container-image `pkg/label/label.go`.

use serde_json::{Map, Value, json};

use crate::oci::{Descriptor, DiffId, Digest, ImageManifest, json};

/// Annotation: digest of the overlaybd blob.
pub const BLOB_DIGEST: &str = "containerd.io/snapshot/overlaybd/blob-digest";
/// Annotation: size of the overlaybd blob in bytes, decimal.
pub const BLOB_SIZE: &str = "containerd.io/snapshot/overlaybd/blob-size";
/// Annotation: version of the overlaybd layer format.
pub const BLOB_VERSION: &str = "containerd.io/snapshot/overlaybd/version";
/// Annotation: filesystem in the blob.
pub const BLOB_FS_TYPE: &str = "containerd.io/snapshot/overlaybd/blob-fs-type";
/// Annotation: that the uppermost layer holds no filesystem but what is read ahead when a container
/// starts.
pub const ACCELERATION_LAYER: &str = "containerd.io/snapshot/overlaybd/acceleration-layer";
/// `artifactType` of a converted image that names its source as `subject`.
pub const ARTIFACT_TYPE: &str = "application/vnd.containerd.overlaybd.native.v1+json";

pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// `artifactType` of a TurboOCI image that names its source as `subject`.
pub const TURBO_ARTIFACT_TYPE: &str = "application/vnd.containerd.overlaybd.turbo.v1+json";
/// Annotation: digest of the original layer that a TurboOCI layer points into.
pub const TARGET_DIGEST: &str = "containerd.io/snapshot/overlaybd/turbo-oci/target-digest";
/// Annotation: media type of that layer, which says what its bytes are.
pub const TARGET_MEDIA_TYPE: &str = "containerd.io/snapshot/overlaybd/turbo-oci/target-media-type";
/// What [`BLOB_VERSION`] says of a native layer, and of an acceleration layer.
const NATIVE_VERSION: &str = "0.1.0";
/// What [`BLOB_VERSION`] says of a TurboOCI layer.
const TURBO_VERSION: &str = "0.1.0-turbo.ociv1";

pub(super) const OCI_GZIP_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(super) const DOCKER_GZIP_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
pub(super) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(super) const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// Whether all layers of an image are overlaybd blobs, by their annotations.
#[must_use]
pub fn is_overlaybd(image: &ImageManifest) -> bool {
    !image.layers.is_empty() && image.layers.iter().all(is_overlaybd_layer)
}

/// Whether any layer of an image is an overlaybd blob, by its annotations.
#[must_use]
pub fn has_overlaybd_layers(image: &ImageManifest) -> bool {
    image.layers.iter().any(is_overlaybd_layer)
}

/// Whether a layer is an overlaybd blob, by its annotations.
#[must_use]
pub fn is_overlaybd_layer(layer: &Descriptor) -> bool {
    layer.annotations.contains_key(BLOB_DIGEST)
}

/// Whether a layer is a TurboOCI layer, by its annotations.
#[must_use]
pub fn is_turbo_layer(layer: &Descriptor) -> bool {
    layer.annotations.contains_key(TARGET_DIGEST)
}

/// Whether a layer is an acceleration layer, by its annotations.
#[must_use]
pub fn is_acceleration_layer(layer: &Descriptor) -> bool {
    let value = layer.annotations.get(ACCELERATION_LAYER);
    value.is_some_and(|value| value == "yes")
}

/// The layers that make up an image's disk, bottom first, and the acceleration layer upon them, if
/// there is one.
#[must_use]
pub fn disk_layers(layers: &[Descriptor]) -> (&[Descriptor], Option<&Descriptor>) {
    match layers.split_last() {
        Some((last, below)) if is_acceleration_layer(last) => (below, Some(last)),
        _ => (layers, None),
    }
}

/// The bytes of a document, with its media type and digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The document.
    pub bytes: Vec<u8>,
    /// Its media type.
    pub media_type: String,
    /// Digest of `bytes`.
    pub digest: Digest,
}

impl Document {
    fn new(value: &Value, media_type: &str) -> Result<Self, DocumentError> {
        let bytes = serde_json::to_vec(value).map_err(DocumentError::Json)?;
        Ok(Self {
            digest: Digest::of(&bytes),
            bytes,
            media_type: media_type.to_owned(),
        })
    }

    fn descriptor(&self) -> Map<String, Value> {
        let mut fields = Map::new();
        fields.insert("mediaType".into(), json!(self.media_type));
        fields.insert("digest".into(), json!(self.digest.as_str()));
        fields.insert("size".into(), json!(self.bytes.len()));
        fields
    }
}

/// What the config's history says of an acceleration layer.
pub const ACCELERATION_HISTORY: &str = "Acceleration Layer";

/// A converted layer, for its descriptor in the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// Digest of the blob. That of a native layer is its diff id too: an uncompressed tar.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// What else there is of a TurboOCI layer.
    pub turbo: Option<TurboBlob>,
    /// Whether it is an acceleration layer, the uppermost one. It is an uncompressed tar, too.
    pub is_acceleration: bool,
}

/// A TurboOCI layer, for its descriptor in the manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TurboBlob {
    /// Digest of the tar in the blob, which is a `tar.gz`.
    pub diff_id: DiffId,
    /// Digest of the original layer, in which the data is.
    pub target: Digest,
    /// Whether that is gzip, by its bytes.
    pub is_gzip: bool,
}

impl LayerBlob {
    fn diff_id(&self) -> &str {
        match &self.turbo {
            Some(turbo) => turbo.diff_id.0.as_str(),
            None => self.digest.as_str(),
        }
    }
}

/// How the converted image is described.
#[derive(Debug, Clone, Default)]
pub struct ImageStyle {
    /// OCI media types even where the source has Docker's.
    pub force_oci: bool,
    /// Name the source manifest as `subject`: implies OCI media types.
    pub referrer: bool,
    /// What [`BLOB_FS_TYPE`] says: `ext4`, or that with options for the mount.
    pub fs_type: Option<String>,
    /// Whether it is a TurboOCI image.
    pub is_turbo: bool,
    /// Whether it has an acceleration layer where there is a list to make one of.
    pub acceleration: bool,
}

/// The manifest that a referrer names as its subject.
#[derive(Debug, Clone)]
pub struct Subject {
    /// Media type of the source manifest.
    pub media_type: String,
    /// Digest of the source manifest.
    pub digest: Digest,
    /// Size of the source manifest in bytes.
    pub size: u64,
}

/// Why a source document cannot be rewritten.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Not JSON, or not writable as JSON.
    #[error("the document is not valid JSON: {0}")]
    Json(#[source] serde_json::Error),
    /// JSON, but of another shape.
    #[error("the document is not {expected}: its {field:?} is missing or of the wrong type")]
    Shape {
        /// What the document should have been.
        expected: &'static str,
        /// The field that does not fit.
        field: &'static str,
    },
}

/// The source document, with the fields that are changed under their usual names.
pub(super) fn object(
    bytes: &[u8],
    expected: &'static str,
    known: &[&str],
) -> Result<Value, DocumentError> {
    let mut value = json::parse(bytes).map_err(DocumentError::Json)?;
    if let Some(fields) = value.as_object_mut() {
        json::name_fields(fields, known);
        return Ok(value);
    }
    Err(DocumentError::Shape {
        expected,
        field: "{",
    })
}

/// The source config with the converted layers' digests as its diff ids.
///
/// # Errors
/// When the source is no image config.
pub fn config(
    source: &[u8],
    source_media_type: &str,
    layers: &[LayerBlob],
    style: &ImageStyle,
) -> Result<Document, DocumentError> {
    const EXPECTED: &str = "an image config";
    let mut value = object(source, EXPECTED, json::CONFIG)?;
    let rootfs = value
        .get_mut("rootfs")
        .and_then(Value::as_object_mut)
        .ok_or(DocumentError::Shape {
            expected: EXPECTED,
            field: "rootfs",
        })?;
    json::name_fields(rootfs, json::ROOT_FS);
    let digests: Vec<&str> = layers.iter().map(LayerBlob::diff_id).collect();
    rootfs.insert("diff_ids".into(), json!(digests));
    if layers.iter().any(|layer| layer.is_acceleration)
        && let Some(history) = value.get_mut("history").and_then(Value::as_array_mut)
    {
        // Readers pair entries and diff ids in their order, so it is the last of both.
        history.push(json!({ "created_by": ACCELERATION_HISTORY }));
    }
    let media_type = if style.force_oci || style.referrer {
        OCI_CONFIG
    } else {
        source_media_type
    };
    Document::new(&value, media_type)
}

/// The source manifest with the converted config and layers.
///
/// # Errors
/// When the source is no image manifest.
pub fn manifest(
    source: &[u8],
    source_media_type: &str,
    config: &Document,
    layers: &[LayerBlob],
    style: &ImageStyle,
    subject: Option<&Subject>,
) -> Result<Document, DocumentError> {
    const EXPECTED: &str = "an image manifest";
    let mut value = object(source, EXPECTED, json::MANIFEST)?;
    let fields = value.as_object_mut().ok_or(DocumentError::Shape {
        expected: EXPECTED,
        field: "{",
    })?;
    let oci = style.force_oci || style.referrer || source_media_type == OCI_MANIFEST;
    let media_type = if oci { OCI_MANIFEST } else { source_media_type };
    fields.insert("schemaVersion".into(), json!(2));
    fields.insert("mediaType".into(), json!(media_type));
    fields.insert("config".into(), Value::Object(config.descriptor()));
    let descriptors: Vec<Value> = layers
        .iter()
        .map(|layer| match &layer.turbo {
            Some(turbo) => turbo_descriptor(layer, turbo, oci),
            None => descriptor(layer, if oci { OCI_LAYER } else { DOCKER_LAYER }, style),
        })
        .collect();
    fields.insert("layers".into(), Value::Array(descriptors));
    set_subject(fields, subject.filter(|_| style.referrer), style);
    Document::new(&value, media_type)
}

/// Sets the `subject`, or removes it: one that the source has is not that of the converted image.
fn set_subject(fields: &mut Map<String, Value>, subject: Option<&Subject>, style: &ImageStyle) {
    fields.shift_remove("subject");
    let Some(subject) = subject else { return };
    let artifact_type = if style.is_turbo {
        TURBO_ARTIFACT_TYPE
    } else {
        ARTIFACT_TYPE
    };
    fields.insert("artifactType".into(), json!(artifact_type));
    let descriptor = json!({
        "mediaType": subject.media_type,
        "digest": subject.digest.as_str(),
        "size": subject.size,
    });
    fields.insert("subject".into(), descriptor);
}

fn descriptor(layer: &LayerBlob, media_type: &str, style: &ImageStyle) -> Value {
    // Snapshotters take the filesystem's type from the uppermost layer, whatever that is.
    let mut annotations = json!({
        BLOB_DIGEST: layer.digest.as_str(),
        BLOB_SIZE: layer.size.to_string(),
        BLOB_VERSION: NATIVE_VERSION,
        BLOB_FS_TYPE: style.fs_type.as_deref().unwrap_or("ext4"),
    });
    if layer.is_acceleration {
        annotations[ACCELERATION_LAYER] = json!("yes");
    }
    json!({
        "mediaType": media_type,
        "digest": layer.digest.as_str(),
        "size": layer.size,
        "annotations": annotations,
    })
}

fn turbo_descriptor(layer: &LayerBlob, turbo: &TurboBlob, oci: bool) -> Value {
    let target_type = match (oci, turbo.is_gzip) {
        (true, true) => OCI_GZIP_LAYER,
        (true, false) => OCI_LAYER,
        (false, true) => DOCKER_GZIP_LAYER,
        (false, false) => DOCKER_LAYER,
    };
    json!({
        "mediaType": if oci { OCI_GZIP_LAYER } else { DOCKER_GZIP_LAYER },
        "digest": layer.digest.as_str(),
        "size": layer.size,
        "annotations": {
            BLOB_DIGEST: layer.digest.as_str(),
            BLOB_SIZE: layer.size.to_string(),
            BLOB_VERSION: TURBO_VERSION,
            TARGET_DIGEST: turbo.target.as_str(),
            TARGET_MEDIA_TYPE: target_type,
        },
    })
}

/// What is done with one entry of an index.
#[derive(Debug, Clone)]
pub enum IndexEntry {
    /// Stays as it is.
    Keep,
    /// Is left out.
    Drop,
    /// Is replaced by this manifest, its platform kept.
    Replace(Document),
}

/// The source index with its entries kept, dropped or replaced, in order.
///
/// # Errors
/// When the source is no index or has another number of entries.
pub fn index(
    source: &[u8],
    source_media_type: &str,
    entries: &[IndexEntry],
    style: &ImageStyle,
    subject: Option<&Subject>,
) -> Result<Document, DocumentError> {
    const EXPECTED: &str = "an image index";
    let shape = |field| DocumentError::Shape {
        expected: EXPECTED,
        field,
    };
    let mut value = object(source, EXPECTED, json::MANIFEST)?;
    let fields = value.as_object_mut().ok_or(shape("{"))?;
    let manifests = fields
        .get_mut("manifests")
        .and_then(Value::as_array_mut)
        .ok_or(shape("manifests"))?;
    if manifests.len() != entries.len() {
        return Err(shape("manifests"));
    }
    let mut kept = Vec::with_capacity(entries.len());
    for (mut descriptor, entry) in manifests.drain(..).zip(entries) {
        match entry {
            IndexEntry::Keep => kept.push(descriptor),
            IndexEntry::Drop => {}
            IndexEntry::Replace(document) => {
                let fields = descriptor.as_object_mut().ok_or(shape("manifests"))?;
                json::name_fields(fields, json::DESCRIPTOR);
                fields.shift_remove("data");
                remove_compression(fields);
                fields.extend(document.descriptor());
                kept.push(descriptor);
            }
        }
    }
    *manifests = kept;
    let oci = style.force_oci || style.referrer || source_media_type == OCI_INDEX;
    let media_type = if oci { OCI_INDEX } else { source_media_type };
    fields.insert("schemaVersion".into(), json!(2));
    fields.insert("mediaType".into(), json!(media_type));
    set_subject(fields, subject.filter(|_| style.referrer), style);
    Document::new(&value, media_type)
}

/// Removes the annotations of containers/image about the compression of an entry's layers.
fn remove_compression(entry: &mut Map<String, Value>) {
    let Some(annotations) = entry.get_mut("annotations").and_then(Value::as_object_mut) else {
        return;
    };
    annotations.retain(|key, _| !key.starts_with("io.github.containers.compression."));
    if annotations.is_empty() {
        entry.shift_remove("annotations");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

    fn layers() -> Vec<LayerBlob> {
        vec![LayerBlob {
            digest: Digest::of(b"layer"),
            size: 5,
            turbo: None,
            is_acceleration: false,
        }]
    }

    #[test]
    fn only_the_diff_ids_of_a_config_are_replaced() {
        let source = br#"{"x-unknown":[1,2.5],"rootfs":{"type":"layers","diff_ids":["sha256:0"]},"os":"linux"}"#;
        let made = config(source, OCI_CONFIG, &layers(), &ImageStyle::default()).unwrap();
        let digest = Digest::of(b"layer");
        let expected = format!(
            r#"{{"x-unknown":[1,2.5],"rootfs":{{"type":"layers","diff_ids":["{digest}"]}},"os":"linux"}}"#
        );
        assert_eq!(String::from_utf8(made.bytes).unwrap(), expected);
    }

    #[test]
    fn an_acceleration_layer_is_the_last_of_layers_diff_ids_and_history() {
        let mut blobs = layers();
        blobs.push(LayerBlob {
            digest: Digest::of(b"trace"),
            is_acceleration: true,
            ..blobs[0].clone()
        });
        let source = br#"{"rootfs":{},"history":[{"created_by":"a"}]}"#;
        let style = ImageStyle::default();
        let config = config(source, OCI_CONFIG, &blobs, &style).unwrap();
        let value: Value = serde_json::from_slice(&config.bytes).unwrap();
        assert_eq!(value["rootfs"]["diff_ids"][1], blobs[1].digest.as_str());
        let history = json!([{"created_by": "a"}, {"created_by": ACCELERATION_HISTORY}]);
        assert_eq!(value["history"], history);
        let made = manifest(b"{}", OCI_MANIFEST, &config, &blobs, &style, None).unwrap();
        let value: Value = serde_json::from_slice(&made.bytes).unwrap();
        let [below, above] = [0, 1].map(|n| value["layers"][n]["annotations"].clone());
        assert!(below.get(ACCELERATION_LAYER).is_none());
        let mut expected = below;
        expected[BLOB_DIGEST] = json!(blobs[1].digest.as_str());
        expected[ACCELERATION_LAYER] = json!("yes");
        assert_eq!(above, expected);
    }

    #[test]
    fn a_docker_manifest_keeps_its_media_types_unless_oci_is_forced() {
        let source = br#"{"schemaVersion":2,"config":{"data":"e30="},"layers":[{}],"annotations":{"a":"b"}}"#;
        for (force_oci, manifest_type, layer_type) in [
            (false, DOCKER_MANIFEST, DOCKER_LAYER),
            (true, OCI_MANIFEST, OCI_LAYER),
        ] {
            let style = ImageStyle {
                force_oci,
                ..ImageStyle::default()
            };
            let config = config(br#"{"rootfs":{}}"#, "c", &layers(), &style).unwrap();
            let made = manifest(source, DOCKER_MANIFEST, &config, &layers(), &style, None).unwrap();
            let value: Value = serde_json::from_slice(&made.bytes).unwrap();
            assert_eq!(made.media_type, manifest_type);
            assert_eq!(value["mediaType"], manifest_type);
            assert_eq!(value["layers"][0]["mediaType"], layer_type);
            assert_eq!(value["layers"][0]["annotations"][BLOB_SIZE], "5");
            assert_eq!(value["config"]["digest"], config.digest.as_str());
            assert!(value["config"].get("data").is_none());
            assert_eq!(value["annotations"]["a"], "b");
        }
    }

    #[test]
    fn entries_that_are_kept_are_unchanged() {
        let source = br#"{"schemaVersion":2,"manifests":[{"digest":"a","platform":{"os":"x"}},{"digest":"b"},{"digest":"c","z":1}]}"#;
        let made = Document::new(&json!({}), OCI_MANIFEST).unwrap();
        let entries = [
            IndexEntry::Replace(made.clone()),
            IndexEntry::Drop,
            IndexEntry::Keep,
        ];
        let index = index(source, OCI_INDEX, &entries, &ImageStyle::default(), None).unwrap();
        let value: Value = serde_json::from_slice(&index.bytes).unwrap();
        assert_eq!(value["manifests"][0]["digest"], made.digest.as_str());
        assert_eq!(value["manifests"][0]["platform"]["os"], "x");
        assert_eq!(value["manifests"][1], json!({"digest":"c","z":1}));
        assert_eq!(value["manifests"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn a_referrer_has_its_source_as_subject() {
        let style = ImageStyle {
            referrer: true,
            ..ImageStyle::default()
        };
        let subject = Subject {
            media_type: "m".into(),
            digest: Digest::of(b"s"),
            size: 7,
        };
        let config = config(br#"{"rootfs":{}}"#, "c", &layers(), &style).unwrap();
        let made = manifest(
            b"{}",
            DOCKER_MANIFEST,
            &config,
            &layers(),
            &style,
            Some(&subject),
        )
        .unwrap();
        let value: Value = serde_json::from_slice(&made.bytes).unwrap();
        assert_eq!(value["artifactType"], ARTIFACT_TYPE);
        assert_eq!(value["subject"]["digest"], subject.digest.as_str());
        assert_eq!(value["subject"]["size"], 7);
    }

    #[test]
    fn documents_of_another_shape_are_refused() {
        for bad in [&b"[]"[..], b"{}", b"{", br#"{"rootfs":3}"#] {
            assert!(config(bad, OCI_CONFIG, &[], &ImageStyle::default()).is_err());
        }
        for bad in [
            &b"[]"[..],
            b"{}",
            br#"{"manifests":3}"#,
            br#"{"manifests":[{}]}"#,
        ] {
            assert!(index(bad, OCI_INDEX, &[], &ImageStyle::default(), None).is_err());
        }
    }
}
