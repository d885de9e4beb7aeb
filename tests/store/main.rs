//! The index, the data directory and the object storage, also shared by replicas.

#[path = "../store_support/mod.rs"]
mod store_support;
#[path = "../support/mod.rs"]
mod support;

mod blob_store;
mod cache;
mod database_accounts;
mod fleet;
mod index;
mod mysql;
mod pins;
mod shared_tables;
mod source_cache;
