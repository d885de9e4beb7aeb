//! What the conversion needs to know of an image config.
//! Source: OCI image-spec `config.md`.

use serde::Deserialize;
use serde_json::Value;

use super::digest::DiffId;
use super::json;
use super::manifest::ManifestError;
use super::platform::Platform;

/// The part of an image config that describes its layers.
///
/// The raw bytes stay the truth: a new config is made by editing them,
/// so that fields unknown here survive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    /// The digests of the layers' uncompressed tars, bottom first.
    pub diff_ids: Vec<DiffId>,
    /// The machine that the image is for; old builders leave it out.
    pub platform: Option<Platform>,
}

// Own types: oci-spec refuses a config without `architecture`, which real images lack.
#[derive(Deserialize)]
struct Document {
    os: Option<String>,
    architecture: Option<String>,
    variant: Option<String>,
    rootfs: Option<RootFs>,
}

#[derive(Deserialize)]
struct RootFs {
    diff_ids: Option<Vec<DiffId>>,
}

impl ImageConfig {
    /// Reads a config.
    ///
    /// # Errors
    /// If it is no JSON object, has no `rootfs`, or a diff id is no digest.
    pub fn parse(bytes: &[u8]) -> Result<Self, ManifestError> {
        let wrong =
            |error: serde_json::Error| ManifestError::Json("image config", error.to_string());
        let mut value = json::parse(bytes).map_err(wrong)?;
        if let Some(fields) = value.as_object_mut() {
            json::name_fields(fields, json::CONFIG);
            if let Some(rootfs) = fields.get_mut("rootfs").and_then(Value::as_object_mut) {
                json::name_fields(rootfs, json::ROOT_FS);
            }
        }
        let document: Document = serde_json::from_value(value).map_err(wrong)?;
        let rootfs = document
            .rootfs
            .ok_or(ManifestError::Missing("image config", "rootfs"))?;
        let platform = document
            .architecture
            .filter(|architecture| !architecture.is_empty())
            .map(|architecture| {
                let os = document.os.filter(|os| !os.is_empty());
                Platform::new(
                    os.as_deref().unwrap_or("linux"),
                    &architecture,
                    document.variant.as_deref().unwrap_or_default(),
                )
            });
        Ok(Self {
            diff_ids: rootfs.diff_ids.unwrap_or_default(),
            platform,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oci::Digest;

    #[test]
    fn a_config_without_an_architecture_is_read() {
        let digest = Digest::of(b"layer");
        let text = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":["{digest}"]}}}}"#);
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.diff_ids, [DiffId(digest)]);
        assert_eq!(config.platform, None);
    }

    #[test]
    fn a_config_of_no_layers_is_read() {
        let text = br#"{"os":"linux","architecture":"arm64","rootfs":{"diff_ids":null}}"#;
        let config = ImageConfig::parse(text).unwrap();
        assert!(config.diff_ids.is_empty());
        assert_eq!(config.platform.unwrap().to_string(), "linux/arm64");
    }

    #[test]
    fn the_last_of_duplicate_fields_counts() {
        let digest = Digest::of(b"layer");
        let text = format!(
            r#"{{"os":"a","os":"linux","Architecture":"arm64","author":"\ud800",
                "rootfs":{{"diff_ids":["{digest}"],"diff_ids":[]}}}}"#
        );
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert!(config.diff_ids.is_empty());
        assert_eq!(config.platform.unwrap().to_string(), "linux/arm64");
    }

    #[test]
    fn a_diff_id_that_is_no_digest_is_an_error() {
        for bad in [
            r#"{"rootfs":{"diff_ids":["sha256:00"]}}"#,
            r#"{"rootfs":{"diff_ids":"x"}}"#,
            "{}",
            "[]",
            "",
        ] {
            assert!(ImageConfig::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
