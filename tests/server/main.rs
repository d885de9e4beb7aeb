//! What clients of the proxy are answered.

#[path = "../registry_support/mod.rs"]
mod registry_support;
#[path = "../server_support/mod.rs"]
mod server_support;
#[path = "../store_support/mod.rs"]
mod store_support;
#[path = "../support/mod.rs"]
mod support;

mod access;
mod admin;
mod balancers;
mod blobs;
mod clients;
mod conformance;
mod convert;
mod derived;
mod disclosure;
mod ending;
mod http2;
mod http2_limits;
mod limits;
mod outside;
mod pass_through;
mod plain;
mod probe;
mod production;
mod pull;
mod push_tags;
mod requests;
mod rights;
mod secrets;
mod tls;
