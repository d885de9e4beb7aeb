//! Metrics, the access log, and spans of requests.

pub(in crate::server) mod access_log;
pub(in crate::server) mod client;
pub(in crate::server) mod conversion;
pub(in crate::server) mod events;
pub(in crate::server) mod levels;
pub(in crate::server) mod metrics;
mod object_levels;
pub(in crate::server) mod outcome;
pub(in crate::server) mod process;
pub(in crate::server) mod refusals;
pub(in crate::server) mod request_span;
