//! The catalogue of converted layers: looked up, proved, recorded, published.
//!
//! A row of the index is not trusted by itself. A blob that a row names is used only if its
//! headers say that it is the one of this chain, on top of this blob, made with these settings
//! ([`fit`]); and only for requests that may read the source's layers, whose bytes were verified
//! to be what the image's config says ([`proof`]).

mod compare;
mod find;
mod fit;
mod layer;
mod proof;
mod publish;
mod record;
mod turbo;

pub(super) use find::{find, is_named};
pub(super) use layer::{Base, Layer, StoredBlob, Wanted};
pub(super) use publish::{push_layer, share};
pub(super) use record::record;
