//! Documents that are made of a converted image for those who look for one: its manifest as a
//! referrer of the source, and an index with both.
//!
//! Both change nothing but JSON, so the same image always becomes the same documents. Sources: OCI
//! image-spec `manifest.md`, `image-index.md`; OCI distribution-spec § Listing Referrers; for an
//! index with both, nydus-snapshotter's `docs/index_detection.md`.

use std::collections::HashSet;

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::image::{
    ARTIFACT_TYPE, DOCKER_GZIP_LAYER, DOCKER_LAYER, DocumentError, OCI_CONFIG, OCI_GZIP_LAYER,
    OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Subject, TARGET_MEDIA_TYPE, TURBO_ARTIFACT_TYPE, object,
};
use super::layer::Format;
use super::types::{ConvertedImage, StoredManifest};
use crate::oci::{Digest, ManifestKind, Platform, json};

/// The `artifactType` of images in this format.
#[must_use]
pub fn artifact_type(format: Format) -> &'static str {
    match format {
        Format::Native => ARTIFACT_TYPE,
        Format::Turbo(_) => TURBO_ARTIFACT_TYPE,
    }
}

/// The OCI media type for one of Docker's for layers; others stay.
fn of_layer(media_type: &str) -> &str {
    match media_type {
        DOCKER_LAYER => OCI_LAYER,
        DOCKER_GZIP_LAYER => OCI_GZIP_LAYER,
        other => other,
    }
}

fn set_text(fields: &mut Map<String, Value>, key: &str, change: impl Fn(&str) -> &str) {
    if let Some(Value::String(text)) = fields.get_mut(key) {
        *text = change(text).to_owned();
    }
}

fn stored(value: &Value, media_type: &str) -> Result<StoredManifest, DocumentError> {
    let bytes = serde_json::to_vec(value).map_err(DocumentError::Json)?;
    Ok(StoredManifest {
        digest: Digest::of(&bytes),
        media_type: media_type.to_owned(),
        bytes: Bytes::from(bytes),
    })
}

/// A converted manifest or index as a referrer of its source: with `subject` and `artifactType`,
/// and OCI media types, as only these have a `subject`. Config, layers and entries are the same, so
/// an image is the one that `--referrers` makes.
///
/// # Errors
/// When `converted` is no manifest.
pub fn referrer(
    converted: &StoredManifest,
    source: &Subject,
    format: Format,
) -> Result<StoredManifest, DocumentError> {
    const EXPECTED: &str = "a converted manifest";
    let shape = |field| DocumentError::Shape {
        expected: EXPECTED,
        field,
    };
    let kind = ManifestKind::from_media_type(&converted.media_type).ok_or(shape("mediaType"))?;
    let mut value = object(&converted.bytes, EXPECTED, json::MANIFEST)?;
    let fields = value.as_object_mut().ok_or(shape("{"))?;
    let media_type = if kind.is_index() {
        OCI_INDEX
    } else {
        let config = fields.get_mut("config").and_then(Value::as_object_mut);
        set_text(config.ok_or(shape("config"))?, "mediaType", |_| OCI_CONFIG);
        let layers = fields.get_mut("layers").and_then(Value::as_array_mut);
        for layer in layers.ok_or(shape("layers"))? {
            let layer = layer.as_object_mut().ok_or(shape("layers"))?;
            set_text(layer, "mediaType", of_layer);
            if let Some(Value::Object(annotations)) = layer.get_mut("annotations") {
                set_text(annotations, TARGET_MEDIA_TYPE, of_layer);
            }
        }
        OCI_MANIFEST
    };
    fields.insert("mediaType".into(), json!(media_type));
    fields.shift_remove("subject");
    fields.insert("artifactType".into(), json!(artifact_type(format)));
    let subject = json!({
        "mediaType": source.media_type,
        "digest": source.digest.as_str(),
        "size": source.size,
    });
    fields.insert("subject".into(), subject);
    stored(&value, media_type)
}

/// An index with all that the source has, and behind it what it was converted to, in the order of
/// `images`, each entry with its `artifactType`. Clients that take the first manifest for their
/// platform get the original.
///
/// `platform` is that of a source which is no index.
///
/// # Errors
/// When a document is not what it should be.
pub fn merged(
    source: &StoredManifest,
    platform: Option<&Platform>,
    images: &[(Format, &ConvertedImage)],
) -> Result<StoredManifest, DocumentError> {
    const EXPECTED: &str = "an image index";
    let shape = |field| DocumentError::Shape {
        expected: EXPECTED,
        field,
    };
    let is_index = |media_type: &str| {
        ManifestKind::from_media_type(media_type)
            .map(ManifestKind::is_index)
            .ok_or(shape("mediaType"))
    };
    let mut value = if is_index(&source.media_type)? {
        object(&source.bytes, EXPECTED, json::MANIFEST)?
    } else {
        json!({ "manifests": [entry(source, platform)] })
    };
    let fields = value.as_object_mut().ok_or(shape("{"))?;
    fields.insert("schemaVersion".into(), json!(2));
    fields.insert("mediaType".into(), json!(OCI_INDEX));
    // What the source is attached to, it is not attached to by this index.
    fields.shift_remove("subject");
    let manifests = fields
        .get_mut("manifests")
        .and_then(Value::as_array_mut)
        .ok_or(shape("manifests"))?;
    for (format, image) in images {
        let mut entries = if is_index(&image.root.media_type)? {
            converted_entries(image)?
        } else {
            vec![entry(&image.root, platform)]
        };
        for entry in &mut entries {
            let fields = entry.as_object_mut().ok_or(shape("manifests"))?;
            fields.insert("artifactType".into(), json!(artifact_type(*format)));
        }
        manifests.extend(entries);
    }
    stored(&value, OCI_INDEX)
}

