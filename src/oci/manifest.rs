//! Manifests and indexes, read for what the conversion needs.
//!
//! The raw bytes are kept wherever a manifest travels: its digest is of them, and
//! fields that are not known here must survive.
//! Source: OCI image-spec `manifest.md`, `image-index.md`, `descriptor.md`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::digest::Digest;
use super::media_type::{ManifestKind, essence};
use super::platform::Platform;

/// Why a document is no manifest, index or config that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// The bytes are not JSON of the expected shape.
    #[error("the {0} cannot be read: {1}")]
    Json(&'static str, String),
    /// A field that must be there is not.
    #[error("the {0} has no `{1}`")]
    Missing(&'static str, &'static str),
    /// A schema of before 2017, which has no digests of uncompressed layers.
    #[error(
        "a Docker schema 1 manifest cannot be used: push the image again with a current client"
    )]
    Schema1,
    /// Neither an image nor an index.
    #[error("{0:?} is neither an image manifest nor an index")]
    UnknownKind(String),
    /// The media type of the answer and the document's own differ in kind.
    #[error("the manifest is served as {served} but calls itself {stated}")]
    KindMismatch {
        /// The media type of the answer.
        served: String,
        /// The document's `mediaType`.
        stated: String,
    },
}

/// A reference to content, as in a manifest or an index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// The machine that it is for, in an index.
    pub platform: Option<Platform>,
    /// What kind of artifact it is, in a list of referrers.
    pub artifact_type: Option<String>,
    /// Free text by key.
    pub annotations: BTreeMap<String, String>,
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageManifest {
    /// OCI or Docker.
    pub kind: ManifestKind,
    /// The image config.
    pub config: Descriptor,
    /// The layers, bottom first.
    pub layers: Vec<Descriptor>,
    /// What this manifest is attached to.
    pub subject: Option<Descriptor>,
}

/// A list of manifests, one for a platform.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// OCI or Docker.
    pub kind: ManifestKind,
    /// The manifests, in their order.
    pub manifests: Vec<Descriptor>,
    /// What this index is attached to.
    pub subject: Option<Descriptor>,
}

/// A document that an image's name leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// One image.
    Image(ImageManifest),
    /// Several images.
    Index(Index),
}

impl Manifest {
    /// Reads a manifest or an index.
    ///
    /// `media_type` is that of the answer it came with; where that is not a manifest's
    /// (`application/json`, empty), the document's own `mediaType`, then its fields decide.
    ///
    /// # Errors
    /// If the bytes are not such a document, or contradict the media type.
    pub fn parse(media_type: &str, bytes: &[u8]) -> Result<Self, ManifestError> {
        let mut value: Value = serde_json::from_slice(bytes)
            .map_err(|error| ManifestError::Json("manifest", error.to_string()))?;
        let kind = kind_of(media_type, &value)?;
        for list in ["layers", "manifests"] {
            // Go writes an empty list as null; oci-spec refuses that.
            if value.get(list).is_some_and(Value::is_null) {
                value[list] = Value::Array(Vec::new());
            }
        }
        if kind.is_index() {
            let index: oci_spec::image::ImageIndex = serde_json::from_value(value)
                .map_err(|error| ManifestError::Json("index", error.to_string()))?;
            Ok(Self::Index(Index {
                kind,
                manifests: descriptors("index", index.manifests())?,
                subject: subject("index", index.subject().as_ref())?,
            }))
        } else {
            if value.get("layers").is_none() {
                value["layers"] = Value::Array(Vec::new());
            }
            let image: oci_spec::image::ImageManifest = serde_json::from_value(value)
                .map_err(|error| ManifestError::Json("manifest", error.to_string()))?;
            Ok(Self::Image(ImageManifest {
                kind,
                config: Descriptor::try_from(image.config())
                    .map_err(|error| ManifestError::Json("manifest", error))?,
                layers: descriptors("manifest", image.layers())?,
                subject: subject("manifest", image.subject().as_ref())?,
            }))
        }
    }

