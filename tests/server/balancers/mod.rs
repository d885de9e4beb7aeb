//! Clients behind balancers: who they are taken to be, and how much one of them may ask for.
//! haproxy and nginx stand before the real program; forged and damaged headers come from other
//! addresses of the loopback network.

mod bench;
mod browsers;
mod forwarded;
mod limits;
mod proxy_protocol;
