//! A registry proxy that converts OCI images to overlaybd format as they are pulled.
//!
//! The modules, the highest level first; each uses only those of lower levels:
//!
//! | module | what it does |
//! |---|---|
//! | [`cli`] | one file a command; clap only, becomes [`config`] |
//! | [`check`] | verifies a converted image against its source, with readers of its own |
//! | [`config`] | composes each part's own configuration, reports all mistakes at once |
//! | [`server`] | HTTP: accept, TLS, routes, the interception, local blobs, pass-through, drain |
//! | [`lazy`] | an image read as it is needed: a disk and its files over ranges of blobs |
//! | [`convert`] | conversion: plan, one layer, the new image, jobs |
//! | [`registry`] | the client: auth, pull, push, OCI layout directories |
//! | [`store`] | what is remembered: the index (`SQLite`, `MySQL`) and the blob directory |
//! | [`format`] | the bytes: tar, ext4, LSMT, `ZFile`; no async, no network |
//! | [`oci`] | digest, reference, media types, manifests; no I/O |
//! | [`telemetry`] | traces: spans under way, and their way to a collector |
//!
//! `registry`, `store` and `format` do not use each other; the formats are combined in
//! [`convert::layer`], through [`format::block::BlockDevice`].

pub mod check;
pub mod cli;
pub mod config;
pub mod convert;
pub mod format;
pub mod lazy;
pub mod oci;
mod panics;
pub mod registry;
mod secret_file;
pub mod server;
mod sizes;
pub mod store;
pub mod telemetry;
