//! The formats of blobs: ext4, LSMT, `ZFile`, TurboOCI and the gzip index, and the rules of their readers.

#[path = "../ext4_support/mod.rs"]
mod ext4_support;
#[path = "../support/overlaybd/mod.rs"]
mod overlaybd;
#[path = "../ext4_support/verifier.rs"]
#[allow(dead_code)]
mod verifier;

mod blob;
mod ext4_engine;
mod ext4_foreign;
mod ext4_limits;
mod fuzz;
mod gzip_index;
mod reader_rules;
mod turbo;
