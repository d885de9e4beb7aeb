//! HTTP as such: connections, TLS, bodies, headers, paths.

pub(in crate::server) mod accept;
pub(in crate::server) mod activity;
pub(in crate::server) mod body;
pub(in crate::server) mod buffers;
pub(in crate::server) mod file_body;
pub(in crate::server) mod header_names;
pub(in crate::server) mod headers;
pub(in crate::server) mod host;
pub(in crate::server) mod lingering_close;
pub(in crate::server) mod path;
pub(in crate::server) mod rewrite;
pub(in crate::server) mod tls;
