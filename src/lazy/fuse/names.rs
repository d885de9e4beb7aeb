//! Directories in parts. A place in one is a number that stays valid, as nothing changes: the
//! directory's block and the entry in it, so that no directory has to be in memory.

use crate::format::ext4::{Error, FileType, Ino};
use crate::lazy::ImageFilesystem;

/// Places of `.` and `..`; what follows are places in blocks.
const DOTS: u64 = 2;
/// More entries than a block of 64 KiB can have, as a power of two.
const ENTRY_BITS: u32 = 16;

/// An entry, and the place behind it.
pub(super) struct Entry<'a> {
    pub(super) ino: Ino,
    pub(super) file_type: FileType,
    pub(super) name: &'a [u8],
    pub(super) next: u64,
}

/// Calls `each` with the entries of `dir` from place `from` on until it says that there is no room
/// for more, or fails.
pub(super) fn from<E: From<Error>>(
    filesystem: &ImageFilesystem,
    dir: Ino,
    from: u64,
    mut each: impl FnMut(&Entry<'_>) -> Result<bool, E>,
) -> Result<(), E> {
    let dots = [(&b"."[..], dir), (&b".."[..], filesystem.parent(dir)?)];
    for (at, (name, ino)) in (0..).zip(dots) {
        let next = at + 1;
        let entry = Entry {
            ino,
            file_type: FileType::Directory,
            name,
            next,
        };
        if from < next && each(&entry)? {
            return Ok(());
        }
    }
    let place = from.saturating_sub(DOTS);
    let Ok(first) = u32::try_from(place >> ENTRY_BITS) else {
        return Ok(());
    };
    let mut skip = usize::try_from(place & ((1 << ENTRY_BITS) - 1)).unwrap_or(0);
    for block in first..=u32::MAX {
        let Some(entries) = filesystem.entries_in(dir, block)? else {
            return Ok(());
        };
        for (at, named) in (0_u64..).zip(&entries).skip(skip) {
            let entry = Entry {
                ino: named.ino,
                file_type: named.file_type,
                name: &named.name,
                next: DOTS + (u64::from(block) << ENTRY_BITS) + at + 1,
            };
            if each(&entry)? {
                return Ok(());
            }
        }
        skip = 0;
    }
    Ok(())
}
