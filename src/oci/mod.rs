//! OCI vocabulary: digests, names, media types, manifests. No I/O.

pub mod digest;
pub mod name;

pub use digest::{ChainId, DiffId, Digest};
pub use name::{RepoName, Selector, Tag};
