//! Work that goes on after the answer: conversions ahead of a pull, tags of pushed images,
//! lists that are learned, verifications of blobs.

pub(in crate::server) mod learn;
pub(in crate::server) mod prepare;
pub(in crate::server) mod push_logins;
pub(in crate::server) mod push_tags;
pub(in crate::server) mod unattended;
pub(in crate::server) mod verification;
pub(in crate::server) mod webhooks;
