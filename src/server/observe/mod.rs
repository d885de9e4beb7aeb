//! Metrics and the access log.

pub(in crate::server) mod access_log;
pub(in crate::server) mod metrics;
