//! LSMT: a layer as a diff of 512-byte sectors over the disk below it.
//! Source: containerd/overlaybd `docs/specs/lsmt.md` and `src/overlaybd/lsmt/file.cpp`.

mod layer;
mod layout;
mod raw;
mod refusal;
mod segments;
mod warp;

pub use layer::{Layer, LsmtError};
pub use layout::{Header, Mapping};
pub(crate) use layout::{MAX_MAPPINGS, Place, encode_index};
pub use refusal::MisplacedZeros;
pub(crate) use segments::{KEPT, Segments};
pub(crate) use warp::REMOTE;
pub use warp::Source;
