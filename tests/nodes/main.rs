//! Nodes that read converted images: overlaybd as it is configured there, mounts, and files read lazily.

#[path = "../support/mod.rs"]
mod support;

mod cold_start;
mod lazy;
mod lazy_files;
mod mount;
mod node;
