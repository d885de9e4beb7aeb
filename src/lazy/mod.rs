//! A converted image that is read over the network as it is needed, without a node.
//!
//! | module | what it does |
//! |---|---|
//! | `traffic` | counts requests and bytes, and keeps which ranges they were |
//! | `disk_cache` | pieces on the disk, shared by images and processes |
//! | `reading` | how blobs are read |
//! | `fetch` | requests, made again where that may help |
//! | `flight` | a piece on its way, and those who wait for it |
//! | `recent` | the pieces in memory |
//! | `read_error` | why a part of a blob cannot be had |
//! | `pieces` | aligned pieces of blobs, fetched once |
//! | `ahead` | what a reader that reads on and on wants next |
//! | `blob` | a blob as a block device |
//! | `opening` | what is opened at the same time |
//! | `image` | the layers of an image as one disk |
//! | `pool` | things that one thread at a time uses |
//! | `filesystem` | the ext4 on that disk, read by many threads |
//! | `path` | what a path in the image leads to |
//! | `walk` | all that is below a directory |
//! | `nbd` | the disk as a network block device |
//! | `read_log` | a disk that remembers what is read of it |
//! | `contents` | from bytes of the disk to files |
//! | `causes` | which reads of the disk which requests were for |
//! | `fuse` | that filesystem, or the disk as a file, mounted |
//! | `replay` | reads ahead what an acceleration layer says |

mod ahead;
mod blob;
mod causes;
mod contents;
mod disk_cache;
mod fetch;
mod filesystem;
mod flight;
pub mod fuse;
mod image;
pub mod nbd;
mod opening;
pub mod path;
mod pieces;
mod pool;
mod read_error;
mod read_log;
mod reading;
mod recent;
mod replay;
mod traffic;
pub mod walk;

pub use causes::{Causes, causes};
pub use contents::{Contents, FilePlace, Owner};
pub use disk_cache::DiskCache;
pub use fetch::Origin;
pub use filesystem::{ImageFilesystem, OpenFile, Xattr};
pub use image::{ImageDisk, LayerError, LayerPlace, OpenError, SizedBlob, open_layer};
pub use read_error::ReadError;
pub use read_log::ReadLog;
pub use reading::Reading;
pub use replay::{Replay, Replayed, replay};
pub use traffic::{Fetched, Traffic};
