//! How blobs are read.

use std::time::Duration;

use super::disk_cache::DiskCache;

/// Bytes of a piece, unless something else is asked for.
pub(super) const PIECE: u64 = 256 << 10;

/// How blobs are read.
#[derive(Debug, Clone)]
pub struct Reading {
    /// Bytes of a piece, and what its offset is a multiple of.
    pub piece: u64,
    /// Added to each request.
    pub latency: Duration,
    /// Most bytes of pieces in memory.
    pub memory: u64,
    /// How often a request is made before its error counts.
    pub attempts: u32,
    /// How long one request for up to 256 KiB may take; one for more has time for their transfer.
    pub timeout: Duration,
    /// How long a piece may take with all attempts and the pauses between them.
    pub total: Duration,
    /// Most bytes that are fetched ahead of a reader that reads on and on; 0 for none.
    pub ahead: u64,
    /// As a node does: aligned pieces, one a request, none ahead, and nothing from the disk.
    pub node_like: bool,
    /// Nothing is taken from the cache on the disk, and nothing put there.
    pub fresh: bool,
    /// Each request is kept for [`Traffic::fetched`](super::Traffic::fetched), about 130 bytes
    /// each, up to a million.
    pub keeps_requests: bool,
    /// The cache on the disk; it is not used where the blobs are on this machine.
    pub cache: Option<DiskCache>,
}

impl Default for Reading {
    fn default() -> Self {
        Self {
            piece: PIECE,
            latency: Duration::ZERO,
            memory: 64 << 20,
            attempts: 3,
            timeout: Duration::from_secs(20),
            total: Duration::from_mins(1),
            ahead: 8 << 20,
            node_like: false,
            fresh: false,
            keeps_requests: false,
            cache: None,
        }
    }
}
