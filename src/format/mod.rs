//! The bytes: what an overlaybd blob is made of. Synchronous, no network.

pub mod block;
pub mod ext4;
pub mod lsmt;
pub mod tar;
pub mod zfile;