    /// Whether it holds one image or several, OCI or Docker.
    #[must_use]
    pub fn kind(&self) -> ManifestKind {
        match self {
            Self::Image(image) => image.kind,
            Self::Index(index) => index.kind,
        }
    }
}

impl Index {
    /// The first manifest for this platform, attestations left out.
    #[must_use]
    pub fn find(&self, wanted: &Platform) -> Option<&Descriptor> {
        self.manifests.iter().find(|descriptor| {
            !descriptor.is_attestation()
                && descriptor
                    .platform
                    .as_ref()
                    .is_some_and(|platform| platform.satisfies(wanted))
        })
    }
}

impl Descriptor {
    /// Whether this is a build attestation, which is no image
    /// (`BuildKit`, `attestation-storage.md`).
    #[must_use]
    pub fn is_attestation(&self) -> bool {
        self.annotations
            .get("vnd.docker.reference.type")
            .is_some_and(|kind| kind == "attestation-manifest")
    }
}

impl TryFrom<&oci_spec::image::Descriptor> for Descriptor {
    type Error = String;

    fn try_from(source: &oci_spec::image::Descriptor) -> Result<Self, String> {
        let digest = source
            .digest()
            .to_string()
            .parse()
            .map_err(|error: super::digest::InvalidDigest| error.to_string())?;
        let platform = source.platform().as_ref().map(|platform| {
            Platform::new(
                &platform.os().to_string(),
                &platform.architecture().to_string(),
                platform.variant().as_deref().unwrap_or_default(),
            )
        });
        let annotations = source.annotations().clone().unwrap_or_default();
        Ok(Self {
            media_type: source.media_type().to_string(),
            digest,
            size: source.size(),
            platform,
            artifact_type: source.artifact_type().as_ref().map(ToString::to_string),
            annotations: annotations.into_iter().collect(),
        })
    }
}

fn descriptors(
    what: &'static str,
    sources: &[oci_spec::image::Descriptor],
) -> Result<Vec<Descriptor>, ManifestError> {
    sources
        .iter()
        .map(|source| {
            Descriptor::try_from(source).map_err(|error| ManifestError::Json(what, error))
        })
        .collect()
}

fn subject(
    what: &'static str,
    source: Option<&oci_spec::image::Descriptor>,
) -> Result<Option<Descriptor>, ManifestError> {
    source
        .map(|source| {
            Descriptor::try_from(source).map_err(|error| ManifestError::Json(what, error))
        })
        .transpose()
}

fn kind_of(served: &str, value: &Value) -> Result<ManifestKind, ManifestError> {
    if !value.is_object() {
        return Err(ManifestError::Json(
            "manifest",
            "it is not a JSON object".to_owned(),
        ));
    }
    if value.get("schemaVersion").and_then(Value::as_u64) == Some(1) {
        return Err(ManifestError::Schema1);
    }
    let stated = value.get("mediaType").and_then(Value::as_str);
    let by_served = ManifestKind::from_media_type(served);
    let by_stated = stated.and_then(ManifestKind::from_media_type);
    match (by_served, by_stated) {
        (Some(by_served), Some(by_stated)) if by_served != by_stated => {
            Err(ManifestError::KindMismatch {
                served: by_served.media_type().to_owned(),
                stated: by_stated.media_type().to_owned(),
            })
        }
        (Some(kind), _) | (None, Some(kind)) => check_fields(kind, value),
        (None, None) if stated.is_none() && is_vague(served) => {
            if value.get("manifests").is_some() {
                check_fields(ManifestKind::OciIndex, value)
            } else if value.get("config").is_some() {
                check_fields(ManifestKind::OciImage, value)
            } else {
                Err(ManifestError::UnknownKind(served.to_owned()))
            }
        }
        (None, None) => Err(ManifestError::UnknownKind(
            stated.unwrap_or(served).chars().take(120).collect(),
        )),
    }
}

