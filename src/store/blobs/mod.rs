//! The blob directory: content-addressed, bounded, shared by the processes of one machine.
//!
//! ```text
//! DATA/layout                  what wrote this directory; its lock orders commits and evictions
//! DATA/blobs/sha256/ab/<hex>   whole blobs; the time of modification is the time of last use; mode
//!                              0400: a copy of what an upstream has, which is evicted first
//! DATA/tmp/<number>            blobs that are being written
//! DATA/damaged/…               files that were found damaged, the last few of them
//! DATA/pins                    a lock on a byte of it keeps a blob that is not open
//! DATA/pinned/sha256-<hex>     what is pinned until it is unpinned: the digests of its blobs, one a line
//! DATA/scrub                   when the scrubber last read all blobs; its lock is the scrubber's
//! ```
//!
//! A file is opened only after this process wrote it, or read all of it and compared it with its
//! digest: once, unless it is replaced or written to.
//!
//! Readers and writers of a file hold a shared lock (`flock`) on it; it is removed under the
//! exclusive lock. So its protection ends with the process, however that ends. Blobs that have to
//! stay for long without being read are pinned without an open file ([`BlobPin`]).

mod aside;
mod counters;
mod damage;
mod directory;
mod durable;
mod entry;
mod evict;
mod examine;
mod file;
mod filesystem;
mod kind;
mod locked;
mod open_files;
mod permits;
mod persist;
mod pin;
mod pin_files;
mod pinned;
mod pins;
mod reclaim;
mod reservation;
mod scrub;
mod shards;
mod shared;
mod stamp;
mod store;
mod survey;
mod temp;
mod verified;
mod verify;

pub use counters::BlobCounters;
pub use damage::{Aside, Damage};
pub use examine::{BlobEntry, Examined};
pub use file::BlobFile;
pub use locked::BlobInfo;
pub use pin::BlobPin;
pub use pinned::{Pin, PinnedUse};
pub use reservation::Reservation;
pub use scrub::Scrubber;
pub use shared::SharedBlob;
pub use store::BlobStore;
pub use survey::{Survey, SurveyCounts, finding};
pub use temp::TempBlob;

pub(super) use filesystem::{create_directory, create_within, disk_space, hand_over, is_linked};
