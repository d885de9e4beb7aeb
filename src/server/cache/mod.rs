//! What is kept in memory: responses, open blob files, what the index said.

pub(in crate::server) mod conversions;
pub(in crate::server) mod open_files;
pub(in crate::server) mod responses;
