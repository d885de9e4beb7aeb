//! Resources of this machine that ran out.

use std::io;

/// A resource that this machine ran out of. It may become available again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Room on the disk: it is full, a quota or limit is reached, or it is read-only.
    Space,
    /// File descriptors, of this process or of the system.
    Files,
}

impl Shortage {
    /// The resource that an error of the system is about.
    pub(super) fn of(error: &io::Error) -> Option<Self> {
        match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT | libc::EFBIG | libc::EROFS) => Some(Self::Space),
            Some(libc::EMFILE | libc::ENFILE) => Some(Self::Files),
            Some(_) => None,
            None => matches!(
                error.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
            .then_some(Self::Space),
        }
    }
}
