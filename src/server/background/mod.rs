//! Work that goes on after the answer: conversions ahead of a pull, tags of pushed images.

pub(in crate::server) mod prepare;
pub(in crate::server) mod push_tags;
