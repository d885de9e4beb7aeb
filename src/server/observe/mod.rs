//! Metrics and the access log.

pub(in crate::server) mod access_log;
pub(in crate::server) mod client;
pub(in crate::server) mod conversion;
pub(in crate::server) mod levels;
pub(in crate::server) mod metrics;
pub(in crate::server) mod outcome;
pub(in crate::server) mod process;
