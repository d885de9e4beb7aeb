//! How much and how long: slots for requests and connections, waits, redirects.

pub(in crate::server) mod client_rate;
pub(in crate::server) mod hold;
pub(in crate::server) mod index_timeout;
pub(in crate::server) mod redirects;
pub(in crate::server) mod refusals;
pub(in crate::server) mod request_slot;
pub(in crate::server) mod slots;
