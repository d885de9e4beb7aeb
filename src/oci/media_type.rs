//! Media types of manifests, configs and layers.
//! Source: OCI image-spec `media-types.md`; Docker's image manifest version 2, schema 2.

/// An OCI image manifest.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI image config.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// An uncompressed OCI layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// A Docker schema 2 image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker schema 2 manifest list.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A Docker schema 2 image config.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// An uncompressed Docker schema 2 layer.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";

/// The value of `Accept` for requests of manifests.
pub const MANIFEST_ACCEPT: &str = concat!(
    "application/vnd.oci.image.index.v1+json, ",
    "application/vnd.oci.image.manifest.v1+json, ",
    "application/vnd.docker.distribution.manifest.list.v2+json, ",
    "application/vnd.docker.distribution.manifest.v2+json"
);

/// The kind of a manifest, by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ManifestKind {
    /// One image, OCI.
    OciImage,
    /// Several images, OCI.
    OciIndex,
    /// One image, Docker schema 2.
    DockerImage,
    /// Several images, Docker schema 2.
    DockerList,
}

impl ManifestKind {
    /// The kind that this media type names; parameters (`; charset=…`) and case are ignored.
    #[must_use]
    pub fn from_media_type(media_type: &str) -> Option<Self> {
        match essence(media_type).as_str() {
            OCI_MANIFEST => Some(Self::OciImage),
            OCI_INDEX => Some(Self::OciIndex),
            DOCKER_MANIFEST => Some(Self::DockerImage),
            DOCKER_LIST => Some(Self::DockerList),
            _ => None,
        }
    }

    /// The media type of manifests of this kind.
    #[must_use]
    pub fn media_type(self) -> &'static str {
        match self {
            Self::OciImage => OCI_MANIFEST,
            Self::OciIndex => OCI_INDEX,
            Self::DockerImage => DOCKER_MANIFEST,
            Self::DockerList => DOCKER_LIST,
        }
    }

    /// Whether this is an index or a manifest list.
    #[must_use]
    pub fn is_index(self) -> bool {
        matches!(self, Self::OciIndex | Self::DockerList)
    }

    /// Whether this is one of Docker's own types.
    #[must_use]
    pub fn is_docker(self) -> bool {
        matches!(self, Self::DockerImage | Self::DockerList)
    }
}

/// A media type without its parameters, in lower case.
#[must_use]
pub fn essence(media_type: &str) -> String {
    media_type
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_and_case_do_not_change_a_manifests_kind() {
        let written = "Application/vnd.OCI.image.index.v1+json; charset=utf-8";
        assert_eq!(
            ManifestKind::from_media_type(written),
            Some(ManifestKind::OciIndex)
        );
        assert_eq!(ManifestKind::from_media_type("application/json"), None);
    }

    #[test]
    fn the_accept_header_has_every_kind() {
        for kind in [
            ManifestKind::OciImage,
            ManifestKind::OciIndex,
            ManifestKind::DockerImage,
            ManifestKind::DockerList,
        ] {
            assert!(MANIFEST_ACCEPT.contains(kind.media_type()));
            assert_eq!(ManifestKind::from_media_type(kind.media_type()), Some(kind));
        }
    }
}
