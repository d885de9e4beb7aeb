//! One kind of request each: manifests, blobs, tokens, everything else, the admin listener.

pub(in crate::server) mod admin;
pub(in crate::server) mod blob;
pub(in crate::server) mod forward;
pub(in crate::server) mod manifest;
pub(in crate::server) mod ping;
pub(in crate::server) mod push;
pub(in crate::server) mod source;
pub(in crate::server) mod token;
