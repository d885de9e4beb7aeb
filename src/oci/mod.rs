//! OCI vocabulary: digests, names, references, media types, compressions, manifests. No I/O.

pub mod compression;
pub mod digest;
pub mod image_config;
pub(crate) mod json;
pub mod manifest;
pub mod media_type;
pub mod mirrored_name;
pub mod name;
pub mod platform;
pub mod reference;
pub mod run_config;

pub use compression::Compression;
pub use digest::{ChainId, DiffId, Digest, Hasher};
pub use image_config::ImageConfig;
pub use manifest::{Descriptor, ImageManifest, Index, Manifest, ManifestError};
pub use media_type::ManifestKind;
pub use name::{RepoName, Selector, Tag};
pub use platform::Platform;
pub use reference::{ImageReference, LayoutReference, RegistryReference};
pub use run_config::RunConfig;
