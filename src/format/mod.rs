//! The bytes: what an overlaybd blob is made of. Synchronous, no network.

mod assert_layout;
pub mod blob;
pub mod block;
pub mod crc;
pub mod ext4;
pub mod gzip_index;
pub mod lsmt;
pub mod prefetch;
pub mod tar;
pub mod zfile;
