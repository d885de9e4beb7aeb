//! A registry proxy that converts OCI images to overlaybd format as they are pulled.
//!
//! The house, from the street to the cellar; a module uses only what stands below it:
//!
//! | module | what lives there |
//! |---|---|
//! | [`cli`] | one file a command; clap only, becomes [`config`] |
//! | [`config`] | composes each part's own configuration, reports all mistakes at once |
//! | [`server`] | HTTP: accept, TLS, routes, the interception, local blobs, pass-through, drain |
//! | [`convert`] | image in, descriptors out: plan, one layer, the new image, jobs |
//! | [`registry`] | the client: auth, pull, push, OCI layout directories |
//! | [`store`] | what is remembered: the index (`SQLite`, `MySQL`) and the blob directory |
//! | [`format`] | the bytes: tar, ext4, LSMT, `ZFile`; no async, no network |
//! | [`oci`] | digest, reference, media types, manifests; no I/O; the words that all others use |
//!
//! `registry`, `store` and `format` do not know each other; the formats meet in
//! [`convert::layer`], through [`format::block::BlockDevice`].

pub mod cli;
pub mod config;
pub mod convert;
pub mod format;
pub mod oci;
mod panics;
pub mod registry;
pub mod server;
pub mod store;
