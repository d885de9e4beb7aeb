//! HTTP as such: connections, TLS, bodies, headers, paths.

pub(in crate::server) mod accept;
pub(in crate::server) mod activity;
pub(in crate::server) mod admission;
pub(in crate::server) mod body;
pub(in crate::server) mod buffers;
pub(in crate::server) mod client_address;
mod corked;
pub(in crate::server) mod file_body;
pub(in crate::server) mod forwarded;
mod frames;
pub(in crate::server) mod header_names;
pub(in crate::server) mod headers;
pub(in crate::server) mod host;
mod http1;
mod http2;
pub(in crate::server) mod lingering_close;
pub(in crate::server) mod path;
mod preface;
pub(in crate::server) mod proxy_protocol;
pub(in crate::server) mod rewrite;
mod stream;
mod streams;
pub(in crate::server) mod tls;