// A document with both an image's and an index's fields means one thing to us and
// another to the next reader (CVE-2021-41190).
fn check_fields(kind: ManifestKind, value: &Value) -> Result<ManifestKind, ManifestError> {
    let holds = |field: &str| value.get(field).is_some_and(|value| !value.is_null());
    let foreign = if kind.is_index() {
        holds("config") || holds("layers")
    } else {
        holds("manifests")
    };
    if foreign {
        return Err(ManifestError::Json(
            "manifest",
            "it has the fields of both an image and an index".to_owned(),
        ));
    }
    Ok(kind)
}

fn is_vague(media_type: &str) -> bool {
    matches!(
        essence(media_type).as_str(),
        "" | "application/json" | "text/plain" | "application/octet-stream"
    )
}

#[cfg(test)]
mod tests {
    use super::super::media_type::*;
    use super::*;

    fn descriptor(media_type: &str) -> String {
        let digest = Digest::of(media_type.as_bytes());
        format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":7}}"#)
    }

    fn image(media_type: &str, layers: &str) -> String {
        let config = descriptor(OCI_CONFIG);
        format!(
            r#"{{"schemaVersion":2,"mediaType":"{media_type}","config":{config},"layers":{layers}}}"#
        )
    }

    #[test]
    fn an_image_without_layers_may_say_null() {
        let text = image(OCI_MANIFEST, "null");
        let Manifest::Image(manifest) = Manifest::parse(OCI_MANIFEST, text.as_bytes()).unwrap()
        else {
            panic!("an image is expected");
        };
        assert!(manifest.layers.is_empty());
        assert_eq!(manifest.config.size, 7);
    }

    #[test]
    fn the_document_decides_where_the_answer_does_not() {
        let text = image(DOCKER_MANIFEST, "[]");
        let manifest = Manifest::parse("application/json", text.as_bytes()).unwrap();
        assert_eq!(manifest.kind(), ManifestKind::DockerImage);
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        let manifest = Manifest::parse("", index).unwrap();
        assert_eq!(manifest.kind(), ManifestKind::OciIndex);
    }

    #[test]
    fn a_document_of_two_meanings_is_refused() {
        let text = image(OCI_MANIFEST, "[]");
        assert!(matches!(
            Manifest::parse(OCI_INDEX, text.as_bytes()),
            Err(ManifestError::KindMismatch { .. })
        ));
        let both = br#"{"schemaVersion":2,"manifests":[],"layers":[]}"#;
        assert!(Manifest::parse(OCI_INDEX, both).is_err());
    }

    #[test]
    fn broken_documents_are_errors() {
        for bad in [
            "",
            "[]",
            "null",
            "{}",
            r#"{"schemaVersion":1,"fsLayers":[]}"#,
            r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:00"}]}"#,
            r#"{"schemaVersion":2,"mediaType":"text/html","config":{}}"#,
        ] {
            assert!(Manifest::parse("", bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_index_is_searched_by_platform_past_attestations() {
        let attestation = Digest::of(b"attestation");
        let wanted = Digest::of(b"wanted");
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[
                {{"mediaType":"{OCI_MANIFEST}","digest":"{attestation}","size":1,
                  "platform":{{"os":"linux","architecture":"amd64"}},
                  "annotations":{{"vnd.docker.reference.type":"attestation-manifest"}}}},
                {{"mediaType":"{OCI_MANIFEST}","digest":"{wanted}","size":1,
                  "platform":{{"os":"linux","architecture":"amd64"}}}}]}}"#
        );
        let Manifest::Index(index) = Manifest::parse(OCI_INDEX, text.as_bytes()).unwrap() else {
            panic!("an index is expected");
        };
        let found = index.find(&Platform::new("linux", "amd64", "")).unwrap();
        assert_eq!(found.digest, wanted);
        assert!(index.find(&Platform::new("linux", "riscv64", "")).is_none());
    }
}
