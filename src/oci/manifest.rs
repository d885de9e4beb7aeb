//! Manifests and indexes, read for what the conversion needs.
//!
//! The raw bytes are kept wherever a manifest travels: its digest is of them, and
//! fields that are not known here must survive.
//! Source: OCI image-spec `manifest.md`, `image-index.md`, `descriptor.md`.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::Value;

use super::digest::Digest;
use super::json;
use super::media_type::{DOCKER_CONFIG, ManifestKind, OCI_CONFIG, essence};
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
    /// What the content is; empty where that is not said.
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// Its length in bytes; some builders leave it out.
    pub size: Option<u64>,
    /// The content itself, verified, where the descriptor carries it.
    pub data: Option<Bytes>,
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
// There are few at a time.
#[allow(clippy::large_enum_variant)]
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
        let mut value = json::parse(bytes)
            .map_err(|error| ManifestError::Json("manifest", error.to_string()))?;
        if let Some(fields) = value.as_object_mut() {
            json::name_fields(fields, json::MANIFEST);
        }
        let kind = kind_of(media_type, &value)?;
        let what = if kind.is_index() { "index" } else { "manifest" };
        let fields = value
            .as_object_mut()
            .ok_or_else(|| ManifestError::Json(what, "it is not a JSON object".to_owned()))?;
        let subject = descriptor(what, fields.remove("subject"))?;
        if kind.is_index() {
            return Ok(Self::Index(Index {
                kind,
                manifests: descriptors(what, fields.remove("manifests"))?,
                subject,
            }));
        }
        Ok(Self::Image(ImageManifest {
            kind,
            config: descriptor(what, fields.remove("config"))?
                .ok_or(ManifestError::Missing(what, "config"))?,
            layers: descriptors(what, fields.remove("layers"))?,
            subject,
        }))
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

impl ImageManifest {
    /// Whether its config is that of an image, as its media type says or does not deny
    /// (image-spec `manifest.md`, "Guidelines for Artifact Usage").
    #[must_use]
    pub fn is_image(&self) -> bool {
        matches!(
            essence(&self.config.media_type).as_str(),
            "" | OCI_CONFIG | DOCKER_CONFIG | "application/json" | "application/octet-stream"
        )
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

/// A descriptor as JSON, with all that may be left out.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    media_type: Option<String>,
    digest: Option<String>,
    size: Option<u64>,
    platform: Option<PlatformDocument>,
    artifact_type: Option<String>,
    annotations: Option<BTreeMap<String, Option<String>>>,
    data: Option<String>,
}

#[derive(Deserialize)]
struct PlatformDocument {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
}

impl PlatformDocument {
    /// The platform; `None` if it is not stated.
    fn named(self) -> Option<Platform> {
        let text = |field: Option<String>| field.unwrap_or_default();
        let (os, architecture) = (text(self.os), text(self.architecture));
        if os.is_empty() && architecture.is_empty() {
            return None;
        }
        Some(Platform::new(&os, &architecture, &text(self.variant)))
    }
}

/// Reads a list of descriptors. Go writes an empty list as `null`, or leaves it out.
fn descriptors(
    what: &'static str,
    source: Option<Value>,
) -> Result<Vec<Descriptor>, ManifestError> {
    let sources = match source {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(sources)) => sources,
        Some(_) => {
            let text = "descriptors are expected where there is no list";
            return Err(ManifestError::Json(what, text.to_owned()));
        }
    };
    let read = sources.into_iter().map(|source| {
        descriptor(what, Some(source))?.ok_or(ManifestError::Missing(what, "digest"))
    });
    read.collect()
}

