//! What ran out, where that is why something failed.

use std::error::Error;
use std::io;

use super::BlobError;

/// Something that this machine has no more of. It may come back by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shortage {
    /// Room on the disk: it is full, a quota or limit is reached, or it is read-only.
    Space,
    /// File descriptors, of this process or of the system.
    Files,
}

impl Shortage {
    /// What ran out, if that is the error or anywhere among its causes.
    #[must_use]
    pub fn among(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            if error.downcast_ref().is_some_and(BlobError::is_no_space) {
                return Some(Self::Space);
            }
            let io = error.downcast_ref::<io::Error>();
            if let Some(found) = io.and_then(Self::of) {
                return Some(found);
            }
            // What an `io::Error` was made of is no source of it, only that one's source is.
            next = match io.and_then(io::Error::get_ref) {
                Some(inner) => Some(inner),
                None => error.source(),
            };
        }
        None
    }

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

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::sync::Arc;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] io::Error);

    #[test]
    fn a_shortage_is_found_through_every_wrapping() {
        let os = io::Error::from_raw_os_error;
        let found = |error: io::Error| Shortage::among(&error);
        for (errno, shortage) in [
            (libc::ENOSPC, Some(Shortage::Space)),
            (libc::EDQUOT, Some(Shortage::Space)),
            (libc::EFBIG, Some(Shortage::Space)),
            (libc::EROFS, Some(Shortage::Space)),
            (libc::EMFILE, Some(Shortage::Files)),
            (libc::ENFILE, Some(Shortage::Files)),
            (libc::EIO, None),
        ] {
            assert_eq!(found(os(errno)), shortage);
            assert_eq!(found(io::Error::other(os(errno))), shortage);
            let blob = BlobError::io("opening", &PathBuf::from("x"))(os(errno));
            assert_eq!(found(io::Error::other(blob)), shortage);
            let outer = Arc::new(Outer(io::Error::other(os(errno))));
            assert_eq!(Shortage::among(&outer), shortage);
        }
        assert_eq!(found(io::ErrorKind::FileTooLarge.into()), None);
    }
}
