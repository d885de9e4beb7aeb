//! One kind of request each: manifests, blobs, referrers, tokens, everything else, the admin listener.

pub(in crate::server) mod admin;
pub(in crate::server) mod api;
pub(in crate::server) mod blob;
pub(in crate::server) mod blob_file;
pub(in crate::server) mod bucket;
pub(in crate::server) mod converted;
pub(in crate::server) mod derived;
pub(in crate::server) mod forward;
pub(in crate::server) mod manifest;
pub(in crate::server) mod merged;
pub(in crate::server) mod p2p;
pub(in crate::server) mod page;
pub(in crate::server) mod ping;
pub(in crate::server) mod probe;
pub(in crate::server) mod push;
pub(in crate::server) mod pushed_list;
pub(in crate::server) mod readiness;
pub(in crate::server) mod referrers;
pub(in crate::server) mod signed;
pub(in crate::server) mod source;
pub(in crate::server) mod token;
