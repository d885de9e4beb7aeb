//! The disk as a network block device: NBD's fixed newstyle, read-only.
//!
//! | module | what it does |
//! |---|---|
//! | `protocol` | the protocol's numbers |
//! | `export` | the disk, and where it has data |
//! | `message` | messages to clients as bytes |
//! | `wire` | reading and writing with bounds of time |
//! | `handshake` | options, up to the transmission |
//! | `request` | requests of a client |
//! | `transmission` | answers to them, many at once |
//! | `server` | connections |

mod export;
mod handshake;
mod message;
mod protocol;
mod request;
mod server;
mod transmission;
mod wire;

pub use export::{Export, Extent};
pub use server::{Listener, serve_until};
