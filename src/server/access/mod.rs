//! Access control: users, permissions, challenges and tokens.

pub(in crate::server) mod challenge;
pub(in crate::server) mod decisions;
pub(in crate::server) mod missing;
pub(in crate::server) mod permission;
pub(in crate::server) mod policy;
pub(in crate::server) mod scope;
pub(in crate::server) mod signed_address;
pub(in crate::server) mod token_file;
pub(in crate::server) mod url_keys;
pub(in crate::server) mod users;
mod waits;
pub(in crate::server) mod wrapped_token;