fn entry(manifest: &StoredManifest, platform: Option<&Platform>) -> Value {
    let mut entry = json!({
        "mediaType": manifest.media_type,
        "digest": manifest.digest.as_str(),
        "size": manifest.bytes.len(),
    });
    if let Some(platform) = platform {
        let mut fields = json!({ "architecture": platform.architecture, "os": platform.os });
        if !platform.variant.is_empty() {
            fields["variant"] = json!(platform.variant);
        }
        entry["platform"] = fields;
    }
    entry
}

/// The entries of a converted index that were converted.
fn converted_entries(image: &ConvertedImage) -> Result<Vec<Value>, DocumentError> {
    const EXPECTED: &str = "a converted index";
    let shape = DocumentError::Shape {
        expected: EXPECTED,
        field: "manifests",
    };
    let manifests = image.manifests.iter().map(|one| &one.manifest);
    let converted: HashSet<&str> = manifests
        .chain(&image.indexes)
        .map(|manifest| manifest.digest.as_str())
        .collect();
    let mut value = object(&image.root.bytes, EXPECTED, json::MANIFEST)?;
    let Some(Value::Array(mut entries)) = value.get_mut("manifests").map(Value::take) else {
        return Err(shape);
    };
    entries.retain(|entry| {
        let digest = entry.get("digest").and_then(Value::as_str);
        digest.is_some_and(|digest| converted.contains(digest))
    });
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::convert::image::{self, Document, ImageStyle, LayerBlob, TurboBlob};
    use crate::convert::layer::TurboSettings;
    use crate::oci::DiffId;
    use crate::oci::media_type::{DOCKER_CONFIG, DOCKER_LIST, DOCKER_MANIFEST};

    const TURBO: Format = Format::Turbo(TurboSettings {
        max_stored_file: 0,
        max_gap: 1 << 20,
    });

    fn layer(is_turbo: bool) -> LayerBlob {
        LayerBlob {
            digest: Digest::of(b"layer"),
            size: 5,
            turbo: is_turbo.then(|| TurboBlob {
                diff_id: DiffId(Digest::of(b"tar")),
                target: Digest::of(b"target"),
                is_gzip: true,
            }),
            is_acceleration: false,
        }
    }

    fn subject() -> Subject {
        Subject {
            media_type: DOCKER_MANIFEST.to_owned(),
            digest: Digest::of(b"source"),
            size: 6,
        }
    }

    fn of(document: Document) -> StoredManifest {
        StoredManifest {
            digest: document.digest,
            media_type: document.media_type,
            bytes: document.bytes.into(),
        }
    }

    /// The manifest that the converter makes of a source.
    fn made(source: &[u8], format: Format, referrer: bool) -> StoredManifest {
        let is_turbo = format != Format::Native;
        let style = ImageStyle {
            referrer,
            is_turbo,
            ..ImageStyle::default()
        };
        let layers = [layer(is_turbo)];
        let config = image::config(br#"{"rootfs":{}}"#, DOCKER_CONFIG, &layers, &style).unwrap();
        let subject = subject();
        let made = image::manifest(
            source,
            DOCKER_MANIFEST,
            &config,
            &layers,
            &style,
            Some(&subject),
        );
        of(made.unwrap())
    }

    #[test]
    fn a_referrer_is_the_manifest_that_the_converter_makes_with_referrers() {
        for source in [
            &br#"{"layers":[{}],"config":{},"annotations":{"a":"b"}}"#[..],
            br#"{"x":1,"subject":{"digest":"sha256:0"},"artifactType":"t","schemaVersion":2}"#,
        ] {
            for format in [Format::Native, TURBO] {
                let plain = made(source, format, false);
                let wanted = made(source, format, true);
                let derived = referrer(&plain, &subject(), format).unwrap();
                assert_eq!(derived, wanted, "{}", String::from_utf8_lossy(&plain.bytes));
                // One that is a referrer already stays as it is.
                assert_eq!(referrer(&wanted, &subject(), format).unwrap(), wanted);
            }
        }
    }

    #[test]
    fn an_index_has_the_originals_first() {
        let bytes = br#"{"manifests":[{"digest":"sha256:1"},{"digest":"sha256:2"}],"a":1}"#;
        let source = StoredManifest {
            digest: Digest::of(bytes),
            media_type: DOCKER_LIST.to_owned(),
            bytes: bytes[..].into(),
        };
        let child = made(b"{}", Format::Native, false);
        let kept = Digest::of(b"kept");
        let root = json!({"manifests": [
            {"digest": kept.as_str()},
            {"digest": child.digest.as_str(), "platform": {"os": "linux"}},
        ]});
        let mut image =
            ConvertedImage::unchanged(&source.digest, stored(&root, DOCKER_LIST).unwrap());
        image.indexes.push(child.clone());
        let found = merged(&source, None, &[(TURBO, &image)]).unwrap();
        let found: Value = serde_json::from_slice(&found.bytes).unwrap();
        let wanted = json!({
            "manifests": [
                {"digest": "sha256:1"},
                {"digest": "sha256:2"},
                {"digest": child.digest.as_str(), "platform": {"os": "linux"},
                 "artifactType": TURBO_ARTIFACT_TYPE},
            ],
            "a": 1,
            "schemaVersion": 2,
            "mediaType": OCI_INDEX,
        });
        assert_eq!(found, wanted);
    }
}
