//! Registries as upstreams: clients, credentials, trust, faults and the ways there.

#[path = "../registry_support/mod.rs"]
mod registry_support;
#[path = "../support/mod.rs"]
mod support;

mod client;
mod credential_helpers;
mod deviations;
mod egress;
mod faults;
mod forward;
mod large_blobs;
mod own_credentials;
mod prefixes;
mod private;
mod scheme;
mod trust;