/// Reads a descriptor, if there is one.
fn descriptor(
    what: &'static str,
    source: Option<Value>,
) -> Result<Option<Descriptor>, ManifestError> {
    let Some(mut source) = source.filter(|source| !source.is_null()) else {
        return Ok(None);
    };
    if let Some(fields) = source.as_object_mut() {
        json::name_fields(fields, json::DESCRIPTOR);
        if let Some(platform) = fields.get_mut("platform").and_then(Value::as_object_mut) {
            json::name_fields(platform, json::PLATFORM);
        }
    }
    let document: Document = serde_json::from_value(source)
        .map_err(|error| ManifestError::Json(what, error.to_string()))?;
    let digest = document
        .digest
        .ok_or(ManifestError::Missing(what, "digest"))?;
    let digest: Digest = digest
        .parse()
        .map_err(|error: super::digest::InvalidDigest| {
            ManifestError::Json(what, error.to_string())
        })?;
    let annotations = document.annotations.unwrap_or_default().into_iter();
    Ok(Some(Descriptor {
        media_type: document.media_type.unwrap_or_default(),
        data: document.data.and_then(|data| inline(&data, &digest)),
        digest,
        size: document.size,
        platform: document.platform.and_then(PlatformDocument::named),
        artifact_type: document.artifact_type.filter(|kind| !kind.is_empty()),
        annotations: annotations
            .map(|(key, value)| (key, value.unwrap_or_default()))
            .collect(),
    }))
}

/// The content that a descriptor carries, if it is what the digest names.
fn inline(data: &str, digest: &Digest) -> Option<Bytes> {
    let content = STANDARD.decode(data).ok()?;
    (digest.of_same_kind(&content) == *digest).then(|| content.into())
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
        assert_eq!(manifest.config.size, Some(7));
    }

    #[test]
    fn the_media_type_of_the_document_is_used_without_one_of_the_response() {
        let text = image(DOCKER_MANIFEST, "[]");
        let manifest = Manifest::parse("application/json", text.as_bytes()).unwrap();
        assert_eq!(manifest.kind(), ManifestKind::DockerImage);
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        let manifest = Manifest::parse("", index).unwrap();
        assert_eq!(manifest.kind(), ManifestKind::OciIndex);
    }

    #[test]
    fn an_ambiguous_document_is_refused() {
        let text = image(OCI_MANIFEST, "[]");
        assert!(matches!(
            Manifest::parse(OCI_INDEX, text.as_bytes()),
            Err(ManifestError::KindMismatch { .. })
        ));
        // Also in a spelling that only some readers take for the same.
        for both in [
            r#"{"schemaVersion":2,"manifests":[],"layers":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"LAYERS":[]}"#,
            r#"{"schemaVersion":2,"manifests":[],"layerſ":[]}"#,
        ] {
            assert!(
                Manifest::parse(OCI_INDEX, both.as_bytes()).is_err(),
                "{both}"
            );
        }
    }

    #[test]
    fn documents_that_containerd_accepts_are_parsed() {
        let digest = Digest::of(b"{}");
        let text = format!(
            r#"{{"Config":{{"digest":"x","digest":"{digest}","data":"e30=","platform":{{}}}},
                "layers":[{{"digest":"{digest}","size":2,"annotations":{{"a":null,"b":"\ud800"}}}}]}}"#
        );
        let parsed = Manifest::parse(OCI_MANIFEST, text.as_bytes()).unwrap();
        let Manifest::Image(image) = parsed else {
            panic!("an image is expected");
        };
        assert_eq!(image.config.data.as_deref(), Some(&b"{}"[..]));
        assert_eq!(image.config.size, None);
        assert_eq!(image.config.platform, None);
        assert_eq!(image.config.media_type, "");
        assert_eq!(image.layers[0].size, Some(2));
        assert_eq!(image.layers[0].annotations["b"], "\u{fffd}");
    }

    #[test]
    fn embedded_data_with_a_wrong_digest_is_ignored() {
        let digest = Digest::of(b"other");
        let text = format!(r#"{{"config":{{"digest":"{digest}","size":5,"data":"e30="}}}}"#);
        let parsed = Manifest::parse(OCI_MANIFEST, text.as_bytes()).unwrap();
        let Manifest::Image(image) = parsed else {
            panic!("an image is expected");
        };
        assert_eq!(image.config.data, None);
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
            r#"{"schemaVersion":2,"manifests":[{"size":1}]}"#,
            r#"{"schemaVersion":2,"manifests":{}}"#,
            r#"{"schemaVersion":2,"config":null}"#,
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
